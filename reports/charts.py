"""Painters of what is no line, in the style of figures.py: intervals and histograms in rows, stacked bars, point clouds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports import stats
from reports.figures import LETTER, SOFT, Look, entitle, sheet
from reports.html import GRID, INK, PAPER

LOOP = ("env", "act", "store", "sample")  # parts that are not learning: grey


@dataclass(frozen=True)
class Bar:
    """A row of an interval plot: an estimate as summary.json holds it, with the label whose look it has."""

    text: str
    estimate: dict[str, Any]
    label: str = ""


def intervals(
    panels: Sequence[tuple[str, Sequence[Bar]]], look: dict[str, Look], *, middle: float | None = None, columns: int = 4
) -> Any:
    """Points with 95 % intervals in rows; hollow without an interval, pale between end marks where it is unreliable."""
    rows = max(len(bars) for _, bars in panels)
    figure, axes = sheet(len(panels), columns=columns, height=0.42 * rows + 0.35, legend_rows=0)
    widest = max(len(line) for _, bars in panels for bar in bars for line in bar.text.split("\n"))
    most = 0.6 if columns == 1 else 0.4
    figure.subplots_adjust(left=min(most, (0.25 + LETTER * widest) / figure.get_figwidth()), wspace=0.16)
    figure.subplots_adjust(bottom=0.32 / figure.get_figheight())
    for position, (axis, (title, bars)) in enumerate(zip(axes, panels, strict=True)):
        entitle(axis, title)
        axis.grid(visible=False, axis="y")
        for height, bar in enumerate(bars):
            _interval(axis, height, bar, look.get(bar.label, Look(INK, "o")))
        if middle is not None:
            axis.axvline(middle, color=SOFT, lw=1, ls=(0, (3, 2)), zorder=0)
        axis.set_ylim(rows - 0.5, -0.6)
        axis.set_yticks(range(len(bars)), [bar.text for bar in bars] if position % columns == 0 else [""] * len(bars))
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.1)
        axis.locator_params(axis="x", nbins=3)
        axis.spines["left"].set_visible(False)
    return figure


def _interval(axis: Any, height: int, bar: Bar, look: Look) -> None:
    value, low, high = (bar.estimate[key] for key in ("value", "low", "high"))
    if low is not None:
        ends, line = [low, high], [height, height]
        if bar.estimate["n"] >= stats.RELIABLE_SEEDS:
            axis.plot(ends, line, color=look.color, lw=5, alpha=0.4, solid_capstyle="butt")
        else:
            axis.plot(ends, line, color=look.color, lw=5, alpha=0.17, solid_capstyle="butt")
            axis.plot(ends, line, color=look.color, ls="none", marker="|", ms=9, markeredgewidth=1.2, alpha=0.7)
    axis.plot(
        [value], [height], marker=look.marker, ms=7, color=look.color, ls="none",
        markerfacecolor=look.color if low is not None else PAPER, markeredgewidth=1.4,
    )  # fmt: skip


def ridges(panels: Sequence[tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]], look: dict[str, Look], xlabel: str) -> Any:
    """Histograms below one another, a panel of rows (label -> edges [n + 1], shares [n]) for each of the same labels; every
    row as high as its highest bin, whose share stands beside it."""
    labels = list(dict.fromkeys(label for _, rows in panels for label in rows))
    figure, axes = sheet(len(panels), height=0.36 * len(labels) + 0.2, legend_rows=0)
    inches = figure.get_figwidth()
    left = (0.25 + LETTER * max(map(len, labels), default=0)) / inches
    figure.subplots_adjust(left=min(0.4, left), right=1 - 0.45 / inches, wspace=0.16)  # room for the shares at the right
    for axis, (title, rows) in zip(axes, panels, strict=True):
        entitle(axis, title)
        axis.set_xlabel(xlabel)
        axis.grid(visible=False, axis="y")
        for base, label in enumerate(labels):
            axis.axhline(base, color=GRID, lw=0.7)
            if label not in rows:
                continue
            edges, shares = rows[label]
            top = base - 0.82 * shares / (shares.max() or 1)
            axis.stairs(top, edges, baseline=base, fill=True, color=look[label].color, alpha=0.55, lw=0)
            axis.annotate(
                f"{100 * shares.max():.0f} %", (edges[-1], base - 0.4), (5, 0), textcoords="offset points", va="center",
                fontsize=8, color=SOFT,
            )  # fmt: skip
        axis.set_ylim(len(labels) - 0.85, -1)
        axis.set_yticks([base - 0.4 for base in range(len(labels))], labels if axis is axes[0] else [""] * len(labels))
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    return figure


def stacked(panels: Sequence[tuple[str, dict[str, dict[str, float]]]], parts: Sequence[str], xlabel: str) -> Any:
    """Horizontal stacked bars, one panel of rows (label -> part -> value) for each environment."""
    import seaborn
    from matplotlib.patches import Patch

    grey = [part for part in parts if part in LOOP]
    shades = [
        *seaborn.color_palette("Greys", len(grey) + 2)[1:-1],
        *seaborn.color_palette("crest", len(parts) - len(grey)),
    ]
    colors = dict(zip([*grey, *(part for part in parts if part not in LOOP)], shades, strict=True))
    rows = max(len(bars) for _, bars in panels)
    legend_rows = math.ceil(len(parts) / 8)
    figure, axes = sheet(len(panels), columns=2, height=0.42 * rows + 0.35, legend_rows=legend_rows)
    widest = max(len(label) for _, bars in panels for label in bars)
    figure.subplots_adjust(left=min(0.4, (0.25 + LETTER * widest) / figure.get_figwidth()), wspace=0.12 + 0.02 * widest)
    for axis, (title, bars) in zip(axes, panels, strict=True):
        entitle(axis, title)
        axis.set_xlabel(xlabel)
        axis.grid(visible=False, axis="y")
        for height, values in enumerate(bars.values()):
            start = 0.0
            for part in parts:
                axis.barh(height, values.get(part, 0.0), left=start, color=colors[part], height=0.62, lw=0)
                start += values.get(part, 0.0)
            axis.annotate(
                f"{start:.3g}", (start, height), (4, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        axis.set_yticks(range(len(bars)), list(bars))
        axis.set_ylim(rows - 0.4, -0.6)
        widest_bar = max(sum(values.get(part, 0.0) for part in parts) for values in bars.values())
        axis.set_xlim(0, 1.14 * widest_bar or 1.0)  # room for the number beside it
    figure.legend(
        handles=[Patch(color=colors[part], label=part) for part in parts], loc="upper left", ncol=8, frameon=False,
        bbox_to_anchor=(0.055, 0.998), handlelength=1, columnspacing=1.3,
    )  # fmt: skip
    return figure


def clouds(panels: Sequence[tuple[str, np.ndarray, np.ndarray, str]], look: dict[str, Look], axes_names: tuple) -> Any:
    """Point clouds, one panel for each label (title, points [M, 2], all points [N, 2] in grey behind, label)."""
    figure, axes = sheet(len(panels), columns=5, width=0.9 + 1.9 * min(5, len(panels)), height=2.0, legend_rows=0)
    everything = np.concatenate([behind for _, _, behind, _ in panels])
    low, high = everything.min(0), everything.max(0)
    margin = 0.06 * (high - low) + 1e-6
    for axis, (title, points, behind, label) in zip(axes, panels, strict=True):
        axis.scatter(*behind.T, s=4, color=SOFT, alpha=0.3, lw=0, rasterized=True)
        axis.scatter(*points.T, s=9, color=look[label].color, alpha=0.65, lw=0, rasterized=len(points) > 300)
        entitle(axis, title)
        axis.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
        axis.locator_params(nbins=4)
        axis.tick_params(labelleft=axis is axes[0])
        axis.set_xlabel(axes_names[0])
    axes[0].set_ylabel(axes_names[1])
    return figure
