"""The Swiss roll of Gao, Zha and Zhou (2024): q-learning against fine-tuning of good and bad pretrained models."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from bench.policy import load_policy
from bench.reproduce import Context, Study
from bench.reproduce.generated import CENTRED, NUMBERS, coarse, counts, last, play, samples, truth
from bench.reproduce.grids import Grid, Results, larger_budget
from envs.generation.truth import FLOOR
from reports.figures import draw
from reports.html import Section, Table, Text
from reports.load import Run
from reports.reproduction import OPEN, Claim, Findings, Verdict, alike, gated, heatmaps, larger
from reports.words import number

ENV, CELLS, BETA = "generation/swissroll2d", 40, 4.0
ALGOS = "ctq,good=dpok(pretrain=200),bad=dpok(pretrain=10)"
COMPARABLE = 0.1  # nats
NEAR = 0.2  # nats from p*, of the best policy in 50 steps (docs/generation.md)
GOOD = 0.5  # nats from the data, of what a good pretrained model generates by itself


@dataclass(frozen=True)
class Budget:
    grid: Grid

    def __str__(self) -> str:
        return str(self.grid)


def run(budget: Budget, context: Context) -> Findings:
    results = budget.grid.train(context)
    kl = {label: results.values("final", label) for label in ("ctq", "good", "bad")}
    models = {label: np.array([pretrained(run) for run in results.runs(label)]) for label in ("good", "bad")}
    verdicts = judge(kl, data_divergence(), models["good"], larger_budget(context.preset))
    numbers = {"pretrained": {label: found.tolist() for label, found in models.items()}, "data": data_divergence()}
    sections = [laws(results, models), results.curves("Divergence from the best law")]
    return Findings(verdicts, numbers | results.numbers(), sections)


@functools.cache
def data_divergence() -> float:
    """KL of the data's own law from p*: what an exact model gives that is not tuned at all."""
    known = truth(ENV, {"beta": BETA})
    data, best = (coarse(known, law, CELLS) for law in (known.data, known.best))
    some = data > 0
    return float((data[some] * np.log(data[some] / np.maximum(best[some], FLOOR))).sum())


def pretrained(run: Run) -> float:
    """KL from the data of what DPOK's pretrained model generates by itself."""
    agent = load_policy(run.path).agent

    @torch.no_grad()
    def policy(obs: np.ndarray) -> np.ndarray:
        return agent.pretrained(torch.from_numpy(obs)).numpy()

    known = truth(ENV, run.env_settings)
    return known.kl(play(policy, run.env, run.env_settings, seed=run.seed), known.data)


def judge(kl: dict[str, np.ndarray], data: float, good: np.ndarray, then: str) -> dict[str, Verdict]:
    """kl: the final divergences from p* of each label's seeds [n]; data: the data's; good: of the good pretrained models'
    laws from the data [n]; then: what to ask for where a gate is shut."""
    what = "Divergence from p*, DPOK from the {} model minus q-learning"
    model = None
    if len(good) and good.mean() > GOOD:
        found = f"The good model's own law is {number(good.mean())} nats from the data"
        model = Verdict(OPEN, f"{found}, and the rule asks for at most {GOOD}{then}.")
    return {
        "bad": gated(untuned(kl, "bad", data, then), larger([kl["bad"]], [kl["ctq"]], what.format("bad"))),
        "good": gated(model or untuned(kl, "good", data, then),
                      alike([kl["good"]], [kl["ctq"]], what.format("good"), within=COMPARABLE)),
    }  # fmt: skip


def untuned(kl: dict[str, np.ndarray], label: str, data: float, then: str) -> Verdict | None:
    """An open verdict where neither q-learning nor `label` comes closer to p* than the data are; None otherwise."""
    means = [values.mean() for values in (kl["ctq"], kl[label]) if len(values)]
    if not means or min(means) < data:
        return None
    return Verdict(
        OPEN,
        f"The nearer of the two ends {number(min(means))} nats from p*, and the data are {number(data)} from it: neither has "
        f"learned what could be compared{then}.",
    )


def laws(results: Results, models: dict[str, np.ndarray]) -> Section:
    first = {label: results.runs(label)[0] for label in results.look if results.runs(label)}
    if not first:
        return Section("laws", "What is generated", [Text("No run has finished.", "notice")])
    known = truth(ENV, next(iter(first.values())).env_settings)
    panels = [("data", coarse(known, known.data, CELLS)), ("best law p*", coarse(known, known.best, CELLS))]
    panels += [(label, counts(known, samples(run), CELLS)) for label, run in first.items()]
    figure = draw(
        "ctq-swissroll-laws", "Generated laws", "Maps of the data, the best law and each method's samples.",
        lambda: heatmaps(panels, columns=5, label="share", top=1.5 * float(max(law.max() for _, law in panels[:2]))),
        how="The first seed of each; y_1 to the right, y_2 down. The scale ends at 1.5 times the known laws' largest share.",
    )  # fmt: skip
    rows = []
    for label in results.look:
        best = panels[1][1]
        covered = [best[counts(known, samples(run), CELLS) > 0].sum() for run in results.runs(label)]
        columns = [results.values("final", label), last(results, "KL to the data", label), models.get(label, [])]
        columns += [covered, last(results, "reward", label)]
        rows.append([label, *(", ".join(map(number, values)) for values in columns)])
    nearest = min(results.values("final", label).mean() for label in first)
    note = (
        f"The best law's mean reward is {number(known.mean_reward())}; h is 1 for y_1 in [-1, 1.2], else 0. Share of p* "
        "reached: its mass in the cells of the map that hold a sample."
    )
    heads = ["method", "KL from p*", "KL from the data", "that of its pretrained model", "share of p* reached", "mean reward"]
    table = Table(heads, rows, "At the end, seed by seed", note)
    text = (
        "Good and bad are DPOK after 40 and after 2 rollouts of pretraining on the environment's estimates of the score, "
        "within the same budget of frames. Its penalty keeps it near its pretrained model, q-learning's near the data, so "
        "that a bad model is a wrong anchor by construction. The best policy itself, played in these steps, comes within "
        f"{NEAR} nats of p*, and the data's own law is {number(data_divergence())} from it; the nearest mean of a method at "
        f"this budget is {number(nearest)}, so that what is compared is how fast they get there. The divergence of what is "
        "generated from p* punishes samples where p* has little and forgives "
        "what is missed, so that a spot on the roll may come before a blurred whole; the share of p* reached tells them apart."
    )
    return Section("laws", "What is generated", [Text(text), figure, table])


ASKED = (
    "Neither rule asked that anything be learned, nor that the good model be good: at quick the first held, 2.74 [1.16, 4.32], "
    "and the second failed, 0.803 [0.358, 1.25], with all methods further from p* than the data are. They ask since."
)
REVISED = (
    f"{CENTRED} {ASKED} DPOK's followed the paper's gradient, which is not its objective's; they do now (`penalty_to_go`)."
)
STUDY = Study(
    title="A Swiss roll: q-learning against fine-tuning a good and a bad pretrained model",
    source="arXiv 2409.04832, section 7 (m = 120)",
    setup=f"The Swiss roll in the plane, and a reward for -1 <= y_1 <= 1.2. {NUMBERS}",
    claims=(
        Claim(
            "bad",
            "Where the pretrained model is of poor quality, q-learning does better than fine-tuning it (DPOK).",
            "Holds if the 95 % interval of DPOK's divergence from p* minus q-learning's lies above 0; fails if below. Not "
            "decidable unless one of them ends closer to p* than the data's own law is.",
            revised=REVISED,
        ),
        Claim(
            "good",
            "Where the pretrained model is good, the two are comparable.",
            f"Holds if the interval of DPOK's divergence from p* minus q-learning's lies within ±{COMPARABLE}; fails if it "
            f"lies beyond, on either side. Not decidable unless the good model's own law is within {GOOD} nats of the data, "
            "and one of them ends closer to p* than the data's law is.",
            revised=f"{REVISED} The rule asked only that q-learning be at most that much worse.",
        ),
    ),
    budgets={
        "quick": Budget(Grid(ALGOS, ENV, 3, ("steps=3840000", "eval_every=768000", "log_every=640000", f"env.beta={BETA:g}"))),
        "long": Budget(Grid(ALGOS, ENV, 5, (f"env.beta={BETA:g}",))),
        "full": Budget(Grid(ALGOS, ENV, 10, (f"env.beta={BETA:g}", "steps=51200000", "eval_every=2560000"))),
    },
    run=run,
)
