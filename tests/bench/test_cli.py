"""What the command line does with good and bad input."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

import reports
from bench import cli
from bench.carry import unfinished
from bench.config import from_plain
from bench.display import GridView, Watcher, rows
from bench.rundir import Experiment, RunDir
from bench.worker import locked

GRID = ("run", "--no-report", "--algos", "sac", "--envs", "toy/interior", "--seeds", "1")
BROKEN = """
import dataclasses
import typing

import gymnasium

from algos.agent import Agent, ReplayConfig


class NoConfig:
    pass


@dataclasses.dataclass(frozen=True)
class Settings(ReplayConfig):
    kind: typing.Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    sizes: list[int] = dataclasses.field(default_factory=lambda: [8])


class Typed(Agent):
    Config = Settings


class Bare(Agent):
    @dataclasses.dataclass(frozen=True)
    class Config:
        rate: float


class NoAgent:
    Config = Settings


class Unbounded(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-float("inf"), float("inf"), (1,))


class Discrete(Unbounded):
    action_space = gymnasium.spaces.Discrete(3)


class Dict(Unbounded):
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(-1, 1, (2,))})


for kind in (Unbounded, Discrete, Dict):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=10)
for name in ("a/Box-v0", "a_Box-v0"):
    gymnasium.register(name, entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv", max_episode_steps=10)
"""

BAD = {
    "algorithm": (["--algos", "qsn"], "did you mean qsm"),
    "no algorithm": (["--algos", ""], "--algos"),
    "environment": (["--envs", "dmc/walker-wlk"], "did you mean dmc/walker-walk"),
    "gym environment": (["--envs", "gym/Pendulum-v11"], "gym/Pendulum-v1"),
    "gym environment without a version": (["--envs", "gym/Pendulum"], "names no version; did you mean gym/Pendulum-v1"),
    "family": (["--envs", "atari/Pong"], "unknown environment 'atari/Pong'"),
    "discrete actions": (["--envs", "gym/bad_plugin:Discrete-v0"], "Discrete(3) actions"),
    "dict observations": (["--envs", "gym/bad_plugin:Dict-v0"], "Dict observations"),
    "unbounded actions": (["--envs", "gym/bad_plugin:Unbounded-v0"], "unbounded actions"),
    "preset": (["--preset", "quik"], "did you mean quick"),
    "key": (["stepps=3000"], "did you mean steps"),
    "nested key": (["eval.candidate=3"], "did you mean eval.candidates"),
    "argument": (["--sedes", "3"], "--sedes"),
    "setting as an option": (["--steps", "3000"], "settings are given as key=value: steps="),
    "short for an argument": (["--seed", "42"], "did you mean --seeds"),
    "word": (["qsm"], "key=value"),
    "seeds 0": (["--seeds", "0"], "--seeds 0"),
    "seeds 3-1": (["--seeds", "3-1"], "did you mean 1-3"),
    "seeds -1": (["--seeds=-1"], "--seeds"),
    "seeds without end": (["--seeds", "99999999999"], "at most 10000"),
    "seeds x": (["--seeds", "x"], "neither a number"),
    "seeds twice": (["--seeds", "0-2,1"], "twice"),
    "negative steps": (["steps=-3"], "steps=-3 is out of range"),
    "no update": (["steps=500", "warmup=500"], "no update would happen"),
    "batch over warm-up": (["steps=4000", "warmup=100"], "batch of 256 is larger than the warm-up"),
    "no time for a batch": (["--algos", "sac", "--envs", "dmc/cartpole-swingup", "steps=2000"], "set steps above 2048"),
    "no parse": (["steps=[1"], "cannot parse"),
    "sweep": (["steps=1,2"], "gives several values"),
    "one directory": (["--envs", "gym/bad_plugin:a/Box-v0,gym/bad_plugin:a_Box-v0"], "would share the directory gym_bad"),
    "empty name": (["--name", ""], "--name is empty"),
    "added key": (["+foo=1"], "cannot be added"),
    "type": (["steps=many"], "steps='many' has the wrong type"),
    "float for int": (["steps=3e3"], "steps=3000.0 has the wrong type"),
    "bool for number": (["algo.gamma=true"], "algo.gamma=True has the wrong type"),
    "number for list": (["algo.actor_hidden=16"], "a list is wanted"),
    "number for group": (["eval=3"], "eval=3 has the wrong type"),
    "empty value": (["algo.gamma="], "algo.gamma"),
    "infinite": (["algo.tau=inf"], "algo.tau"),
    "not a number": (["algo.actor_lr=nan"], "algo.actor_lr=nan is out of range"),
    "key of a group": (["eval={candidates: 2, episode: 3}"], "unknown key 'eval.episode'; did you mean eval.episodes"),
    "number for key": (["eval={1: 2}"], "'eval={1: 2}': the keys of a mapping are names"),
    "package": (["steps@foo=4000"], "a key has no package here: steps=value"),
    "enormous": (["algo.gamma=1" + 400 * "0"], "algo.gamma=an enormous number is out of range"),
    "gamma of a task with its own": (["--algos", "sac(gamma=0.9)", "--envs", "generation/gmm1d"], "states a discount of 1"),
    "reaches none": (["--algos", "a=sac(tau=0.1)", "algo.tau=0.2"], "tau is set in the parenthesis of a"),
    "algo key of none": (["algo.m_q=3"], "no listed algorithm has 'algo.m_q'"),
    "variant key": (["--algos", "qsm(m_w=3)"], "did you mean m_q"),
    "variant brackets": (["--algos", "qsm(m_q=3"], "parentheses"),
    "labels twice": (["--algos", "qsm,qsm(m_q=3)"], "twice"),
    "label": (["--algos", "a/b=qsm"], "no directory name"),
    "T": (["--algos", "qsm", "algo.T=0"], "T=0 is out of range"),
    "n_step": (["algo.n_step=0"], "n_step=0 is out of range"),
    "eta": (["--algos", "dql", "algo.eta=-1"], "eta=-1"),
    "choice": (["device=tpu"], "one of cpu, cuda"),
    "algo by override": (["algo=qsm"], "use --algos"),
    "plug-in module": (["--algos", "a=no_such_module:Agent"], "no_such_module"),
    "plug-in with a dot": (["--algos", "bad_plugin.Missing"], "did you mean bad_plugin:Missing?"),
    "plug-in class": (["--algos", "a=bad_plugin:Missing"], "has no 'Missing'"),
    "plug-in syntax": (["--algos", "a=torn_plugin:Agent"], "torn_plugin' raised SyntaxError"),
    "plug-in no agent": (["--algos", "a=bad_plugin:NoConfig"], "is no agent"),
    "plug-in a Config alone": (["--algos", "a=bad_plugin:NoAgent"], "is no agent"),
    "plug-in no default": (["--algos", "a=bad_plugin:Bare"], "needs a default, and rate has none"),
    "plug-in literal": (["--algos", "a=bad_plugin:Typed(kind=c)"], "algo.kind='c' is out of range: it takes one of a, b"),
    "plug-in pair": (["--algos", "a=bad_plugin:Typed(pair=[1])"], "algo.pair=[1] is out of range: it takes 2 values"),
    "plug-in list": (["--algos", "a=bad_plugin:Typed(sizes=3)"], "algo.sizes=3 has the wrong type: a list"),
    "variant's agent": (["--algos", "a=td3(agent=sac)"], "agent is no setting"),
    "name": (["--name", "../up"], "no directory name"),
    "unlike budgets": (["--algos", "ctq,td3", "--envs", "generation/gmm1d"], "set steps="),
    "no dynamics": (["--algos", "ctq", "--envs", "toy/interior"], "generation/"),
    "no rollout": (["--algos", "ctq", "--envs", "generation/gmm1d", "steps=400"], "less than one rollout of ctq"),
    "jobs": (["--jobs", "0"], "--jobs 0"),
    "jobs type": (["--jobs", "x"], "--jobs"),
    "engine": (["--engine", "cloud"], "unknown engine"),
    "slurm without Slurm": (["--engine", "slurm"], "sbatch"),
    "slurm key": (["--engine", "slurm", "--slurm", "time_out=3"], "--slurm time_out: unknown"),
    "slurm without a value": (["--engine", "slurm", "--slurm", "partition"], "it takes KEY=VALUE"),
    "slurm for local": (["--slurm", "partition=gpu"], "for --engine slurm"),
    "address for local": (["--address", "head:6379"], "for --engine ray"),
    "no ray cluster": (["--engine", "ray", "--address", "127.0.0.1:9"], "no Ray cluster answers there"),
    "no such device": (["--device", "cuda"], "sees no CUDA device"),
    "root": (["--root", "/proc/runs"], "/proc/runs"),
    "per device": (["--per-device", "0"], "--per-device 0"),
}  # fmt: skip

EXTRAS = ("slurm without Slurm", "slurm key", "no ray cluster")  # only with the engines' extras does it come to this


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in EXTRAS else ()) for case in BAD])
def test_bad_input_is_one_line_and_leaves_nothing_behind(command, tmp_path, monkeypatch, case):
    arguments, says = BAD[case]
    plugins = tmp_path / "elsewhere"
    plugins.mkdir()
    (plugins / "bad_plugin.py").write_text(BROKEN)
    (plugins / "torn_plugin.py").write_text("class Agent(:\n")
    monkeypatch.syspath_prepend(plugins)
    monkeypatch.setattr("bench.carry.carry", lambda *_: pytest.fail("bad input was carried out"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = command(*GRID, *arguments)
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert says in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["worker", "--index", "0"], "--name"), (["worker", "--name", "none", "--index", "0"], "no experiment"),
        (["worker", "--name", "none"], "--index"), (["status", "--name", "none"], "no experiment"), (["status"], "status NAME"),
        (["watch", "none"], "no experiment"), (["status", "x", "steps=3"], "takes no settings"),
        (["list", "colours"], "invalid choice"), (["rum"], "rum"),
    ],
)  # fmt: skip
def test_other_commands_refuse_in_one_line_too(command, tmp_path, argv, says):
    done = command(*argv)
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert says in done.err
    assert not any(tmp_path.iterdir())


def test_a_real_process_shows_no_traceback(tmp_path):
    argv = [sys.executable, "-m", "bench", *GRID, "stepps=3000"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'stepps'; did you mean steps?\n"
    assert not any(tmp_path.iterdir())



def test_list(command):
    assert {"qsm", "dql", "sac", "qsm_official"} <= set(command("list", "algos").out.split())
    assert {"quick", "paper"} <= set(command("list", "presets").out.split())
    assert {"dmc/cartpole-swingup", "gym/Pendulum-v1", "toy/interior"} <= set(command("list", "envs").out.split())


def test_overrides_in_any_position_reach_the_run(command, tmp_path, monkeypatch):
    asked = []

    def carry(engine, experiment, todo):
        asked.append(engine.options.jobs)
        return dict.fromkeys(todo, "stopped")

    monkeypatch.setattr("bench.carry.carry", carry)
    line = "run steps=3000 --algos sac,hot=qsm(m_q=120) algo.batch_size=32 --jobs 3 --envs toy/interior --seeds 0,4"
    done = command(*line.split(), "eval.candidates=2", "--no-report", "--name", "trial", "--root", "out")
    assert done.code == 3, done.err  # nothing ran
    cells = json.loads((tmp_path / "out" / "trial" / "experiment.json").read_text())["cells"]
    assert asked == [3]
    assert [cell["dir"] for cell in cells] == [f"toy_interior/{a}/seed_{k}" for a in ("sac", "hot") for k in (0, 4)]
    configs = [cell["config"] for cell in cells]
    assert {(c["steps"], c["algo"]["batch_size"], c["eval"]["candidates"]) for c in configs} == {(3000, 32, 2)}


def test_a_directory_with_other_settings_is_refused_and_kept(command, tmp_path, small, train):
    directory = tmp_path / "runs" / "old" / "toy_interior" / "sac" / "seed_0"
    train(small("sac", "steps=100", "warmup=96", env="toy/interior"), directory)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = command(*GRID, "--name", "old", "steps=4000", "warmup=300", "eval.candidates=4")
    assert (done.code, done.err.count("\n")) == (2, 1)
    for key in ("warmup: 96 there, 300 asked for", "eval.candidates: 1 there, 4 asked for", "algo.batch_size: 16 there, 256"):
        assert key in done.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_cells_that_no_report_would_compare_are_refused_before_they_run(command, tmp_path, small, train, monkeypatch):
    directory = tmp_path / "runs" / "old" / "toy_interior" / "mine" / "seed_0"
    train(small("sac", "steps=100", "warmup=96", env="toy/interior"), directory)
    cell = {"env": "toy/interior", "label": "mine", "seed": 0, "dir": "toy_interior/mine/seed_0"}
    config = yaml.safe_load((directory / "config.yaml").read_text())
    listing = tmp_path / "runs" / "old" / "experiment.json"
    listing.write_text(json.dumps({"name": "old", "cells": [cell | {"config": config}]}))
    monkeypatch.setattr("bench.carry.carry", lambda engine, experiment, todo: dict.fromkeys(todo, "stopped"))
    done = command(*GRID, "--name", "old", "env.action_repeat=3")
    assert (done.code, done.err.count("\n")) == (2, 1)
    for key in ("env.action_repeat: 1 there, 3 asked for", "eval.episodes: 2 there, 5 asked for", "toy_interior/mine/seed_0"):
        assert key in done.err
    assert len(json.loads(listing.read_text())["cells"]) == 1
    assert command(*GRID, "--name", "old", "eval.episodes=2").code == 3  # other settings of the agent are what one compares
    assert command(*GRID, "--name", "old", "--envs", "toy/corner").code == 3


def test_a_report_that_cannot_be_written_is_one_line_and_keeps_the_code(command, tmp_path, monkeypatch):
    def carry(engine, experiment, todo):
        directory = experiment.run_dir(experiment.cells()[0])
        directory.write_config(from_plain(experiment.cells()[0]["config"]), [], {}, {})
        return dict.fromkeys(todo, "failed")

    def refuse(*_, **__):
        raise reports.ReportError("these cannot be compared")

    monkeypatch.setattr("bench.carry.carry", carry)
    monkeypatch.setattr("reports.write", refuse)
    done = command("run", *GRID[2:])
    assert (done.code, done.err) == (1, "no report: these cannot be compared\n")


DAMAGED = {
    "experiment.json": ("status", "experiment.json cannot be read"), "config.yaml": ("status", "config.yaml cannot be read"),
    "provenance.json": ("status", "provenance.json cannot be read"), "progress.json": ("run", None),
    "DONE": ("status", "toy/interior"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_an_empty_file_is_named_in_one_line(command, here, tmp_path, name):
    """As a crash of the machine can leave it. A heartbeat tells nothing then: the run goes on."""
    grid = ("--algos", "sac(actor_hidden=[8],critic_hidden=[8],batch_size=16)", *GRID[4:], "--no-report", "--name", "g")
    grid = (*grid, "steps=40", "warmup=20", "eval_every=40", "eval.episodes=1", "keep_replay=true")
    assert command("run", *grid).code == 0
    run = tmp_path / "runs" / "g" / "toy_interior" / "sac" / "seed_0"
    (run / "DONE").unlink()
    (run if name != "experiment.json" else tmp_path / "runs" / "g").joinpath(name).write_text("")
    word, says = DAMAGED[name]
    done = command(word, *(("g",) if word == "status" else grid))
    if says is None:
        assert done.code == 0, done
    else:
        assert "Traceback" not in done.err
        assert says in done.err + done.out


@pytest.mark.parametrize(("name", "content"), [
    ("experiment.json", '{"cells": null}'), ("experiment.json", "3"), ("provenance.json", "{}"), ("config.yaml", "[1]"),
    ("config.yaml", None),
])  # fmt: skip
def test_a_file_of_another_kind_is_named_in_one_line(command, here, tmp_path, name, content):
    """None: a setting that this version does not have, which nobody has typed."""
    grid = ("--algos", "sac(actor_hidden=[8],critic_hidden=[8],batch_size=16)", *GRID[4:], "--no-report", "--name", "g")
    assert command("run", *grid, "steps=40", "warmup=20", "eval_every=40", "eval.episodes=1").code == 0
    at = tmp_path / "runs" / "g" / name
    at = at if at.exists() else tmp_path / "runs" / "g" / "toy_interior" / "sac" / "seed_0" / name
    at.write_text(at.read_text().replace("episodes:", "n_episodes:") if content is None else content)
    done = command("status", "g")
    assert "Traceback" not in done.err
    assert f"{name} " in done.err + done.out
    assert ("is of another version" if content is None else "cannot be read") in done.err + done.out


@pytest.mark.parametrize("command_line", [
    ("timing", "--algos", "sac", "--out", "notes.json"), ("report", "runs/g", "--out", "."),
])  # fmt: skip
def test_a_file_of_the_user_s_is_not_written_over(command, here, tmp_path, command_line):
    grid = ("--algos", "sac(actor_hidden=[8],critic_hidden=[8],batch_size=16)", *GRID[4:], "--no-report", "--name", "g")
    assert command("run", *grid, "steps=40", "warmup=20", "eval_every=40", "eval.episodes=1").code == 0
    for name in ("notes.json", "report.md"):
        (tmp_path / name).write_text('{"mine": 1}')
    done = command(*command_line)
    assert (done.code, done.err.count("\n"), "choose another --out" in done.err) == (2, 1, True), done
    assert {(tmp_path / name).read_text() for name in ("notes.json", "report.md")} == {'{"mine": 1}'}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.json", "report.md", "runs"]


def fail(*_, **__):
    raise RuntimeError("no luck")


def test_a_continuation_that_does_not_begin_is_named_and_leaves_a_finished_run_finished(command, here, tmp_path, monkeypatch):
    grid = ("--algos", "sac(actor_hidden=[8],critic_hidden=[8],batch_size=16)", *GRID[4:], "--no-report", "--name", "g")
    grid = (*grid, "warmup=20", "eval_every=20", "eval.episodes=1", "keep_replay=true")
    assert command("run", *grid, "steps=40").code == 0
    run = tmp_path / "runs" / "g" / "toy_interior" / "sac" / "seed_0"
    (piece,) = (run / "replay").glob("*.pt")
    whole = piece.read_bytes()
    before = {path.name: path.read_bytes() for path in run.glob("*.*")} | {"DONE": (run / "DONE").read_bytes()}
    piece.write_bytes(b"")
    done = command("run", *grid, "steps=60")
    assert (done.code, f"{piece.name} cannot be read" in done.err) == (2, True)
    assert {name: (run / name).read_bytes() for name in before} == before
    piece.unlink()
    done = command("run", *grid, "steps=60")
    assert (done.code, "replay lacks rows 0 to 40, on which the checkpoint counts" in done.err) == (2, True)
    assert {name: (run / name).read_bytes() for name in before} == before
    assert not (run / "FAILED.json").exists()
    for ended, code in (("refused: torn", 1), ("stopped", 3)):  # before the worker came to its run
        with monkeypatch.context() as patch:
            patch.setattr("bench.carry.carry", lambda engine, experiment, todo, ended=ended: dict.fromkeys(todo, ended))
            done = command("run", *grid, "steps=60")
        assert (done.code, f"toy_interior/sac/seed_0: stopped: {ended}\n" in done.out) == (code, True)
    piece.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr("envs.make", fail)
        assert command("run", *grid, "steps=60").code == 1
    assert [(run / name).exists() for name in ("DONE", "FAILED.json")] == [False, True]
    assert command("run", *grid, "steps=60", "--retry-failed").code == 0
    assert [(run / name).exists() for name in ("DONE", "FAILED.json")] == [True, False]


def test_a_command_whose_output_was_closed_before_it_began_does_its_work(tmp_path):
    """As some supervisors start processes."""
    shell = f"{shlex.quote(sys.executable)} -m bench list presets >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], cwd=tmp_path).returncode == 0


def test_a_plan_is_a_list_of_workers_to_start(command, tmp_path, monkeypatch):
    """For a scheduler that is not ours."""
    asked = (*GRID[:-1], "2", "--name", "a-plan", "--root", str(tmp_path / "with space"), "steps=300", "eval.episodes=1")
    done = command(*asked, "--plan-only")
    assert done.code == 0
    experiment = tmp_path / "with space" / "a-plan"
    assert [path.name for path in sorted(experiment.iterdir())] == ["experiment.json", "lock"]
    told = [shlex.split(line) for line in done.out.splitlines()[1:]]
    assert [words[:4] for words in told] == [["python", "-m", "bench", "worker"]] * 2
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert command(*told[1][3:]).code == 0
    assert [path.parent.name for path in experiment.rglob("DONE")] == ["seed_1"]
    again = command(*asked, "--plan-only", "--retry-failed", "--device", "cuda")
    assert (again.code, "holds a run with other settings" in again.err) == (2, True)  # not that there is no device here
    (line,) = command(*asked, "--plan-only", "--retry-failed").out.splitlines()[1:]
    assert line.endswith("--index 0 --retry-failed")


@pytest.mark.parametrize(("name", "code", "said"), [("run", 1, 3), ("sweep", 1, 3), ("status", 1, 3), ("watch", 0, 0)])
def test_all_but_watch_go_on_when_nobody_reads_their_output(monkeypatch, name, code, said):
    lines = []

    def speak(args):
        for number in range(3):
            print(number, flush=True)
            print(number, file=sys.stderr)
            lines.append(number)
        print("not flushed")
        return 1

    monkeypatch.setitem(cli.COMMANDS, name, speak)
    streams = {}
    for stream in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        streams[stream] = os.fdopen(write, "w")
        monkeypatch.setattr(sys, stream, streams[stream])
    assert cli.main([name]) == code
    assert len(lines) == said
    for stream in streams.values():
        stream.close()  # what was held back is gone as well


def test_watch_stays_while_the_grid_goes_on(tmp_path):
    """Between two runs none runs, and at first none has begun."""
    experiment = Experiment(tmp_path, "g")
    experiment.write("quick", [], [])
    view = GridView(experiment)
    assert not view.going()
    with locked(experiment.path / "lock", "the grid"):
        assert view.going()
    assert not view.going()


def test_a_run_whose_steps_were_raised_within_its_last_decision_is_not_done_to_anybody(tmp_path, monkeypatch):
    """100 frames of 8 a decision end at 104, which is as far as 104 go too; its intervals and its records are those of 100."""
    experiment = Experiment(tmp_path, "grid")
    cell = {"env": "e", "label": "a", "seed": 0, "dir": "e/a/seed_0", "config": {"steps": 104}}
    experiment.write("quick", [], [cell])
    experiment.run_dir(cell).mark_done({"env_step": 104, "update": 3, "steps": 100, "time": 0.0})
    assert unfinished(experiment, [0], retry_failed=False) == [0]
    assert [row["state"] for row in rows(experiment)] == [experiment.state(cell)] == ["stopped"]
    experiment.run_dir(cell).mark_done({"env_step": 104, "update": 3, "steps": 104, "time": 0.0})
    assert unfinished(experiment, [0], retry_failed=False) == []
    assert [row["state"] for row in rows(experiment)] == ["done"]
    monkeypatch.setattr(RunDir, "completion", lambda directory: None)  # a worker has just taken the mark back
    assert experiment.state(cell) == "done"


def test_steps_can_be_raised_but_not_lowered_nor_without_the_replay(small, train, tmp_path):
    train(small("sac", "steps=100", "warmup=96", env="toy/interior"), tmp_path)
    directory = RunDir(tmp_path)
    with pytest.raises(ValueError, match="can only be raised"):
        directory.prepare(small("sac", "steps=99", "warmup=96", env="toy/interior"))
    with pytest.raises(ValueError, match=r"replay was dropped.*keep_replay=true"):
        directory.prepare(small("sac", "steps=120", "warmup=96", env="toy/interior"))


def test_a_small_terminal_shows_the_runs_that_run(monkeypatch):
    """Rich cuts off what does not fit, and these come last in a grid."""
    from rich.console import Console

    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((120, 24)))
    row = {"env_step": 5, "steps": 10, "return": None, "sps": 1.0, "age": 1.0, "eta": 2.0}
    rows = [row | {"run": f"run {k}", "state": "done" if k < 24 else "running"} for k in range(30)]
    view = SimpleNamespace(path="runs/grid", score="return", rows=lambda: rows)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(Watcher(view).table())
    lines = console.export_text().splitlines()
    assert len(lines) <= 24
    assert sum("running" in line for line in lines) == 6
    assert any("and 12 more" in line for line in lines)
