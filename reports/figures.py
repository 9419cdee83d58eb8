"""Drawings in one style, each as PNG and SVG, byte for byte the same: the style, and lines with bands (others: charts.py).

Nothing here touches matplotlib's global state: figures are made without pyplot, so that a notebook's settings and a
thread's figures stay what they are.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reports import html, stats
from reports.html import GRID, INK, PAPER

# Okabe and Ito's colours (told apart with any colour vision) without yellow and black, which need a certain background.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#6A51A3", "#A3142E")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")
HOUSE = ("qsm", "dql", "pg", "sac", "td3", "ctq", "dpok")  # look the same on every page
SOFT = "#7b8794"
WIDTH, NARROW = 10.4, 6.6  # inches: as wide as the page's text, and of a single panel
DRAWN_POINTS = 240  # of a line; more cannot be seen and make files large
LEGEND_ROW = 0.24  # inches
LETTER, BOLD_LETTER = 0.078, 0.096  # inches, about, of labels and of titles
DOTS, THIN_DOTS = (0, (1, 1.2)), (0, (1, 1.5))  # of earlier results, of published curves
DPI = 110


@dataclass(frozen=True)
class Look:
    """How one label is drawn everywhere: colour, and marker and dashes that tell it apart without colour."""

    color: str
    marker: str
    dashes: Any = "-"


def looks(labels: Sequence[str]) -> dict[str, Look]:
    dashes = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
    own = {label: HOUSE.index(label) for label in labels if label in HOUSE}
    free = (place for place in itertools.count() if place not in own.values())
    places = {label: own[label] if label in own else next(free) for label in labels}
    return {
        label: Look(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], dashes[(i // len(COLORS)) % len(dashes)])
        for label, i in places.items()
    }


def label_cell(label: str, look: dict[str, Look]) -> html.Cell:
    return html.Cell(label, color=look[label].color)


@dataclass(frozen=True)
class Series:
    """One label's lines: the mean with its band, each seed faintly, unfinished seeds faintly and dashed (x, y pairs)."""

    label: str
    mean: tuple[np.ndarray, np.ndarray] | None = None
    band: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    seeds: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    partial: Sequence[tuple[np.ndarray, np.ndarray]] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `message` is written instead of lines when there is nothing to compare."""

    title: str
    xlabel: str
    ylabel: str = ""
    series: Sequence[Series] = ()
    references: Sequence[Series] = ()  # published curves: grey, told apart by marker
    ours: Sequence[Series] = ()  # earlier results of the same labels: dotted, in the label's colour
    message: str = ""
    log: bool = False
    xticks: Callable[[float], str] | None = None
    ylim: tuple[float, float] | None = None
    levels: Sequence[Series] = field(default_factory=tuple)  # horizontal lines: mean = (x, [height])


def kilo(value: float) -> str:
    """64000 -> 64k, 1500000 -> 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def series(label: str, curves: Sequence[tuple], partial: Sequence[tuple] = (), *, log: bool = False) -> Series:
    """Mean and 95 % t interval at each x over a label's seeds, where all of them have values; from (x, y) pairs. log: those
    of the logarithms, for positive values on a logarithmic scale, where an interval around a sum reaches below zero."""
    finite = [(x[ok], y[ok]) for x, y in curves if (ok := np.isfinite(x) & np.isfinite(y)).any()]
    thin = [_thin(*curve) for curve in finite]
    partial = [_thin(*curve) for curve in map(_until_infinite, partial) if len(curve[0])]
    if not finite:
        return Series(label, partial=partial)
    start, stop = max(x[0] for x, _ in finite), min(x[-1] for x, _ in finite)
    first = finite[0][0]
    same = len(first) <= DRAWN_POINTS and all(np.array_equal(x, first) for x, _ in finite)
    x = first if same else np.linspace(start, max(start, stop), DRAWN_POINTS)
    values = np.array([np.interp(x, *curve) for curve in finite])
    mean, low, high = stats.mean_interval(np.log(values) if log else values)
    if log:
        mean, low, high = (None if line is None else np.exp(line) for line in (mean, low, high))
    return Series(label, (x, mean), None if low is None else (x, low, high), thin, partial)


def _until_infinite(curve: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A curve up to its first value that is not finite: that is where it ended."""
    finite = np.isfinite(curve[0]) & np.isfinite(curve[1])
    end = len(finite) if finite.all() else int(finite.argmin())
    return curve[0][:end], curve[1][:end]


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) <= DRAWN_POINTS:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, DRAWN_POINTS).round().astype(int))
    return x[keep], y[keep]


def sheet(panels: int, *, columns: int = 3, width: float = WIDTH, height: float = 2.6, legend_rows: int = 1) -> tuple:
    """A figure with a grid of axes and room for a shared legend above; returns (figure, axes). Unused places are empty."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, panels))
    width = width if columns > 1 else min(width, NARROW)
    rows = math.ceil(panels / columns)
    top, bottom, left, right = 0.42 + LEGEND_ROW * legend_rows, 0.55, 0.72, 0.2
    total = rows * height + (rows - 1) * 0.95 + top + bottom
    figure = Figure(figsize=(width, total), facecolor=PAPER)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    inner = (width - left - right) / columns
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / total,
        bottom=bottom / total,
        wspace=0.62 / max(inner - 0.62, 0.1) if columns > 1 else 0,
        hspace=0.95 / height,
    )
    for unused in axes[panels:]:
        unused.remove()
    return figure, list(axes[:panels])


def style() -> dict[str, Any]:
    """matplotlib settings for one drawing: seaborn's ticks style in the page's ink."""
    import seaborn

    return {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("notebook", font_scale=0.82),
        "font.family": ["DejaVu Sans"],
        "svg.hashsalt": "reports",
        "svg.fonttype": "path",
        "axes.facecolor": "none",
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlesize": 10,
        "axes.titley": 1.0,  # fixed: looking for a free place costs a third of the drawing
        "axes.titlepad": 9,  # points
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "path.simplify": True,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }


def draw(name: str, caption: str, alt: str, paint: Callable[[], Any], *, how: str = "") -> html.Figure:
    """Runs `paint`, which returns a matplotlib Figure, under the page's style and keeps what it drew."""
    import matplotlib

    with matplotlib.rc_context(style()):
        figure = paint()
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return html.Figure(name, png.getvalue(), svg.getvalue(), caption, alt, how, wide=figure.get_figwidth() > NARROW)


def entitle(axis: Any, text: str) -> None:
    """A title that stays above its own axes: of smaller letters where it is long."""
    space = axis.get_position().width * axis.figure.get_figwidth() + 0.3  # of the room between two panels
    axis.set_title(text, fontsize=min(10.0, max(6.5, 10 * space / (BOLD_LETTER * max(1, len(text))))))


def legend_columns(texts: Sequence[str], width: float) -> int:
    """How many entries of a legend stand side by side on a figure of so many inches."""
    return max(1, min(8, int((width - 0.6) / (0.55 + LETTER * max(map(len, texts), default=0)))))


def legend(figure: Any, labels: dict[str, str], look: dict[str, Look], extra: Sequence[Any] = ()) -> None:
    """One legend for all panels above them, label -> text, `extra` handles in a row of their own."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=look[label].color, ls=look[label].dashes, marker=look[label].marker, lw=2, ms=5, label=text
        )
        for label, text in labels.items()
    ]
    left, inches = 0.5 / figure.get_figwidth(), figure.get_figheight()
    top = 0.02
    for group in (handles, list(extra)):
        if not group:
            continue
        columns = legend_columns([handle.get_label() for handle in group], figure.get_figwidth())
        columns = math.ceil(len(group) / math.ceil(len(group) / columns))  # rows of nearly one length
        figure.legend(
            handles=group, loc="upper left", ncol=columns, frameon=False, handlelength=1.8, columnspacing=1.5,
            bbox_to_anchor=(left, 1 - top / inches), borderaxespad=0.3,
        )  # fmt: skip
        top += LEGEND_ROW * math.ceil(len(group) / columns)


def lines(
    panels: Sequence[Panel], look: dict[str, Look], *, columns: int = 3, height: float = 2.6, share_y: bool = False,
    names: dict[str, str] | None = None, dotted: str = "",
) -> Any:  # fmt: skip
    """A sheet of line panels with one legend; the painter for `draw`. names: label -> its text in the legend, if another.
    dotted: what the panels' dotted lines are."""
    labels = {
        label: (names or {}).get(label, label)
        for label in look
        if any(line.label == label for panel in panels for line in [*panel.series, *panel.levels])
    }
    sources = list(dict.fromkeys(line.label for panel in panels for line in panel.references))
    width = WIDTH if min(columns, len(panels)) > 1 else NARROW
    groups = [list(labels.values()), [*sources, *([dotted] if dotted else [])]]
    rows = sum(math.ceil(len(group) / legend_columns(group, width)) for group in groups)
    figure, axes = sheet(len(panels), columns=columns, height=height, legend_rows=max(1, rows))
    marks = dict(zip(sources, ("x", "+", "1", "2", "3", "4"), strict=False))
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, panel, look, marks)
    if share_y:
        drawn = [axis for axis, panel in zip(axes, panels, strict=True) if not panel.message]
        bounds = np.array([axis.get_ylim() for axis in drawn])
        for axis in drawn:
            axis.set_ylim(bounds[:, 0].min(), bounds[:, 1].max())
            axis.tick_params(labelleft=axis is drawn[0])
    beside = [_grey_handle(source, lw=1, ls=THIN_DOTS, marker=marks[source], ms=6) for source in sources]
    legend(figure, labels, look, beside + ([_grey_handle(dotted, lw=1.4, ls=DOTS)] if dotted else []))
    return figure


def _grey_handle(text: str, **style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=SOFT, label=text, **style)


def _panel(axis: Any, panel: Panel, look: dict[str, Look], marks: dict[str, str]) -> None:
    entitle(axis, panel.title)
    axis.set_xlabel(panel.xlabel)
    axis.set_ylabel(panel.ylabel)
    if panel.message:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, panel.message, transform=axis.transAxes, ha="center", va="center", color=SOFT, wrap=True)
        return
    for line in panel.references:
        axis.plot(*line.mean, color=SOFT, lw=1, ls=THIN_DOTS, marker=marks[line.label], ms=5, zorder=1.5)
    for line in panel.ours:
        axis.plot(*line.mean, color=look[line.label].color, lw=1.4, ls=DOTS, zorder=2)
    for line in panel.levels:
        axis.axhline(line.mean[1][0], color=look[line.label].color, lw=1.4, ls=(0, (6, 2)))
    for line in panel.series:
        _line(axis, line, look[line.label])
    axis.locator_params(axis="y", nbins=5)
    _limits(axis, panel)
    if panel.xticks:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: panel.xticks(value)))


def _line(axis: Any, line: Series, look: Look) -> None:
    for x, y in line.seeds:
        axis.plot(x, y, color=look.color, lw=0.7, alpha=0.38)
    for x, y in line.partial:
        axis.plot(x, y, color=look.color, lw=0.9, alpha=0.6, ls=(0, (2, 2)))
        axis.plot(x[-1:], y[-1:], color=look.color, marker="x", ms=5, ls="none")
    if line.band is not None:
        axis.fill_between(*line.band, color=look.color, alpha=0.16, lw=0)
    if line.mean is not None:
        every = max(1, len(line.mean[0]) // 8)
        axis.plot(
            *line.mean, color=look.color, lw=2, ls=look.dashes, marker=look.marker, markevery=every, ms=4.5, zorder=3,
            markeredgecolor=PAPER, markeredgewidth=0.6,
        )  # fmt: skip


def _limits(axis: Any, panel: Panel) -> None:
    """Limits from the seeds' lines: a wide band of few seeds must not squeeze the data, nor a published curve reach beyond."""
    drawn = [
        pair for line in panel.series for pair in [*line.seeds, *line.partial, *([line.mean] if line.mean else [])]
    ]
    if not drawn:
        return
    x = np.concatenate([np.asarray(pair[0], dtype=float) for pair in drawn])
    low, high = np.nanmin(x), np.nanmax(x)
    if high > low:
        axis.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    if panel.log:
        _log_scale(axis)
        return
    if panel.ylim:
        axis.set_ylim(*panel.ylim)
        return
    shown = [np.asarray(pair[1], dtype=float) for pair in drawn]
    beside = [*panel.references, *panel.ours]
    shown += [np.asarray(line.mean[1])[(line.mean[0] >= low) & (line.mean[0] <= high)] for line in beside]
    shown += [np.asarray(line.mean[1], dtype=float) for line in panel.levels]
    y = np.concatenate(shown)
    y = y[np.isfinite(y)]
    if len(y):
        margin = 0.06 * (y.max() - y.min()) or 0.05 * abs(y.max()) or 1
        axis.set_ylim(y.min() - margin, y.max() + margin)


def _log_scale(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=7))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
