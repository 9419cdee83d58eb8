"""Faults, caused for real: a failing agent, a killed worker, two commands at once, a signal, random kills of a grid."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.carry import summary
from bench.run import run
from bench.rundir import Experiment, load_tensors
from bench.worker import locked, work

AGENTS = """
import gymnasium
import numpy as np

from algos.sac import SAC


class Blind(gymnasium.Env):  # its ninth episode begins with an observation that is not a number
    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (2,)), gymnasium.spaces.Box(-1, 1, (1,))
    episode = 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        return np.full(2, float("nan") if self.episode == 9 else 0.0, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


for name, steps in (("Soon-v0", 5), ("Late-v0", 90)):
    gymnasium.register(name, Blind, max_episode_steps=steps)


class Raises(SAC):
    def critic(self, batch, noise):
        if self.updates == 7:
            raise RuntimeError("no luck\\nat all")
        return super().critic(batch, noise)


class Diverges(SAC):
    def critic(self, batch, noise):
        info = super().critic(batch, noise)
        return info | {"critic_loss": info["critic_loss"] * float("nan")} if self.updates >= 9 else info


class Poisoned(SAC):
    def critic(self, batch, noise):
        info = super().critic(batch, noise)
        if self.updates == 11:
            self.policy.body.weights[0].data.fill_(float("nan"))
        return info
"""
TINY = "actor_hidden=[16,16],critic_hidden=[16,16],batch_size=16"
GRID = ("--envs", "toy/multigoal", "--seeds", "1", "--no-report", "--name", "grid", "steps=120", "warmup=32", "log_every=5",
        "eval_every=40", "checkpoint_every=32", "eval.episodes=2")  # fmt: skip


@pytest.fixture
def agents(tmp_path, monkeypatch) -> Path:
    (tmp_path / "bad_agents.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


KILLED = """
import os
import sys

from bench.cli import main
from bench.engines import local

begin = local.start


def start_and_die(*args):
    begin(*args)
    os._exit(9)


local.start = start_and_die
main(sys.argv[1:])
"""


def test_a_worker_whose_grid_is_killed_before_it_looks_begins_no_run(tmp_path, monkeypatch):
    """By then the kernel has given the worker another parent, whose death it would wait for in vain."""
    argv = ("run", "--algos", f"sac({TINY})", *GRID)
    late = "import sys, time\n\nif 'worker' in sys.orig_argv:\n    time.sleep(1)\n"
    (tmp_path / "sitecustomize.py").write_text(late)  # on a busy machine a grid takes time to die
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    grid = subprocess.Popen([sys.executable, "-c", KILLED, *argv], cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert grid.wait() == 9
    run = tmp_path / "runs" / "grid" / "toy_multigoal" / "sac" / "seed_0"
    says = f"error: the process {grid.pid}, which this one works for, is gone\n"
    deadline = time.time() + 120
    while (run / "worker.log").read_text() != says and time.time() < deadline:
        time.sleep(0.1)
    assert (run / "worker.log").read_text() == says
    assert [path.name for path in run.iterdir()] == ["worker.log"]


@pytest.mark.parametrize(
    ("env", "quantity", "rows"), [("Soon-v0", "observation", 39), ("Late-v0", "evaluation observation", 159)]
)
def test_an_episode_that_begins_with_no_number_ends_the_run_before_it_is_stored(small, agents, env, quantity, rows):
    """In training the reset of the fortieth decision gives it, which is not stored; the other task's comes in the last
    evaluation."""
    config = small("sac", "eval_every=40", "checkpoint_every=1", env=f"gym/bad_agents:{env}")
    assert run(config, agents / "run") == "failed"
    assert json.loads((agents / "run" / "FAILED.json").read_text())["quantity"] == quantity
    stored = [load_tensors(path)["obs"] for path in sorted((agents / "run" / "replay").glob("*.pt"))]
    assert sum(map(len, stored)) == rows
    assert all(torch.isfinite(obs).all() for obs in stored)


def test_a_failing_run_is_reported_and_the_others_go_on(command, agents, here):
    algos = f"bad=bad_agents:Raises({TINY}),nan=bad_agents:Diverges({TINY}),sick=bad_agents:Poisoned({TINY}),sac({TINY})"
    done = command("run", "--algos", algos, *GRID)
    assert done.code == 1, done
    root = agents / "runs" / "grid" / "toy_multigoal"
    failed = {name: json.loads((root / name / "seed_0" / "FAILED.json").read_text()) for name in ("bad", "nan", "sick")}
    assert (root / "sac" / "seed_0" / "DONE").exists()
    assert (failed["bad"]["error"], failed["bad"]["update"]) == ("RuntimeError: no luck", 7)
    assert "in critic" in failed["bad"]["traceback"]
    assert failed["nan"]["update"] == 10  # the tenth
    assert "critic_loss" in failed["nan"]["quantity"]
    # the policy is poisoned after the critic's loss of the twelfth update: the actor's loss shows it first
    assert failed["sick"]["update"] == 12
    assert "actor_loss" in failed["sick"]["quantity"]
    checkpoint = str((root / "sick" / "seed_0" / "checkpoint.pt").relative_to(agents))
    assert failed["sick"]["checkpoint"] == "checkpoint.pt"  # beside it, wherever the directory is copied
    assert checkpoint in done.out
    for name in failed:
        assert f"toy_multigoal/{name}/seed_0: failed: {failed[name]['error']}" in done.out
    assert "--retry-failed" in done.out


def test_the_last_good_checkpoint_is_from_before_a_loss_that_is_no_number(small, agents):
    """Also where no line of the log comes in between: a checkpoint looks at the losses first, and is not written over."""
    config = small("bad_agents:Diverges", "log_every=1000", "checkpoint_every=1")
    assert run(config, agents / "run") == "failed"
    assert load_tensors(agents / "run" / "checkpoint.pt")["agent"]["updates"] == 9  # the tenth is the bad one


def test_repeating_the_command_runs_what_is_missing_and_nothing_else(command, agents, here):
    algos = f"bad=bad_agents:Raises({TINY}),sac({TINY})"
    command("run", "--algos", algos, *GRID)
    root = agents / "runs" / "grid" / "toy_multigoal"
    sessions = lambda name: len(json.loads((root / name / "seed_0" / "provenance.json").read_text())["sessions"])  # noqa: E731
    again = command("run", "--algos", algos, *GRID)
    assert (again.code, "2 already ended" in again.out) == (1, True)
    assert (sessions("bad"), sessions("sac")) == (1, 1)
    worker = ("worker", "--name", "grid", "--index", "0")  # as another scheduler repeats its whole array
    assert (command(*worker).code, sessions("bad")) == (1, 1)
    assert (command(*worker, "--retry-failed").code, sessions("bad")) == (1, 2)
    assert command("run", "--algos", algos, *GRID, "--retry-failed").code == 1
    assert (sessions("bad"), sessions("sac")) == (3, 1)
    more = command("run", "--algos", f"sac({TINY}),td3({TINY})", *GRID)
    assert (more.code, "2 runs, 1 already ended" in more.out) == (0, True)
    assert sessions("sac") == 1
    assert len(Experiment(agents / "runs", "grid").cells()) == 3
    status = command("status", "--name", "grid")
    assert (status.code, "failed" in status.out) == (1, True)


@pytest.mark.parametrize(
    "order", [("failed", "stopped"), ("stopped", "failed"), ("died (SIGKILL)", "stopped"), ("stopped", "stopped")]
)
def test_a_grid_of_which_a_run_failed_exits_as_that_wherever_others_were_stopped(tmp_path, order):
    experiment = Experiment(tmp_path, "grid")
    cells = [{"dir": f"seed_{k}", "config": {"steps": 10}} for k in range(3)]
    indices, outcome = experiment.write("quick", [], cells), {0: order[0], 1: order[1], 2: "done"}
    for k, end in outcome.items():
        mark = {"failed": "FAILED.json", "done": "DONE"}.get(end)
        if mark:
            experiment.run_dir(cells[k]).write_json(mark, {"error": "no luck"})
    assert summary(experiment, indices, outcome) == (3 if set(order) == {"stopped"} else 1)


def test_two_commands_at_once_the_second_is_refused(command, tmp_path):
    with locked(tmp_path / "runs" / "grid" / "lock", "the grid"):
        done = command("run", "--algos", f"sac({TINY})", *GRID)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"in use by pid {os.getpid()}" in done.err


def test_a_killed_worker_leaves_no_lock_and_continues_to_the_same_bytes(command, bench_process, results, tmp_path):
    """SIGKILL and SIGTERM of real `bench worker` processes, then `bench run`'s own worker to the end."""
    grid = [word for word in GRID if not word.startswith("steps=")]

    def prepare(name):
        words = [name if word == "grid" else word for word in grid]
        with pytest.MonkeyPatch.context() as patch:  # writes experiment.json and starts nothing
            patch.setattr("bench.carry.carry", lambda engine, experiment, todo: dict.fromkeys(todo, "stopped"))
            command("run", "--algos", f"sac({TINY})", *words, "steps=700")
        return tmp_path / "runs" / name / "toy_multigoal" / "sac" / "seed_0"

    directory = prepare("grid")

    def start_and_send(number):
        before = lines(directory / "metrics.jsonl")
        process = bench_process("worker", "--name", "grid", "--index", "0", cwd=tmp_path)
        deadline = time.time() + 60
        while lines(directory / "metrics.jsonl") < before + 8 or not (directory / "checkpoint.pt").exists():
            assert process.poll() is None, process.communicate()
            assert time.time() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(timeout=30)

    assert start_and_send(signal.SIGKILL) == -signal.SIGKILL
    assert start_and_send(signal.SIGTERM) == 3
    assert json.loads((directory / "progress.json").read_text())["state"] == "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        assert work(tmp_path / "runs", "grid", 0) == "done"
        direct = prepare("direct")
        assert work(tmp_path / "runs", "direct", 0) == "done"
    assert results(directory) == results(direct)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_refused_checkpoint_is_named_by_the_grid(command, tmp_path, small, train):
    """A real grid with one real worker: its refusal reaches the terminal, and the exit code says so."""
    directory = tmp_path / "runs" / "grid" / "toy_multigoal" / "sac" / "seed_0"
    overrides = [word for word in GRID if "=" in word]
    train(small("sac", *overrides), directory)
    (directory / "DONE").unlink()
    (directory / "checkpoint.pt").write_bytes(b"PK\x03\x04 torn")
    done = command("run", "--algos", f"sac({TINY})", *GRID)
    assert done.code == 1
    assert "checkpoint.pt cannot be read as a checkpoint" in done.out
    assert "Traceback" not in done.out + done.err


@pytest.mark.slow
def test_a_grid_killed_every_few_seconds_ends_like_an_undisturbed_one(bench_process, results, tmp_path):
    words = ("run", "--algos", f"sac({TINY}),td3({TINY}),qsm({TINY})", "--envs", "toy/multigoal", "--seeds", "4", "--jobs", "2",
             "--no-report", "--name", "grid", "steps=1500", "warmup=500", "log_every=100", "eval_every=1000",
             "checkpoint_every=500", "eval.episodes=2")  # fmt: skip
    quiet = bench_process(*words, "--root", "quiet", cwd=tmp_path)
    quiet.communicate()
    assert quiet.returncode == 0
    rng, kills, parents, most = random.Random(0), 0, 0, 12
    for _ in range(most + 3):
        process = bench_process(*words, "--root", "killed", cwd=tmp_path)
        while not ended(process, rng.uniform(4, 7)):
            workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if workers and kills < most:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(rng.choice(workers)), signal.SIGKILL)
                kills += 1
            if parents < 2 and rng.random() < 0.2:
                process.kill()  # the kernel tells its workers
                parents += 1
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills >= 6
    for cell in Experiment(tmp_path / "quiet", "grid").cells():
        first, second = (results(tmp_path / root / "grid" / cell["dir"]) for root in ("quiet", "killed"))
        assert first == second, f"{cell['dir']} differs after {kills} kills of workers and {parents} of the parent"


def ended(process: subprocess.Popen, seconds: float) -> bool:
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
