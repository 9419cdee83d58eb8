"""The report's figures of sampled actions, from the probes of runs; behaviour.py computes what they show."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from reports import behaviour
from reports.charts import clouds, ridges
from reports.figures import Look, Panel, draw, kilo, lines, series
from reports.html import Figure
from reports.load import Collection, Run
from reports.plots import EVERY_RUN, slug
from reports.words import listing


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


def spread(env: str, probed: list[tuple[Run, behaviour.Probes]], look: dict[str, Look]) -> Figure:
    """Over training, from all runs: spread of the sampled actions, and the share on the bound where there is one, of these and
    of the actions that evaluations took."""
    bounded = [(run, probes) for run, probes in probed if probes.on_bound is not None]
    shown = [("spread (standard deviation)", [(run.label, (probes.step, probes.spread)) for run, probes in probed])]
    if bounded:
        shown += [("share of samples on the bound", [(run.label, (own.step, own.on_bound)) for run, own in bounded])]
    if evaluated := [(run.label, run.others["on_bound"]) for run, _ in bounded if "on_bound" in run.others]:
        shown += [("share of evaluations' actions", [(label, (curve.step, curve.value)) for label, curve in evaluated])]
    panels = []
    for title, drawn in shown:
        curves = {label: [curve for own, curve in drawn if own == label] for label in look}
        panels.append(Panel(title, "frames", "", [series(label, own) for label, own in curves.items() if own], xticks=kilo))
    units = " of bounded actions in units of the bounds (1 is half the range)," if bounded else ""
    where = " The share of the actions that evaluations took on the bound is over whole episodes." if evaluated else ""
    how = (
        f"Spread of the samples at one state,{units} averaged over the first states. "
        f"Falling to 0: a policy that has become deterministic.{where} {EVERY_RUN}"
    )
    alt = f"Spread {'and saturation ' if bounded else ''}of actions on {env}"
    return draw(f"spread_{slug(env)}", f"Spread of actions over training: {env}", alt,
                lambda: lines(panels, look, columns=3, height=2.1), how=how)  # fmt: skip
