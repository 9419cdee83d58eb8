"""The report's figures, from runs and the summary; how they are drawn is in figures.py and charts.py."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from reports import behaviour, references, stats
from reports.answer import main_timings
from reports.charts import Bar, clouds, intervals, ridges, stacked
from reports.figures import Look, Panel, Series, draw, kilo, lines, looks, series
from reports.html import Figure
from reports.load import IDLE_PHASES, LOOP_PHASES, Collection, Run
from reports.summary import SIZED, Row, scores, share_of_tasks
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
    return f"{BAND}, the shade its 95 % t interval{none}.{weak}"


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
    names = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap (less is better)"}
    labels = summary["aggregates"]["labels"]
    have = [label for label in look if "final" in labels.get(label, {})]
    panels = [
        (title, [Bar(_named(summary, label, "\n"), labels[label]["final"][name], label) for label in have])
        for name, title in names.items()
    ]
    tasks = len(summary["aggregates"]["envs"])
    how = (
        "Points are estimates, bars 95 % intervals (stratified bootstrap over seeds). IQM leaves out the lowest and the "
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
    """Performance profiles; beside them, over several tasks, the IQM during training."""
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
            " Right: the IQM over tasks and seeds during training, tasks aligned by the share of their frames. "
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
            value, low, high = stats.iqm_curve(curves)
            drawn.append(Series(label, (share, value), None if low is None else (share, low, high)))
    return Panel("sample efficiency", "share of frames", "IQM", drawn, xticks=lambda value: f"{100 * value:.0f} %")


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


def phases(summary: Row) -> Figure | None:
    """Milliseconds per update by phase, acting and storing included; None when nothing was timed."""
    panels, parts, several = [], [], len(summary["set_ups"]) > 1
    for env in summary["envs"]:
        bars = {}
        for cell in summary["cells"]:
            cost = cell["cost"]
            split = {
                key.removeprefix("ms_"): value
                for key, value in cost.items()
                if key.startswith("ms_") and key != "ms_per_update"
            }
            split = {name: value for name, value in split.items() if name not in IDLE_PHASES}
            if cell["env"] == env and split:
                bars[f"{cell['label']} (set-up {cell['conditions'][0]})" if several else cell["label"]] = split
                parts += [name for name in split if name not in parts]
        if bars:
            panels.append((env, bars))
    if not panels:
        return None
    first = (*LOOP_PHASES, "sample")
    parts = [name for name in first if name in parts] + sorted(set(parts) - set(first), key=parts.index)
    how = (
        "What one update costs with everything around it: acting, stepping and storing are shown per update. The "
        "number is the total in ms."
    )
    return draw("phases", "Milliseconds per update by phase", "Stacked bars of milliseconds per update by phase",
                lambda: stacked(panels, parts, "ms"), how=how)  # fmt: skip


def steps_of_denoising(timing: list[Row], labels: list[str]) -> Figure | None:
    """Time of the actor's phase, of a whole update and of an action against T; without a chain as level lines. None where
    no algorithm was timed at two T."""
    look = looks([*labels, *sorted({str(row.get("algo")) for row in timing} - set(labels))])
    panels = []
    for name, title in (("actor", "actor update"), ("update", "whole update"), ("act", "one action")):
        by_label: dict[str, list[Row]] = defaultdict(list)
        for row in main_timings(timing, name):
            by_label[str(row.get("algo"))].append(row)
        drawn, levels = [], []
        for label, rows in by_label.items():
            chain = sorted((row for row in rows if row.get("T")), key=lambda row: row["T"])
            if chain:
                columns = ("T", "median_ms", "iqr_ms")
                x, y, spread = (np.array([row.get(key) or 0 for row in chain], dtype=float) for key in columns)
                drawn.append(Series(label, (x, y), (x, y - spread / 2, y + spread / 2), [(x, y)]))
            else:
                levels.append(Series(label, (np.zeros(1), np.array([rows[0]["median_ms"]]))))
        if any(len(x) > 1 for x, _ in (series.mean for series in drawn)):
            panels.append(Panel(title, "denoising steps T", "ms" if not panels else "", drawn, levels=levels))
    if not panels:
        return None
    one = main_timings(timing, "actor") or main_timings(timing, "update")
    setup = ", ".join(f"{key} {one[0][key]}" for key in SIZED if one[0].get(key))
    quiet = one[0].get("clock") != "processor"
    shade = ", shade: interquartile range" if quiet else ", in processor time, for others used the core"
    how = (
        f"Medians of repeated timings ({setup}){shade}. A flat line: the cost does not depend on T; "
        "dashed: no denoising chain."
    )
    return draw("timing_steps", "Cost against the number of denoising steps", "Milliseconds against denoising steps T",
                lambda: lines(panels, look), how=how)  # fmt: skip


def probed_runs(collection: Collection, env: str) -> list[tuple[Run, behaviour.Probes]]:
    """An environment's runs with readable probes, finished ones and low seeds first."""
    runs = sorted((run for run in collection.runs if run.env == env), key=lambda run: (run.state != "done", run.seed))
    return [(run, run.probes) for run in runs if run.probes]


def first_of_each(
    probed: list[tuple[Run, behaviour.Probes]], look: dict[str, Look]
) -> dict[str, tuple[Run, behaviour.Probes]]:
    """For each label one of its runs, since policies of different seeds are different and are not pooled: that of the lowest
    seed that all labels have finished, for first states depend on it; without such a seed each label's first."""
    runs: dict[str, dict[int, tuple[Run, behaviour.Probes]]] = defaultdict(dict)
    for run, probes in probed:
        runs[run.label][run.seed] = run, probes
    finished = ({seed for seed, (run, _) in own.items() if run.state == "done"} for own in runs.values())
    shared = set.intersection(*finished)
    return {label: runs[label][min(shared) if shared else next(iter(runs[label]))] for label in look if label in runs}


def _whose(chosen: dict[str, tuple[Run, behaviour.Probes]]) -> str:
    """Which policies were sampled, whether at the same states, and which give actions in other units than the rest."""
    early = [label for label, (run, found) in chosen.items() if run.state != "done" or found.step[-1] < run.steps]
    policy = f"last recorded policy (not the final one: {listing(early)})" if early else "final policy"
    bounded = [label for label, (_, found) in chosen.items() if found.on_bound is not None]
    units = dict.fromkeys(bounded if len(bounded) < len(chosen) else [], " in units of its bounds")
    seeds = listing([f"{label} seed {run.seed}{units.get(label, '')}" for label, (run, _) in chosen.items()])
    same = len({run.seed for run, _ in chosen.values()}) == 1
    states = "the same states" if same else "states that differ, since no seed is finished by all"
    return f"Sampled: the {policy} of {seeds}, at {states}."


def actions(env: str, chosen: dict[str, tuple[Run, behaviour.Probes]], look: dict[str, Look]) -> Figure:
    """Distribution of sampled actions at the end of training: over first states, or over dimensions at the first one."""
    states, _, size = next(iter(chosen.values()))[1].last.shape
    bounded = all(probes.on_bound is not None for _, probes in chosen.values())
    panels = []
    for place in range(min(3, states if size == 1 else size)):
        state, dimension = (place, 0) if size == 1 else (0, place)
        samples = {
            label: probes.last[state, :, dimension]
            for label, (_, probes) in chosen.items()
            if state < probes.last.shape[0] and dimension < probes.last.shape[2]
        }
        found = np.concatenate(list(samples.values()))
        low, high = (-1.0, 1.0) if bounded else (found.min(), found.max())
        drawn = {label: behaviour.histogram(values, low, high) for label, values in samples.items()}
        title = f"first state {state + 1}" if size == 1 else f"first state 1, action dimension {dimension + 1}"
        panels.append((title, drawn))
    how = (
        f"Samples at fixed first states of an episode. {_whose(chosen)} Two peaks are two ways to act; "
        "one spike is a policy without choice. Every row is as high as its highest bin, whose share stands beside it."
    )
    return draw(f"actions_{slug(env)}", f"Actions at the first state: {env}", f"Histograms of sampled actions on {env}",
                lambda: ridges(panels, look, "action (bounds at ±1)" if bounded else "action"), how=how)  # fmt: skip


def embedding(env: str, chosen: dict[str, tuple[Run, behaviour.Probes]], look: dict[str, Look]) -> Figure | None:
    """Action samples at the first state in a plane, a panel for each label; None for one-dimensional actions."""
    samples = {label: probes.last[0] for label, (_, probes) in chosen.items() if probes.last.shape[2] > 1}
    if not samples:
        return None
    points, shares = behaviour.embed(list(samples.values()))
    behind = np.concatenate(points)
    panels = [(label, group, behind, label) for label, group in zip(samples, points, strict=True)]
    plain = next(iter(samples.values())).shape[1] == 2
    names = (
        ("dimension 1", "dimension 2")
        if plain
        else tuple(f"PC {i + 1} ({100 * s:.0f} %)" for i, s in enumerate(shares))
    )
    how = "Each point is one sampled action at the first state, all labels in one plane" + (
        ". " if plain else " (the first two principal components of all samples). "
    )
    return draw(f"embedding_{slug(env)}", f"Action samples in the plane: {env}", f"Scatter of action samples on {env}",
                lambda: clouds(panels, look, names), how=f"{how}{_whose(chosen)} Grey: the other labels' samples.")  # fmt: skip


def training_curves(collection: Collection, env: str, look: dict[str, Look]) -> Figure | None:
    """Q values, losses, alignment (health), then spread and share on the bound of sampled actions (behaviour)."""
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


def spread(env: str, probed: list[tuple[Run, behaviour.Probes]], look: dict[str, Look]) -> Figure:
    """Spread of sampled actions, and share on the bound where there is one, over training, from all runs' probes."""
    bounded = [(run, probes) for run, probes in probed if probes.on_bound is not None]
    shown = [("spread", "spread (standard deviation)", probed), ("on_bound", "share of actions on the bound", bounded)]
    panels = []
    for name, title, runs in shown if bounded else shown[:1]:
        drawn = [
            series(label, [(probes.step, getattr(probes, name)) for run, probes in runs if run.label == label])
            for label in look
            if any(run.label == label for run, _ in runs)
        ]
        panels.append(Panel(title, "frames", "", drawn, xticks=kilo))
    units = " of bounded actions in units of the bounds (1 is half the range)," if bounded else ""
    how = (
        f"Spread of the samples at one state,{units} averaged over the first states. "
        f"Falling to 0: a policy that has become deterministic. {EVERY_RUN}"
    )
    alt = f"Spread {'and saturation ' if bounded else ''}of actions on {env}"
    return draw(f"spread_{slug(env)}", f"Spread of actions over training: {env}", alt,
                lambda: lines(panels, look, columns=3, height=2.1), how=how)  # fmt: skip
