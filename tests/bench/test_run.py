"""A run's records depend on its identity alone: not on how often it is evaluated, stopped, killed or continued."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import kstest

import algos
import bench
import envs
from algos.agent import sample
from bench import run
from bench.config import EvalConfig, RunConfig
from bench.evaluate import Probes
from bench.rundir import RunDir, load_tensors
from bench.typed import UsageError
from reports.records import read_config


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    from bench.grid import plan

    path = tmp_path_factory.mktemp("run")
    settings = "actor_hidden=[16,16],critic_hidden=[16,16],batch_size=16"
    overrides = ["steps=300", "warmup=40", "eval_every=120", "log_every=50", "eval.episodes=3", "env.action_repeat=2"]
    config = plan("quick", f"little=qsm({settings})", "toy/multigoal", "2-2", overrides)[0][0].config
    session = {"jobs": 3, "command": ["bench"], "cell_command": "one cell"}
    assert run.run(config, path, session) == "done"
    return path


# -- what a run leaves -------------------------------------------------------------------------------------------------


def test_records_stand_at_their_intervals_and_count_frames(written):
    metrics, evals, clock = (lines(written / f"{name}.jsonl") for name in ("metrics", "evals", "clock"))
    assert [r["env_step"] for r in metrics] == list(range(0, 301, 50))
    assert 0 < metrics[0]["probe_std"] < 1  # how wide the untrained policy acts
    assert 0 <= metrics[0]["probe_on_bound"] <= 1
    assert [r["env_step"] for r in evals] == [0, 120, 240, 300]
    assert len(clock) == len(metrics) + len(evals)
    # two frames a decision; one update a decision from frame 40 on
    assert [r["update"] for r in metrics] == [0] + [(step - 40) // 2 for step in range(50, 301, 50)]
    assert all(len(r["returns"]) == len(r["lengths"]) == 3 for r in evals)
    assert {"critic_loss", "actor_loss", "q_mean", "q_max", "target_q_mean", "alignment"} <= metrics[-1].keys()
    assert clock[-1]["active"] <= clock[-1]["total"]
    assert clock[-1]["updates_timed"] == metrics[-1]["update"]
    assert {"env", "act", "store", "sample", "critic", "actor", "target", "eval"} <= clock[-1]["wall"].keys()


def test_the_other_files_say_what_they_are_for(written):
    config = yaml.safe_load((written / "config.yaml").read_text())
    assert config["algo"]["name"] == config["algo"]["agent"] == "qsm"
    assert config["changed"]["batch_size"] == [256, 16]
    assert config["auto"] == []
    assert config["spec"]["score"]["high"] is not None
    (session,) = json.loads((written / "provenance.json").read_text())["sessions"]
    assert (session["jobs"], session["cell_command"], session["threads"]) == (3, "one cell", 1)
    assert {"torch", "numpy"} <= session["packages"].keys()
    counted = json.loads((written / "cost.json").read_text())
    assert counted["parameters"] > counted["actor_parameters"] > 0
    with np.load(written / "probes.npz") as probes:
        assert probes["actions"].shape == (4, 4, 64, 2)
        assert probes["env_step"].tolist() == [0, 120, 240, 300]
    assert (written / "DONE").exists()
    assert not (written / "replay").exists()
    assert RunDir(written).state() == "done"


@pytest.mark.parametrize("label", ["1e-3", "12e03", "1_000", "0x1F", "1.5", "1.e5", "yes", "null", "2026-11-22", "1E4"])
def test_a_label_that_looks_like_a_number_is_the_same_to_every_reader(small, tmp_path, label):
    config = dataclasses.replace(small("sac"), label=label)
    directory = RunDir(tmp_path)
    directory.write_config(config.resolved(), [], {}, {})
    assert directory.stored()[0].label == read_config(directory.config_path)["label"] == label


def test_the_last_probe_is_the_final_policy_s_however_few_are_kept(small, train, tmp_path, monkeypatch):
    monkeypatch.setattr(Probes, "MOST", 2)
    train(small("sac", "eval_every=40"), tmp_path)
    with np.load(tmp_path / "probes.npz") as probes:
        assert probes["env_step"].tolist() == [0, 120, 160]  # every third of five, and the last


def test_automatic_intervals_are_recorded_as_such(small, train, tmp_path):
    config = small("sac", "steps=200", "warmup=40", "log_every=null", "env.num_envs=2")
    train(config, tmp_path)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (stored["auto"], stored["log_every"]) == (["log_every"], 3)
    # the first decision at or past 3, 6, 9
    assert [r["env_step"] for r in lines(tmp_path / "metrics.jsonl")][:4] == [0, 4, 6, 10]
    assert json.loads((tmp_path / "DONE").read_text())["update"] == 160  # one for each of 80 decisions of two copies


def test_load_policy_acts_as_the_agent_did(written, small):
    agent_state = load_tensors(written / "checkpoint.pt")["agent"]
    policy = bench.load_policy(written, seed=7)
    for name, network in policy.agent.networks().items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, agent_state[name][key])
    obs = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    noise = sample(policy.agent.draws("own", 5), torch.Generator().manual_seed(7))
    assert np.array_equal(policy(obs), policy.agent.act(torch.from_numpy(obs), noise, "own").numpy())
    assert policy(obs[0]).shape == (2,)
    with pytest.raises(FileNotFoundError):
        bench.load_policy(written / "nowhere")


# -- what decides the numbers ------------------------------------------------------------------------------------------


def test_a_transition_is_stored_as_its_environment_made_it(small, train, tmp_path):
    """Where an episode ends too: it leads to its own last observation, not to the next one's first, and a time limit does not
    terminate it. Fails on `ended` for `terminated`, and on `next_obs` for `final_obs`."""
    config = small("sac", "steps=700", "warmup=600", "eval_every=700", "keep_replay=true")
    train(config, tmp_path)
    pieces = [load_tensors(path) for path in sorted((tmp_path / "replay").glob("*.pt"))]
    fields = ("obs", "action", "reward", "next_obs", "terminated", "ended")
    rows = {name: torch.cat([piece[name] for piece in pieces]).numpy() for name in fields}
    env, _ = envs.make(config.env["id"], config.seed, 1, **config.env_settings)
    obs, _ = env.reset()
    for i in range(700):
        led_to, reward, terminated, truncated, info = env.step(rows["action"][i])
        ended = terminated | truncated
        row = (obs, reward.astype(np.float32), info["final_obs"] if ended else led_to, terminated, ended)
        for name, value in zip(("obs", "reward", "next_obs", "terminated", "ended"), row, strict=True):
            assert np.array_equal(rows[name][i], value), (name, i)
        obs = led_to
    assert rows["terminated"].any()
    assert (rows["ended"] & ~rows["terminated"]).any()


def test_every_random_stream_of_a_run_follows_its_seed_and_none_is_another(small, tmp_path, monkeypatch):
    """Its environments' too: of training, of evaluation and of the probes."""
    make, made, streams = envs.make, [], []
    monkeypatch.setattr(envs, "make", lambda id, seed, *more, **how: made.append(seed) or make(id, seed, *more, **how))
    for seed in (0, 5):
        config = small("sac", seed=seed)
        made.clear()
        generators = run.Run(config, RunDir(tmp_path / str(seed))).generators
        assert made == [seed, (seed, 1), (seed, 2)]
        streams += [generator.initial_seed() for generator in generators.values()]
    assert len(set(streams)) == len(streams) == 2 * len(run.STREAMS)


def test_a_warm_up_is_uniform_and_the_return_that_is_logged_is_of_whole_episodes(small, train, tmp_path):
    """On a bandit, where every decision is an episode."""
    config = small("sac", "steps=300", "warmup=280", "log_every=50", "eval_every=300", "keep_replay=true", env="toy/interior")
    train(config, tmp_path)
    pieces = [load_tensors(path) for path in sorted((tmp_path / "replay").glob("*.pt"))]
    action, reward = (torch.cat([piece[name] for piece in pieces]).numpy() for name in ("action", "reward"))
    assert kstest(action[:280].ravel(), "uniform", (-1, 2)).pvalue > 0.01
    logged = [record["episode_return"] for record in lines(tmp_path / "metrics.jsonl")[1:]]
    assert logged == pytest.approx(reward.reshape(-1, 50).mean(axis=1).tolist(), abs=1e-5)


@pytest.mark.parametrize("algo", ["qsm", "td3"])
def test_how_often_one_evaluates_never_changes_training(small, train, results, tmp_path, algo):
    train(small(algo, "eval_every=160"), tmp_path / "seldom")
    train(small(algo, "eval_every=23", "eval.episodes=3"), tmp_path / "often")
    seldom, often = results(tmp_path / "seldom"), results(tmp_path / "often")
    assert len(seldom["evals"].splitlines()) == 2 < len(often["evals"].splitlines())
    assert seldom["metrics"] == often["metrics"]
    assert seldom["parameters"] == often["parameters"]


def test_seeds_differ_and_algorithms_share_their_first_states(small, train, results, tmp_path):
    train(small("sac", "steps=60"), tmp_path / "sac")
    train(small("td3", "steps=60"), tmp_path / "td3")
    train(small("sac", "steps=60", seed=1), tmp_path / "other")
    assert results(tmp_path / "sac")["metrics"] != results(tmp_path / "other")["metrics"]
    obs = {name: np.load(tmp_path / name / "probes.npz")["obs"] for name in ("sac", "td3", "other")}
    assert np.array_equal(obs["sac"], obs["td3"])
    assert not np.array_equal(obs["sac"], obs["other"])
    replays = []
    for name in ("sac", "td3"):
        config = small(name, "steps=60", "keep_replay=true")
        train(config, tmp_path / f"kept_{name}")
        replays.append(load_tensors(min((tmp_path / f"kept_{name}" / "replay").glob("*.pt"))))
    for field in ("obs", "action", "reward"):  # common random numbers: the 32 warm-up frames are the same for all
        assert torch.equal(replays[0][field][:32], replays[1][field][:32])


@pytest.mark.parametrize("algo", [*algos.AGENTS, "dql_official(candidates=2,ema_start=20)", "qsm(n_step=3,capacity=60)"])
def test_killed_and_continued_is_bit_for_bit_the_undisturbed_run(small, train, results, tmp_path, algo):
    config = small(algo)
    train(config, tmp_path / "undisturbed")
    rng = np.random.default_rng(sum(map(ord, algo)))
    between = ((1, 59), (60, 118), (119, 160)) if algo == "sac" else ((60, 118), (119, 160))  # checkpoints at 59 and 118
    kill_at = [int(rng.integers(*pair)) for pair in between]
    assert train(config, tmp_path / "killed", kill_at) == "done"
    first, second = results(tmp_path / "undisturbed"), results(tmp_path / "killed")
    for part in first:
        assert first[part] == second[part], f"{part} differ after kills at {kill_at}"
    with np.load(tmp_path / "undisturbed" / "probes.npz") as a, np.load(tmp_path / "killed" / "probes.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
    sessions = json.loads((tmp_path / "killed" / "provenance.json").read_text())["sessions"]
    assert len(sessions) == len(kill_at) + 1


def test_an_agent_may_give_the_memory_of_its_last_action_again(small, train, results, tmp_path, monkeypatch):
    """What was played is kept, and not where it lay: the episode is played again from it."""
    act = algos.agent_class("td3").act

    def in_one_place(self, obs, noise, mode):
        action = act(self, obs, noise, mode)
        return vars(self).setdefault(f"place_{len(obs)}", action.clone()).copy_(action)

    monkeypatch.setattr(algos.agent_class("td3"), "act", in_one_place)
    config = small("td3")
    train(config, tmp_path / "undisturbed")
    assert train(config, tmp_path / "killed", [97]) == "done"
    assert results(tmp_path / "undisturbed") == results(tmp_path / "killed")


@pytest.mark.parametrize(
    ("env", "setting"), [("dmc/cartpole-swingup", "env.action_repeat=2"), ("toy/multigoal", "env.num_envs=3")]
)
def test_a_kill_within_an_episode_or_among_copies_changes_nothing(small, train, results, tmp_path, env, setting):
    config = small("sac", "steps=200", "warmup=100", "eval.episodes=1", "eval_every=200", setting, env=env)
    train(config, tmp_path / "undisturbed")
    train(config, tmp_path / "killed", [90, 155])
    assert results(tmp_path / "undisturbed") == results(tmp_path / "killed")


@pytest.mark.parametrize("moment", ["mark_done", "offsets", "_evaluate"])
def test_a_kill_between_two_writes_loses_nothing(small, train, results, tmp_path, monkeypatch, moment):
    """Just before DONE; between the replay pieces and the checkpoint that counts on them; in a later evaluation."""

    class Killed(BaseException):
        pass

    config, owner = small("sac"), run.Run if moment == "_evaluate" else RunDir
    train(config, tmp_path / "undisturbed")
    original, calls = getattr(owner, moment), []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == (1 if moment == "mark_done" else 3):
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, killed)
        with pytest.raises(Killed):
            run.run(config, tmp_path / "killed")
    assert train(config, tmp_path / "killed") == "done"
    assert results(tmp_path / "undisturbed") == results(tmp_path / "killed")


def test_raising_steps_continues_to_the_longer_run(small, train, results, tmp_path):
    """The shorter run has to end on an evaluation of the longer one."""
    train(small("sac", "steps=120", "eval_every=60", "keep_replay=true"), tmp_path / "raised")
    assert RunDir(tmp_path / "raised").state() == "done"
    assert train(small("sac", "steps=180", "eval_every=60"), tmp_path / "raised") == "done"
    train(small("sac", "steps=180", "eval_every=60"), tmp_path / "direct")
    assert results(tmp_path / "raised") == results(tmp_path / "direct")
    assert not (tmp_path / "raised" / "replay").exists()


def test_a_run_that_was_raised_meets_the_evaluations_of_a_direct_one(small, train, tmp_path, monkeypatch):
    """The shorter run ends between two evaluations of the longer one, whose episodes its own last one must not shift."""
    played, numbers = run.Evaluator.play, []

    def play(evaluator, agent, index, *rest):
        numbers.append(index)
        return played(evaluator, agent, index, *rest)

    monkeypatch.setattr(run.Evaluator, "play", play)
    train(small("sac", "steps=130", "eval_every=60", "keep_replay=true"), tmp_path / "raised")
    train(small("sac", "steps=180", "eval_every=60"), tmp_path / "raised")
    train(small("sac", "steps=180", "eval_every=60"), tmp_path / "direct")
    raised, direct = (lines(tmp_path / name / "evals.jsonl") for name in ("raised", "direct"))
    assert [line["env_step"] for line in direct] == [0, 60, 120, 180]
    assert [line for line in raised if line["env_step"] != 130] == direct
    assert len(raised) == 5
    assert numbers == [0, 1, 2, 3, 3, 0, 1, 2, 3]  # short, on to the long end, direct


CHANGED = {
    "label": "other", "seed": 1, "algo": {"tau": 0.5}, "env": {"num_envs": 2}, "eval": EvalConfig(episodes=3), "warmup": 40,
    "eval_every": 90, "log_every": 30, "device": "cuda", "threads": 2, "matmul": "highest", "speed": "compile",
    "steps": 200, "checkpoint_every": 40, "keep_replay": True, "logger": "tensorboard",
}  # fmt: skip
ALLOWED = {"steps", "checkpoint_every", "keep_replay", "logger"}


@pytest.mark.parametrize("per", [1, 8])
def test_every_evaluation_of_a_run_has_a_number_of_its_own(per):
    """Wherever it ends: at a multiple of the interval, one decision later, or far between two."""
    for steps in range(per, 40 * per, per):
        at = SimpleNamespace(config=SimpleNamespace(eval_every=11 * per - 1, frames_per_decision=per))
        numbers = []
        for at.env_step in range(0, steps + 1, per):
            every = at.config.eval_every
            if at.env_step // every > (at.env_step - per) // every or at.env_step == steps:
                numbers.append(run.Run._evaluation(at))
        assert numbers == list(range(len(numbers))), steps


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(RunConfig)])
def test_a_run_goes_on_under_other_steps_and_operation_and_under_no_other_setting(small, tmp_path, key):
    config, directory = small("sac"), RunDir(tmp_path)
    directory.write_config(config, [], {}, {})
    value = getattr(config, key) | CHANGED[key] if isinstance(CHANGED[key], dict) else CHANGED[key]
    other = dataclasses.replace(config, **{key: value})
    assert other != config
    if key in ALLOWED:
        assert directory.prepare(other)[0] == other
    else:
        with pytest.raises(UsageError, match=rf"holds a run with other settings \({key}\b"):
            directory.prepare(other)


def test_a_continued_run_keeps_its_automatic_intervals(small, train, tmp_path):
    first = small("sac", "steps=200", "log_every=null", "keep_replay=true")
    train(first, tmp_path)
    longer, auto = RunDir(tmp_path).prepare(small("sac", "steps=6400", "log_every=null"))
    assert (longer.log_every, auto) == (3, ["log_every"])


def test_what_a_kill_within_a_write_leaves_is_removed(small, train, results, tmp_path):
    """A torn last line, and files that were to replace others."""
    config = small("sac", "keep_replay=true")
    train(config, tmp_path / "undisturbed")

    class Killed(BaseException):
        pass

    decide = run.Run._decide

    def until(self, warm):
        if self.env_step >= 130:
            raise Killed
        decide(self, warm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "_decide", until)
        with pytest.raises(Killed):
            run.run(config, tmp_path / "torn")
    for name in ("metrics.jsonl", "evals.jsonl", "clock.jsonl"):
        with open(tmp_path / "torn" / name, "ab") as file:
            file.write(b'{"env_step": 131, "crit')
    for name in (".progress.json.7.tmp", "replay/.000000000118.pt.7.tmp"):
        (tmp_path / "torn" / name).write_bytes(b"PK")
    train(config, tmp_path / "torn")
    assert not list((tmp_path / "torn").rglob("*.tmp"))
    assert results(tmp_path / "undisturbed") == results(tmp_path / "torn")


def test_a_transition_is_written_once(small, train, tmp_path):
    """A checkpoint's cost does not grow with the replay: its piece begins where the one before ended."""
    train(small("sac", "keep_replay=true"), tmp_path, kill_at=[100])
    pieces = [load_tensors(path) for path in sorted((tmp_path / "replay").glob("*.pt"))]
    assert [(piece["first"], len(piece["reward"])) for piece in pieces] == [(0, 59), (59, 59), (118, 42)]


def test_a_replay_with_a_hole_is_refused(small, train, results, tmp_path):
    """Of rows that the ring still holds; those that it has dropped may be gone."""
    for capacity in (1000, 60):
        config, path = small(f"sac(capacity={capacity})", "keep_replay=true"), tmp_path / str(capacity)
        train(config, path, kill_at=[100])
        before = results(path)
        first, middle, _ = sorted((path / "replay").glob("*.pt"))
        kept = load_tensors(middle, "first", "reward")
        (path / "DONE").unlink()
        (middle if capacity == 1000 else first).unlink()
        if capacity == 1000:
            end = kept["first"] + len(kept["reward"])
            with pytest.raises(UsageError, match=f"replay lacks rows {kept['first']} to {end}, on which"):
                run.run(config, path)
        else:
            assert train(config, path) == "done"
            assert results(path) == before


def test_the_rate_of_a_continued_run_is_that_of_its_session(small, train, tmp_path):
    """What the time to come is told from."""
    config, rates = small("td3"), []

    def stopper(current):
        advance = current._heartbeat

        def beat():
            rates.append(current._rate[1])
            current.stop = current.env_step > 130
            advance()

        current._heartbeat = beat

    assert run.run(config, tmp_path, stopper=stopper) == "stopped"
    assert set(rates) == {0}
    rates.clear()
    assert run.run(config, tmp_path, stopper=stopper) == "stopped"
    assert min(rates) > 130


def test_stopping_writes_a_checkpoint_there(small, train, results, tmp_path):
    config = small("td3", "checkpoint_every=100000")
    train(config, tmp_path / "undisturbed")
    stops = []

    def stopper(current):
        advance = current._heartbeat

        def beat():
            current.stop = current.env_step == 137
            advance()

        current._heartbeat = beat
        stops.append(current)

    assert run.run(config, tmp_path / "stopped", stopper=stopper) == "stopped"
    assert RunDir(tmp_path / "stopped").state() == "stopped"
    assert load_tensors(tmp_path / "stopped" / "checkpoint.pt")["counters"]["env_step"] == 138
    assert train(config, tmp_path / "stopped") == "done"
    assert results(tmp_path / "undisturbed") == results(tmp_path / "stopped")


# -- checkpoints that are not what they should be ----------------------------------------------------------------------


class Hostile:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["truncated", "hostile", "empty", "other"])
def test_a_checkpoint_that_cannot_be_trusted_is_refused_by_name(small, train, tmp_path, kind):
    config, directory = small("sac", "steps=100"), tmp_path / "run"
    train(config, directory)
    (directory / "DONE").unlink()
    path = directory / "checkpoint.pt"
    if kind == "hostile":
        torch.save({"agent": Hostile(tmp_path / "owned")}, path)
    elif kind == "other":
        torch.save({"agent": {}}, path)
    else:
        path.write_bytes(path.read_bytes()[: 2000 if kind == "truncated" else 0])
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read as a checkpoint") as error:
        run.run(config, directory)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()
    assert {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()} == before


def bytes_of(directory: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize("lost", ["config.yaml", "checkpoint.pt of a stopped run", "checkpoint.pt of a finished run"])
def test_what_was_lost_makes_no_other_run_of_it(small, train, tmp_path, lost):
    """A checkpoint belongs to its settings, wherever these are kept; without it a run does not begin again over its records."""
    config = small("sac", "keep_replay=true")
    train(config, tmp_path)
    if "stopped" in lost:
        (tmp_path / "DONE").unlink()
    (tmp_path / lost.split()[0]).unlink()
    before, asked = bytes_of(tmp_path), dataclasses.replace(config, steps=config.steps + 40)
    if lost == "config.yaml":
        asked, says = small("sac(tau=0.5)"), r"other settings \(algo.tau: 0.005 there, 0.5 asked for\)"
    else:
        says = "has the replay of several checkpoints" if "stopped" in lost else r"finished and has no checkpoint\.pt"
    with pytest.raises(UsageError, match=says):
        run.run(asked, tmp_path)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("damage", [None, b"", b"PK torn"])
def test_costs_are_counted_again_and_damaged_probes_are_named(small, train, results, tmp_path, damage):
    config = small("sac", "keep_replay=true")
    train(config, tmp_path / "whole")
    train(config, tmp_path / "cut")
    for name in ("DONE", "cost.json"):
        (tmp_path / "cut" / name).unlink()
    probes = tmp_path / "cut" / "probes.npz"
    if damage is not None:
        (tmp_path / "cut" / "cost.json").write_bytes(damage)
        probes.write_bytes(damage)
        with pytest.raises(UsageError, match=r"probes\.npz cannot be read .*remove it to go on"):
            run.run(config, tmp_path / "cut")
        probes.unlink()
    assert train(config, tmp_path / "cut") == "done"
    kept, whole = (results(tmp_path / name) for name in ("cut", "whole"))
    assert damage is not None or kept == whole
    counted = [json.loads((tmp_path / name / "cost.json").read_text()) for name in ("whole", "cut")]
    assert all(one.pop("peak_memory_mb") > 0 for one in counted)
    assert counted[0] == counted[1]
    assert counted[0]["parameters"] > 0


def test_records_shorter_than_the_checkpoint_remembers_are_refused(small, train, tmp_path):
    config = small("sac", "steps=100")
    train(config, tmp_path)
    (tmp_path / "DONE").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is shorter than its checkpoint remembers \(0 < "):
        run.run(config, tmp_path)
