"""Times without what else ran on the machine: processor time in place of wall-clock, where runs did not get it alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reports.load import Clock, Collection, Run

ALIKE = 0.85  # times the largest share of the processor that a run of an environment had: the least that is called equal


def leave_out_other_work(collection: Collection) -> None:
    """Gives all runs processor time where, on some environment, other work took the processor from some of them and not from
    others: their seconds would compare the neighbours, not the algorithms.

    Only of runs that compute in one thread on the processor is its time what they would have taken alone, so that where any
    is of another kind all keep their wall-clock. `collection.shares` then holds the share of the processor that each had.
    """
    timed = [run for run in collection.runs if len(run.clock.step) and run.clock.active[-1] > 0]
    if not all(_single_thread(run) for run in timed):
        return
    clocks = [on_processor(run.clock) for run in timed]
    shares = [float(clock.active[-1] / run.clock.active[-1]) for run, clock in zip(timed, clocks, strict=True)]
    if not np.isfinite(shares).all():  # no processor time was recorded
        return
    found: dict[str, list[float]] = {}
    for run, share in zip(timed, shares, strict=True):
        found.setdefault(run.env, []).append(share)
    if all(min(own) >= ALIKE * max(own) for own in found.values()):
        return
    collection.shares = {run.path: share for run, share in zip(timed, shares, strict=True)}
    changed = {run.path: replace(run, clock=clock) for run, clock in zip(timed, clocks, strict=True)}
    collection.runs = [changed.get(run.path, run) for run in collection.runs]


def _single_thread(run: Run) -> bool:
    conditions = [dict(found) for found in run.set_ups]
    return all((own.get("device"), own.get("threads")) == ("cpu", "1") for own in conditions)


def on_processor(clock: Clock) -> Clock:
    """Every interval's active seconds times the share of it in which the process had the processor."""
    passed, had = np.diff(clock.total, prepend=0.0), np.diff(clock.process, prepend=0.0)
    share = np.divide(had, passed, out=np.ones_like(passed), where=passed != 0).clip(0, 1)
    active = np.cumsum(np.diff(clock.active, prepend=0.0) * share)
    mean = active[-1] / clock.active[-1]
    return replace(clock, active=active, wall={name: seconds * mean for name, seconds in clock.wall.items()})
