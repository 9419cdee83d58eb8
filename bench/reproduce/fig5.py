"""Figure 5 of the QSM paper: diversity of actions on the quadruped, against Diffusion-QL with identical networks."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.distance import pdist

from bench.reproduce import Context, Study
from bench.reproduce.grids import COMPARATOR, SAYS, SMALL, Grid, Results, sampled
from reports.charts import clouds
from reports.figures import draw
from reports.html import Figure, Section, Table, Text
from reports.reproduction import Claim, Findings, every, gated, larger, plane
from reports.words import number

LEARNED, BINS = 0.2, 10
MEASURES = {"coverage": "coverage", "entropy": "entropy", "spread": "distance of pairs"}


def diversity(actions: np.ndarray) -> dict[str, float]:
    """Of actions [P, M, A], as means over the P states.

    coverage: share of the 10 bins of each dimension that hold a sample; entropy: of the bins, per dimension, over ln 10;
    spread: mean distance of two samples over that of two uniform ones (sqrt(2 A / 3), its root mean square).
    """
    edges = np.linspace(-1, 1, BINS + 1)
    shares = np.array([[np.histogram(state[:, i], edges)[0] / len(state) for i in range(state.shape[1])] for state in actions])
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    distance = np.mean([pdist(state).mean() for state in actions])
    return {
        "coverage": float((shares > 0).mean()),
        "entropy": float(-(shares * logs).sum(-1).mean() / math.log(BINS)),
        "spread": float(distance / math.sqrt(2 * actions.shape[2] / 3)),
    }


def run(budget: Grid, context: Context) -> Findings:
    results = budget.train(context)
    found = {label: [diversity(sampled(run)[1][-1]) for run in results.runs(label)] for label in results.look}
    before = {label: [diversity(sampled(run)[1][0]) for run in results.runs(label)] for label in results.look}

    def column(label: str, key: str) -> list[np.ndarray]:
        return [np.array([row[key] for row in found[label]])]

    parts = [larger(column("qsm", key), column("dql", key), f"qsm - dql, {name}") for key, name in MEASURES.items()]
    gate = results.learned(LEARNED, "qsm", "dql", each=True)
    numbers = {"diversity": found, "untrained": before, **results.numbers()}
    section = Section("actions", "Actions at the first states", [*pictures(results), table(found, before)])
    return Findings({"diversity": gated(gate, every(parts))}, numbers, [section, results.curves()])


def pictures(results: Results) -> list[Text | Figure]:
    shown = {label: sampled(results.runs(label)[0])[1][-1][0] for label in results.look if results.runs(label)}
    if not shown:
        return []
    groups, how = plane(list(shown.values()))
    together = np.concatenate(groups)
    panels = [(label, group, together, label) for label, group in zip(shown, groups, strict=True)]
    return [draw(
        "fig5-actions", f"Actions at one first state, first seed of each ({how})", "Point clouds of actions in a plane.",
        lambda: clouds(panels, results.look, ("first", "second")),
        how="Each point is one sampled action; grey are the samples of all.",
    )]  # fmt: skip


def table(found: dict, before: dict) -> Table:
    rows = [
        [label, when, *(", ".join(number(row[key]) for row in group[label]) for key in MEASURES)]
        for label in found for when, group in (("untrained", before), ("at the end", found))
    ]  # fmt: skip
    note = "1 is a uniform policy. Seed by seed, means over four first states of 64 samples each; networks are identical."
    return Table(["algorithm", "when", *MEASURES.values()], rows, "Diversity of actions", note)


TASK = "dmc/quadruped-walk"
STUDY = Study(
    title="Diversity of actions on the quadruped",
    source="arXiv 2312.11752, section 5.1, Figure 5",
    setup=f"{COMPARATOR} The measures of diversity are chosen here: the paper shows actions in a plane.",
    claims=(
        Claim(
            "diversity",
            "With identical networks, QSM's actions on the quadruped are more diverse than Diffusion-QL's.",
            "Holds if for coverage, entropy and distance of pairs the 95 % interval of QSM minus Diffusion-QL lies above 0; "
            f"does not hold if one lies below. Not decidable unless the final scores of both reach {LEARNED} of the range: "
            "untrained, both are equally diverse.",
        ),
    ),
    budgets={
        "quick": Grid("qsm,dql", TASK, 3,
                      ("steps=8000", "warmup=1040", "eval_every=4000", "eval.episodes=3", *SMALL), note=SAYS),
        "long": Grid("qsm,dql", TASK, 5, ("steps=160000", "env.action_repeat=8", "eval.episodes=5")),
        "full": Grid("qsm,dql", TASK, 10, preset="paper"),
    },
    run=run,
)  # fmt: skip
