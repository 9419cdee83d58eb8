"""Statistics of a few seeds on a few tasks: aggregates, intervals, comparisons, power. numpy and scipy only.

Scores of one algorithm are a list with one 1-D array per task, the value of each seed; lengths may differ.
Aggregates follow Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice". Two departures, because their
percentile bootstrap covers too little at the seeds people can afford (coverage.py): resampled residuals are scaled by
sqrt(n / (n - 1)) and the percentiles taken further out (Hesterberg 2015, "expanded percentile"), and what is a mean over seeds,
of one task or of several, gets a t interval. A third: algorithms are ranked by the mean over tasks and not by the IQM, which
over few tasks leaves out nearly whole ones, and whose intervals are then too narrow whatever the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special
from scipy import stats as distributions

MIN_SEEDS = 3  # fewer: points, no interval
RELIABLE_SEEDS = 5  # fewer: the interval is shown and marked as unreliable
RELIABLE_BOOTSTRAP = 10  # the same of IQM and median over several tasks
SEPARABLE_SEEDS = 4  # of both on one task; of fewer each the interval of `improvement` contains 1/2 whatever they give
TRIMMED = 4  # seeds of one task; of fewer the IQM leaves out none, and is the mean
LEVEL = 0.95
RESAMPLES = 5000

Scores = Sequence[np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. `n`: the smallest number of seeds behind it; below MIN_SEEDS low and high are None, below
    `enough` they are unreliable."""

    value: float
    low: float | None
    high: float | None
    n: int
    enough: int = RELIABLE_SEEDS

    @property
    def caution(self) -> str:
        """What a reader has to know about the interval, or ''."""
        if self.n < MIN_SEEDS:
            return f"no interval from {self.n} seed{'s' if self.n != 1 else ''}"
        return "" if self.n >= self.enough else f"unreliable interval from {self.n} seeds"


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
    "mean": lambda scores, sizes: _task_means(scores, sizes).mean(-1),
    "iqm": iqm,
    "median": lambda scores, sizes: np.median(_task_means(scores, sizes), axis=-1),
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
    """Mean, IQM, median and optimality gap. Mean and gap, and of a single task whatever is a mean over its seeds (all but an
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
    enough = RELIABLE_BOOTSTRAP if len(tasks) > 1 else RELIABLE_SEEDS
    found = {name: Estimate(values[name], float(low), float(high), fewest, enough) for name, (low, high) in bounds.items()}
    shortfalls = [np.maximum(1 - task, 0) for task in tasks]
    for name, own in (("mean", tasks), ("optimality_gap", shortfalls)):
        found[name] = Estimate(*map(float, mean_over_tasks(own, level=level)), fewest)
    found["optimality_gap"] = replace(found["optimality_gap"], low=max(found["optimality_gap"].low, 0.0))  # it is never below 0
    if len(tasks) == 1:
        found |= {"median": found["mean"]} | ({"iqm": found["mean"]} if len(pooled) < TRIMMED else {})
    return {name: found[name] for name in AGGREGATES}


def mean_over_tasks(
    tasks: Scores, *, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The mean over tasks of the means over their seeds, one [n, ...] array for each task -> three [...], with its t interval
    (Satterthwaite's degrees of freedom); no interval below MIN_SEEDS."""
    value = np.mean([task.mean(0) for task in tasks], axis=0)
    if min(map(len, tasks)) < MIN_SEEDS:
        return value, None, None
    half = _half_width(tasks, len(tasks), level)
    return value, value - half, value + half


def _half_width(groups: Scores, tasks: int, level: float) -> np.ndarray:
    """Half the t interval [...] of a sum of the groups' means, or of their differences, divided by `tasks`."""
    return special.stdtrit(_freedom(groups), (1 + level) / 2) * _standard_error(groups, tasks)


def _standard_error(groups: Scores, tasks: int) -> np.ndarray:
    return np.sqrt(sum(group.var(0, ddof=1) / len(group) for group in groups)) / tasks


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
    if not len(values):
        raise ValueError("a mean needs at least one seed, found none")
    return mean_over_tasks([values], level=level)


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
    half = float(_half_width([group for pair in pairs for group in pair], len(pairs), level))
    return Estimate(value, value - half, value + half, n)


def difference_p(x: Scores, y: Scores) -> float | None:
    """Two-sided p-value of Welch's t test that belongs to `difference`; None below MIN_SEEDS."""
    pairs = list(zip(_check(x), _check(y), strict=True))
    groups = [group for pair in pairs for group in pair]
    if min(map(len, groups)) < MIN_SEEDS:
        return None
    gap, error = abs(np.mean([a.mean() - b.mean() for a, b in pairs])), _standard_error(groups, len(pairs))
    if error == 0:
        return float(gap == 0)
    return float(2 * special.stdtr(_freedom(groups), -gap / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family of tests, corrected for their number: the chance of any false one is held (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(order) else scaled
    return corrected.tolist()


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
