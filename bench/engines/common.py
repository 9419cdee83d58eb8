"""What the engines share: their options, the worker's command line, and what its exit says."""

from __future__ import annotations

import importlib
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.provenance import usable_cores
from bench.rundir import Experiment, RunDir
from bench.typed import UsageError
from bench.worker import EXIT, STOP_SIGNALS, thread_limits

POLL = 0.2  # seconds between two looks at the workers


@dataclass(frozen=True)
class Options:
    """Operation settings of an engine."""

    jobs: int | None = None  # runs at a time; None: as many as there are cores, device slots, or room in the cluster
    devices: tuple[str, ...] = ()  # of this machine, as CUDA_VISIBLE_DEVICES names them; empty: runs on the CPU
    per_device: int = 1  # runs that share one device
    address: str | None = None  # of a Ray cluster; None: RAY_ADDRESS, else one of this machine alone
    slurm: dict[str, Any] = field(default_factory=dict)  # submitit's parameters: partition, timeout_min, mem_gb, ...
    retry_failed: bool = False  # whether a worker runs a failed cell again

    def slots(self) -> list[str]:
        """A device for each run at a time, in turn: two runs share a device only where none is left free."""
        return list(self.devices) * self.per_device

    def share(self, k: int, processes: int) -> Options:
        """Of `processes` that divide this machine's devices, those of the k-th: together no more runs on a device than
        `per_device`, where there are as many slots as processes."""
        own = self.slots()[k % len(self.slots()) :: processes]
        devices = tuple(dict.fromkeys(own))
        return replace(self, devices=devices, per_device=min(own.count(device) for device in devices))

    def least_share(self, processes: int) -> float:
        """Slots of the process that has the fewest; without devices there is no limit."""
        return min(len(self.share(k, processes).slots()) for k in range(processes)) if self.devices else math.inf

    def here(self) -> int:
        """Runs at a time on this machine."""
        room = len(self.slots()) or usable_cores()
        return min(self.jobs or room, room) if self.devices else self.jobs or room


def required(package: str, engine: str) -> Any:
    """The package that an engine needs; UsageError saying what to install."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"--engine {engine} needs {package} ({error}): pip install 'diffusion-policy-bench[{engine}]'"
        ) from error


def command(experiment: Experiment, index: int, jobs: int, options: Options) -> list[str]:
    root, name = str(experiment.path.parent.absolute()), experiment.path.name
    where = ["--root", root, "--name", name, "--index", str(index), "--jobs", str(jobs)]
    again = ["--retry-failed"] if options.retry_failed else []
    return [sys.executable, "-m", "bench", "worker", *where, *again, "--with-parent"]


def environment(threads: int, device: str | None = None) -> dict[str, str]:
    """What a worker's environment has of its own: threads limited before torch is imported, and its one device."""
    visible = {} if device is None else {"CUDA_VISIBLE_DEVICES": device}
    return thread_limits(threads) | visible


def log_path(experiment: Experiment, cell: dict[str, Any]) -> Path:
    """Where the worker of a cell prints to; its directory is made."""
    path = experiment.run_dir(cell).path.absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path / "worker.log"


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


_OPEN: list[list[int]] = []  # of stop_requests, the outermost first


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The signals that asked this process to stop, so far: the first stops the runs, a second one their checkpoints.

    A signal is for all contexts that are open: a sweep, which has one around its engine's, takes no other trial then. An
    inner one begins with what the outer one was told. What an engine adds of its own accord stays in its own list.
    """
    asked: list[int] = []
    _OPEN.append(asked)  # before it is filled: a signal between is told twice, not lost
    for outer in _OPEN[-2:-1]:
        asked += outer
    before = {s: signal.signal(s, _tell) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _OPEN.pop()


def _tell(number: int, _frame: Any) -> None:
    for asked in _OPEN:
        asked.append(number)


REFUSED = "refused"  # how the outcome of a worker begins that would not take up its run: exit code 2, as everywhere
DISK_FULL = "the disk is full; the run goes on from its last checkpoint once there is space"


def describe(code: int, directory: RunDir) -> str:
    """What a worker's exit code says; for one that did not get to its run, with the last line it wrote."""
    names = {value: name for name, value in EXIT.items()}
    if code == EXIT["disk full"]:
        return DISK_FULL
    if -code in STOP_SIGNALS:
        return "stopped"  # before it could take the signal
    if code < 0:
        return f"died ({signal.Signals(-code).name})"
    if code in names and (names[code] != "failed" or directory.failure()):
        return names[code]
    log = directory.path / "worker.log"
    last = log.read_text(errors="replace").strip().rpartition("\n")[2] if log.exists() else "it wrote nothing"
    how = REFUSED if code == 2 else f"died (exit code {code})"
    return f"{how}: {last} ({log})"
