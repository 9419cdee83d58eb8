"""The report's figures of scores and time, from runs and the summary; figures.py and charts.py draw them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from reports import references, stats
from reports.charts import Bar, intervals
from reports.figures import Look, Panel, Series, draw, kilo, lines, series
from reports.html import Figure
from reports.load import Collection, Run
from reports.summary import Row, scores, share_of_tasks
from reports.words import listing

BAND = "Thin lines are seeds, the thick line is their mean"
EVERY_RUN = f"{BAND} over all runs, unfinished ones too, the shade its 95 % t interval (of fewer than {stats.MIN_SEEDS}: none)."
HEALTH = {
    "q_mean": "mean Q of the batch",
    "critic_loss": "critic loss",
    "alignment": "alignment of score and ∇Q (cosine)",
    "actor_grad_norm": "actor gradient norm",
    "actor_loss": "actor loss",
}


def slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_")


def band_text(cells: list[Row]) -> str:
    """What the band of a figure means, given how many seeds it has."""
    shaded = [cell["n"] for cell in cells if cell["n"] >= stats.MIN_SEEDS]
    if not shaded:
        return f"{BAND}. With fewer than {stats.MIN_SEEDS} finished seeds there is no interval."
    none = f" (of fewer than {stats.MIN_SEEDS}: none)" if len(shaded) < len(cells) else ""
    weak = f" With {min(shaded)} seeds the interval is unreliable." if min(shaded) < stats.RELIABLE_SEEDS else ""
    return f"{BAND}, the shade its 95 % t interval{none}, cut off where the axes end.{weak}"


def scored_runs(collection: Collection, rows: list[Row]) -> set[Path]:
    """The runs that the tables average over, by their paths."""
    scored = {(row["env"], row["label"], row["seed"]) for row in rows if row["scored"]}
    return {run.path for run in collection.runs if (run.env, run.label, run.seed) in scored}


def _lines_of(runs: list[Run], scored: set[Path], labels: list[str], axis: Any) -> list[Series]:
    """One Series for each label, its mean over the scored runs; `axis(run)` gives x for each evaluation."""
    result = []
    for label in labels:
        own = [run for run in runs if run.label == label and len(run.evals)]
        pairs = {
            state: [(axis(run), run.evals.value) for run in own if (run.path in scored) == state] for state in (True, False)
        }
        if own:
            result.append(series(label, pairs[True], pairs[False]))
    return result


def learning_curves(
    collection: Collection, env: str, scored: set[Path], cells: list[Row], look: dict[str, Look]
) -> Figure:
    """Return against frames, updates and active seconds; beside the first, published SAC and this benchmark's own results."""
    runs = [run for run in collection.runs if run.env == env]
    score = runs[0].score if runs else None
    shown = max((run.evals.step[-1] for run in runs if len(run.evals)), default=0)
    published = [Series(found.name, found.trained) for found in references.published(env, shown)]
    ours = references.ours(env, runs, shown)
    kind = "processor" if collection.shares else "active"
    panels = [
        Panel(
            "by environment frames",
            "frames",
            score.name if score else "",
            _lines_of(runs, scored, list(look), lambda run: run.evals.step),
            published,
            [Series(label, (found.step, found.mean)) for label, found in ours.items()],
            xticks=kilo,
        ),
        Panel("by updates", "updates", "", _lines_of(runs, scored, list(look), lambda run: run.evals.update), xticks=kilo),
        _time_panel(runs, scored, look, kind),
    ]
    beside = " Grey: published SAC, from each source's first evaluation after training began; frames." if published else ""
    grids = listing(dict.fromkeys(found.grid for found in ours.values()))
    if ours:
        beside += f" Dotted: the same algorithm's mean in this benchmark's own results, {grids}."
    how = (
        f"{band_text(cells)}{beside} Active time is acting, storing, sampling and updating, without evaluation. × ends "
        "a run that is in no mean: one unfinished, or not to be scored."
    )
    if collection.shares:
        how += " Processor time is the part of active time in which a run had the processor (Wall-clock)."
    if untimed := [f"{run.label} seed {run.seed}" for run in runs if not run.conditions]:
        how += f" Not by {kind} time, since continued under another set-up: {listing(untimed)}."
    alt = f"Learning curves of {', '.join(label for label in look if any(run.label == label for run in runs))} on {env}"
    return draw(f"curves_{slug(env)}", env, alt, lambda: lines(panels, look, share_y=True, dotted=grids), how=how)


def _time_panel(runs: list[Run], scored: set[Path], look: dict[str, Look], kind: str = "active") -> Panel:
    title = f"by {kind} time"
    conditions = {run.conditions for run in runs} - {None}
    if len(conditions) > 1:
        message = (
            f"not drawn: these runs were timed\nunder {len(conditions)} different set-ups\n(hardware, torch, threads, "
            "jobs),\nsee Wall-clock"
        )
        return Panel(title, "seconds", message=message)
    timed = [run for run in runs if run.conditions and len(run.clock.step)]
    if not timed:
        message = "no clock was recorded" if conditions else "not drawn: each run was timed\nunder several set-ups"
        return Panel(title, "seconds", message=message)
    return Panel(
        title,
        "seconds",
        "",
        _lines_of(timed, scored, list(look), lambda run: run.clock.at(run.evals.step)),
        xticks=kilo,
    )


def overview(collection: Collection, scored: set[Path], cells: list[Row], look: dict[str, Look]) -> Figure:
    """All environments on one sheet, against frames."""
    panels = []
    for env in collection.envs:
        runs = [run for run in collection.runs if run.env == env]
        drawn = _lines_of(runs, scored, list(look), lambda run: run.evals.step)
        panels.append(Panel(env, "frames", "", drawn, xticks=kilo))
    alt = f"Learning curves on {len(panels)} environments"
    return draw("curves_overview", "All environments", alt, lambda: lines(panels, look, columns=4, height=1.9),
                how=band_text(cells))  # fmt: skip


def aggregates(summary: Row, look: dict[str, Look]) -> Figure:
    names = {"mean": "mean", "iqm": "IQM", "median": "median", "optimality_gap": "optimality gap (less is better)"}
    labels = summary["aggregates"]["labels"]
    have = [label for label in look if "final" in labels.get(label, {})]
    panels = [
        (title, [Bar(_named(summary, label, "\n"), labels[label]["final"][name], label) for label in have])
        for name, title in names.items()
    ]
    tasks = len(summary["aggregates"]["envs"])
    how = (
        "Points are estimates, bars their 95 % intervals over seeds. IQM leaves out the lowest and the "
        "highest quarter of the runs, every task weighing the same. The optimality gap is the mean shortfall from 1. Hollow: "
        "no interval; pale bar between end marks: unreliable."
    )
    caption = f"Normalised final score, {tasks} task{'s' if tasks != 1 else ''} (0: random policy, 1: top of the range)"
    alt = f"{caption} of {', '.join(_named(summary, label) for label in have)}"
    return draw("aggregates", caption, alt, lambda: intervals(panels, look), how=how)


def _named(summary: Row, label: str, between: str = " ") -> str:
    """The label as a figure over several tasks shows it: marked where it lacks some of them."""
    share = share_of_tasks(summary, label)
    return f"{label}{between}({share})" if share else label


def profiles(collection: Collection, rows: list[Row], summary: Row, look: dict[str, Look]) -> Figure:
    """Performance profiles; beside them, over several tasks, the mean during training."""
    tau = np.linspace(0, 1, 101)
    drawn = []
    for label in look:
        tasks = scores(rows, label, summary["aggregates"]["envs"], "final_normalised")
        if tasks:
            share, low, high = stats.profile(tasks, tau)
            if min(map(len, tasks)) < stats.RELIABLE_SEEDS:  # a bootstrap of few seeds above a threshold is often all or none
                low = high = None
            drawn.append(Series(label, (tau, share), None if low is None else (tau, low, high)))
    panels = [
        Panel("performance profile", "normalised final score τ", "share of runs above τ", drawn, ylim=(-0.03, 1.03))
    ]
    how = (
        "A profile says which share of an algorithm's runs ends above a score; a line that lies higher everywhere is "
        f"better throughout. Its shade: a 95 % interval, where every task has {stats.RELIABLE_SEEDS} seeds."
    )
    if len(summary["aggregates"]["envs"]) > 1:
        panels.append(_efficiency(collection, rows, summary, look))
        how += (
            " Right: the mean normalised score over tasks during training, tasks aligned by the share of their frames. "
            "Its shade: a 95 % interval."
        )
    names = {line.label: _named(summary, line.label) for line in drawn}
    alt = f"Performance profiles of {', '.join(names.values())}"
    caption = "Performance profiles" + (" and sample efficiency" if len(panels) > 1 else "")
    return draw("profiles", caption, alt, lambda: lines(panels, look, columns=2, names=names), how=how)


def _efficiency(collection: Collection, rows: list[Row], summary: Row, look: dict[str, Look]) -> Panel:
    share = np.linspace(0, 1, 41)
    budgets = {cell["env"]: cell["budget"] for cell in summary["cells"] if cell["budget"]}
    scored = {(row["env"], row["label"], row["seed"]) for row in rows if row["scored"]}
    drawn = []
    for label in look:
        curves = []
        for env in summary["aggregates"]["envs"]:
            runs = [run for run in collection.runs if (run.env, run.label) == (env, label)]
            runs = [run for run in runs if (env, label, run.seed) in scored]
            if runs:
                curves.append(runs[0].score.normalise(np.array([_within(run, budgets[env], share) for run in runs])))
        if curves:
            value, low, high = stats.mean_over_tasks(curves)
            drawn.append(Series(label, (share, value), None if low is None else (share, low, high)))
    return Panel("sample efficiency", "share of frames", "normalised score", drawn, xticks=lambda value: f"{100 * value:.0f} %")


def _within(run: Run, budget: int, share: np.ndarray) -> np.ndarray:
    """Values at the given shares of a budget in frames, from the evaluations within it, as the tables have them."""
    kept = run.evals.step <= run.whole(budget)
    return np.interp(share * run.whole(budget), run.evals.step[kept], run.evals.value[kept])


def improvement(summary: Row, look: dict[str, Look], env: str | None) -> Figure:
    """P(improvement) of each pair over all tasks (env None) or on one."""
    pairs = [pair for pair in summary["pairs"] if pair["env"] == env and pair["comparable"]]
    bars = [Bar(f"{pair['x']} over {pair['y']}", pair["improvement"], pair["x"]) for pair in pairs]
    where = env or f"{len(summary['aggregates']['envs'])} tasks"
    how = (
        "The chance that a random run of the first scores above a random run of the second; 0.5 (dashed) is a coin "
        "toss. "
        "An interval that contains 0.5 decides nothing. Pale bar between end marks: unreliable."
    )
    panels = [("", bars)]
    alt = f"Probability of improvement for {len(bars)} pairs on {where}"
    return draw(
        "improvement",
        f"Probability of improvement, {where}",
        alt,
        lambda: intervals(panels, look, middle=0.5, columns=1),
        how=how,
    )


def training_curves(collection: Collection, env: str, look: dict[str, Look]) -> Figure | None:
    """Q values, losses, alignment."""
    runs = [run for run in collection.runs if run.env == env]
    panels = []
    for name, title in HEALTH.items():
        found = {
            label: [run.metrics[name] for run in runs if run.label == label and name in run.metrics] for label in look
        }
        # ~(x <= 0): positive, or not a number
        log = name == "critic_loss" and all((~(curve.value <= 0)).all() for own in found.values() for curve in own)
        drawn = [
            series(label, [(curve.step, curve.value) for curve in own], log=log) for label, own in found.items() if own
        ]
        if drawn and len(panels) < 3:
            panels.append(Panel(title, "frames", "", drawn, log=log, xticks=kilo))
    if not panels:
        return None
    logarithms = " On a logarithmic scale: of the logarithms." if any(panel.log for panel in panels) else ""
    how = (
        "Q far above what the returns allow, or a loss that grows without end, is divergence before it is reported as "
        f"such. {EVERY_RUN}{logarithms}"
    )
    return draw(f"training_{slug(env)}", f"Q-values and losses: {env}", f"Training curves on {env}",
                lambda: lines(panels, look, height=2.1), how=how)  # fmt: skip
