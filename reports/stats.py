"""Statistics of a few seeds on a few tasks: aggregates, intervals, comparisons, power. numpy and scipy only.

Scores of one algorithm are a list with one 1-D array per task, the value of each seed; lengths may differ.
Aggregates follow Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice". Two departures, because their
percentile bootstrap covers too little at the seeds people can afford (see COVERAGE): resampled residuals are scaled by
sqrt(n / (n - 1)) and the percentiles taken further out (Hesterberg 2015, "expanded percentile"), and what is a mean over seeds,
of one task or of several, gets a t interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy import stats as distributions

MIN_SEEDS = 3  # fewer: points, no interval
RELIABLE_SEEDS = 5  # fewer: the interval is shown and marked as unreliable
TRIMMED = 4  # seeds of one task; of fewer the IQM leaves out none, and is the mean
LEVEL = 0.95
RESAMPLES = 5000

Scores = Sequence[np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. `n`: the smallest number of seeds behind it; below MIN_SEEDS low and high are None."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def caution(self) -> str:
        """What a reader has to know about the interval, or ''."""
        if self.n < MIN_SEEDS:
            return f"no interval from {self.n} seed{'s' if self.n != 1 else ''}"
        return "" if self.n >= RELIABLE_SEEDS else f"unreliable interval from {self.n} seeds"


def iqm(scores: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Interquartile mean of pooled scores [..., N] over tasks of these many seeds -> [...]: the mean without the lowest and
    the highest quarter (with equal sizes: floor(N / 4) scores each).

    Every task weighs the same, as if its scores were repeated until all tasks had equally many: otherwise an algorithm that
    loses seeds on its hard tasks would rise by that.
    """
    if len(set(sizes)) == 1:
        ordered = np.sort(scores, axis=-1)
        cut = ordered.shape[-1] // 4
        return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)
    each = math.lcm(*sizes)
    repeats = np.repeat([each // size for size in sizes], sizes)
    order = np.argsort(scores, axis=-1)
    ends = repeats[order].cumsum(-1)
    total = each * len(sizes)
    cut = total // 4
    kept = np.diff(ends.clip(cut, total - cut), axis=-1, prepend=cut)
    return (kept * np.take_along_axis(scores, order, axis=-1)).sum(-1) / (total - 2 * cut)


def _task_means(scores: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    starts = np.cumsum([0, *sizes[:-1]])
    return np.add.reduceat(scores, starts, axis=-1) / np.asarray(sizes)


# Each takes the pooled scores [..., N] and the number of seeds of each task (they sum to N).
AGGREGATES: dict[str, Callable[[np.ndarray, Sequence[int]], np.ndarray]] = {
    "iqm": iqm,
    "median": lambda scores, sizes: np.median(_task_means(scores, sizes), axis=-1),
    "mean": lambda scores, sizes: _task_means(scores, sizes).mean(-1),
    # the mean shortfall from 1; what lies above 1 does not make up for it
    "optimality_gap": lambda scores, sizes: _task_means(np.maximum(1 - scores, 0), sizes).mean(-1),
}


def _check(scores: Scores) -> list[np.ndarray]:
    """Sorted float arrays, so that no result depends on the order of the seeds."""
    tasks = [np.sort(np.asarray(task, dtype=np.float64)) for task in scores]
    if not tasks or any(task.ndim != 1 or not task.size or not np.isfinite(task).all() for task in tasks):
        raise ValueError("scores must be a non-empty list of non-empty 1-D arrays of finite numbers, one for each task")
    return tasks


def _resample(task: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """[n, ...] -> [resamples, n, ...]: drawn with replacement, residuals scaled to make up for the lost degree of freedom.

    A resample of n values has on average (n - 1) / n of their variance; without the factor intervals are too narrow.
    """
    n = len(task)
    drawn = task[generator.integers(n, size=(resamples, n))]
    center = task.mean(0)
    return center + (drawn - center) * np.sqrt(n / (n - 1)) if n > 1 else drawn


def _freedom(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Satterthwaite's degrees of freedom [...] of a mean over tasks [n, ...] whose spreads differ: between those of the task
    that spreads most, if it alone does, and those of all together. All together without any spread."""
    sizes = np.array([len(task) for task in tasks])
    variances = np.stack([task.var(0, ddof=1) / len(task) for task in tasks], axis=-1)
    scale = variances.max(-1, keepdims=True)  # squares of tiny ones would be 0
    parts = np.divide(variances, scale, out=np.ones_like(variances), where=scale > 0)
    return parts.sum(-1) ** 2 / (parts**2 / (sizes - 1)).sum(-1)


def _percentiles(samples: np.ndarray, level: float, freedom: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of [resamples, ...], moved outwards as a t quantile with `freedom` [...] degrees is beyond the normal one."""
    ordered, last = np.sort(samples, axis=0), len(samples) - 1
    tail = np.broadcast_to(special.ndtr(special.stdtrit(freedom, (1 - level) / 2)), samples.shape[1:])

    def at(share: np.ndarray) -> np.ndarray:
        below = np.floor(share * last).astype(int)
        low, high = (np.take_along_axis(ordered, np.minimum(below + k, last)[None], 0)[0] for k in (0, 1))
        return low + (share * last - below) * (high - low)

    return at(tail), at(1 - tail)


def aggregate(
    scores: Scores, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Estimate]:
    """IQM, median, mean and optimality gap. Mean and gap, and of a single task whatever is a mean over its seeds (all but an
    IQM that leaves some of them out), have t intervals, over several tasks with Satterthwaite's degrees of freedom; the
    others stratified bootstrap intervals (seeds are resampled within each task)."""
    tasks = _check(scores)
    sizes = [len(task) for task in tasks]
    pooled, fewest = np.concatenate(tasks), min(sizes)
    values = {name: float(statistic(pooled, sizes)) for name, statistic in AGGREGATES.items()}
    if fewest < MIN_SEEDS:
        return {name: Estimate(value, None, None, fewest) for name, value in values.items()}
    generator = np.random.default_rng(seed)
    samples = np.concatenate([_resample(task, resamples, generator) for task in tasks], axis=-1)
    bounds = {name: _percentiles(AGGREGATES[name](samples, sizes), level, _freedom(tasks)) for name in ("iqm", "median")}
    found = {name: Estimate(values[name], float(low), float(high), fewest) for name, (low, high) in bounds.items()}
    mean = _mean_of_means(tasks, level)
    gap = _mean_of_means([np.maximum(1 - task, 0) for task in tasks], level)
    found |= {"mean": mean, "optimality_gap": Estimate(gap.value, max(gap.low, 0.0), gap.high, gap.n)}  # it is never below 0
    if len(tasks) == 1:
        found |= {"median": mean} | ({"iqm": mean} if len(pooled) < TRIMMED else {})
    return {name: found[name] for name in AGGREGATES}


def _mean_of_means(tasks: Sequence[np.ndarray], level: float) -> Estimate:
    """The mean over tasks of their seeds' means, with its t interval."""
    value, half = float(np.mean([task.mean() for task in tasks])), _half_width(tasks, len(tasks), level)
    return Estimate(value, value - half, value + half, min(map(len, tasks)))


def _half_width(groups: Sequence[np.ndarray], tasks: int, level: float) -> float:
    """Half the t interval of a sum of the groups' means, or of their differences, divided by `tasks`."""
    error = np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)) / tasks
    return float(special.stdtrit(_freedom(groups), (1 + level) / 2) * error)


def iqm_curve(
    curves: Scores, *, resamples: int = 1000, level: float = LEVEL, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """IQM over seeds and tasks at each point of learning curves, one [n, points] array for each task -> three [points].

    A resample takes whole curves, so that the bands of neighbouring points belong together. No band below MIN_SEEDS; that of
    a mean over the seeds of one task is the t interval.
    """
    pooled, sizes = np.concatenate(list(curves)), [len(task) for task in curves]
    value = iqm(pooled.T, sizes)
    if min(sizes) < MIN_SEEDS:
        return value, None, None
    if len(sizes) == 1 and len(pooled) < TRIMMED:
        return mean_interval(pooled, level=level)
    generator = np.random.default_rng(seed)
    order = [task[np.lexsort(task.T[::-1])] for task in curves]
    samples = np.concatenate([_resample(task, resamples, generator) for task in order], axis=1)
    low, high = _percentiles(iqm(samples.swapaxes(1, 2), sizes), level, _freedom(order))
    return value, low, high


def profile(
    scores: Scores, thresholds: np.ndarray, *, resamples: int = 2000, level: float = LEVEL, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Performance profile: the share of runs above each threshold, every task weighing the same -> three [thresholds].

    The band is a plain stratified bootstrap: scaled residuals would leave the range of what was observed.
    """
    tasks = _check(scores)
    share = np.mean([(task[:, None] > thresholds).mean(0) for task in tasks], axis=0)
    if min(len(task) for task in tasks) < MIN_SEEDS:
        return share, None, None
    generator = np.random.default_rng(seed)
    samples = np.zeros((resamples, len(thresholds)))
    for task in tasks:
        # how often each seed is drawn; the share above is then one matrix product
        counts = generator.multinomial(len(task), np.full(len(task), 1 / len(task)), size=resamples)
        samples += counts @ (task[:, None] > thresholds) / (len(task) * len(tasks))
    low, high = _percentiles(samples, level, float(sum(len(task) - 1 for task in tasks)))
    return share, low, high


def mean_interval(
    values: np.ndarray, *, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Mean over the first axis with its t interval, [n, ...] -> three [...]; no interval below MIN_SEEDS."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        raise ValueError("a mean needs at least one seed, found none")
    mean = values.mean(0)
    if n < MIN_SEEDS:
        return mean, None, None
    half = special.stdtrit(n - 1, (1 + level) / 2) * values.std(0, ddof=1) / np.sqrt(n)
    return mean, mean - half, mean + half


def mean_estimate(values: np.ndarray, *, level: float = LEVEL) -> Estimate:
    """The mean of one cell's seeds [n] with its t interval."""
    mean, low, high = mean_interval(np.sort(values), level=level)
    return Estimate(
        float(mean), None if low is None else float(low), None if high is None else float(high), len(values)
    )


def difference(x: Scores, y: Scores, *, level: float = LEVEL) -> Estimate:
    """mean(X) - mean(Y), averaged over tasks, with Welch's t interval (Satterthwaite's degrees of freedom)."""
    pairs = list(zip(_check(x), _check(y), strict=True))
    value, n = float(np.mean([a.mean() - b.mean() for a, b in pairs])), min(min(len(a), len(b)) for a, b in pairs)
    if n < MIN_SEEDS:
        return Estimate(value, None, None, n)
    half = _half_width([group for pair in pairs for group in pair], len(pairs), level)
    return Estimate(value, value - half, value + half, n)


def improvement(x: Scores, y: Scores, *, level: float = LEVEL) -> Estimate:
    """Probability of improvement: P(X > Y) + P(X = Y) / 2 for a random seed of each, averaged over tasks.

    The interval inverts the score test with the variance of the Mann-Whitney statistic (Newcombe 2006, method 5; the tasks'
    variances add). A bootstrap would give [1, 1] whenever two groups of three do not overlap, which happens by luck in one
    case of ten; this one then still contains 1/2, as the exact test does.
    """
    pairs = list(zip(_check(x), _check(y), strict=True))
    wins = [(a[:, None] > b).mean() + (a[:, None] == b).mean() / 2 for a, b in pairs]
    value, n = float(np.mean(wins)), min(min(len(a), len(b)) for a, b in pairs)
    if n < MIN_SEEDS:
        return Estimate(value, None, None, n)
    total = sum(len(a) + len(b) for a, b in pairs)
    z = special.ndtri((1 + level) / 2) * np.sqrt(total / (total - len(pairs)))

    products = [len(a) * len(b) for a, b in pairs]
    constant = sum(1 / product for product in products)
    slope = sum(((len(a) + len(b)) / 2 - 1) / product for (a, b), product in zip(pairs, products, strict=True))

    def deviation(theta: float) -> float:
        spread = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return z * np.sqrt(theta * (1 - theta) * (constant + slope * spread)) / len(pairs)

    def bound(end: float) -> float:
        inside, outside = value, end
        for _ in range(45):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if abs(value - middle) <= deviation(middle) else (inside, middle)
        return inside

    return Estimate(value, bound(0.0), bound(1.0), n)


def seeds_to_separate(
    x: Scores, y: Scores, *, power: float = 0.8, level: float = LEVEL, most: int = 1000
) -> int | None:
    """Seeds per algorithm and task at which a t test of the mean difference would be significant with probability `power`,

    if the means and spreads seen now were the true ones. None: below MIN_SEEDS (the spread is not known), or above `most`.
    """
    pairs = list(zip(_check(x), _check(y), strict=True))
    if min(min(len(a), len(b)) for a, b in pairs) < MIN_SEEDS:
        return None
    gap = abs(np.mean([a.mean() - b.mean() for a, b in pairs]))
    variance = sum(a.var(ddof=1) + b.var(ddof=1) for a, b in pairs) / len(pairs) ** 2
    if gap == 0:
        return None
    n = np.arange(2, most + 1)
    if variance == 0:
        return int(n[0])
    freedom = 2 * (n - 1) * len(pairs)
    critical = special.stdtrit(freedom, (1 + level) / 2)
    reached = distributions.nct.sf(critical, freedom, gap / np.sqrt(variance / n)) >= power
    return int(n[reached.argmax()]) if reached.any() else None


def seeds_to_improve(
    x: Scores, y: Scores, *, power: float = 0.8, level: float = LEVEL, most: int = 1000
) -> int | None:
    """Seeds per algorithm and task at which the interval of `improvement` would leave out 1/2 with probability `power` or more,

    if scores were normal with the means and spreads seen now: the probability of improvement has to lie further from 1/2
    than the interval and the spread of its estimate reach together. Never fewer than 4 on a single task, where no result of
    3 seeds suffices. None: below MIN_SEEDS, above `most`, or where means and wins over the tasks favour different sides.
    """
    pairs = list(zip(_check(x), _check(y), strict=True))
    if min(min(len(a), len(b)) for a, b in pairs) < MIN_SEEDS:
        return None
    gaps = np.array([a.mean() - b.mean() for a, b in pairs])
    scales = np.sqrt([a.var(ddof=1) + b.var(ddof=1) for a, b in pairs])
    # without any spread the larger one always wins
    standard = np.divide(gaps, scales, out=np.copysign(np.inf, gaps), where=scales > 0)
    wins = float(np.mean(np.where(gaps == 0, 0.5, special.ndtr(standard))))
    if gaps.mean() * (wins - 0.5) <= 0:
        return None
    n, tasks = np.arange(2, most + 1), len(pairs)

    def spread(theta: float) -> np.ndarray:
        """Standard deviation of the estimate, as `improvement` has it, with n seeds everywhere."""
        inside = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return np.sqrt(theta * (1 - theta) * tasks * (1 + (n - 1) * inside)) / (n * tasks)

    critical = special.ndtri((1 + level) / 2) * np.sqrt(2 * n / (2 * n - 1))
    reached = abs(wins - 0.5) >= critical * spread(0.5) + special.ndtri(power) * spread(wins)
    return int(n[reached.argmax()]) if reached.any() else None


def seeds_to_exceed(
    values: np.ndarray, threshold: float, *, power: float = 0.8, level: float = LEVEL, most: int = 1000
) -> int | None:
    """Seeds at which a one-sample t test would tell the mean of `values` [n] from `threshold` with probability `power`,

    if the mean and spread seen now were the true ones. None: below MIN_SEEDS, or above `most`.
    """
    gap = abs(np.mean(values) - threshold)
    if len(values) < MIN_SEEDS or gap == 0:
        return None
    spread, n = np.std(values, ddof=1), np.arange(2, most + 1)
    if spread == 0:
        return int(n[0])
    critical = special.stdtrit(n - 1, (1 + level) / 2)
    reached = distributions.nct.sf(critical, n - 1, gap / spread * np.sqrt(n)) >= power
    return int(n[reached.argmax()]) if reached.any() else None


def area_under_curve(steps: np.ndarray, values: np.ndarray) -> float:
    """Mean height of a learning curve: the trapezoid area over [steps[0], steps[-1]] divided by its width."""
    if len(steps) < 2:
        return float(values[-1])
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def first_reach(axis: np.ndarray, values: np.ndarray, threshold: float) -> float:
    """axis at the first evaluation with value >= threshold; inf when there is none."""
    reached = np.asarray(values) >= threshold
    return float(axis[reached.argmax()]) if reached.any() else float("inf")


METHODS = ("percentile", "iqm", "mean", "t", "improvement")
# Share of 95 % intervals that contain the truth, 10,000 simulated studies with normal scores: (tasks, seeds, how much more one
# task's seeds spread than the others') -> method -> coverage. Made by coverage(); a test makes part of it again.
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


def coverage(
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
        low, high = np.quantile(iqm(plain.reshape(resamples, -1), [seeds] * tasks), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        hits["percentile"] += bool(low <= 0 <= high)
        ours = aggregate(list(x), resamples=resamples, seed=int(generator.integers(2**31)))
        for name in ("iqm", "mean"):
            hits[name] += bool(ours[name].low <= 0 <= ours[name].high)
        _, low, high = mean_interval(x[0])
        hits["t"] += bool(low <= 0 <= high)
        wins = improvement(list(x), list(y))
        hits["improvement"] += bool(wins.low <= 0.5 <= wins.high)
    return {name: count / studies for name, count in hits.items()}


def coverage_text() -> str:
    """COVERAGE as a plain-text table, for help pages."""
    heads = ("plain bootstrap", "IQM (ours)", "mean (ours)", "mean of a cell (t)", "P(improvement)")
    lines = ["  ".join(("tasks seeds  one spreads", *heads))]
    for (tasks, seeds, ratio), row in COVERAGE.items():
        values = (f"{100 * row[name]:.1f} %".rjust(len(head)) for name, head in zip(METHODS, heads, strict=True))
        lines.append("  ".join((f"{tasks:5d} {seeds:5d}  {'as others' if ratio == 1 else f'{ratio} times':>11}", *values)))
    return "\n".join(lines)
