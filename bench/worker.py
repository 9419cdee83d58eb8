"""One cell in one process: what every engine, and `python -m bench worker`, runs."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.config import UsageError, from_plain
from bench.rundir import Experiment

EXIT = {"done": 0, "failed": 1, "stopped": 3}


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file. The kernel releases it when its owner dies, however it dies. UsageError if it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UsageError(f"{what} is in use by {owner}; wait for it or choose another --name") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def limit_threads(threads: int) -> None:
    """Compute threads of this process; only has its full effect before torch and numpy are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)


def die_with_parent() -> None:
    """Ask the kernel (Linux) for SIGTERM when the parent is gone: a killed grid leaves no orphans that train on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def work(root: Path, name: str, index: int, jobs: int = 1) -> str:
    """Run cell `index` of an experiment; returns done | failed | stopped. Raises UsageError where it cannot start."""
    experiment = Experiment(root, name)
    cells = experiment.cells()
    if not 0 <= index < len(cells):
        raise UsageError(f"--index {index}: {experiment.path} has {len(cells)} cells, 0 to {len(cells) - 1}")
    cell = cells[index]
    directory = experiment.run_dir(cell)
    config = from_plain(cell["config"])
    limit_threads(config.threads)
    stored = experiment.read()
    with locked(directory.path / "lock", str(directory.path)):
        if directory.state() == "done" and directory.prepare(config)[0].steps == directory.stored()[0].steps:
            return "done"
        from bench.run import run

        session = {"jobs": jobs, "command": stored["command"], "cell_command": cell["command"]}
        return run(config, directory.path, session, stop_on_signal)


def stop_on_signal(run) -> None:
    """SIGTERM and SIGINT end the run at the next decision, with a checkpoint there."""

    def handler(signum, frame):
        run.stop = True

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
