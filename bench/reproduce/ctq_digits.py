"""Images with small files, after Gao, Zha and Zhou's (2024) CIFAR-10 experiment, on digits of 8 x 8 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.reproduce import Context, Study
from bench.reproduce.generated import CENTRED, NUMBERS, last, samples, trained
from bench.reproduce.grids import Grid, Results, missing
from envs.generation import Config, points, reward
from reports.figures import draw
from reports.html import Figure, Section, Table, Text
from reports.reproduction import Claim, Findings, Verdict, above, larger
from reports.words import number

ENV, SHOWN = "generation/digits", 12
NEAR = 0.35  # root mean square distance per pixel, of a range of 2


@dataclass(frozen=True)
class Budget:
    """A grid without a reward and one with it."""

    grid: Grid
    beta: float = 100.0

    def __str__(self) -> str:
        return f"{self.grid} That with beta 0 and with beta {self.beta:g}."


def run(budget: Budget, context: Context) -> Findings:
    found = {beta: trained(budget.grid, context, f"beta{beta:g}", f"env.beta={beta:g}") for beta in (0.0, budget.beta)}
    rewards = {beta: last(results, "reward", "ctq") for beta, results in found.items()}
    near = last(found[budget.beta], "nearest image", "ctq")
    numbers = {f"beta{beta:g}": results.numbers() | {"reward": rewards[beta].tolist()} for beta, results in found.items()}
    return Findings(judge(rewards, near, budget.beta), numbers, [images(found)])


def judge(rewards: dict[float, np.ndarray], near: np.ndarray, beta: float) -> dict[str, Verdict]:
    """rewards: mean ones of the seeds [n] by beta; near: their distances to the nearest image at this beta [n]."""
    return {
        "small": larger([rewards[beta]], [rewards[0.0]], f"Mean of -bytes / 100, beta {beta:g} minus beta 0"),
        "close": above(NEAR - near, 0, f"{NEAR} less the distance to the nearest image at beta {beta:g}"),
    }


def images(found: dict[float, Results]) -> Section:
    data = points("digits")
    rows = [["the data", number(float(reward("digits", Config())(data).mean())), "0", "0"]]
    panels = [("the data", data[:SHOWN])]
    for beta, results in found.items():
        columns = [last(results, name, "ctq") for name in ("reward", "nearest image", "Fréchet distance")]
        rows.append([f"beta {beta:g}", *(", ".join(map(number, values)) for values in columns)])
        if results.runs("ctq"):
            panels.append((f"beta {beta:g}", samples(results.runs("ctq")[0], SHOWN)))
    columns = ["", "mean of -bytes / 100", "distance to the nearest image", "Fréchet distance"]
    text = (
        "8 x 8 images compress to files that differ by a few bytes, so beta has to be large for the reward to count beside the "
        "divergence. The nearest image is by root mean square over pixels in [-1, 1]; the Fréchet distance is of 32 principal "
        "components."
    )
    table = Table(columns, rows, "At the end, by seed")
    return Section("images", "What is generated", [*missing(*found.values()), Text(text), gallery(panels), table])


def gallery(panels: list[tuple[str, np.ndarray]]) -> Figure:
    def paint() -> Any:
        from matplotlib.figure import Figure as Canvas

        figure = Canvas(figsize=(9, 0.85 * len(panels)))
        axes = figure.subplots(len(panels), SHOWN, squeeze=False)
        for row, (title, y) in zip(axes, panels, strict=True):
            for axis, image in zip(row, y, strict=True):
                axis.imshow(np.clip(image, -1, 1).reshape(8, 8), cmap="gray", vmin=-1, vmax=1)
                axis.set(xticks=[], yticks=[])
            row[0].set_ylabel(title, rotation=0, ha="right", va="center")
        return figure

    return draw("ctq-digits-images", "Images", "Rows of digits: of the data, and generated at each beta.", paint)


SETTINGS = ("algo.envs=64", "algo.actor_hidden=[256,256]", "algo.actor_lr=0.003", "algo.critic_lr=0.003", "env.steps=25",
            "env.m=100")  # fmt: skip
REVISED = (
    f"{CENTRED} The budget: first runs of 300 rollouts at the default rates were still improving; they became 600 at a third "
    "of the rates."
)
STUDY = Study(
    title="Digits with small JPEG files",
    source="arXiv 2409.04832, section 8 (there CIFAR-10)",
    setup=f"Digits of 8 x 8 pixels in place of CIFAR-10, and the reward -bytes / 100 of the JPEG file. {NUMBERS}",
    claims=(
        Claim(
            "small",
            "q-learning generates images of smaller files.",
            "Holds if the 95 % interval of the mean reward with beta = 100 minus that with beta = 0 lies above 0.",
            revised=REVISED,
        ),
        Claim(
            "close",
            "These images are close to the data.",
            f"Holds if the interval of the mean distance to the nearest image of the data lies below {NEAR}.",
            revised=REVISED,
        ),
    ),
    budgets={
        "quick": Budget(Grid("ctq", ENV, 3, ("steps=960000", "eval_every=240000", "log_every=80000", *SETTINGS))),
        "long": Budget(Grid("ctq", ENV, 3, ("steps=8000000", *SETTINGS))),
        "full": Budget(Grid("ctq", ENV, 10, ("steps=51200000", "algo.actor_hidden=[256,256]"))),
    },
    run=run,
)
