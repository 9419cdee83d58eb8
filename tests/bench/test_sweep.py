"""Sweeps of an agent with a known optimum: real runs, in this process."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweeping import AGENT, LOW, PLANE, score

from bench import run as run_module
from bench.compose import algo_values, available
from bench.engines import local
from bench.engines.common import DISK_FULL, Options, _tell, stop_requests
from bench.options import parser
from bench.rundir import RunDir
from bench.sweep import claim as claim_module
from bench.sweep import command as command_module
from bench.sweep import finish
from bench.sweep import storage as storage_module
from bench.sweep import trial as trial_module
from bench.sweep.claim import Claim, may_be_lost
from bench.sweep.plan import plan
from bench.sweep.space import find, load
from bench.sweep.status import SweepView
from bench.sweep.storage import SAMPLERS, PerTrial, open_storage
from bench.typed import UsageError
from bench.worker import locked
from reports.load import Curve, Score

SHORT = ("--envs", "toy/interior", "steps=12", "warmup=3", "eval_every=4", "log_every=6", "eval.episodes=1")


@pytest.mark.parametrize(
    ("code", "told"), [(0, ""), (3, ""), (1, "a worker died (exit code 1)"), (-9, "a worker died (SIGKILL)")]
)
def test_a_worker_that_crashed_is_told_of(monkeypatch, capsys, code, told):
    class Ended:
        def __init__(self, *words, **options):
            self.wait = lambda: code

    monkeypatch.setattr(command_module.subprocess, "Popen", Ended)
    assert command_module.carry(1, Options()) == ("stopped" if code == 3 else "done")
    assert capsys.readouterr().out.partition(";")[0].strip() == told


class Killed(BaseException):
    """Ends a sweep as SIGKILL does: nothing catches it, nothing is written after it."""


@pytest.fixture
def sweep(command, here, tmp_path):
    """sweep(space, *words): a sweep of one seed named `s`, without confirmation unless asked; its exit code and output."""

    def call(space: str, *words: str):
        (tmp_path / "space.yaml").write_text(space)
        given = ["--algos", AGENT, "--sweep", "space.yaml", "--seeds", "1", "--jobs", "1", "--confirm", "0", "--name", "s"]
        return command("sweep", *given, *SHORT, *words)

    return call


def recorded(name: str = "s", label: str = "aim", root: str = "runs") -> dict:
    return json.loads(Path(root, name, "sweep.json").read_text())["studies"][label]


def mean_over_runs(number: int) -> list[list[float]]:
    """[env_step, normalised score] at each evaluation of a trial of training, averaged over what its runs recorded, each of
    which had its own score."""
    runs = []
    for file in Path("runs/s/trials/aim", f"{number:04d}").rglob("evals.jsonl"):
        low, lines = LOW[file.parts[-4]], map(json.loads, file.read_text().splitlines()[1:])
        runs.append([(line["env_step"], (np.mean(line["returns"]) - low) / (1 - low)) for line in lines])
    assert len({run[0][1] for run in runs}) == len(runs) > 1
    return np.mean(runs, axis=0).tolist()


def outcome(study: dict) -> list:
    return [(t["number"], t["state"], t["value"], t["params"], t["curve"]) for t in study["trials"]]


def test_a_sweep_finds_the_optimum_better_than_random_at_equal_budget(sweep):
    found = {}
    for sampler in ("tpe", "random"):
        assert sweep(PLANE, "--trials", "24", "--sampler", sampler, "--name", sampler).code == 0
        study = recorded(sampler)
        assert [t["state"] for t in study["trials"]] == ["complete"] * 24
        for trial in study["trials"]:
            assert trial["value"] == pytest.approx(score(trial["params"]), abs=1e-5)
        found[sampler] = max(t["value"] for t in study["trials"])
    assert found["tpe"] > 0.99
    assert found["tpe"] > found["random"]


def test_cma_es_searches_too(sweep):
    assert sweep(PLANE, "--trials", "7", "--sampler", "cmaes").code == 0
    assert len({str(t["params"]) for t in recorded()["trials"] if t["state"] == "complete"}) == 7


def test_a_value_is_the_mean_over_tasks_and_tuning_seeds_and_the_runs_are_ordinary(sweep):
    words = ("--algos", "aim=sweeping:Aim(spread=0.3,drift=-0.05)", "--envs", "toy/interior,toy/corner")
    assert sweep(PLANE, *words, "--trials", "2", "--seeds", "2").code == 0
    for trial in recorded()["trials"]:
        assert len({value for _, value in trial["curve"]}) == 3  # the value is that of the last evaluation
        assert trial["value"] == pytest.approx(mean_over_runs(trial["number"])[-1][1], abs=1e-5)
        runs = sorted(Path("runs/s/trials/aim", f"{trial['number']:04d}").glob("*/aim/seed_*"))
        assert [r.name for r in runs] == ["seed_10000", "seed_10001"] * 2
        assert all((r / "DONE").exists() and not (r / "replay").exists() for r in runs)
        assert (trial["env_steps"], trial["runs"]) == (4 * 12, 4)
        clocks = [json.loads((r / "clock.jsonl").read_text().splitlines()[-1]) for r in runs]
        assert trial["hours"] == pytest.approx(sum(clock["total"] for clock in clocks) / 3600)
    assert recorded()["trials"][0]["params"] == {"x": 0.0, "y": 0.0}  # the defaults come first


def test_pruning_goes_by_the_seed_average_at_equal_steps_and_is_the_median_rule(sweep):
    space = PLANE.replace("none", "median")
    words = ("--algos", "aim=sweeping:Aim(spread=0.3)", "--sampler", "random")
    assert sweep(space, *words, "--trials", "14", "--seeds", "2").code == 0
    trials = recorded()["trials"]
    states = [t["state"] for t in trials]
    assert states.count("pruned") >= 3
    for trial in trials:
        before = [t for t in trials[: trial["number"]] if t["state"] == "complete"]
        for point, mean in zip(trial["curve"], mean_over_runs(trial["number"]), strict=False):
            assert point == pytest.approx(mean, abs=1e-5)
        step, value = trial["curve"][0]
        assert step == 4
        worse = len(trials[: trial["number"]]) >= 5 and value < np.median([dict(t["curve"])[step] for t in before])
        assert trial["state"] == ("pruned" if worse else "complete"), trial
        assert len(trial["curve"]) == (1 if worse else 3)


def test_a_serial_sweep_is_reproducible_also_when_it_is_killed_on_the_way(sweep, monkeypatch):
    space = PLANE.replace("none", "hyperband")
    assert sweep(space, "--trials", "16", "--root", "whole").code == 0
    decide, count = run_module.Run._decide, iter(range(10**6))

    def until(self, warm):
        if next(count) in (20, 75, 76, 130):  # in the middle of trials
            raise Killed
        decide(self, warm)

    pruned, tell = iter([True, False, True]), trial_module.tell

    def after(claim, progress, failed=""):
        if progress.pruned and next(pruned, False):  # between the pruner's answer and its record
            raise Killed
        return tell(claim, progress, failed)

    monkeypatch.setattr(run_module.Run, "_decide", until)
    monkeypatch.setattr(trial_module, "tell", after)
    kills = 0
    while True:
        try:
            done = sweep(space, "--trials", "16", "--root", "killed")
            break
        except Killed:
            kills += 1
    assert (done.code, kills) == (0, 6)
    whole, killed = recorded(root="whole"), recorded(root="killed")
    assert outcome(killed) == outcome(whole)
    assert len({str(t["params"]) for t in whole["trials"]}) == 16


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_parameters_of_one_range_are_drawn_apart(sampler):
    """Fails where a trial's parameters have one random stream: every point would lie on the diagonal."""
    study = optuna.create_study(sampler=PerTrial(SAMPLERS[sampler], 0, []))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1), n_trials=6)
    points = np.array([[trial.params["x"], trial.params["y"]] for trial in study.trials])
    assert len(np.unique(points)) == 12


def test_a_trial_that_is_taken_up_is_not_asked_again_where_it_was_let_pass(monkeypatch, tmp_path):
    """By now the pruner knows more trials, and may answer otherwise: an undisturbed trial would have gone on."""
    told = SimpleNamespace(intermediate_values={4: 0.1, 8: 0.2}, user_attrs={})
    trial = SimpleNamespace(report=lambda value, step: None, should_prune=lambda: True, set_user_attr=lambda key, value: None)
    opened = SimpleNamespace(trial_id=int, storage=SimpleNamespace(get_trial=lambda number: told))
    monkeypatch.setattr(trial_module.Progress, "_paths", lambda self: [tmp_path])
    monkeypatch.setattr(trial_module, "mean_curve", lambda paths: ([(4, 0.1), (8, 0.2), (12, 0.3)], False))
    (tmp_path / "evals.jsonl").touch()
    progress = trial_module.Progress(SimpleNamespace(opened=opened, number=0, trial=trial), None, [])
    assert progress.look()
    assert progress.curve == [(4, 0.1), (8, 0.2)]  # its last word before was at 8


def test_the_end_of_a_trial_is_not_pruned_and_is_there_when_all_of_its_runs_have_ended(monkeypatch, tmp_path):
    def run_of(ended: int) -> SimpleNamespace:
        step = np.arange(0, ended + 1, 4.0)
        return SimpleNamespace(score=Score(low=0.0, high=1.0), evals=Curve(step, step, step / 100), steps=12)

    found = {"a": run_of(12), "b": run_of(8)}
    monkeypatch.setattr("reports.load.read_run", found.__getitem__)
    assert trial_module.mean_curve(["a", "b"]) == ([(4, 0.04), (8, 0.08)], False)  # a waits for b
    whole = trial_module.mean_curve(["a", "a"])
    assert whole == ([(4, 0.04), (8, 0.08), (12, 0.12)], True)
    told = SimpleNamespace(intermediate_values={12: 0.12}, user_attrs={})
    trial = SimpleNamespace(report=lambda value, step: None, should_prune=lambda: True, set_user_attr=lambda key, value: None)
    opened = SimpleNamespace(trial_id=int, storage=SimpleNamespace(get_trial=lambda number: told))
    monkeypatch.setattr(trial_module.Progress, "_paths", lambda self: [tmp_path])
    monkeypatch.setattr(trial_module, "mean_curve", lambda paths: whole)
    (tmp_path / "evals.jsonl").touch()
    assert not trial_module.Progress(SimpleNamespace(opened=opened, number=0, trial=trial), None, []).look()


def test_trials_that_fail_or_diverge_are_recorded_and_the_sweep_goes_on(sweep):
    space = PLANE.replace("}}", "}, kind: {choices: [plain, broken, sick]}}")
    done = sweep(space, "--trials", "8", "--sampler", "random", "--confirm", "1")
    assert done.code == 0, done
    study = recorded()
    errors = {t["params"]["kind"]: t.get("error", "") for t in study["trials"]}
    assert {t["state"] for t in study["trials"] if t["params"]["kind"] == "plain"} == {"complete"}
    assert {t["state"] for t in study["trials"] if t["params"]["kind"] != "plain"} == {"fail"}
    assert "broken on purpose" in errors["broken"]
    assert "action became non-finite" in errors["sick"]
    assert study["budget"]["fail"] + study["budget"]["complete"] == 8 == study["budget"]["trials"]
    assert study["trials"][study["best"]]["params"]["kind"] == "plain"


def test_status_of_a_sweep_has_a_row_for_each_trial_and_for_the_confirmation(sweep, command):
    space = PLANE.replace("}}", "}, kind: {choices: [plain, broken]}}")
    assert sweep(space, "--trials", "4", "--sampler", "random", "--confirm", "1").code == 0
    study = recorded()

    def status() -> tuple[int, dict[str, list[str]], list[str]]:
        done = command("status", "s")
        table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if line.startswith("│")]
        return done.code, {row[0]: row[1:] for row in table}, [line for line in done.out.splitlines() if line[0].isalpha()]

    code, found, said = status()
    assert code == 0
    for trial in study["trials"]:
        state, _, step, score, *_ = found[f"aim trial {trial['number']}"]
        assert state == {"fail": "failed", "complete": "complete"}[trial["state"]]
        if state == "complete":
            assert (score, step) == (f"{trial['value']:.3f}", f"{trial['env_steps']} / {trial['env_steps']}")
    assert {name: row[0] for name, row in found.items() if name.startswith("confirm")} == {
        f"confirm toy/interior {label} seed 0": "done" for label in ("aim", "aim_tuned")
    }
    assert "aim: 4 of 4 trials begun" in said
    assert sum("failed: " in line and "broken on purpose" in line for line in said) == study["budget"]["fail"] > 0

    last = Path("runs/s/trials/aim/0003")
    (last / "ended.json").unlink()  # as if its process had died when the storage knew of the end already
    assert status() == (code, found, said)

    content = json.loads(Path("runs/s/sweep.json").read_text())  # as it was before the end, and with one more to come
    content["studies"]["aim"]["trials"][3]["state"] = "running"
    content["studies"]["aim"]["asked"] = 5
    (last / "heartbeat.json").write_text(json.dumps({"host": "h", "pid": 1, "time": time.time() - 1}))
    Path("runs/s/sweep.json").write_text(json.dumps(content))
    code, found, said = status()
    assert (code, found["aim trial 3"][0]) == (1, "running")
    assert "aim: 4 of 5 trials begun" in said
    assert SweepView(Path("runs/s")).going()
    (last / "heartbeat.json").write_text(json.dumps({"host": "h", "pid": 1, "time": time.time() - 1000}))
    assert status()[1]["aim trial 3"][0] == "stopped"


def test_a_sweep_is_not_complete_while_an_algorithm_that_was_added_is_not_confirmed(sweep, monkeypatch):
    assert sweep(PLANE, "--trials", "1", "--confirm", "1").code == 0
    assert SweepView(Path("runs/s")).complete()

    def killed(*_) -> None:
        raise Killed

    words = ("--algos", "low=sweeping:Aim(shift=3)", "--trials", "1", "--confirm", "1")
    with monkeypatch.context() as patch:
        patch.setattr(command_module, "confirm", killed)
        with pytest.raises(Killed):
            sweep(PLANE, *words)
    assert not SweepView(Path("runs/s")).complete()
    assert sweep(PLANE, *words).code == 0
    assert SweepView(Path("runs/s")).complete()


def test_a_sweep_without_a_complete_trial_says_so(sweep):
    done = sweep("space: {kind: {choices: [broken, sick]}}", "--trials", "3", "--confirm", "2")
    assert done.code == 1
    assert "no trial is complete" in done.out
    assert not Path("runs/s/confirm").exists()
    content = json.loads(Path("runs/s/sweep.json").read_text())
    Path("runs/s/sweep.json").write_text(json.dumps(content | {"confirm": 0}))
    assert not SweepView(Path("runs/s")).complete()  # not for want of a confirmation


def test_the_best_trial_is_the_first_of_the_largest_among_the_complete():
    ends = [(0.4, TrialState.COMPLETE), (0.5, TrialState.COMPLETE), (0.5, TrialState.COMPLETE), (0.9, TrialState.PRUNED),
            (None, TrialState.FAIL)]  # fmt: skip
    trials = [SimpleNamespace(number=number, value=value, state=state) for number, (value, state) in enumerate(ends)]
    assert finish.best(SimpleNamespace(trials=lambda: trials)).number == 1
    assert finish.best(SimpleNamespace(trials=lambda: trials[3:])) is None


def test_the_grid_runs_every_point_once(sweep):
    space = "space: {x: {low: -0.5, high: 0.5, step: 0.5}, shift: {low: 1, high: 2}, hidden: {choices: [[4], [8, 8]]}}"
    assert sweep(space, "--sampler", "grid").code == 0
    points = [tuple(map(str, t["params"].values())) for t in recorded()["trials"]]
    assert len(points) == len(set(points)) == 12
    assert {p[2] for p in points} == {"[4]", "[8, 8]"}
    chosen = Path("runs/s/trials/aim/0001/toy_interior/aim/seed_10000/config.yaml").read_text()
    assert yaml.safe_load(chosen)["algo"]["hidden"] == [8, 8]


def test_raising_trials_continues_and_a_new_winner_is_confirmed_anew(sweep):
    first = sweep(PLANE, "--trials", "3", "--confirm", "2")
    before = outcome(recorded())
    winner = recorded()["best"]
    ahead = sweep(PLANE, "--trials", "12", "--confirm", "0")
    told = Path("runs/s/report/report.md").read_text()
    assert f"aim: trial {winner}, which led before, was confirmed, trial {recorded()['best']} was not" in told
    assert "Whether tuning helps **aim** is not known" in told
    run = Path("runs/s/confirm/toy_interior/aim_tuned/seed_0")
    with locked(run / "lock", str(run)):  # of the earlier winner, whose command was killed: it is not moved from under it
        assert sweep(PLANE, "--trials", "12", "--confirm", "1").code == 3
    more = sweep(PLANE, "--trials", "12", "--confirm", "1")
    assert "aim: confirmed on 2 seeds before, and so again, not on 1" in more.out
    assert (first.code, ahead.code, more.code) == (0, 0, 0), more
    assert "which led before" not in Path("runs/s/report/report.md").read_text()
    assert outcome(recorded())[:3] == before
    assert len(recorded()["trials"]) == 12
    assert recorded()["best"] != winner
    for seed in ("seed_0", "seed_1"):
        config = yaml.safe_load(Path("runs/s/confirm/toy_interior/aim_tuned", seed, "config.yaml").read_text())
        assert config["algo"]["tuned"]["trial"] == recorded()["best"]
        assert config["algo"]["x"] == recorded()["settings"]["x"]
    assert len(list(Path("runs/s/replaced").rglob("DONE"))) == 2
    again = sweep(PLANE, "--trials", "12", "--confirm", "2")
    assert "0 trials to go" in again.out
    assert len(list(Path("runs/s").rglob("DONE"))) == 12 + 4 + 2  # nothing was run twice

    winner = recorded()["best"]
    assert sweep(PLANE, "--trials", "13", "--confirm", "2").code == 0
    assert recorded()["best"] == winner
    assert len(list(Path("runs/s").rglob("DONE"))) == 13 + 4 + 2
    for path in Path("runs/s/confirm/toy_interior/aim_tuned").rglob("config.yaml"):
        assert yaml.safe_load(path.read_text())["algo"]["tuned"]["trials"] == 13  # not what the search cost before


def test_the_winner_is_a_configuration_whose_tuning_every_report_names(sweep, command):
    from reports.load import read

    assert sweep(PLANE, "--trials", "3", "--confirm", "2").code == 0
    shutil.copytree("runs/s/conf", "conf")
    words = ["--algos", "new=aim_tuned,other=aim_tuned(x=0.5)", "--seeds", "1", "--name", "later", *SHORT, "--no-report"]
    assert command("run", *words).code == 0
    configs = {p.parts[-3]: yaml.safe_load(p.read_text())["algo"] for p in Path("runs/later").rglob("config.yaml")}
    assert configs["new"]["tuned"]["trials"] == 3
    assert configs["new"]["x"] == recorded()["settings"]["x"]
    assert "tuned" not in configs["other"]  # other settings are not what was tuned
    assert {r.label for r in read([Path("runs/s")]).runs} == {"aim", "aim_tuned"}  # trials enter no comparison
    assert command("report", "runs/s", "runs/later", "--out", "out").code == 0
    assert "tuned with 3 trials" in Path("out/report.md").read_text()

    assert sweep(PLANE, "--algos", "again=aim_tuned", "--trials", "2", "--confirm", "1", "--name", "t").code == 0
    assert command("report", "runs/s", "runs/t/confirm", "--out", "out").code == 0
    told = Path("out/report.md").read_text()
    row = next(line for line in told.splitlines() if "tuned with 3 + 2 trials" in line)
    frames = sum(yaml.safe_load(Path(f"runs/{name}/conf/algo/{label}_tuned.yaml").read_text())["tuned"]["env_steps"]
                 for name, label in (("s", "aim"), ("t", "again")))  # fmt: skip
    assert ("s, then t" in row, f"{frames:,}".replace(",", " ") in row.replace("\u202f", " ")) == (True, True)


def test_several_algorithms_take_turns_with_equal_budgets(command, here, tmp_path):
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "sweeping:Aim.yaml").write_text(PLANE)
    words = ["--algos", f"{AGENT},low=sweeping:Aim(shift=3)", "--trials", "3", "--seeds", "1", "--jobs", "1", "--confirm", "0"]
    done = command("sweep", *words, "--name", "s", *SHORT)
    assert done.code == 0, done
    assert [line.split(" (")[0] for line in done.out.splitlines() if " trial " in line] == [
        f"{label} trial {number}" for number in range(3) for label in ("aim", "low")
    ]
    assert outcome(recorded(label="aim")) == outcome(recorded(label="low"))


BAD_SPACES = {
    "unknown setting": ("space: {z: {low: 0.0, high: 1.0}}", "no setting 'z'"),
    "near setting": ("space: {shfit: {low: 0, high: 1}}", "did you mean shift"),
    "run setting": ("space: {eval.episodes: {low: 1, high: 3}}", "no setting 'eval.episodes'"),
    "empty range": ("space: {x: {low: 0.5, high: 0.5}}", "is empty"),
    "reversed range": ("space: {x: {low: 0.5, high: 0.1}}", "is empty"),
    "no choices": ("space: {kind: {choices: []}}", "is empty"),
    "log zero": ("space: {x: {low: 0.0, high: 1.0, log: true}}", "log range cannot include zero"),
    "log negative": ("space: {x: {low: -1.0, high: 1.0, log: true}}", "log range cannot include zero"),
    "float for int": ("space: {shift: {low: 0.5, high: 2.0}}", "whole numbers"),
    "range of words": ("space: {kind: {low: 0, high: 1}}", "takes choices"),
    "type of choice": ("space: {shift: {choices: [a, b]}}", "wrong type"),
    "no ends": ("space: {x: {low: 0.5}}", "high=None is no number"),
    "text": ("space: {x: {low: a, high: 1.0}}", "low='a' is no number"),
    "odd step": ("space: {x: {low: 0.0, high: 1.0, step: 0.3}}", "does not lead"),
    "key": ("space: {x: {lo: 0.0, high: 1.0}}", "did you mean low"),
    "both": ("space: {x: {low: 0.0, choices: [1.0]}}", "exclude each other"),
    "twice": ("space: {x: {choices: [0.1]}, z: {sets: [x], low: 0.0, high: 1.0}}", "both x and z set 'x'"),
    "pruner": ("space: {x: {low: 0.0, high: 1.0}}\npruner: early", "unknown pruner 'early'"),
    "nothing": ("pruner: none", "has the key `space`"),
    "no yaml": ("space: {x: [", "no YAML file"),
    "impossible choice": ("space: {batch_size: {choices: [1, 4]}}", "batch_size=4: aim on toy/interior: the batch"),
    "impossible end": ("space: {batch_size: {low: 1, high: 4}}", "batch_size=4: aim on toy/interior: the batch"),
}


@pytest.mark.parametrize("case", BAD_SPACES)
def test_bad_spaces_are_refused_in_one_line_before_the_first_trial(sweep, tmp_path, case):
    space, says = BAD_SPACES[case]
    refused(sweep(space), says)
    assert not (tmp_path / "runs").exists()


BAD_WORDS = {
    "one evaluation": (["--pruner", "median", "eval_every=12"], "needs two evaluations per run"),
    "sampler": (["--sampler", "bayes"], "unknown sampler"),
    "trials": (["--trials", "0"], "--trials 0"),
    "seeds": (["--seeds", "0-4"], "--seeds 0-4"),
    "confirm": (["--confirm", "-1"], "--confirm -1"),
    "grid of a range": (["--sampler", "grid"], "continuous range"),
    "engine": (["--engine", "cloud"], "unknown engine"),
    "storage": (["--storage", "nosuchdb://x:secret@y/z"], "--storage nosuchdb://x:***@y/z cannot be opened"),
    "fixed and searched": (["algo.x=0.5"], "which the command line fixes"),
    "setting": (["algo.w=0.5"], "no listed algorithm has"),
    "idle setting": (["--algos", "aim=sweeping:Aim(shift=1)", "algo.shift=2"], "reaches no algorithm"),
    "file": (["--sweep", "missing.yaml"], "no such file"),
    "two algorithms": (["--algos", f"{AGENT},sac"], "--sweep is for one algorithm"),
    "no space": (["--algos", AGENT, "--sweep", ""], "give the search space with --sweep"),
    "name": (["--name", "../x"], "no directory name"),
    "no range": (["--envs", "gym/HumanoidStandup-v5"], "no score range"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words_are_refused_in_one_line_before_the_first_trial(sweep, tmp_path, case):
    words, says = BAD_WORDS[case]
    refused(sweep(PLANE, *words), says)
    assert not list(tmp_path.rglob("trials"))


def refused(done, says: str) -> None:
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert says in done.err


def test_another_sweep_under_the_same_name_is_refused_naming_the_difference(sweep, command):
    assert sweep(PLANE, "--trials", "2").code == 0
    before = outcome(recorded())
    refused(sweep(PLANE.replace("high: 1.0}, y", "high: 0.5}, y"), "--trials", "2"), "space.x.high: 1.0 there, 0.5 asked for")
    refused(sweep(PLANE, "--trials", "2", "--pruner", "median"), "pruner: none there, median asked for")
    refused(sweep(PLANE, "--trials", "2", "--seeds", "2"), "tuning seeds: [10000] there, [10000, 10001] asked for")
    refused(sweep(PLANE, "--trials", "2", "steps=16"), "steps: 12 there, 16 asked for")
    refused(sweep(PLANE, "--trials", "2", "--storage", "sqlite:///other.db"), "lie in the storage journal.log")
    assert outcome(recorded()) == before
    words = ["--algos", AGENT, "--seeds", "1", "--no-report", *SHORT]
    assert command("run", *words, "--name", "plain").code == 0
    refused(sweep(PLANE, "--trials", "2", "--name", "plain"), "holds an experiment of `run`")


def planned(algos: str, envs: str, *settings: str):
    args = parser().parse_args(["sweep", "--algos", algos, "--envs", envs, "--trials", "1"])
    args.overrides = list(settings)
    return plan(args)


def test_algorithms_of_unlike_budgets_are_refused_as_run_refuses_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="gives sac steps=36000 and ctq steps=10240000; set steps="):
        planned("sac,ctq", "generation/gmm1d")


def test_an_algorithm_under_another_rule_than_those_of_the_sweep_is_refused(sweep):
    assert sweep(PLANE, "--trials", "1").code == 0
    before = Path("runs/s/journal.log").read_bytes()
    other = ("--algos", "low=sweeping:Aim(shift=3)", "--trials", "1")
    refused(sweep(PLANE, *other, "eval.episodes=2"), "eval.episodes: 1 there, 2 asked for")
    refused(sweep(PLANE, *other, "env.action_repeat=2", "warmup=6"), "env.action_repeat: 1 there, 2 asked for")
    assert Path("runs/s/journal.log").read_bytes() == before


def test_unlike_sweeps_have_names_of_their_own_and_like_ones_share_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def name(algo: str, envs: str, *settings: str) -> str:
        return planned(algo, envs, "warmup=600", *settings).path.name

    one, two = "toy/interior", "toy/corner"
    like = {name("sac", f"{one},{two}"), name("qsm", f"{one},{two}"), name("td3", f"{two},{one}", "algo.batch_size=32")}
    unlike = [name("sac", one), name("sac", two), name("sac", one, "steps=9000"), name("sac", one, "env.action_repeat=2")]
    assert len(like) == 1
    assert len({*like, *unlike}) == 5


def test_a_report_on_unlike_searches_says_in_what_they_differ(sweep):
    assert sweep(PLANE, "--trials", "1").code == 0
    words = ["--algos", "low=sweeping:Aim(shift=3)", "--trials", "1", "--seeds", "2", "--pruner", "median", "steps=16"]
    assert sweep(PLANE, *words).code == 0
    text = Path("runs/s/report/report.md").read_text()
    assert "The algorithms had different pruners, tuning seeds and frames; their tuned" in text
    assert "2 algorithms, searched differently · s" in text


@pytest.mark.parametrize("agent", available("sweep"))
def test_the_shipped_spaces_fit_their_algorithms_and_contain_the_defaults(agent):
    values = algo_values(agent)
    space = load(find(agent, agent), values, set())
    assert space.defaults(values) is not None
    text = find(agent, agent).read_text()
    for line in text.splitlines()[3:]:
        assert "#" in line, f"{agent}: a range without its source: {line}"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        assert set(space.settings(space.suggest(study.ask()))) <= set(values)


def test_a_user_s_space_goes_by_label_or_agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("sac", "hot").parent != Path.cwd() / "conf" / "sweep"
    own = tmp_path / "conf" / "sweep"
    own.mkdir(parents=True)
    for name in ("sac", "hot"):  # each before the one that was found so far
        (own / f"{name}.yaml").touch()
        assert find("sac", "hot") == own / f"{name}.yaml"
    assert find("td3", "sac") == own / "sac.yaml"
    with pytest.raises(UsageError, match=r"there is no conf/sweep/mine\.yaml; make it, or give the search space with --sweep"):
        find("my_agents:Mine", "mine")


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_stepped_ranges_hold_the_default_and_no_rounding(tmp_path, sampler):
    lr = "lr: {sets: [actor_lr, critic_lr], low: 1e-4, high: 1e-3, step: 1e-4}"
    tau = "tau: {low: 0.005, high: 0.02, step: 0.005}"
    (tmp_path / "space.yaml").write_text(f"space: {{{lr}, {tau}}}\n")
    values = algo_values("sac")
    space = load(tmp_path / "space.yaml", values, set())
    assert space.defaults(values) == {"lr": 3e-4, "tau": 0.005}
    close = 0.1 + 0.2 - 0.2997  # 3e-4 but for its last digits, as a plug-in may compute it
    assert space.defaults(values | {"actor_lr": close, "critic_lr": close})["lr"] == close
    assert space.defaults(values | {"actor_lr": 3.5e-4, "critic_lr": 3.5e-4}) is None
    assert [p["lr"] for p in space.grid()[::4]] == [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 7e-4, 8e-4, 9e-4, 1e-3]
    study = optuna.create_study(sampler=PerTrial(SAMPLERS[sampler], 0, []))
    for _ in range(24):
        trial = study.ask()
        assert space.suggest(trial) in space.grid()
        study.tell(trial, trial.params["lr"])


def test_a_search_space_is_recorded_whole(tmp_path):
    (tmp_path / "space.yaml").write_text("space: {x: {low: 0.0, high: 1.0, step: 0.5}, shift: {low: 0, high: 3}}\n")
    plain = load(tmp_path / "space.yaml", algo_values("sweeping:Aim"), set()).to_plain()
    assert plain["x"] == {"sets": ["x"], "low": 0.0, "high": 1.0, "step": 0.5}
    assert plain["shift"] == {"sets": ["shift"], "low": 0, "high": 3}


@pytest.mark.parametrize("gone", ["journal.log", "sweep.json"])
def test_runs_of_other_parameters_give_no_trial_its_score(sweep, command, gone):
    """A copied sweep, and one without its storage: the runs that are there are those of other points."""
    assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 0
    shutil.copytree("runs/s", "runs/t")
    refused = sweep(PLANE, "--trials", "2", "--sampler", "random", "--name", "t")
    assert (refused.code, "runs/t is the sweep s" in refused.err) == (2, True)
    Path("runs/s", gone).unlink()
    if gone == "sweep.json":
        Path("runs/s/journal.log").unlink()
    refused = sweep(PLANE.replace("y:", "wait:").replace("-1.0", "0.0"), "--trials", "2", "--sampler", "random")
    said = "holds another trial" if gone == "sweep.json" else "has no finished trial of aim, where sweep.json knows of 2"
    assert (refused.code, said in refused.err) == (2, True)
    refused = command("run", "--algos", AGENT, "--name", "t", *SHORT)
    assert (refused.code, "runs/t holds a sweep" in refused.err) == (2, True)


def test_a_storage_that_was_lost_is_refused_and_what_is_known_of_the_search_stays(sweep):
    """The same space as before: the runs that are there would be taken for those of the new trials."""
    assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 0
    known, journal = Path("runs/s/sweep.json").read_bytes(), Path("runs/s/journal.log").read_bytes()
    Path("runs/s/journal.log").unlink()
    for _ in range(2):  # the first look may leave an empty journal
        refused = sweep(PLANE, "--trials", "4", "--sampler", "random")
        assert (refused.code, "it is another one, or was emptied; restore it" in refused.err) == (2, True)
        assert Path("runs/s/sweep.json").read_bytes() == known
    Path("runs/s/journal.log").write_bytes(journal)
    assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 0


def test_what_would_lose_trials_is_refused(sweep, command):
    assert sweep(PLANE, "--trials", "3", "--sampler", "random").code == 0
    before = recorded()
    refused = sweep(PLANE, "--trials", "2", "--sampler", "random")
    assert (refused.code, "--trials can only be raised" in refused.err) == (2, True)
    assert recorded() == before
    clash = command("sweep", "--algos", f"{AGENT},aim_tuned=sweeping:Aim(x=0.3)", "--name", "c", *SHORT)
    assert (clash.code, "aim_tuned is what the winner of aim is called" in clash.err) == (2, True)


def test_a_winner_swept_in_its_own_sweep_is_refused_and_its_confirmation_stays(sweep):
    assert sweep(PLANE, "--trials", "1", "--confirm", "1").code == 0
    config = Path("runs/s/confirm/toy_interior/aim_tuned/seed_0/config.yaml").read_bytes()
    shutil.copytree("runs/s/conf", "conf")
    refused(sweep(PLANE, "--algos", "aim_tuned", "--trials", "1", "--confirm", "1"), "what the winner of aim is called")
    assert Path("runs/s/confirm/toy_interior/aim_tuned/seed_0/config.yaml").read_bytes() == config
    assert sweep(PLANE, "--algos", "again=aim_tuned", "--trials", "1", "--confirm", "1").code == 0


def test_a_full_disk_is_no_failure_of_a_trial(sweep, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(local, "submit", lambda experiment, indices, options, watch: dict.fromkeys(indices, DISK_FULL))
        full = sweep(PLANE, "--trials", "2", "--sampler", "random")
    assert (full.code, DISK_FULL in full.out) == (3, True)
    assert not list(Path("runs/s/trials").rglob("ended.json"))
    assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 0
    assert [trial["state"] for trial in recorded()["trials"]] == ["complete"] * 2


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_at_the_end_of_a_trial_stops_the_sweep(sweep, monkeypatch, last):
    """It reaches the engine when there is nothing to stop any more. Neither another trial nor the confirmation follows."""
    ran, run_trial = [], command_module.run_trial

    def signalled(mine, engine):
        with stop_requests() as asked:
            ran.append(run_trial(mine, engine))
            if len(ran) == (2 if last else 1):
                _tell(signal.SIGTERM, None)
            assert len(asked) == (len(ran) == (2 if last else 1))
        return ran[-1]

    monkeypatch.setattr(command_module, "run_trial", signalled)
    done = sweep(PLANE, "--trials", "2", "--confirm", "1")
    assert (done.code, len(ran)) == (3, 2 if last else 1)
    assert ("stopped before the confirmation" if last else "unfinished (stopped): trials aim 1") in done.out
    assert not Path("runs/s/confirm").exists()


def test_a_signal_ends_the_wait_for_the_runs_of_a_lost_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_module, "RELEASE", 2.0)
    beats = []

    def beat():
        beats.append(len(beats))
        if len(beats) == 2:
            _tell(signal.SIGTERM, None)

    with locked(tmp_path / "lock", "a run"):
        trial_module.wait_for_release([tmp_path, tmp_path], SimpleNamespace(beat=beat))
    assert beats == [0, 1]


@pytest.mark.parametrize("lasts", [True, False])
def test_a_run_that_outlives_its_sweep_is_waited_for_while_its_heartbeat_goes_on(tmp_path, monkeypatch, lasts):
    """As a task of a cluster does; one without a heartbeat is given up after a while."""
    monkeypatch.setattr(trial_module, "RELEASE", 0.5)
    beats, directory = [], RunDir(tmp_path)
    if lasts:
        directory.write_progress({"state": "running", "time": time.time()})

    def beat():
        beats.append(len(beats))
        if len(beats) == 10:
            directory.write_progress({"state": "stopped", "time": time.time()})

    with locked(tmp_path / "lock", "a run"):
        trial_module.wait_for_release([tmp_path], SimpleNamespace(beat=beat))
    assert (len(beats) >= 10) == lasts


def test_a_run_that_another_process_has_is_no_failed_trial(sweep, monkeypatch):
    with monkeypatch.context() as patch:
        told = "refused: error: it is in use by pid 5 on node7 (worker.log)"
        patch.setattr(local, "submit", lambda experiment, indices, options, watch: dict.fromkeys(indices, told))
        assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 3
    assert not list(Path("runs/s/trials").rglob("ended.json"))
    assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 0
    assert [trial["state"] for trial in recorded()["trials"]] == ["complete"] * 2


def test_a_run_that_this_machine_refuses_is_no_failed_trial(sweep, monkeypatch):
    """Its checkpoint was made at another precision, say: the trial waits for a machine that can go on with it."""
    with monkeypatch.context() as patch:
        told = "refused: error: it was made with matmul precision medium (worker.log)"
        patch.setattr(local, "submit", lambda experiment, indices, options, watch: dict.fromkeys(indices, told))
        done = sweep(PLANE, "--trials", "2", "--sampler", "random")
    assert (done.code, done.err.count(told)) == (2, 1)
    assert not list(Path("runs/s/trials").rglob("ended.json"))
    assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 0
    assert [trial["state"] for trial in recorded()["trials"]] == ["complete"] * 2


def test_a_process_of_fewer_trials_takes_nothing_back(sweep, monkeypatch):
    """It began before another one had more, and writes after it."""
    assert sweep(PLANE, "--trials", "3").code == 0
    asked, studies = [], []
    with monkeypatch.context() as patch:
        patch.setattr(command_module, "snapshot", lambda plan, opened: (asked.append(plan), studies.append(opened)))
        assert sweep(PLANE, "--trials", "3").code == 0
    assert sweep(PLANE, "--trials", "8").code == 0
    before = recorded(), Path("runs/s/conf/algo/aim_tuned.yaml").read_bytes()
    finish.snapshot(asked[0], studies[0])
    assert (recorded(), Path("runs/s/conf/algo/aim_tuned.yaml").read_bytes()) == before


def test_confirmation_runs_that_failed_are_named_beside_the_comparison(sweep, command):
    assert sweep(PLANE, "--trials", "2", "--confirm", "3").code == 0
    lost = Path("runs/s/confirm/toy_interior/aim_tuned/seed_1")
    (lost / "DONE").rename(lost / "FAILED.json")
    (lost / "FAILED.json").write_text("{}")
    assert command("report", "runs/s", "--out", "out").code == 0
    Path("notes").mkdir()
    Path("notes/report.md").write_text("mine")
    refused = command("report", "runs/s", "--out", "notes")
    assert (refused.code, "choose another --out" in refused.err, Path("notes/report.md").read_text()) == (2, True, "mine")
    told = "aim: of 3 confirmation runs of its winner, 1 failed; the comparison is of the others."
    assert told in Path("out/report.md").read_text()


def test_a_confirmation_that_failed_can_be_run_again(sweep, monkeypatch):
    def unlucky(*_):
        raise RuntimeError("no luck")

    words = ("--trials", "1", "--confirm", "1")
    assert sweep(PLANE, *words, "--confirm", "0").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "_decide", unlucky)
        failed = sweep(PLANE, *words)
    assert (failed.code, failed.out.count("failed: RuntimeError: no luck"), "--retry-failed" in failed.out) == (1, 2, True)
    assert sweep(PLANE, *words).code == 1
    assert sweep(PLANE, *words, "--retry-failed").code == 0


def test_a_confirmation_has_as_many_runs_at_a_time_as_the_trials(sweep, monkeypatch):
    submit, jobs = local.submit, {}

    def noted(experiment, indices, options, watch):
        jobs[experiment.path.name] = options.jobs
        return submit(experiment, indices, options, watch)

    monkeypatch.setattr(local, "submit", noted)
    assert sweep(PLANE, "--trials", "1", "--seeds", "2", "--confirm", "3").code == 0
    assert jobs == {"0000": 2, "confirm": 2}


# -- storages, and trials that are lost --------------------------------------------------------------------------------


def test_a_journal_whose_writer_was_killed_is_free_again_after_a_while(tmp_path, monkeypatch):
    """Killed under a relative root, in the moment in which it held the lock."""
    monkeypatch.chdir(tmp_path)
    asked = planned("sac", "toy/interior", "warmup=600")
    lock = open_storage(asked)._backend._lock
    lock.acquire()
    assert (asked.path / "journal.log.lock").exists()  # no link to nowhere, whose age nobody can tell
    lock.grace_period = 0.1
    assert lock.acquire()


@pytest.mark.parametrize(
    ("beat", "told", "lost"),
    [
        (None, None, False),  # of another file system, and begun 590 s ago
        (None, "begun", True),  # 610 s ago, and lost before its first heartbeat
        (("here", 1, 5), None, True),  # its lock tells
        (("elsewhere", 1, 50), None, False),
        (("elsewhere", 1, 70), None, True),
        (("here", 1, 5), ("here", 1, 5), True),
        (("elsewhere", 1, 50), ("elsewhere", 1, 50), False),
        (None, ("elsewhere", 1, 590), False),
        (None, ("elsewhere", 1, 610), True),
        (None, ("here", 1, 590), False),  # of another --root
        (("here", 1, 1000), ("elsewhere", 1, 5), False),  # this machine was gone, and another one took the trial up
    ],
)
def test_a_running_trial_is_lost_when_nothing_was_heard_of_it_for_long(tmp_path, beat, told, lost):
    def record(host, pid, age):
        return {"host": socket.gethostname() if host == "here" else host, "pid": pid, "time": time.time() - age}

    if beat:
        (tmp_path / "heartbeat.json").write_text(json.dumps(record(*beat)))
    attrs = {"heartbeat": record(*told)} if told and told != "begun" else {}
    start = datetime.now() - timedelta(seconds=610 if told == "begun" else 590)
    assert may_be_lost(tmp_path, SimpleNamespace(user_attrs=attrs, datetime_start=start)) == lost


def test_who_comes_second_to_a_trial_leaves_the_heartbeat_of_the_first(tmp_path, monkeypatch):
    """Two machines that share the database alone: the owner would hear that another one took up its trial."""
    calls = []
    opened = SimpleNamespace(
        trial=lambda number: SimpleNamespace(state=TrialState.WAITING), trial_id=int, in_database=True,
        storage=SimpleNamespace(set_trial_state_values=lambda number, state: number == 1),
    )  # fmt: skip
    monkeypatch.setattr(claim_module, "tell", lambda opened, number: calls.append(number))
    assert [claim_module.take(opened, number, tmp_path) for number in (0, 1)] == [False, True]
    assert calls == [1]


DATABASE = ("--sampler", "random", "--trials", "2", "--storage", "sqlite:///trials.db")


def test_a_trial_of_a_machine_that_is_gone_is_taken_up_where_only_the_database_is_shared(sweep, monkeypatch):
    def killed(*_) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "_decide", killed)
        with pytest.raises(Killed):
            sweep(PLANE, *DATABASE, "--root", "one")
    assert sweep(PLANE, *DATABASE, "--root", "two").code == 3  # it may be at work
    assert [t["state"] for t in recorded(root="two")["trials"]] == ["running", "complete"]
    monkeypatch.setattr(claim_module, "LOST_AFTER", 0.0)
    monkeypatch.setattr(claim_module, "SETTLE", 0.0)
    with monkeypatch.context() as patch:  # a third machine found it lost at the same moment, and said so last
        third = {"host": "third", "pid": 1, "time": time.time() + 60}  # its clock is ahead
        tell = lambda self, n: self.storage.set_trial_user_attr(self.trial_id(n), "heartbeat", third)  # noqa: E731
        patch.setattr(claim_module, "tell", tell)
        assert sweep(PLANE, *DATABASE, "--root", "two").code == 3
    monkeypatch.setattr(claim_module, "LOST_AFTER", -120.0)
    assert sweep(PLANE, *DATABASE, "--root", "two").code == 0
    for trial in recorded(root="two")["trials"]:
        assert trial["value"] == pytest.approx(score(trial["params"]), abs=1e-5)


@pytest.mark.parametrize(("silent", "ours"), [(20, False), (40, False), (700, True), (700, False)])
def test_a_machine_that_slept_leaves_its_trial_to_the_one_that_took_it_up(tmp_path, monkeypatch, silent, ours):
    told, ends = [], silent > 30 and not ours
    opened = SimpleNamespace(in_database=True, directory=lambda n: tmp_path)
    monkeypatch.setattr(claim_module, "is_ours", lambda opened, n: ours)
    monkeypatch.setattr(claim_module, "tell", lambda opened, n: told.append(n))
    mine = Claim(opened, 3, None, False, None, told=time.time() - silent)
    if ends:
        with pytest.raises(UsageError, match="another machine took up the trial"):
            mine.beat()
    else:
        mine.beat()
    assert told == ([3] if silent > 30 and not ends else [])


def test_a_database_that_fails_ends_the_sweep_in_one_line(sweep, monkeypatch):
    run_trial = command_module.run_trial

    def cut_off(mine, engine):
        with sqlite3.connect("trials.db") as database:
            database.execute("DROP TABLE trials")
        return run_trial(mine, engine)

    monkeypatch.setattr(command_module, "run_trial", cut_off)
    refused(sweep(PLANE, *DATABASE), "--storage sqlite:///trials.db does not answer any more (")


def test_a_torn_journal_is_mended(sweep):
    """As a full disk or a crash of the machine leaves it: what was said last is said again."""
    assert sweep(PLANE, "--trials", "2", "--sampler", "random").code == 0
    journal, before = Path("runs/s/journal.log"), recorded()
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-10])
    done = sweep(PLANE, "--trials", "3", "--sampler", "random")
    assert done.code == 0, done
    assert recorded()["trials"][:2] == before["trials"]
    journal.write_bytes(whole[:40] + b"\n" + whole[40:])
    refused = sweep(PLANE, "--trials", "3", "--sampler", "random")
    assert (refused.code, "journal.log cannot be read" in refused.err) == (2, True)


def test_a_write_cut_short_costs_the_other_processes_of_a_sweep_nothing(tmp_path):
    """Its writer found the disk full; there is space again, and another process writes."""
    path = tmp_path / "journal.log"
    journals = [JournalFileBackend(str(path), storage_module.JournalLock(path)) for _ in range(3)]
    journals[0].append_logs([{"a": 1}])
    with path.open("ab") as file:
        file.write(b'{"b": 2')
    journals[1].append_logs([{"c": 3}, {"d": 4}])
    journals[0].append_logs([{"e": 5}])
    for journal in journals:
        assert list(journal.read_logs(0)) == [{"a": 1}, {"c": 3}, {"d": 4}, {"e": 5}]


def test_the_report_shows_what_tuning_changed_and_what_it_cost(sweep):
    space = PLANE.replace("}}", "}, kind: {choices: [plain, broken]}, hidden: {choices: [[4], [8]]}}").replace("-1.0", "0.0", 1)
    done = sweep(space, "--trials", "12", "--confirm", "4", "--sampler", "random")
    assert done.code == 0, done
    report = Path("runs/s/report")
    numbers, study = json.loads((report / "summary.json").read_text()), recorded()
    gain, best = numbers["gains"]["aim"], study["trials"][study["best"]]
    assert gain["default"]["value"] == pytest.approx(score({"x": 0, "y": 0}), abs=1e-5)
    assert gain["tuned"]["value"] == pytest.approx(score(best["params"]), abs=1e-5)
    assert gain["difference"]["value"] == pytest.approx(gain["tuned"]["value"] - gain["default"]["value"], abs=1e-9)
    assert (gain["difference"]["n"], gain["improvement"]["value"]) == (4, 1.0)
    assert {"history", "aim-curves", "aim-slices", "aim-parallel", "importance", "gain"} <= set(numbers["figures"])
    assert sum(study["importance"].values()) == pytest.approx(1)
    page, text = (report / "report.html").read_text(), (report / "report.md").read_text()
    assert "Tuning improved the score of **aim**" in text
    assert "broken on purpose" in text
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", page)
    header, *rows = (report / "trials.csv").read_text().splitlines()
    assert (header.split(",")[:6], len(rows)) == (["study", "trial", "state", "value", "x", "y"], 12)
    budget = study["budget"]
    assert budget["env_steps"] == sum(t["env_steps"] for t in study["trials"]) < 12 * 12
    assert budget["trials"] == budget["complete"] + budget["fail"] == 12


def test_a_report_on_an_unlike_confirmation_is_made_where_that_is_allowed(sweep, command):
    assert sweep(PLANE, "--trials", "1", "--confirm", "1").code == 0
    config = Path("runs/s/confirm/toy_interior/aim/seed_0/config.yaml")
    config.write_text(config.read_text().replace("episodes: 1", "episodes: 2"))
    refused(command("report", "runs/s"), "--allow-mixed")
    done = command("report", "runs/s", "--allow-mixed")
    assert done.code == 0, done
    text = Path("runs/s/report/report.md").read_text()
    assert "Tuned and default are not compared on toy/interior: different evaluation rules" in text
    assert json.loads(Path("runs/s/report/summary.json").read_text())["gains"] == {"aim": None}


def test_report_of_a_sweep_is_made_again_by_the_report_command(sweep, command):
    assert sweep(PLANE, "--trials", "2").code == 0
    before = Path("runs/s/report/report.html").read_bytes()
    shutil.rmtree("runs/s/report")
    assert command("report", "runs/s").code == 0
    assert Path("runs/s/report/report.html").read_bytes() == before
    assert "was not confirmed on fresh seeds" in before.decode()
    Path("runs/s/sweep.json").write_text("{")
    refused(command("report", "runs/s"), "cannot be read")
