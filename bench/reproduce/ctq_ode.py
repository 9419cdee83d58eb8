"""Simulators of Gao, Zha and Zhou (2024): the SDE against Euler and DDIM steps of the flow, with few and with many steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.reproduce import Context, Study
from bench.reproduce.generated import CENTRED, NUMBERS, last, play, samples, trained, truth
from bench.reproduce.grids import Grid, Results, missing
from reports.figures import Panel, draw, lines, looks, series
from reports.html import Section, Table, Text
from reports.reproduction import Claim, Findings, Verdict, above, every, larger
from reports.words import number

ENV = "generation/swissroll2d"
SAMPLERS, STEPS = ("sde", "ode", "ddim"), (5, 10, 50)


@dataclass(frozen=True)
class Budget:
    """Grids without reward (under the SDE) and with a reward (under the SDE and under the flow)."""

    grid: Grid
    beta: float = 4.0

    def __str__(self) -> str:
        return f"{self.grid} That with beta 0 under the SDE, and with beta {self.beta:g} under the SDE and the flow (Euler)."


def run(budget: Budget, context: Context) -> Findings:
    plain = trained(budget.grid, context, "plain", "env.beta=0")
    tilted = {
        sampler: trained(budget.grid, context, sampler, f"env.beta={budget.beta:g}", f"env.sampler={sampler}")
        for sampler in ("sde", "ode")
    }
    few = {sampler: {steps: divergences(plain, sampler, steps) for steps in STEPS} for sampler in SAMPLERS}
    returns = {sampler: last(results, "return", "ctq") for sampler, results in tilted.items()}
    numbers = {
        "few": {sampler: {str(k): v.tolist() for k, v in row.items()} for sampler, row in few.items()},
        "plain": plain.numbers(),
        "tilted": {sampler: results.numbers() for sampler, results in tilted.items()},
    }
    return Findings(judge(few, returns), numbers, [steps_section(few, plain), reward_section(tilted, budget)])


def judge(few: dict[str, dict[int, np.ndarray]], returns: dict[str, np.ndarray]) -> dict[str, Verdict]:
    """few: divergences from the data by sampler and steps, of the same policies; returns by sampler; each of the seeds [n]."""
    least, most = STEPS[0], STEPS[-1]
    lost = {sampler: few[sampler][least] - few[sampler][most] for sampler in SAMPLERS}
    what = f"Divergence from the data at {least} steps less that at {most}, SDE minus"
    return {
        "few": every([
            above(lost["sde"] - lost["ode"], 0.0, f"{what} Euler"), above(lost["sde"] - lost["ddim"], 0.0, f"{what} DDIM"),
        ]),
        "many": larger([returns["sde"]], [returns["ode"]], "Return at 50 steps, SDE minus Euler"),
    }  # fmt: skip


def divergences(results: Results, sampler: str, steps: int) -> np.ndarray:
    """Divergence from the data of each seed's policy, played by a sampler in so many steps [n]."""
    known = truth(ENV, {"beta": 0.0})
    return np.array([known.kl(samples(run, sampler=sampler, steps=steps), known.data) for run in results.runs("ctq")])


def steps_section(few: dict, plain: Results) -> Section:
    best = {}
    for sampler in SAMPLERS:
        for steps in STEPS:
            settings = {"beta": 0.0, "sampler": sampler, "steps": steps}
            known = truth(ENV, settings)
            score = lambda obs, known=known: known.score(float(obs[0, 0]), obs[:, 1:].astype(np.float64))  # noqa: E731
            best[sampler, steps] = known.kl(play(score, ENV, settings), known.data)
    x = np.log10(STEPS)
    panel = [
        series(sampler, [(x, np.array([few[sampler][k][i] for k in STEPS])) for i in range(len(few[sampler][STEPS[0]]))])
        for sampler in SAMPLERS if len(few[sampler][STEPS[0]])
    ]  # fmt: skip
    figure = draw("ctq-ode-steps", "Divergence from the data against steps", "Lines for SDE, Euler and DDIM.",
                  lambda: lines([Panel("beta 0", "log10 steps", "KL from the data", panel)], looks(SAMPLERS)))  # fmt: skip
    rows = [
        [sampler, str(steps), ", ".join(map(number, few[sampler][steps])), number(best[sampler, steps])]
        for sampler in SAMPLERS for steps in STEPS
    ]  # fmt: skip
    text = (
        "One policy for each seed, trained under the SDE at 50 steps without a reward, where the best action is the score "
        "under every sampler, and then played by each of them. The exact score shows what the steps alone cost; where the "
        "learned one is far from it at 50 steps too, the claim is tested on a policy that has not converged."
    )
    columns = ["sampler", "steps", "learned score", "exact score"]
    table = Table(columns, rows, "Divergence from the data, seed by seed", "Histograms of 4,096 samples on 40 x 40 cells.")
    return Section("steps", "Few steps, without a reward", [*missing(plain), Text(text), figure, table])


def reward_section(tilted: dict[str, Results], budget: Budget) -> Section:
    rows = []
    for sampler, results in tilted.items():
        columns = (last(results, "return", "ctq"), last(results, "reward", "ctq"), results.values("final", "ctq"),
                   last(results, "KL to the data", "ctq"))  # fmt: skip
        rows.append([sampler, *(", ".join(map(number, values)) for values in columns)])
    done = tilted["sde"].runs("ctq")
    known = truth(ENV, done[0].env_settings if done else {"beta": budget.beta})
    text = (
        "Trained and played under the SDE, and under Euler steps of the flow dy = (f y + g^2 a / 2) dt, with the same running "
        "reward. The flow's best action is the score plus a quarter of grad J in place of a half, so its best law is another "
        f"than p*; p*, the SDE's, has a mean reward of {number(known.mean_reward())}. A higher one is no merit where the "
        "penalty is paid for it: the return has both."
    )
    table = Table(["sampler", "return", "mean reward", "KL from p*", "KL from the data"], rows, "At the end, seed by seed")
    return Section("reward", "With a reward", [*missing(*tilted.values()), Text(text), table])


GRID = Grid("ctq", ENV, 3, ("steps=3840000", "eval_every=1920000", "log_every=640000"), note="300 rollouts of 256 samples.")
STUDY = Study(
    title="Sampling by the SDE and by the flow, in few and in many steps",
    source="arXiv 2409.04832, section 9.1",
    setup=f"The Swiss roll in the plane, and a reward for -1 <= y_1 <= 1.2. {NUMBERS}",
    claims=(
        Claim(
            "few",
            "Without a reward, deterministic sampling loses less when the steps are few.",
            f"Loss: a policy's divergence from the data at {STEPS[0]} steps less its own at {STEPS[-1]}. Holds if the 95 % t "
            "intervals over seeds of the SDE's loss minus Euler's, and minus DDIM's, lie above 0; fails if one lies below.",
            revised=f"{CENTRED} The divergences at {STEPS[0]} steps were compared by themselves, and Euler's alone; that held.",
        ),
        Claim(
            "many",
            "For a reward-directed task with many steps the SDE does better than the flow.",
            "Holds if the interval of the return under the SDE minus that under Euler's steps, each trained with its own "
            "sampler at 50 steps, lies above 0; fails if below.",
            revised=f"{CENTRED} The mean reward alone was compared, without the penalty that is paid for it; that was not "
            "decidable.",
        ),
    ),
    budgets={"quick": Budget(GRID), "long": Budget(Grid("ctq", ENV, 5)), "full": Budget(Grid("ctq", ENV, 10))},
    run=run,
)
