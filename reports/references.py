"""Curves to hold a report's own against: SAC as others have published it, and what this benchmark's grids gave.

`reference/*.csv` hold `algo,source,env,action_repeat,step,seed,return`, a row for each seed and evaluation; `step` counts
environment frames.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from reports import ReportError, load

FOLDER = Path(__file__).parent / "reference"
COLUMNS = ("algo", "source", "env", "action_repeat", "step", "seed", "return")
PUBLISHED = {
    "tdmpc2_sac": "SAC, TD-MPC2 repository",
    "pytorch_sac": "SAC, pytorch_sac",
    "simba_sac": "SAC, SimBa repository",
    "simbav2_sac": "SAC, SimbaV2 repository",
}  # of other projects; every other source is a grid of this one
PLACES = 2  # of our own returns


@dataclass(frozen=True)
class Reference:
    """One algorithm on one environment by one source: frames, and the mean return over seeds at each."""

    algo: str
    source: str
    action_repeat: int
    seeds: dict[int, dict[int, float]]  # seed -> {frames: return}

    @property
    def name(self) -> str:
        return PUBLISHED.get(self.source, f"{self.algo}, {self.source}")

    @property
    def grid(self) -> str:
        """The grid of our own that it comes from, in words."""
        return f"{self.source} (action repeat {self.action_repeat})"

    @property
    def step(self) -> np.ndarray:
        return np.array(sorted({step for curve in self.seeds.values() for step in curve}), dtype=float)

    @property
    def mean(self) -> np.ndarray:
        curves = self.seeds.values()
        return np.array([np.mean([curve[step] for curve in curves if step in curve]) for step in self.step])

    @property
    def trained(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames and means after training began: a line from the untrained policy to a first evaluation far on would be
        taken for a learning curve."""
        later = self.step > 0
        return self.step[later], self.mean[later]

    def made_from(self, runs: Iterable[load.Run]) -> bool:
        """Whether one of these runs is one of the reference's own, which would be drawn beside itself."""
        for run in runs:
            curve = self.seeds.get(run.seed, {})
            values = dict(zip(run.evals.step, run.evals.value, strict=True))
            if curve and all(abs(values.get(step, np.inf) - value) <= 10.0**-PLACES for step, value in curve.items()):
                return True
        return False


def published(env: str, budget: float = np.inf) -> list[Reference]:
    """What other projects have published on an environment, where they evaluated after training began and during these many
    frames."""
    return [found for found in _on(env, budget) if found.source in PUBLISHED]


def ours(env: str, runs: Iterable[load.Run], budget: float = np.inf) -> dict[str, Reference]:
    """This benchmark's own results by the label of these runs that they belong beside: the same algorithm with its defaults,
    evaluated by its own action; and not those runs themselves."""
    alike: dict[str, list[load.Run]] = {}
    for run in runs:
        if len(run.evals) and not run.changed and run.action == "own":
            alike.setdefault(run.label, []).append(run)
    own = {found.algo: found for found in _on(env, budget) if found.source not in PUBLISHED}
    pairs = ((label, own.get(group[0].algo), group) for label, group in alike.items())
    return {label: found for label, found, group in pairs if found and not found.made_from(group)}


def at_budgets(collection: load.Collection, budgets: dict[str, int]) -> list[dict[str, Any]]:
    """What belongs beside the runs of each environment, at the frames (`budgets`) at which these are compared."""
    rows = []
    for env, budget in budgets.items():
        runs = [run for run in collection.runs if run.env == env]
        for found in [*ours(env, runs, budget).values(), *published(env, budget)]:
            if found.step[0] <= budget <= found.step[-1]:
                value = float(np.interp(budget, found.step, found.mean))
                row = {"env": env, "name": found.name, "action_repeat": found.action_repeat, "seeds": len(found.seeds)}
                rows.append(row | {"frames": budget, "value": value})
    return rows


def _on(env: str, budget: float) -> list[Reference]:
    return [found for found in all_of_them().get(env, []) if any(0 < step <= budget for step in found.step)]


@lru_cache(maxsize=1)
def all_of_them() -> dict[str, list[Reference]]:
    found: dict[str, dict[tuple[str, str], Reference]] = {}
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                key = row["algo"], row["source"]
                fresh = Reference(*key, int(row["action_repeat"]), {})
                reference = found.setdefault(row["env"], {}).setdefault(key, fresh)
                reference.seeds.setdefault(int(row["seed"]), {})[int(row["step"])] = float(row["return"])
    return {env: list(references.values()) for env, references in found.items()}


def rows_of(collection: load.Collection, source: str) -> list[list[object]]:
    """The finished runs of a collection as rows of a reference file. Raises ReportError for a variant of an algorithm."""
    rows = []
    for run in sorted(collection.runs, key=lambda run: (run.env, run.algo, run.seed)):
        if run.label != run.algo or run.changed:
            raise ReportError(f"{run.label} on {run.env} is a variant of {run.algo}; a reference has the defaults alone")
        if run.state == "done":
            name = [run.algo, source, run.env, run.action_repeat]
            values = zip(run.evals.step, run.evals.value, strict=True)
            rows += [[*name, int(step), run.seed, round(float(value), PLACES)] for step, value in values]
    return rows


def write(file: Path | str) -> Path:
    """The archive's runs as `reference/<its name>.csv`, to be drawn in reports from then on."""
    source = Path(file).stem
    rows = rows_of(load.read([Path(file)]), source)
    path = FOLDER / f"{source}.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([COLUMNS, *rows])
    return path
