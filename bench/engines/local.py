"""Worker processes on this machine: one run each, `jobs` at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.rundir import Experiment, RunDir
from bench.worker import EXIT

POLL = 0.2  # seconds between two looks at the workers


@dataclass(frozen=True)
class Options:
    """Operation settings of an engine."""

    jobs: int = 1


def command(experiment: Experiment, index: int, jobs: int) -> list[str]:
    root, name = str(experiment.path.parent), experiment.path.name
    where = ["--root", root, "--name", name, "--index", str(index), "--jobs", str(jobs), "--with-parent"]
    return [sys.executable, "-m", "bench", "worker", *where]


def environment(threads: int) -> dict[str, str]:
    """The worker's environment: threads are limited before torch is imported."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(threads))


def submit(
    experiment: Experiment, indices: list[int], options: Options, watch: Callable[[], None] = lambda: None
) -> dict[int, str]:
    """Run the cells; returns index -> done | failed | stopped | died (...). One failing run never stops the others.

    SIGINT or SIGTERM to this process stops the workers at their next decision, with checkpoints, and starts no more.
    `watch` is called a few times a second.
    """
    cells, waiting = experiment.cells(), list(indices)
    active: dict[int, subprocess.Popen] = {}
    outcome: dict[int, str] = {}
    stopping: list[int] = []
    before = {s: signal.signal(s, lambda signum, _frame: stopping.append(signum)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        while active or (waiting and not stopping):
            while waiting and len(active) < options.jobs and not stopping:
                index = waiting.pop(0)
                active[index] = start(experiment, cells[index], index, min(options.jobs, len(indices)))
            for index, process in list(active.items()):
                if process.poll() is not None:
                    outcome[index] = describe(active.pop(index).returncode, experiment.run_dir(cells[index]))
            if stopping and stopping[-1] != 0:
                for process in active.values():
                    process.send_signal(signal.SIGTERM)
                stopping.append(0)  # sent once for each signal received
            watch()
            time.sleep(POLL)
    finally:
        for process in active.values():
            process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    return outcome | dict.fromkeys(waiting, "stopped")


def start(experiment: Experiment, cell: dict[str, Any], index: int, jobs: int) -> subprocess.Popen:
    path = experiment.run_dir(cell).path
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "worker.log", "ab") as log:
        return subprocess.Popen(
            command(experiment, index, jobs),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(cell["config"]["threads"]),
            start_new_session=True,  # the terminal's Ctrl-C reaches the parent alone, which asks the workers to stop
        )


def describe(code: int, directory: RunDir) -> str:
    """What a worker's exit code says; for one that did not get to its run, with the last line it wrote."""
    names = {value: name for name, value in EXIT.items()}
    if code == -signal.SIGTERM:
        return "stopped"  # before it could take the signal
    if code < 0:
        return f"died ({signal.Signals(-code).name})"
    if code in names and (names[code] != "failed" or directory.failure()):
        return names[code]
    log = directory.path / "worker.log"
    last = log.read_text(errors="replace").strip().rpartition("\n")[2]
    return f"died (exit code {code}): {last} ({log})"
