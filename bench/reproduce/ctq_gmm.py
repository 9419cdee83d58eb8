"""The one-dimensional mixture of Gao, Zha and Zhou (2024), and their ratio estimator."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.reproduce import Context, Study
from bench.reproduce.generated import CENTRED, NUMBERS, histogram, last, samples, trained, truth
from bench.reproduce.grids import Grid, Results, missing
from envs.generation import points
from envs.generation.estimator import RatioEstimator
from reports.figures import Panel, draw, lines, looks
from reports.html import Section, Table, Text
from reports.reproduction import Claim, Findings, Verdict, above, decided, every, larger, line
from reports.words import number

ENV = "generation/gmm1d"
CLOSE = 0.15  # nats from the best law; the best policy itself, at 50 steps, is 0.03 away
TIMES, POINTS = (0.05, 0.1, 0.3, 0.5, 1.0, 2.0), (1, 10, 100, 300)


@dataclass(frozen=True)
class Budget:
    """A grid for each weight of the reward, one with m = 1, and the draws by which the estimator is judged."""

    grid: Grid
    betas: tuple[float, ...] = (0, 1, 2)
    states: int = 1000
    repeats: int = 50

    def __str__(self) -> str:
        each = f"for each beta of {', '.join(f'{beta:g}' for beta in self.betas)}, and for m = 1 at beta 0"
        return f"{self.grid} That {each}. The estimator: {self.states} states, {self.repeats} estimates at each."


def run(budget: Budget, context: Context) -> Findings:
    found = {beta: trained(budget.grid, context, f"beta{beta:g}", f"env.beta={beta:g}") for beta in budget.betas}
    single = trained(budget.grid, context, "m1", "env.beta=0", "env.m=1")
    errors = estimator(budget)
    kls = {beta: results.values("final", "ctq") for beta, results in found.items()}
    rewards = [last(results, "reward", "ctq") for results in found.values()]
    verdicts = judge(kls, rewards, errors, single.values("final", "ctq"))
    numbers = {
        "runs": {f"{beta:g}": results.numbers() for beta, results in found.items()},
        "m1": single.numbers(),
        "estimator": {str(m): {str(t): value for t, value in row.items()} for m, row in errors.items()},
    }
    return Findings(verdicts, numbers, [laws(found, single), errors_section(errors)])


def judge(kls: dict[float, np.ndarray], rewards: Sequence[np.ndarray], errors: dict, single: np.ndarray) -> dict[str, Verdict]:
    """kls: divergences from p* of the seeds [n], by beta from 0 on; rewards: their mean ones, in the same order; errors: of
    `estimator`; single: the seeds' divergences from the data with m = 1."""
    rising = [
        larger([much], [little], f"Mean reward at beta {high:g}, minus at {low:g}")
        for (low, high), (little, much) in zip(itertools.pairwise(kls), itertools.pairwise(rewards), strict=True)
    ]
    close = [above(CLOSE - kl, 0, f"{CLOSE} less the divergence from p* at beta {beta:g}") for beta, kl in kls.items()]
    mse = np.array([[errors[m][t]["mse"] for t in TIMES] for m in POINTS])
    return {
        "data": close[0],
        "tilt": every([*close, *rising]),
        "estimator": decided(
            bool((np.diff(mse, axis=0) < 0).all() and (np.diff(mse, axis=1) < 0).all()),
            f"Mean square errors from {number(mse.max())} (m = 1, t = {TIMES[0]}) to {number(mse.min())} "
            f"(m = {POINTS[-1]}, t = {TIMES[-1]}).",
        ),
        "single": above(CLOSE - single, 0, f"{CLOSE} less the divergence from the data with m = 1"),
    }


def estimator(budget: Budget) -> dict[int, dict[float, dict[str, float]]]:
    """Bias (root of its mean square), variance and mean square error of the ratio estimator over x ~ p_t, by m and t."""
    known, out = truth(ENV, {"beta": 0.0}), {}
    process, generator = known.dynamics, np.random.default_rng(0)
    for m in POINTS:
        estimate, out[m] = RatioEstimator(points("gmm1d"), m, 1e-8, process), {}
        for t in TIMES:
            x = process.alpha(t) * known.law.sample(budget.states, generator)
            x += np.sqrt(process.sigma2(t)) * generator.standard_normal(x.shape)
            at = np.repeat(x, budget.repeats, axis=0)
            found = estimate(np.full(len(at), t), at, generator.integers(estimate.places, size=len(at)))
            error = found.reshape(budget.states, budget.repeats) - known.score(t, x)
            variance = error.var(axis=1, ddof=1).mean()
            square = (error**2).mean()
            out[m][t] = {"bias": float(np.sqrt(max(square - variance, 0))), "variance": float(variance), "mse": float(square)}
    return out


def laws(found: dict[float, Results], single: Results) -> Section:
    panels, rows, look = [], [], looks(["generated", "best law", "data"])
    for beta, results in [*found.items(), (None, single)]:
        known = truth(ENV, {"beta": beta or 0.0})
        width = known.axis[1] - known.axis[0]
        drawn = [line("best law", known.axis, known.best / width), line("data", known.axis, known.data / width)]
        if results.runs("ctq"):
            drawn.append(line("generated", *histogram(known, samples(results.runs("ctq")[0]), 80)))
        title = "beta 0, m = 1" if beta is None else f"beta {beta:g}"
        panels.append(Panel(title, "y", "density", drawn))
        rewards, kls = last(results, "reward", "ctq"), results.values("final", "ctq")
        data = last(results, "KL to the data", "ctq")
        rows.append([title, *(", ".join(map(number, v)) for v in (kls, data, rewards)), number(known.mean_reward())])
    columns = ["setting", "KL from p*", "KL from the data", "mean reward", "of p*"]
    figure = draw("ctq-gmm-laws", "Generated laws", "Densities of the samples, the data and the best law for each setting.",
                  lambda: lines(panels, look, columns=2), how="The first seed of each.")  # fmt: skip
    text = (
        "The reward is -(y - 1)^2. p* is the data's law times exp(beta h / 2). With m = 1 the estimate is the score of one "
        "Gaussian around one data point; its mean over data points is the score of a Gaussian around the data's mean, which is "
        "not the score of the mixture."
    )
    absent = missing(*found.values(), single)
    return Section("laws", "What is generated", [*absent, Text(text), figure, Table(columns, rows, "At the end, seed by seed")])


def errors_section(errors: dict) -> Section:
    rows = [
        [str(m), f"{t:g}", *(number(errors[m][t][key]) for key in ("bias", "variance", "mse"))] for m in POINTS for t in TIMES
    ]
    return Section("estimator", "The ratio estimator", [Table(["m", "t", "bias", "variance", "mean square error"], rows,
        "Against the exact score, x drawn from p_t")])  # fmt: skip


GRID = Grid("ctq", ENV, 3, ("steps=5120000", "eval_every=2560000", "log_every=640000"), note="400 rollouts of 256 samples.")
STUDY = Study(
    title="A mixture in one dimension, and the ratio estimator",
    source="arXiv 2409.04832, section 7 (m = 300), eq. 19",
    setup=f"Two Gaussians at -1.5 and 1.5 of standard deviation 0.5, and the reward -(y - 1)^2. {NUMBERS}",
    claims=(
        Claim(
            "data",
            "With beta = 0 q-learning generates the data.",
            f"Holds if the 95 % t interval over seeds of the divergence from the data lies below {CLOSE}.",
            revised=CENTRED,
        ),
        Claim(
            "tilt",
            "A larger beta moves mass to where the reward is high.",
            f"Holds if at every beta the interval of the divergence from p* lies below {CLOSE}, and the intervals of the "
            "mean reward at a beta minus that at the one before lie above 0.",
            revised=f"{CENTRED} The means alone had to rise, whatever their spread; that held. The budget: the first quick "
            "runs, 300 rollouts at beta 0, 2 and 4, had not converged (0.18 and 0.58 nats from p* at beta 2 and 4, at equal "
            "rewards). They became 400 rollouts at beta 0, 1 and 2, and the agent's `weight` sigma in place of sigma^2.",
        ),
        Claim(
            "estimator",
            "The mean square error of the ratio estimator falls with m, and with t.",
            f"Holds if it falls strictly with m at each t of {', '.join(map(str, TIMES))}, and with t at each m.",
        ),
        Claim(
            "single",
            "One data point in an estimate (m = 1, the paper's choice for images) is enough: its noise averages out.",
            f"Holds if at beta = 0 the interval of the divergence from the data lies below {CLOSE}; fails if above.",
        ),
    ),
    budgets={"quick": Budget(GRID), "long": Budget(Grid("ctq", ENV, 5)), "full": Budget(Grid("ctq", ENV, 10), states=10_000)},
    run=run,
)
