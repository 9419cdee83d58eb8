"""Studies in Optuna's storage: what is proposed, and where it lies.

A study's budget is its trials 0 to N-1. They are put into the storage as waiting ones when a study is made, and a process
only ever takes one of these (`claim`): whoever works on a study, however often the command is given, N trials are run and
counted.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from bench.sweep.plan import SAMPLER_SEED, Plan, Study
from bench.sweep.space import on_grid
from bench.typed import UsageError

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
OPENINGS = 5  # attempts at a database that others open too


class PerTrial(BaseSampler):
    """A sampler whose randomness in each trial follows from (seed, trial number, parameter) and the trials finished before.

    So a sweep that is continued proposes what an undisturbed one would have, and processes that work on one study with one
    seed never propose the same point for that reason. (Optuna's own samplers carry a generator from trial to trial.)
    points: those of the first trials, which are given and not drawn.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int, points: list[dict[str, Any]]):
        self.make, self.seed, self.points = make, seed, points

    def _sampler(self, number: int, name: str = "") -> BaseSampler:
        words = np.random.SeedSequence([self.seed, number, zlib.crc32(name.encode())])
        return self.make(int(words.generate_state(1)[0]))

    def infer_relative_search_space(self, study, trial):
        return self._sampler(trial.number).infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        if trial.number < len(self.points):
            return {}
        found = self._sampler(trial.number).sample_relative(study, trial, search_space)
        return {name: exact(value, search_space[name]) for name, value in found.items()}

    def sample_independent(self, study, trial, param_name, param_distribution):
        if trial.number < len(self.points):
            return self.points[trial.number][param_name]
        sampler = self._sampler(trial.number, param_name)
        return exact(sampler.sample_independent(study, trial, param_name, param_distribution), param_distribution)


def exact(value: Any, distribution: BaseDistribution) -> Any:
    """A proposal without the rounding of Optuna's sums, where the range has steps."""
    if isinstance(distribution, FloatDistribution) and distribution.step:
        return on_grid(value, distribution.low, distribution.step)
    return value


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "cmaes": lambda seed: CmaEsSampler(seed=seed),
    "grid": lambda seed: RandomSampler(seed=seed),  # every point is given, nothing is left to draw
}


def pruner(name: str, first: int, last: int) -> optuna.pruners.BasePruner:
    """first, last: env_step of a run's first evaluation after training began, and of its end."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=last)
    return optuna.pruners.NopPruner()


def open_storage(plan: Plan) -> optuna.storages.BaseStorage:
    """The journal file of the sweep, or what --storage names. Raises UsageError where there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if plan.storage is None:
        plan.path.mkdir(parents=True, exist_ok=True)
        journal = plan.path / "journal.log"
        lock = JournalLock(journal)
        if torn(journal):
            lock.acquire()
            lock.release()
        try:
            return JournalStorage(JournalFileBackend(str(journal), lock))
        except ValueError as error:
            raise UsageError(f"{journal} cannot be read ({error}); restore it, or choose another --name") from error
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for attempt in range(OPENINGS):
        try:
            # a server that was started again, or closes what is idle, costs no more than a new connection
            return optuna.storages.get_storage(RDBStorage(plan.storage, engine_kwargs={"pool_pre_ping": True}))
        except Exception as error:
            # two commands that make the tables of an empty database at once disturb each other: one has to look again
            if isinstance(error, IntegrityError | ProgrammingError) and attempt < OPENINGS - 1:
                time.sleep(1 + attempt)
                continue
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(f"--storage {public(plan.storage)} cannot be opened: {reason}") from error


@contextmanager
def outages(plan: Plan) -> Iterator[None]:
    """A database that cannot be reached any more, as a UsageError: the trials at work keep their checkpoints."""
    try:
        yield
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UsageError(
            f"--storage {public(plan.storage)} does not answer any more ({reason}); repeat the command when it does"
        ) from error


class JournalLock(JournalFileOpenLock):
    """What every append is made under. A file of its own: Optuna's default is a symbolic link to the journal, which dangles
    where that path is relative or another one on another machine, and then is waited for without end if its owner was killed.

    Who takes it cuts off a torn last line, left by a full disk or a crash: an append to that would be lost with it, and the one
    after would leave a journal that nobody can read."""

    def __init__(self, journal: Path):
        super().__init__(str(journal))
        self.journal = journal

    def acquire(self) -> bool:
        super().acquire()
        try:
            if torn(self.journal):
                os.truncate(self.journal, self.journal.read_bytes().rfind(b"\n") + 1)
        except BaseException:
            self.release()
            raise
        return True


def torn(journal: Path) -> bool:
    """Whether the last line has no end: it is being written, or its writer is gone."""
    if not journal.exists() or not journal.stat().st_size:
        return False
    with open(journal, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def public(url: str | None) -> str:
    """The storage's address without the password."""
    if url is None:
        return "journal.log"
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


@dataclass(frozen=True)
class Opened:
    """A study with its place in the storage."""

    asked: Study
    study: optuna.Study
    storage: optuna.storages.BaseStorage
    path: Path  # of its trials

    @property
    def in_database(self) -> bool:
        return not isinstance(self.storage, JournalStorage)

    def trials(self) -> list[FrozenTrial]:
        """Those of the budget, by number; what two processes that made the study at once put in twice is left out."""
        found = self.study.get_trials(deepcopy=False)
        return sorted((t for t in found if t.number < self.asked.trials), key=lambda t: t.number)

    def unfinished(self) -> list[FrozenTrial]:
        return [t for t in self.trials() if t.state not in FINISHED]

    def trial(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self.trial_id(number))

    def trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def directory(self, number: int) -> Path:
        return self.path / f"{number:04d}"


def open_study(plan: Plan, asked: Study, storage: optuna.storages.BaseStorage) -> Opened:
    """Make the study or go on with it. Raises UsageError, naming the difference, where another one has its name."""
    from bench.provenance import git_revision

    base = asked.base()[0].resolved()
    first = max(base.eval_every, base.frames_per_decision)
    sampler = PerTrial(SAMPLERS[asked.sampler], SAMPLER_SEED, start_points(asked))
    name = study_name(plan, asked.label)
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=sampler,
        pruner=pruner(asked.space.pruner, first, base.steps),
    )  # fmt: skip
    wanted, found = asked.definition(), study.user_attrs.get("definition")
    if found is None:
        study.set_user_attr("definition", wanted)
        study.set_user_attr("git", git_revision()[0])
    elif found != wanted:
        raise UsageError(f"the study {name} is another one ({differences(found, wanted)}); choose another --name")
    opened = Opened(asked, study, storage, plan.path / "trials" / asked.label)
    for _ in range(len(study.get_trials(deepcopy=False)), asked.trials):
        study.enqueue_trial({})
    return opened


def study_name(plan: Plan, label: str) -> str:
    return f"{plan.path.name}/{label}"


def start_points(asked: Study) -> list[dict[str, Any]]:
    """The whole grid, or the defaults: what tuning starts from is worth a trial, and the result is never below it there."""
    if asked.sampler == "grid":
        return asked.space.grid()
    defaults = asked.space.defaults(asked.base()[0].algo)
    return [defaults] if defaults is not None else []


def differences(there: dict[str, Any], here: dict[str, Any], most: int = 3) -> str:
    a, b = flat(there), flat(here)
    keys = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    pairs = [f"{key}: {a.get(key, 'nothing')} there, {b.get(key, 'nothing')} asked for" for key in keys]
    return ", ".join(pairs[:most]) + (f" and {len(pairs) - most} more" if len(pairs) > most else "")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
