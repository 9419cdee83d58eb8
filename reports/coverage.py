"""How often the intervals of stats.py contain the truth at few seeds: a simulation, and what it gave."""

from __future__ import annotations

import numpy as np

from reports import stats

METHODS = ("percentile", "iqm", "mean", "t", "improvement")
# Share of 95 % intervals that contain the truth, 10,000 simulated studies with normal scores: (tasks, seeds, how much more one
# task's seeds spread than the others') -> method -> coverage. Made by simulate(); a test makes part of it again.
COVERAGE: dict[tuple[int, int, int], dict[str, float]] = {
    (1, 3, 1): {"percentile": 0.757, "iqm": 0.954, "mean": 0.954, "t": 0.954, "improvement": 1.000},
    (1, 5, 1): {"percentile": 0.898, "iqm": 0.947, "mean": 0.948, "t": 0.948, "improvement": 0.967},
    (1, 10, 1): {"percentile": 0.935, "iqm": 0.968, "mean": 0.949, "t": 0.949, "improvement": 0.960},
    (1, 20, 1): {"percentile": 0.938, "iqm": 0.958, "mean": 0.950, "t": 0.950, "improvement": 0.954},
    (6, 3, 1): {"percentile": 0.871, "iqm": 0.964, "mean": 0.962, "t": 0.949, "improvement": 0.974},
    (6, 5, 1): {"percentile": 0.913, "iqm": 0.956, "mean": 0.954, "t": 0.949, "improvement": 0.965},
    (6, 10, 1): {"percentile": 0.933, "iqm": 0.950, "mean": 0.953, "t": 0.951, "improvement": 0.958},
    (6, 20, 1): {"percentile": 0.940, "iqm": 0.949, "mean": 0.949, "t": 0.950, "improvement": 0.951},
    (6, 3, 30): {"percentile": 0.870, "iqm": 0.985, "mean": 0.942, "t": 0.949, "improvement": 0.974},
    (6, 5, 30): {"percentile": 0.912, "iqm": 0.987, "mean": 0.947, "t": 0.949, "improvement": 0.965},
    (6, 10, 30): {"percentile": 0.934, "iqm": 0.971, "mean": 0.950, "t": 0.951, "improvement": 0.958},
}


def simulate(
    tasks: int, seeds: int, ratio: int = 1, *, studies: int, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Simulated coverage of the 95 % intervals for normal scores, whose IQM, median and mean are 0 in every task, and whose
    standard deviation is `ratio` times as large in the first task as in the others.

    percentile: the plain bootstrap of the IQM; iqm, mean: the intervals used here over all tasks; t: the mean of one cell;
    improvement: between equal algorithms.
    """
    generator = np.random.default_rng(seed)
    hits = dict.fromkeys(METHODS, 0)
    for _ in range(studies):
        x, y = generator.normal(size=(2, tasks, seeds)) * np.where(np.arange(tasks) == 0, ratio, 1)[:, None]
        drawn = generator.integers(seeds, size=(resamples, tasks, seeds))
        plain = np.take_along_axis(np.broadcast_to(x, drawn.shape), drawn, axis=-1)
        tails = [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]
        low, high = np.quantile(stats.iqm(plain.reshape(resamples, -1), [seeds] * tasks), tails)
        hits["percentile"] += bool(low <= 0 <= high)
        ours = stats.aggregate(list(x), resamples=resamples, seed=int(generator.integers(2**31)))
        for name in ("iqm", "mean"):
            hits[name] += bool(ours[name].low <= 0 <= ours[name].high)
        _, low, high = stats.mean_interval(x[0])
        hits["t"] += bool(low <= 0 <= high)
        wins = stats.improvement(list(x), list(y))
        hits["improvement"] += bool(wins.low <= 0.5 <= wins.high)
    return {name: count / studies for name, count in hits.items()}


def text() -> str:
    """COVERAGE as a plain-text table, for help pages."""
    heads = ("plain bootstrap", "IQM (ours)", "mean (ours)", "mean of a cell (t)", "P(improvement)")
    lines = ["how often a report's 95 % intervals contain the truth, in simulated studies of normal scores:", ""]
    lines.append("  ".join(("tasks seeds  one spreads", *heads)))
    for (tasks, seeds, ratio), row in COVERAGE.items():
        values = (f"{100 * row[name]:.1f} %".rjust(len(head)) for name, head in zip(METHODS, heads, strict=True))
        lines.append("  ".join((f"{tasks:5d} {seeds:5d}  {'as others' if ratio == 1 else f'{ratio} times':>11}", *values)))
    return "\n".join(lines)
