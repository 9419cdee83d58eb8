"""Curves to hold a report's own against: SAC as others have published it, and what this benchmark's grids gave.

`reference/*.csv` hold `algo,source,env,step,seed,return`, a row for each seed and evaluation; `step` counts environment frames.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from reports import ReportError, load

FOLDER = Path(__file__).parent / "reference"
COLUMNS = ("algo", "source", "env", "step", "seed", "return")
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
    seeds: dict[int, dict[int, float]]  # seed -> {frames: return}

    @property
    def name(self) -> str:
        return PUBLISHED.get(self.source, f"{self.algo}, {self.source}")

    @property
    def step(self) -> np.ndarray:
        return np.array(sorted({step for curve in self.seeds.values() for step in curve}), dtype=float)

    @property
    def mean(self) -> np.ndarray:
        curves = self.seeds.values()
        return np.array([np.mean([curve[step] for curve in curves if step in curve]) for step in self.step])

    def made_from(self, runs: Iterable[load.Run]) -> bool:
        """Whether one of these runs is one of the reference's own, which would be drawn beside itself."""
        for run in runs:
            curve = self.seeds.get(run.seed, {}) if run.algo == self.algo else {}
            pairs = [(curve[step], value) for step, value in zip(run.evals.step, run.evals.value, strict=True) if step in curve]
            if len(pairs) > 1 and np.allclose(*zip(*pairs, strict=True), rtol=0, atol=10.0**-PLACES):
                return True
        return False


def published(env: str, budget: float = np.inf) -> list[Reference]:
    """What other projects have published on an environment, where they evaluated during these many frames.

    A source whose first evaluation after training began comes later would be a straight line from nothing.
    """
    return [found for found in _on(env, budget) if found.source in PUBLISHED]


def ours(env: str, runs: Sequence[load.Run], budget: float = np.inf) -> list[Reference]:
    """This benchmark's own results with the algorithms of these runs, but for results that are these runs."""
    algos = dict.fromkeys(run.algo for run in runs)
    found = [item for item in _on(env, budget) if item.source not in PUBLISHED and item.algo in algos]
    return sorted((item for item in found if not item.made_from(runs)), key=lambda item: list(algos).index(item.algo))


def _on(env: str, budget: float) -> list[Reference]:
    return [found for found in all_of_them().get(env, []) if any(0 < step <= budget for step in found.step)]


@lru_cache(maxsize=1)
def all_of_them() -> dict[str, list[Reference]]:
    found: dict[str, dict[tuple[str, str], Reference]] = {}
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                key = row["algo"], row["source"]
                reference = found.setdefault(row["env"], {}).setdefault(key, Reference(*key, {}))
                reference.seeds.setdefault(int(row["seed"]), {})[int(row["step"])] = float(row["return"])
    return {env: list(references.values()) for env, references in found.items()}


def rows_of(collection: load.Collection, source: str) -> list[list[object]]:
    """The finished runs of a collection as rows of a reference file.

    Raises ReportError when two of them are one algorithm with unlike settings: a reference has no labels.
    """
    rows = []
    for run in sorted(collection.runs, key=lambda run: (run.env, run.algo, run.seed)):
        if run.label != run.algo:
            raise ReportError(f"{run.label} on {run.env} is a variant of {run.algo}; a reference has the defaults alone")
        if run.state == "done":
            values = zip(run.evals.step, run.evals.value, strict=True)
            rows += [[run.algo, source, run.env, int(step), run.seed, round(float(value), PLACES)] for step, value in values]
    return rows


def write(file: Path | str) -> Path:
    """The archive's runs as `reference/<its name>.csv`, to be drawn in reports from then on."""
    source = Path(file).stem
    rows = rows_of(load.read([Path(file)]), source)
    path = FOLDER / f"{source}.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([COLUMNS, *rows])
    return path
