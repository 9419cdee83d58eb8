"""One trial: a small grid of ordinary runs, whose evaluations are averaged, and which is ended early where that is right."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

from bench.contract import check_agents
from bench.engines import Carrier
from bench.engines.common import DISK_FULL, REFUSED, stop_requests
from bench.grid import Cell
from bench.rundir import Experiment, RunDir, dump_json, replace_file
from bench.sweep.claim import Claim
from bench.sweep.status import ENDED
from bench.typed import UsageError
from bench.worker import IN_USE, locked

ATTEMPTS = 2  # of a run whose process died (out of memory, a killed worker): it continues from its checkpoint
RELEASE = 120.0  # seconds that the runs of a lost trial get to end themselves


def run_trial(claim: Claim, engine: Carrier) -> str:
    """Run it to its end: complete | pruned | failed, which the storage then says, or stopped, when it is to be continued."""
    space = claim.opened.asked.space
    params = space.suggest(claim.trial)
    try:
        cells = claim.opened.asked.cells(space.settings(params), claim.opened.asked.tuning_seeds)
        check_agents([cell.config for cell in cells])
    except UsageError as error:  # each setting was checked alone, a combination can still be impossible
        return tell(claim, Progress(claim, None, []), failed=str(error))
    experiment = Experiment(claim.path.parent, claim.path.name)
    entries = [cell.entry() for cell in cells]
    record = {"study": claim.opened.study.study_name, "trial": claim.number, "params": params}
    refuse_others(experiment, cells, record)
    indices = experiment.write(claim.opened.asked.preset, ["python", "-m", "bench", "sweep"], entries, sweep=record)
    if claim.taken_up:
        wait_for_release([experiment.run_dir(entry).path for entry in entries], claim)
    progress = Progress(claim, experiment, indices)
    outcome = carry(engine, experiment, indices, progress)
    if progress.pruned:
        return tell(claim, progress)
    if why := failure(experiment, outcome):
        return tell(claim, progress, failed=why)
    if DISK_FULL in outcome.values():
        print(f"{claim.path}: {DISK_FULL}", flush=True)
    if any(state != "done" for state in outcome.values()):
        return "stopped"
    return tell(claim, progress)


def refuse_others(experiment: Experiment, cells: list[Cell], record: dict[str, Any]) -> None:
    """UsageError where the directory holds runs of another trial, as it does when a sweep was copied or its storage is gone:
    their scores are not those of this trial's parameters."""
    there = (experiment.read() or {}).get("sweep")
    if there is not None and there != json.loads(json.dumps(record)):
        found = ", ".join(f"{key} {there.get(key)}" for key in record)
        raise UsageError(f"{experiment.path} holds another trial ({found}); move the directory away or choose another --name")
    for cell in cells:
        experiment.run_dir(cell.entry()).prepare(cell.config)


def carry(engine: Carrier, experiment: Experiment, indices: list[int], progress: Progress) -> dict[int, str]:
    """All runs of the trial side by side, so that they can be compared with other trials at equal steps on the way."""
    outcome = dict.fromkeys(indices, "done")
    if progress.look():  # decided by a process that was lost
        return outcome
    for _ in range(ATTEMPTS):
        todo = [index for index in indices if experiment.run_dir(experiment.cells()[index]).state() not in ("done", "failed")]
        if not todo:
            break
        outcome |= engine.submit(experiment, todo, progress, jobs=len(todo))
        if progress.ended or not any(state.startswith("died") for state in outcome.values()):
            break
    progress.look()
    return outcome


def wait_for_release(paths: list[Path], claim: Claim) -> None:
    """Runs of a lost trial end themselves with a checkpoint when their parent is gone; they are not started before that. On
    a cluster they go on without it, and are waited for while their heartbeat goes on. A signal ends the wait: the engine is
    told of it too."""
    until = time.monotonic() + RELEASE
    with stop_requests() as stopping:
        for path in paths:
            while (path / "lock").exists() and not stopping:
                claim.beat()
                if time.monotonic() > until and RunDir(path).state() != "running":
                    break
                try:
                    with locked(path / "lock", str(path)):
                        break
                except UsageError:
                    time.sleep(0.2)


def failure(experiment: Experiment, outcome: dict[int, str]) -> str:
    """Why the trial cannot have a value: the first run that failed or could not be started, or ''. Raises UsageError where a
    run was refused (by a machine of another matmul precision, say), and the trial is left to who can go on with it."""
    cells = experiment.cells()
    for index in sorted(outcome):
        directory = experiment.run_dir(cells[index])
        if directory.state() == "failed":
            return f"{cells[index]['dir']}: {(directory.failure() or {}).get('error', 'failed')}"
        if IN_USE in outcome[index]:
            continue  # a run that outlived its sweep goes on: nothing of it has failed
        if outcome[index].startswith(REFUSED):
            raise UsageError(f"{directory.path}: {outcome[index]}")
        if outcome[index] not in ("done", "stopped", DISK_FULL):
            return f"{cells[index]['dir']}: {outcome[index]}"
    return ""


@dataclass
class Progress:
    """What the engine calls while the runs go on: keeps the heartbeat, reports evaluations, and ends what is to be ended."""

    claim: Claim
    experiment: Experiment | None
    indices: list[int]
    pruned: bool = False
    ended: bool = False  # the runs were asked to stop, because the trial is pruned or has failed
    curve: list[tuple[int, float]] = field(default_factory=list)
    _size: int = -1

    def __post_init__(self) -> None:
        number = self.claim.opened.trial_id(self.claim.number)
        before = self.claim.opened.storage.get_trial(number)  # what a process that is gone has told
        self._known, self._last = set(before.intermediate_values), max(before.intermediate_values, default=-1)
        self._pruned_at = before.user_attrs.get("pruned_at")  # Hyperband's answer is another one the second time

    def __call__(self) -> bool:
        """Whether the engine is to stop the runs; said once, for a second time would cost them their checkpoints."""
        self.claim.beat()
        if self.ended or not (self.look() or self._failed()):
            return False
        self.ended = True
        return True

    def _paths(self) -> list[Path]:
        cells = self.experiment.cells()
        return [self.experiment.run_dir(cells[index]).path for index in self.indices]

    def _failed(self) -> bool:
        return any((path / "FAILED.json").exists() for path in self._paths())

    def look(self) -> bool:
        """Report the evaluations that all runs have reached; whether the pruner has had enough."""
        files = [path / "evals.jsonl" for path in self._paths()]
        size = sum(file.stat().st_size for file in files if file.exists())
        if self.pruned or size == self._size or not all(file.exists() for file in files):
            return self.pruned
        self._size = size
        curve, complete = mean_curve(self._paths())
        for step, value in curve[len(self.curve) :]:
            self.curve.append((step, value))
            if step not in self._known:
                self.claim.trial.report(value, step)
            last = complete and step == curve[-1][0]
            if self._pruned_at is None and step >= self._last and not last and self.claim.trial.should_prune():
                self._pruned_at = step
                self.claim.trial.set_user_attr("pruned_at", step)
            if step == self._pruned_at:
                self.pruned = True
                break
        return self.pruned

    def spent(self) -> dict[str, float]:
        """Environment frames and hours of all runs of the trial, those that were cut off included."""
        from reports.load import read_run

        paths = self._paths() if self.experiment else []
        runs = [read_run(path) for path in paths if (path / "config.yaml").exists()]
        frames = sum(int(run.progress.get("env_step") or 0) for run in runs)
        seconds = sum(float(run.clock.total[-1]) for run in runs if len(run.clock.step))
        return {"env_steps": frames, "hours": seconds / 3600, "runs": len(runs)}


def mean_curve(paths: list[Path]) -> tuple[list[tuple[int, float]], bool]:
    """(env_step, normalised score averaged over the runs) at each evaluation that all have, the untrained policy left out;
    and whether that is all there will be."""
    from reports.load import read_run

    runs = [read_run(path) for path in paths]
    curves = [run.score.normalise(run.evals.value) for run in runs]
    shared = min(map(len, curves))
    points = [
        (int(max(run.evals.step[k] for run in runs)), float(np.mean([curve[k] for curve in curves]))) for k in range(1, shared)
    ]
    return points, shared > 0 and all(len(run.evals) == shared and run.evals.step[-1] >= run.steps for run in runs)


def tell(claim: Claim, progress: Progress, failed: str = "") -> str:
    """Record the end in the storage; what a pruned or failed trial kept for a continuation is dropped."""
    trial, study = claim.trial, claim.opened.study
    for key, value in progress.spent().items():
        trial.set_user_attr(key, value)
    state = "failed" if failed else "pruned" if progress.pruned else "complete"
    value = progress.curve[-1][1] if progress.curve and not failed else None
    if failed:
        trial.set_user_attr("error", failed)
        study.tell(trial, state=TrialState.FAIL)
    elif progress.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)
    replace_file(claim.path / ENDED, dump_json({"state": state, "value": value, "error": failed}))
    for path in claim.path.glob("*/*/seed_*/replay"):
        shutil.rmtree(path, ignore_errors=True)
    return state
