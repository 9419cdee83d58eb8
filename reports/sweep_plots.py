"""The figures of a sweep's report: trials over time and over steps, each parameter, all together, and their importance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from reports.figures import PAPER, SOFT, WIDTH, Look, draw, kilo, legend, sheet
from reports.html import INK, Figure
from reports.plots import slug

Record = dict[str, Any]
GOOD = "#b58900"  # the best trial
STATES = {
    "complete": {"marker": "o", "s": 30},
    "pruned": {"marker": "v", "s": 26, "facecolor": PAPER},
    "fail": {"marker": "x", "s": 30},
}


def of_state(study: Record, *states: str) -> list[Record]:
    return [trial for trial in study["trials"] if trial["state"] in states]


def winner(study: Record) -> Record | None:
    return next((trial for trial in study["trials"] if trial["number"] == study["best"]), None)


def history(studies: dict[str, Record], look: dict[str, Look]) -> Figure:
    def paint() -> Any:
        figure, axes = sheet(len(studies), columns=2, width=WIDTH, height=2.8)
        for axis, (label, study) in zip(axes, studies.items(), strict=True):
            _history(axis, label, study, look[label].color)
        legend(figure, {}, look, [*_handles(), _line_handle("best so far")])
        return figure

    alt = "; ".join(f"{label}: {len(of_state(s, 'complete', 'pruned', 'fail'))} trials" for label, s in studies.items())
    return draw(
        "history", "The search, trial by trial", f"Value of every trial in order, and the best so far. {alt}.", paint,
        how="A point is a trial: its normalised score averaged over tuning seeds and tasks, at the end or, for a "
        "pruned one, where "
        "it was ended. Failed trials stand at the lower edge. Trials of several processes are numbered as they were taken.",
    )  # fmt: skip


def _history(axis: Any, label: str, study: Record, color: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_title(label)
    axis.set_xlabel("trial")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("normalised score")
    _scatter(axis, of_state(study, "complete", "pruned"), lambda trial: trial["number"], color)
    complete = of_state(study, "complete")
    if complete:
        best = np.maximum.accumulate([trial["value"] for trial in complete])
        axis.step([trial["number"] for trial in complete], best, where="post", color=color, lw=1.6)
    _limit(axis, [trial["value"] for trial in of_state(study, "complete", "pruned")])
    if failed := of_state(study, "fail"):
        low = axis.get_ylim()[0]
        axis.scatter([trial["number"] for trial in failed], [low] * len(failed), color=INK, clip_on=False, **STATES["fail"])


def _scatter(axis: Any, trials: list[Record], x: Callable[[Record], Any], color: str) -> None:
    for state in ("complete", "pruned"):
        chosen = [trial for trial in trials if trial["state"] == state]
        style = {"facecolor": color, **STATES[state]}
        points = [x(trial) for trial in chosen], [trial["value"] for trial in chosen]
        axis.scatter(*points, edgecolor=color, lw=1, zorder=3, **style)


def _limit(axis: Any, values: list[float]) -> None:
    """Diverged trials must not squeeze the others: the axis ends 1.5 quartile distances below the lower quartile."""
    if not values:
        return
    low, high = np.quantile(values, [0.25, 0.75])
    bottom = max(min(values), low - 1.5 * (high - low))
    margin = 0.06 * (max(values) - bottom) or 0.05
    axis.set_ylim(bottom - margin, max(values) + margin)
    axis.locator_params(axis="y", nbins=5)


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D

    def handle(state: str, name: str) -> Any:
        marker = STATES[state]["marker"]
        return Line2D([], [], ls="none", marker=marker, color=INK, ms=5, label=name, mfc=STATES[state].get("facecolor", INK))

    return [handle("complete", "complete"), handle("pruned", "pruned"), handle("fail", "failed")]


def _line_handle(name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, lw=1.6, label=name)


def curves(label: str, study: Record, look: dict[str, Look]) -> Figure | None:
    """The seed-averaged score of every trial on the way, which pruning goes by."""
    trials = [trial for trial in of_state(study, "complete", "pruned") if trial["curve"]]
    if not trials:
        return None

    def paint() -> Any:
        from matplotlib.ticker import FuncFormatter

        figure, (axis,) = sheet(1, columns=1, height=2.8, legend_rows=1)
        axis.set_title(label)
        axis.set_xlabel("environment frames")
        axis.set_ylabel("normalised score")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: kilo(value)))
        for trial in trials:
            steps, values = zip(*trial["curve"], strict=True)
            best = trial["number"] == study["best"]
            pruned = trial["state"] == "pruned"
            color = GOOD if best else SOFT if pruned else look[label].color
            axis.plot(steps, values, color=color, lw=2.2 if best else 0.9, alpha=1 if best else 0.6, zorder=4 if best else 2)
            axis.plot(steps[-1:], values[-1:], marker="v" if pruned else "o", ms=4, color=color, zorder=4 if best else 2)
        _limit(axis, [value for trial in trials for _, value in trial["curve"]])
        legend(figure, {}, look, [_handles()[0], _handles()[1]])
        return figure

    return draw(
        f"{slug(label)}-curves", f"{label}: trials over their steps", f"Score of {len(trials)} trials of {label} over "
        "frames.",
        paint, how="Each line is a trial, averaged over its seeds and tasks at equal frames; grey ones were pruned "
        "where they end, "
        "the golden one is the best.",
    )  # fmt: skip


def slices(label: str, study: Record, look: dict[str, Look]) -> Figure:
    """Value over each parameter."""
    space = study["definition"]["space"]

    def paint() -> Any:
        figure, axes = sheet(len(space), columns=3, height=2.4, legend_rows=1)
        trials = of_state(study, "complete", "pruned")
        for axis, (name, given) in zip(axes, space.items(), strict=True):
            place = position(given)
            axis.set_xlabel(name)
            _scatter(axis, trials, lambda trial, name=name, place=place: place(trial["params"][name]), look[label].color)
            if best := winner(study):
                axis.scatter([place(best["params"][name])], [best["value"]], color=GOOD, marker="*", s=150, zorder=4)
            _limit(axis, [trial["value"] for trial in trials])
            if place(study["defaults"][name]) is not None:
                axis.axvline(place(study["defaults"][name]), color=SOFT, lw=1, ls=(0, (3, 2)), zorder=1)
            ticks, names = ticks_of(given)
            axis.set_xticks(ticks, names)
            axis.set_xlim(-0.05, 1.05)
        axes[0].set_ylabel("normalised score")
        legend(figure, {}, look, [*_handles()[:2], _star_handle(), _default_handle()])
        return figure

    names = ", ".join(space)
    return draw(
        f"{slug(label)}-slices", f"{label}: value over each parameter", f"Value of every trial of {label} over {names}.", paint,
        how="Each panel shows all trials over one parameter; the others differ as well, so a cloud without a slope "
        "does not yet "
        "mean that the parameter is idle.",
    )  # fmt: skip


def _star_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], ls="none", marker="*", color=GOOD, ms=10, label="best")


def _default_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=SOFT, lw=1, ls=(0, (3, 2)), label="default")


def position(given: Record) -> Callable[[Any], float | None]:
    """Where a parameter's value lies on its axis, from 0 to 1; None for a value off the axis (a default may be)."""
    if choices := given.get("choices"):
        def of_choice(value: Any) -> float | None:
            return choices.index(value) / max(1, len(choices) - 1) if value in choices else None

        return of_choice
    low, high = given["low"], given["high"]
    scale = math.log if given.get("log") else float

    def of_range(value: Any) -> float | None:
        if not low <= value <= high:
            return None
        return (scale(value) - scale(low)) / (scale(high) - scale(low))

    return of_range


def ticks_of(given: Record) -> tuple[list[float], list[str]]:
    """Places and names of a parameter's ticks: its choices, or its ends and what lies between."""
    place = position(given)
    if choices := given.get("choices"):
        return [place(choice) for choice in choices], [str(choice) for choice in choices]
    low, high = given["low"], given["high"]
    middle = math.sqrt(low * high) if given.get("log") else (low + high) / 2
    middle = round(middle) if isinstance(low, int) else middle
    values = list(dict.fromkeys([low, middle, high]))
    return [place(value) for value in values], [f"{value:.3g}" for value in values]


def parallel(label: str, study: Record) -> Figure | None:
    """All parameters and the value at once."""
    space, trials = study["definition"]["space"], of_state(study, "complete")
    if not trials:
        return None
    values = [trial["value"] for trial in trials]
    low, high = min(values), max(values)

    def paint() -> Any:
        import matplotlib

        figure, (axis,) = sheet(1, columns=1, width=WIDTH, height=3.0, legend_rows=0)
        figure.set_figwidth(WIDTH)
        figure.subplots_adjust(left=0.06, right=0.95)
        shades = matplotlib.colormaps["viridis_r"]
        names = [*space, "score"]
        for trial in sorted(trials, key=lambda trial: trial["value"]):
            height = (trial["value"] - low) / (high - low) if high > low else 0.5
            points = [position(space[name])(trial["params"][name]) for name in space] + [height]
            best = trial["number"] == study["best"]
            axis.plot(
                range(len(names)), points, color=GOOD if best else shades(height), lw=3 if best else 1.1,
                alpha=1 if best else 0.75, zorder=4 if best else 2,
            )  # fmt: skip
        for x, name in enumerate(names):
            axis.axvline(x, color=INK, lw=0.8, zorder=1)
            ticks, texts = ticks_of(space[name]) if name in space else ([0, 1], [f"{low:.3g}", f"{high:.3g}"])
            for tick, text in zip(ticks, texts, strict=True):
                axis.annotate(text, (x, tick), (4, 0), textcoords="offset points", va="center", fontsize=8.5, zorder=5)
        axis.set_xticks(range(len(names)), names)
        axis.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.08, len(names) - 0.8))
        axis.grid(visible=False)
        for side in ("left", "bottom"):
            axis.spines[side].set_visible(False)
        axis.tick_params(length=0)
        return figure

    return draw(
        f"{slug(label)}-parallel", f"{label}: parallel coordinates", f"{len(trials)} complete trials of {label}, a line each.",
        paint,
        how="A line is a complete trial, from its parameters to its score on the last axis: the darker the better, the golden "
        "one is the best. Log ranges have log axes.",
    )  # fmt: skip


def importance(studies: dict[str, Record], look: dict[str, Look]) -> Figure | None:
    known = {label: study["importance"] for label, study in studies.items() if study["importance"]}
    if not known:
        return None

    def paint() -> Any:
        rows = max(len(shares) for shares in known.values())
        figure, axes = sheet(len(known), columns=2, height=0.36 * rows + 0.4, legend_rows=0)
        widest = max(len(name) for shares in known.values() for name in shares)
        figure.subplots_adjust(left=min(0.4, (0.3 + 0.085 * widest) / figure.get_figwidth()), wspace=0.3)
        for axis, (label, shares) in zip(axes, known.items(), strict=True):
            axis.set_title(label)
            axis.barh(range(len(shares)), list(shares.values()), color=look[label].color, height=0.6)
            axis.set_yticks(range(len(shares)), list(shares))
            axis.set_ylim(rows - 0.4, -0.6)
            axis.set_xlim(0, 1)
            axis.grid(visible=False, axis="y")
        return figure

    return draw(
        "importance", "How much each parameter matters", "Share of the score's variance by parameter.", paint,
        how="fANOVA: the share of the variance of the score over the whole space that a parameter explains alone, by "
        "a random forest "
        "fitted to the complete trials. With few trials it is a hint, no measurement.",
    )  # fmt: skip
