"""Who works on which trial.

A trial belongs to the process that holds the lock of its directory. The lock is taken before the trial is marked as running,
and the kernel releases it when the process dies, so a running trial whose lock is free was lost and is taken up again, under
the same number, in the same directory: its runs continue from their checkpoints. A machine that shares a database alone sees no
lock; it goes by the heartbeats that the database is told, and begins a lost trial anew.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bench.rundir import is_fresh, read_json
from bench.sweep.storage import Opened
from bench.typed import UsageError
from bench.worker import locked

BEAT = 2.0  # seconds between two heartbeats of a trial
TELL = 30.0  # seconds between two that a database is told
LOST_AFTER = 600.0  # seconds without these after which a machine that shares the database alone takes the trial up
SETTLE = 5.0  # seconds until all that found it lost at the same moment have told the database so: the last one has it


@dataclass
class Claim:
    """A trial that this process works on, until `release`."""

    opened: Opened
    number: int
    trial: optuna.Trial
    taken_up: bool  # it was another process's, which is gone
    lock: ExitStack
    beaten: float = 0.0
    told: float = field(default_factory=time.time)

    @property
    def path(self) -> Path:
        return self.opened.directory(self.number)

    def beat(self) -> None:
        """Raises UsageError where another machine has taken up the trial, as it may if this one slept or its clock is off."""
        now = time.time()
        if now - self.beaten >= BEAT:
            self.beaten = now
            write_heartbeat(self.path)
        if self.opened.in_database and now - self.told >= TELL:
            try:
                ours = is_ours(self.opened, self.number)
                if ours:
                    tell(self.opened, self.number)
            except optuna.exceptions.UpdateFinishedTrialError:
                ours = False
            if not ours:
                raise UsageError(
                    f"{self.path}: another machine took up the trial, of which it had heard nothing for "
                    f"{LOST_AFTER:.0f} s by its clock; repeat the command to go on with others"
                )
            self.told = now

    def release(self) -> None:
        self.lock.close()


def heartbeat() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}


def owner(beat: dict[str, Any]) -> tuple[str, int]:
    return beat["host"], beat["pid"]


def tell(opened: Opened, number: int) -> None:
    """The database gets the heartbeat of a trial that this process works on."""
    opened.storage.set_trial_user_attr(opened.trial_id(number), "heartbeat", heartbeat())


def is_ours(opened: Opened, number: int) -> bool:
    """Whether the database was told of the trial by this process last."""
    return owner(opened.trial(number).user_attrs["heartbeat"]) == owner(heartbeat())


def write_heartbeat(path: Path) -> None:
    temporary = path / f".heartbeat.json.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(heartbeat()))
    os.replace(temporary, path / "heartbeat.json")


def may_be_lost(path: Path, trial: FrozenTrial) -> bool:
    """Whether the heartbeats of a running trial, in its directory and the one that a database was told, let another process
    try its lock. On one machine the lock alone tells; what runs on another one is given time, since not every network file
    system passes locks on at once. What the directory does not know of runs where only the database is shared."""
    told = trial.user_attrs.get("heartbeat")
    try:
        beat = read_json(path / "heartbeat.json", time=(int, float), host=str)
    except UsageError:  # left empty by a crash of the machine
        beat = {"host": socket.gethostname(), "pid": 0}
    if told is not None and (beat is None or owner(beat) != owner(told)):
        return time.time() - told["time"] > LOST_AFTER
    if beat is None and trial.datetime_start is not None:  # lost between its start and its first heartbeat
        return time.time() - trial.datetime_start.timestamp() > LOST_AFTER
    return beat is not None and (beat["host"] == socket.gethostname() or not is_fresh(beat["time"]))


def claim(studies: list[Opened]) -> Claim | None:
    """A lost trial, or the next waiting one, in turn over the studies; None where there is nothing to take."""
    unfinished = [(trial, opened) for opened in studies for trial in opened.unfinished()]
    unfinished.sort(key=lambda pair: (pair[0].state != TrialState.RUNNING, pair[0].number))
    for trial, opened in unfinished:
        path = opened.directory(trial.number)
        running = trial.state == TrialState.RUNNING
        if running and not may_be_lost(path, trial):
            continue
        stack = ExitStack()
        try:
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path / "lock", str(path)))
        except UsageError:
            continue  # somebody works on it
        attempt = take_up if running else take
        if attempt(opened, trial.number, path):
            return Claim(opened, trial.number, optuna.Trial(opened.study, trial._trial_id), running, stack)
        stack.close()
    return None


def take_up(opened: Opened, number: int, path: Path) -> bool:
    """Under the lock of a lost trial: whether it is ours now, and not ended or taken up by another in the meantime."""
    now = opened.trial(number)
    if now.state != TrialState.RUNNING or not may_be_lost(path, now):
        return False
    write_heartbeat(path)
    if opened.in_database:
        tell(opened, number)
        time.sleep(SETTLE)
        if not is_ours(opened, number):
            (path / "heartbeat.json").unlink()
            return False
    return True


def take(opened: Opened, number: int, path: Path) -> bool:
    """Under the lock of a waiting trial: whether it is ours now."""
    if opened.trial(number).state != TrialState.WAITING:
        return False  # another machine, which shares the database alone, was faster
    write_heartbeat(path)  # before the storage says that it runs: a running trial without one is on another file system
    try:
        taken = opened.storage.set_trial_state_values(opened.trial_id(number), state=TrialState.RUNNING)
    except (optuna.exceptions.UpdateFinishedTrialError, RuntimeError):
        taken = False  # that machine again, in this very moment
    if taken and opened.in_database:  # not before: the heartbeat of who comes second would stay
        tell(opened, number)
    elif not taken:
        (path / "heartbeat.json").unlink(missing_ok=True)
    return taken


def running_here(studies: list[Opened]) -> bool:
    """Whether trials run whose heartbeat can be seen: they may yet be lost, and are waited for."""
    pairs = [(opened, trial) for opened in studies for trial in opened.unfinished()]
    return any((opened.directory(trial.number) / "heartbeat.json").exists() for opened, trial in pairs)
