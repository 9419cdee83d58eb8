"""Worker processes on this machine: one run each, `jobs` at a time, each with its device slot."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from bench.engines.common import POLL, Options, command, describe, environment, log_path, stop_requests
from bench.rundir import Experiment


def check(options: Options) -> None:
    """Nothing is missing on this machine."""


def submit(
    experiment: Experiment, indices: list[int], options: Options, watch: Callable[[], bool | None] = lambda: None
) -> dict[int, str]:
    """Run the cells; returns index -> done | failed | stopped | refused: ... | died (...). No failing run stops the others.

    SIGINT or SIGTERM to this process stops the workers at their next decision, with checkpoints, and starts no more; a
    second one ends them at once, on their last checkpoints. `watch` is called a few times a second; it asks for the
    same where it returns True.
    """
    cells, waiting, jobs = experiment.cells(), list(indices), options.here()
    free: list[str | None] = [*options.slots()[:jobs]] or [None] * jobs
    active: dict[int, tuple[subprocess.Popen, str | None]] = {}
    outcome: dict[int, str] = {}
    with stop_requests() as stopping:
        told = 0
        try:
            while active or (waiting and not stopping):
                while waiting and free and not stopping:
                    index, slot = waiting.pop(0), free.pop(0)
                    argv = command(experiment, index, min(jobs, len(indices)), options)
                    active[index] = start(experiment, cells[index], argv, slot), slot
                for index, (process, slot) in list(active.items()):
                    if process.poll() is not None:
                        del active[index]
                        free.append(slot)
                        outcome[index] = describe(process.returncode, experiment.run_dir(cells[index]))
                for process, _ in active.values() if len(stopping) > told else ():
                    process.send_signal(signal.SIGTERM)  # once for each signal received
                told = len(stopping)
                if watch():
                    stopping.append(signal.SIGTERM)
                time.sleep(POLL)
        finally:
            for process, _ in active.values():  # none, but where `watch` raised
                process.terminate()
            for process, _ in active.values():
                process.wait()  # for its checkpoint
    return outcome | dict.fromkeys(waiting, "stopped")


def start(experiment: Experiment, cell: dict[str, Any], argv: list[str], device: str | None) -> subprocess.Popen:
    with open(log_path(experiment, cell), "ab") as log:
        return subprocess.Popen(
            [*argv, str(os.getpid())],  # --with-parent: dead before the worker looked, too
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | environment(cell["config"]["threads"], device),
            start_new_session=True,  # the terminal's Ctrl-C reaches the parent alone, which asks the workers to stop
        )
