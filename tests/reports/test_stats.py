"""Statistics against scipy, hand-computed cases and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as oracle

from reports import coverage, stats

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 15, 100])
def test_iqm_is_scipys_trimmed_mean(n: int) -> None:
    scores = RNG.normal(size=(6, n))
    np.testing.assert_allclose(stats.iqm(scores, [n]), oracle.trim_mean(scores, 0.25, axis=-1), rtol=1e-12)


def test_iqm_weighs_tasks_alike_whatever_their_seeds() -> None:
    sizes = [5, 3, 4]
    scores = RNG.normal(size=(6, sum(sizes)))
    tasks = np.split(scores, np.cumsum(sizes)[:-1], axis=-1)
    whole = np.concatenate([task.repeat(60 // size, axis=-1) for task, size in zip(tasks, sizes, strict=True)], axis=-1)
    np.testing.assert_allclose(stats.iqm(scores, sizes), oracle.trim_mean(whole, 0.25, axis=-1), rtol=1e-12)

    easy, hard = np.linspace(0.88, 0.92, 10), np.linspace(0.05, 0.15, 10)
    some = slice(3, 6)  # of the seeds, with nearly the same mean
    lost = [stats.aggregate(tasks)["iqm"] for tasks in ([easy, hard[some]], [easy[some], hard])]
    for found in lost:  # between the tasks, which weigh half each: not at the one with more seeds
        assert found.value == pytest.approx(0.5, abs=0.02)


def test_aggregates_by_hand() -> None:
    # task means 0.2, 0.7, 1.1; each task six times over (thrice 0.1 0.3, twice the others), 18 values without the four lowest
    # and the four highest: 0.3 four times, 0.6 four times, 0.9 twice
    tasks = [np.array([0.1, 0.3]), np.array([0.9, 0.6, 0.6]), np.array([1.4, 1.6, 0.3])]
    values = {name: value.value for name, value in stats.aggregate(tasks).items()}
    assert values["iqm"] == pytest.approx((4 * 0.3 + 4 * 0.6 + 2 * 0.9) / 10)
    assert values["median"] == pytest.approx(0.7)
    assert values["mean"] == pytest.approx((0.2 + 0.7 + 1.1) / 3)
    # what is above 1 counts as 1: shortfalls 0.9 0.7 | 0.1 0.4 0.4 | 0 0 0.7
    assert values["optimality_gap"] == pytest.approx((0.8 + 0.3 + 0.7 / 3) / 3)


def test_improvement_is_the_mann_whitney_statistic() -> None:
    for m, n in ((3, 3), (4, 7), (10, 5)):
        x, y = RNG.integers(0, 6, m).astype(float), RNG.integers(0, 6, n).astype(float)  # with ties
        expected = oracle.mannwhitneyu(x, y).statistic / (m * n)
        assert stats.improvement([x], [y]).value == pytest.approx(expected)
    assert stats.improvement([x, x + 100], [y, y]).value == pytest.approx((expected + 1) / 2)


@pytest.mark.parametrize(("n", "decided"), [(3, False), (4, True), (5, True)])
def test_improvement_without_overlap_decides_as_the_exact_test_does(n: int, decided: bool) -> None:
    x, y = np.arange(n) + 10.0, np.arange(n) * 1.0
    wins = stats.improvement([x], [y])
    assert wins.value == 1
    assert wins.high == 1
    assert (wins.low > 0.5) == decided
    assert (oracle.mannwhitneyu(x, y, method="exact").pvalue < 0.05) == decided
    mirrored = stats.improvement([y], [x])
    assert (mirrored.low, mirrored.high) == pytest.approx((0, 1 - wins.low))


def test_intervals_are_students_and_welchs() -> None:
    x, y = RNG.normal(3, 1, 5), RNG.normal(1, 4, 9)
    mean = stats.mean_estimate(x)
    expected = oracle.t.interval(0.95, 4, x.mean(), oracle.sem(x))
    assert (mean.low, mean.high) == pytest.approx(expected)
    gap = stats.difference([x], [y])
    welch = oracle.ttest_ind(x, y, equal_var=False).confidence_interval()
    assert (gap.low, gap.high) == pytest.approx((welch.low, welch.high))
    # the same two groups on four tasks: the same mean, half the standard error, about four times the degrees of freedom
    four = stats.difference([x] * 4, [y] * 4)
    error = np.sqrt(x.var(ddof=1) / 5 + y.var(ddof=1) / 9)
    assert four.value == pytest.approx(gap.value)
    freedom = 4 * oracle.ttest_ind(x, y, equal_var=False).df
    assert four.high - four.value == pytest.approx(oracle.t.ppf(0.975, freedom) * error / 2)


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17), (2.0, 6)])
def test_power_gives_the_textbook_sample_sizes(effect: float, seeds: int) -> None:
    # Cohen 1988: n per group for a two-sided t test at 5 % with power 80 %
    x = np.array([-1.0, 0.0, 1.0])  # standard deviation 1
    assert stats.seeds_to_separate([x + effect], [x]) == seeds
    # with four tasks the variance of the mean difference is a quarter
    assert stats.seeds_to_separate([x + effect] * 4, [x] * 4) <= -(-seeds // 4) + 1


@pytest.mark.parametrize("effect", [0.8, 1.0])
def test_power_over_tasks_has_the_freedom_of_all_of_them(effect: float) -> None:
    """Against drawn t tests of four tasks, whose spread all seeds tell together. Fails on the freedom of a single task."""
    x, tasks = np.array([-1.0, 0.0, 1.0]), 4
    enough = stats.seeds_to_separate([x + effect] * tasks, [x] * tasks)

    def power(n: int) -> float:
        drawn = np.random.default_rng(3).normal(size=(2, 20_000, tasks, n))
        gap = effect + drawn[0].mean((1, 2)) - drawn[1].mean((1, 2))
        error = np.sqrt(drawn.var(3, ddof=1).mean((0, 2)) * 2 / (n * tasks))
        return float((gap / error > oracle.t.ppf(0.975, 2 * (n - 1) * tasks)).mean())

    assert power(enough - 1) < 0.8 <= power(enough)


@pytest.mark.parametrize("tasks", [2, 5])
def test_an_interval_of_wins_over_tasks_ends_where_the_score_test_does(tasks: int) -> None:
    """(value - theta)^2 = z^2 var(theta), the variance of the mean of Mann-Whitney statistics (Newcombe's) over tasks, times
    N / (N - tasks), for each task has a level of its own."""
    x, y = np.array([1.0, 4.0, 6.0, 7.0]), np.array([0.0, 2.0, 3.0, 5.0, 5.5])
    wins, (m, n) = stats.improvement([x] * tasks, [y] * tasks), (len(x), len(y))
    for theta in (wins.low, wins.high):
        spread = (1 - theta) / (2 - theta) + theta / (1 + theta)
        variance = theta * (1 - theta) / (m * n) * (1 + ((m + n) / 2 - 1) * spread) / tasks
        widened = variance * tasks * (m + n) / (tasks * (m + n) - tasks)
        assert (wins.value - theta) ** 2 == pytest.approx(oracle.norm.ppf(0.975) ** 2 * widened, rel=1e-6)


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 4), (2, 3), (5, 2)])
def test_no_fewer_seeds_than_an_interval_of_wins_needs(tasks: int, seeds: int) -> None:
    low, high = np.arange(3.0), np.arange(3.0) + 10
    assert stats.seeds_to_improve([high] * tasks, [low] * tasks) == seeds
    few, enough = (stats.improvement([np.arange(n) + 10.0] * tasks, [np.arange(n) + 0.0] * tasks).low for n in (3, 4))
    assert (few is None or few <= 0.5) == (tasks == 1)
    assert enough > 0.5


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_power_of_wins_is_what_it_says_or_a_little_more(effect: float) -> None:
    x = np.array([-1.0, 0.0, 1.0])  # standard deviation 1
    n = stats.seeds_to_improve([x + effect], [x])
    assert stats.seeds_to_separate([x + effect], [x]) <= n <= {0.5: 68, 1.0: 19, 2.0: 8}[effect]  # ranks lose 3 / pi at least
    drawn = np.random.default_rng(1).normal(size=(400, 2, n))
    found = [stats.improvement([a + effect], [b]).low > 0.5 for a, b in drawn]
    assert 0.76 <= np.mean(found) <= 0.93  # standard error 0.02


def test_power_where_there_is_no_answer() -> None:
    x = np.array([1.0, 2.0, 4.0])
    assert stats.seeds_to_separate([x], [x]) is None
    assert stats.seeds_to_separate([x[:2]], [x[:2] + 9]) is None  # two seeds do not tell the spread
    assert stats.seeds_to_separate([x * 0], [x * 0 + 1]) == 2
    assert stats.seeds_to_improve([x], [x]) is stats.seeds_to_improve([x[:2]], [x[:2] + 9]) is None
    wide, narrow = [x * 100 + 5, x], [x * 100, x + 5]  # a little worse where it is sure, a little better where it is not
    assert stats.seeds_to_improve(wide, [narrow[0] - 1, narrow[1]]) is None


def test_profile_area_and_first_reach_by_hand() -> None:
    share, low, _ = stats.profile([np.array([0.2, 0.6]), np.array([0.5])], np.array([0.1, 0.3, 0.55, 0.7]))
    np.testing.assert_allclose(share, [1, 0.75, 0.25, 0])
    assert low is None
    assert stats.area_under_curve(np.array([0, 10, 30]), np.array([0.0, 4.0, 6.0])) == pytest.approx((20 + 100) / 30)
    steps, values = np.array([0, 10, 20, 30]), np.array([1.0, 5.0, 4.0, 9.0])
    assert stats.first_reach(steps, values, 4.5) == 10
    assert stats.first_reach(steps, values, 9.5) == float("inf")


def test_bootstrap_against_all_resamples() -> None:
    """Five seeds have 3,125 resamples: the exact distribution, residuals scaled, percentiles expanded."""
    x = np.array([0.1, 0.25, 0.3, 0.55, 0.9])
    every = np.array(list(itertools.product(x, repeat=5)))
    scaled = x.mean() + (every - x.mean()) * np.sqrt(5 / 4)
    tail = oracle.norm.cdf(oracle.t.ppf(0.1, 4))
    found = stats.aggregate([x], resamples=30_000, level=0.8)
    low, high = np.quantile(oracle.trim_mean(scaled, 0.25, axis=1), [tail, 1 - tail])
    assert (found["iqm"].low, found["iqm"].high) == pytest.approx((low, high), abs=0.01)


@pytest.mark.parametrize("level", [0.78, 0.95])
def test_the_band_of_a_profile_against_all_resamples(level: float) -> None:
    """Plain ones. The share above a threshold is a multiple of 1 / 5, so that quantiles of so many draws are exact: the nearest
    step of a distribution is five standard errors away. At 0.78 one lies between four degrees of freedom and five."""
    x, thresholds = np.array([0.1, 0.25, 0.3, 0.55, 0.9]), np.array([0.0, 0.2, 0.27, 0.4, 0.7, 1.0])
    every = np.array(list(itertools.product(x, repeat=5)))
    shares = (every[:, :, None] > thresholds).mean(axis=1)
    tail = oracle.norm.cdf(oracle.t.ppf((1 - level) / 2, 4))
    share, low, high = stats.profile([x], thresholds, resamples=100_000, level=level)
    np.testing.assert_allclose(share, [1, 0.8, 0.6, 0.4, 0.2, 0])
    np.testing.assert_allclose([low, high], np.quantile(shares, [tail, 1 - tail], axis=0), atol=1e-12)


@pytest.mark.parametrize("n", [3, 4])
def test_of_one_task_means_have_students_interval(n: int) -> None:
    x = RNG.normal(size=n)
    found = stats.aggregate([x])
    means = {"mean": x, "median": x, "optimality_gap": np.maximum(1 - x, 0)} | ({"iqm": x} if n == 3 else {})
    for name, values in means.items():
        low, high = oracle.t.interval(0.95, n - 1, values.mean(), oracle.sem(values))
        low = max(low, 0) if name == "optimality_gap" else low  # a shortfall is never below 0
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((values.mean(), low, high))
    assert (found["iqm"].low == found["mean"].low) == (n == 3)


def test_a_curve_over_tasks_has_the_aggregate_at_each_point() -> None:
    curves = [RNG.normal(size=(n, 3)) * n for n in (5, 3)]
    value, low, high = stats.mean_over_tasks(curves)
    for point in range(3):
        alone = stats.aggregate([task[:, point] for task in curves])["mean"]
        assert (value[point], low[point], high[point]) == pytest.approx((alone.value, alone.low, alone.high))


def test_a_difference_of_one_task_has_welchs_p_value() -> None:
    x, y = RNG.normal(size=5), 3 * RNG.normal(size=4) + 1
    assert stats.difference_p([x], [y]) == pytest.approx(oracle.ttest_ind(x, y, equal_var=False).pvalue)
    assert stats.difference_p([x[:2]], [y]) is None, "two seeds do not tell the spread"
    assert [stats.difference_p([x * 0], [x * 0 + gap]) for gap in (0, 1)] == [1, 0]


def test_the_p_value_and_the_interval_of_a_difference_agree() -> None:
    """Over tasks that spread unlike: the level at which the interval ends at 0 is the p-value."""
    x = [RNG.normal(size=4) * 10**k + 1 for k in range(3)]
    y = [RNG.normal(size=5) * 10**k for k in range(3)]
    found = stats.difference(x, y, level=1 - stats.difference_p(x, y))
    assert min(abs(found.low), abs(found.high)) == pytest.approx(0, abs=1e-9)


def test_holms_correction_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1, 1]
    assert stats.holm([]) == []


def test_nothing_depends_on_the_order_of_seeds() -> None:
    x, y = RNG.normal(size=(2, 4)), RNG.normal(size=(2, 4))
    curves = RNG.normal(size=(4, 6))
    tau = np.linspace(-1, 1, 9)

    def everything(order: tuple[int, ...]) -> list:
        a, b = list(x[:, order]), list(y[:, order])
        parts = [
            *stats.aggregate(a).values(),
            stats.improvement(a, b),
            stats.difference(a, b),
            stats.mean_estimate(a[0]),
        ]
        bands = [*stats.profile(a, tau), *stats.mean_over_tasks([curves[list(order)]])]
        return [*((part.value, part.low, part.high) for part in parts), *(band.tolist() for band in bands)]

    first = everything((0, 1, 2, 3))
    for order in itertools.islice(itertools.permutations(range(4)), 1, None, 5):
        for got, expected in zip(everything(order), first, strict=True):
            assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "caution"),
    [(1, "no interval from 1 seed"), (2, "no interval from 2 seeds"), (4, "unreliable interval from 4 seeds"), (5, "")],
)
def test_few_seeds_say_so(n: int, caution: str) -> None:
    x, y = RNG.normal(size=n), RNG.normal(size=9)
    weaker = [found for name, found in stats.aggregate([x, y]).items() if name in ("iqm", "median")]
    assert {found.caution for found in weaker} == {caution or f"unreliable interval from {n} seeds"}
    means = [found for name, found in stats.aggregate([x, y]).items() if name in ("mean", "optimality_gap")]
    for estimate in (
        *means, *stats.aggregate([x]).values(), stats.mean_estimate(x), stats.difference([x], [y]), stats.improvement([x], [y]),
    ):  # fmt: skip
        assert estimate.caution == caution
        assert (estimate.low is None) == (n < 3) == (estimate.high is None)


def test_bad_scores_are_refused() -> None:
    for bad in ([], [np.array([])], [np.array([1.0, np.nan])], [np.ones((2, 2))]):
        with pytest.raises(ValueError, match="one for each task"):
            stats.aggregate(bad)


@pytest.mark.parametrize(
    ("tasks", "seeds", "ratio", "least"),
    [(1, 3, 1, 0.92), (1, 5, 1, 0.92), (6, 5, 1, 0.92), (1, 10, 1, 0.93), (6, 10, 1, 0.93), (6, 3, 30, 0.92), (6, 5, 30, 0.92)],
)
def test_intervals_cover_what_they_promise(tasks: int, seeds: int, ratio: int, least: float) -> None:
    """Standard error 0.007; a plain bootstrap has 0.90 to 0.93, that of n = 5 fails the bound by three of them. Where one task
    spreads more than the others, the degrees of freedom of all seeds together give 0.81 (n = 3) and 0.89 (n = 5)."""
    simulated = coverage.simulate(tasks, seeds, ratio, studies=1000, resamples=400, seed=3)
    assert min(simulated[name] for name in coverage.METHODS if name != "percentile") >= least
    for name, printed in coverage.COVERAGE[tasks, seeds, ratio].items():
        assert simulated[name] == pytest.approx(printed, abs=0.03)
    assert f"{tasks:5d} {seeds:5d}" in coverage.text()
