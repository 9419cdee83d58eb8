"""Small runs on toy tasks, in process: importing torch in a worker costs more than the whole run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from algos import agent_class
from bench import cli, grid, run
from bench.compose import algo_values
from bench.engines import local
from bench.rundir import RunDir
from bench.worker import work

sys.path.insert(0, str(Path(__file__).parent))  # the agent in sweeping.py, for tests and for the plug-in path
SMALL = {"actor_hidden": "[16,16]", "critic_hidden": "[16,16]", "batch_size": 16, "T": 2, "envs": 2, "pretrain": 5}
# A checkpoint stands one frame before a line of the log, at an update without TD3's delayed phases: the line has to be made
# of what the checkpoint kept.
QUICK = ("steps=160", "warmup=33", "eval_every=80", "log_every=20", "checkpoint_every=59", "eval.episodes=2")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`python -m bench ...` in process, in an empty directory: its exit code, output and error output."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str):
        monkeypatch.setattr(sys, "argv", ["bench", *argv])
        capsys.readouterr()
        try:
            code = cli.main(list(argv))
        except SystemExit as end:  # argparse
            code = end.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


@pytest.fixture
def small():
    """small(algo, *overrides, env=, seed=): the RunConfig of a run of a second, on the agent's home environment. `algo` may
    bring settings: "qsm(n_step=3)"."""

    def config(algo: str, *overrides: str, env: str | None = None, seed: int = 0):
        name, _, settings = algo.rstrip(")").partition("(")
        values = algo_values(name)
        inside = ",".join([*(f"{key}={value}" for key, value in SMALL.items() if key in values), *filter(None, [settings])])
        env = env or agent_class(values["agent"]).home
        short = ["env.steps=7"] if env.startswith("generation/") else []
        cells, _ = grid.plan("quick", f"{name}({inside})", env, f"{seed}-{seed}", [*QUICK, *short, *overrides])
        return cells[0].config

    return config


@pytest.fixture
def here(monkeypatch):
    """The local engine's workers, run one after the other in this process."""
    monkeypatch.setattr(local, "submit", lambda experiment, indices, options, watch: {
        index: work(experiment.path.parent, experiment.path.name, index, retry_failed=options.retry_failed) for index in indices
    })  # fmt: skip
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own handlers stay


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing in the run catches it, nothing is written after it."""


@pytest.fixture
def train(monkeypatch):
    """train(config, path, kill_at=[...]): run a cell, ended without warning at each of these environment steps in turn and
    taken up again from what is on disk; returns the last outcome."""

    def go(config, path: Path, kill_at=()) -> str:
        for step in kill_at:
            decide = run.Run._decide

            def until(self, warm, step=step, decide=decide):
                if self.env_step >= step:
                    raise Killed
                decide(self, warm)

            with monkeypatch.context() as patch:
                patch.setattr(run.Run, "_decide", until)
                with pytest.raises(Killed):
                    run.run(config, path)
        return run.run(config, path)

    return go


@pytest.fixture
def results():
    """results(path): what two runs of one identity share to the last bit: the records, and the final parameters."""

    def read(path: Path) -> dict[str, object]:
        state = torch.load(RunDir(path).path / "checkpoint.pt", weights_only=True)
        parameters = {f"{name}.{key}": value for name, part in state["agent"].items() if isinstance(part, dict)
                      for key, value in part.items() if isinstance(value, torch.Tensor)}  # fmt: skip
        return {
            "metrics": (path / "metrics.jsonl").read_text(), "evals": (path / "evals.jsonl").read_text(),
            "parameters": {name: value.numpy().tobytes() for name, value in parameters.items()},
            "counters": state["counters"],
        }  # fmt: skip

    return read


@pytest.fixture
def bench_process():
    """bench_process(*argv, cwd=): `python -m bench ...` in a process of its own, not waited for."""
    started: list[subprocess.Popen] = []

    def start(*argv: str, cwd: Path) -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", *argv], cwd=cwd, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
