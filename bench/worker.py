"""One cell in one process: what every engine, and `python -m bench worker`, runs."""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.config import from_plain
from bench.rundir import HEARTBEAT, Experiment, RunDir
from bench.typed import UsageError

EXIT = {"done": 0, "failed": 1, "stopped": 3, "disk full": 4}
IN_USE = "is in use by"  # of every refusal because of another process
# What terminals and schedulers send: the last two are Slurm's and others' warnings before a time limit.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
LOOK = 0.5  # seconds for which a grid waits for its lock: `watch` looks at it for a moment, again and again
LOCK_WAIT = 20.0  # seconds in which a worker that was told to stop has written its checkpoint
ONE_STOP = 1.0  # seconds in which one stop may come twice: from what signals every process, and from the grid


@contextmanager
def locked(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file. The kernel releases it when its owner dies, however it dies. UsageError if it is held for longer
    than `wait` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with open(path, "a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UsageError(f"{what} {IN_USE} {owner}; wait for it or choose another --name")
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def refuse_where_another_host_works(directory: RunDir) -> None:
    """UsageError if a process of another machine goes on with this run.

    A second line behind the lock, which some network file systems keep to one machine. A heartbeat that another machine
    left, because its run was killed or its directory copied, does not move. How old it is says nothing: clocks differ.
    """
    first = directory.progress()
    if first is None or first["state"] != "running" or first["host"] == socket.gethostname():
        return
    if directory.state() in ("done", "failed"):
        return
    deadline = time.monotonic() + 5 * HEARTBEAT
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = directory.progress()
        if now is not None and now["time"] != first["time"]:
            raise UsageError(f"{directory.path} {IN_USE} pid {first['pid']} on {first['host']}, whose heartbeat goes on")


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables that limit the compute threads of a process."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def limit_threads(threads: int) -> None:
    """Compute threads of this process; only has its full effect before torch and numpy are imported."""
    os.environ.update(thread_limits(threads))


def held(path: Path) -> bool:
    """Whether a process of this machine holds a lock file."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def die_with_parent(parent: int) -> None:
    """Ask the kernel (Linux) for SIGTERM when the parent is gone: a killed grid leaves no orphans that train on. parent: its
    process, 0 where the caller does not know it; UsageError if that is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if parent not in (0, os.getppid()):
        raise UsageError(f"the process {parent}, which this one works for, is gone")


def work(root: Path, name: str, index: int, jobs: int = 1, retry_failed: bool = False) -> str:
    """Run cell `index` of an experiment; returns a key of EXIT. Raises UsageError where it cannot start. A run that has
    ended is left alone: a failed one but where `retry_failed` asks for it."""
    experiment = Experiment(root, name)
    cells = experiment.cells()
    if not cells:
        raise UsageError(f"there is no experiment in {experiment.path}")
    if not 0 <= index < len(cells):
        raise UsageError(f"--index {index}: {experiment.path} has {len(cells)} cells, 0 to {len(cells) - 1}")
    cell = cells[index]
    directory = experiment.run_dir(cell)
    config = from_plain(cell["config"])
    limit_threads(config.threads)
    stored = experiment.read()
    with locked(directory.path / "lock", str(directory.path), LOCK_WAIT):
        refuse_where_another_host_works(directory)
        state = experiment.state(cell)
        if state == "done" or (state == "failed" and not retry_failed):
            return state
        from bench.run import run

        session = {"jobs": jobs, "command": stored["command"], "cell_command": cell["command"]}
        return run(config, directory.path, session, stop_on_signal)


def stop_on_signal(run) -> None:
    """A signal ends the run at its next decision, in training or evaluation, with a checkpoint there. A second one, ONE_STOP
    or more after it, ends the process at once: the run goes on from its last checkpoint."""
    first = math.inf

    def handler(signum, frame):
        nonlocal first
        now = time.monotonic()
        if now - first >= ONE_STOP:
            os._exit(EXIT["stopped"])
        first, run.stop = min(first, now), True

    for number in STOP_SIGNALS:
        signal.signal(number, handler)
