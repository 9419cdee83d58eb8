"""Pages about a paper's experiments: the claim and its rule, the verdict, and the numbers and figures it rests on.

A claim states its rule and threshold before anything is run; a verdict comes from the data by that rule alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reports import behaviour, stats
from reports.html import Cell, Section, Table, Text
from reports.records import read_json
from reports.words import number, plural

ALL_ALIKE = 6  # seeds, of which all fall on one side of a median once in 32 times by chance
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decidable at this budget"


@dataclass(frozen=True)
class Claim:
    """One statement of a paper in one sentence, and the rule, with its threshold, that decides it.

    ours: the paper does not state it; it is asked beside what it does state, and marked wherever it stands.
    revised: what of the rule or its measurement was changed after a result had been seen, and what that result was; '' if
    nothing was. It stands on the page beside the rule: a verdict under a revised rule is no blind test.
    """

    key: str
    text: str
    rule: str
    revised: str = ""
    ours: bool = False

    def __str__(self) -> str:
        return f"{self.text} (ours)" if self.ours else self.text


@dataclass(frozen=True)
class Verdict:
    """`outcome` is HOLDS, FAILS or OPEN; `why` gives the numbers that decided, and for OPEN what would decide; `seen` is `why`
    without the latter, where it says so."""

    outcome: str
    why: str
    seen: str = ""


@dataclass(frozen=True)
class Findings:
    """What an experiment found: a verdict for each claim's key, its numbers (summary.json), and the page's sections."""

    verdicts: Mapping[str, Verdict]
    numbers: Mapping[str, Any]
    sections: Sequence[Section] = field(default_factory=list)


def decided(condition: bool, why: str) -> Verdict:
    """The verdict of an exact experiment, which has no spread."""
    return Verdict(HOLDS if condition else FAILS, why)


def above(values: Sequence[float], threshold: float, what: str, unit: str = "seed") -> Verdict:
    """Whether the mean of a quantity over seeds [n] lies above a threshold: its 95 % t interval must clear it."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return Verdict(OPEN, f"{what}: no finished {unit}.")
    if stats.MIN_SEEDS <= len(values) < ALL_ALIKE and not np.ptp(values):
        seen = f"{what}: {number(values[0])} for each of {plural(len(values), unit)}"
        return Verdict(OPEN, f"{seen}; so few that agree say nothing of a spread, {ALL_ALIKE} would.", f"{seen}.")
    return _from_interval(stats.mean_estimate(values), threshold, what, stats.seeds_to_exceed(values, threshold), unit)


def larger(x: Sequence[np.ndarray], y: Sequence[np.ndarray], what: str, *, least: float = 0.0) -> Verdict:
    """Whether mean(x) - mean(y), averaged over tasks, lies above `least`: Welch's 95 % interval must clear it.

    x, y: the seeds' values [n] for each task, as in reports.stats.
    """
    if _lacks_seeds(x, y):
        return Verdict(OPEN, f"{what}: a task has no finished seed.")
    y = [np.asarray(task, dtype=np.float64) + least for task in y]
    found, needed = stats.difference(x, y), stats.seeds_to_separate(x, y)
    shifted = stats.Estimate(*(None if v is None else v + least for v in (found.value, found.low, found.high)), found.n)
    return _from_interval(shifted, least, what, needed, "seed")


def alike(x: Sequence[np.ndarray], y: Sequence[np.ndarray], what: str, *, within: float) -> Verdict:
    """Whether mean(x) - mean(y), averaged over tasks, is at most `within` either way: Welch's 95 % interval must lie inside.

    x, y: the seeds' values [n] for each task, as in reports.stats.
    """
    if _lacks_seeds(x, y):
        return Verdict(OPEN, f"{what}: a task has no finished seed.")
    found = stats.difference(x, y)
    nearest = within if found.value > 0 else -within
    needed = stats.seeds_to_separate(x, [np.asarray(task, dtype=np.float64) + nearest for task in y])
    if found.low is None:
        return _from_interval(found, nearest, what, needed, "seed")
    text = f"{what}: {_told(found, 'seed')}"
    if -within < found.low and found.high < within:
        return Verdict(HOLDS, f"{text}, within ±{number(within)}.")
    if found.low > within or found.high < -within:
        return Verdict(FAILS, f"{text}, beyond ±{number(within)}.")
    return _open(f"{text}, on both sides of {number(nearest)}", needed, "seed")


def _lacks_seeds(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> bool:
    return len(x) != len(y) or not len(x) or not all(map(len, [*x, *y]))


def every(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts: it holds if all do, and fails if one does."""
    outcomes = {verdict.outcome for verdict in verdicts}
    outcome = FAILS if FAILS in outcomes else OPEN if OPEN in outcomes else HOLDS
    why, seen = ([getattr(verdict, name) or verdict.why for verdict in verdicts] for name in ("why", "seen"))
    return Verdict(outcome, " ".join(why), " ".join(seen))


def gated(gate: Verdict | None, verdict: Verdict) -> Verdict:
    """`verdict`, unless a gate says that the runs cannot speak about it; then both their reasons stand on the page, without
    the number of seeds that would have decided, which is no help then."""
    return verdict if gate is None else Verdict(OPEN, f"{gate.why} For the record: {verdict.seen or verdict.why}")


def _from_interval(found: stats.Estimate, threshold: float, what: str, needed: int | None, unit: str) -> Verdict:
    if found.low is None:
        few = f"{what}: {number(found.value)} from {plural(found.n, unit)}"
        return Verdict(OPEN, f"{few}; {stats.MIN_SEEDS} are needed for an interval.")
    text = f"{what}: {_told(found, unit)}"
    if found.low > threshold:
        return Verdict(HOLDS, f"{text}, above {number(threshold)}.")
    if found.high < threshold:
        return Verdict(FAILS, f"{text}, below {number(threshold)}.")
    return _open(f"{text}, on both sides of {number(threshold)}", needed, unit)


def _told(found: stats.Estimate, unit: str) -> str:
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}] from {plural(found.n, unit)}"


def _open(seen: str, needed: int | None, unit: str) -> Verdict:
    would = f"about {plural(needed, unit)} would decide" if needed else f"more than 1000 {unit}s would be needed"
    return Verdict(OPEN, f"{seen}; with this mean and spread {would}.", f"{seen}.")


def write_page(
    out: Path, name: str, title: str, *, source: str, setup: str, claims: Sequence[Claim], findings: Findings, budget: str,
    preset: str, made: Mapping[str, str],
) -> Path:
    """Writes the page's files (those of reports.report.write_pages) into `out`; returns report.html's path.

    setup: what is studied; budget: what was spent; made: when the page was made, and by what (date, revision, cpu).
    """
    from reports.report import write_pages

    missing = [claim.key for claim in claims if claim.key not in findings.verdicts]
    if missing:
        raise ValueError(f"{name}: no verdict on {', '.join(missing)}; each claim needs one")
    answered = [
        {"key": c.key, "claim": str(c), "rule": c.rule, "revised": c.revised,
         "outcome": findings.verdicts[c.key].outcome, "why": findings.verdicts[c.key].why} for c in claims
    ]  # fmt: skip
    lead = "\n\n".join(f"**{c['outcome'].capitalize()}**: {c['claim']}" for c in answered)
    first = Section("verdict", "Claim and verdict", [
        Text(lead, "lead"),
        Text("\n\n".join(c["why"] for c in answered)),
        Text(setup + (f" {OURS}" if any(claim.ours for claim in claims) else "")),
        Text(f"Source: {source}. Budget `{preset}`: {budget}"),
        Table(["claim", "rule", "changed after a result was seen"],
              [[c["claim"], Cell(c["rule"]), Cell(c["revised"] or "no")] for c in answered]),
        Text(f"Made on {made['date']} with revision {made['revision']} on {made['cpu']}. To make this page again: "
             f"`python -m bench reproduce {name} --preset {preset}`"),
    ])  # fmt: skip
    numbers = {"name": name, "preset": preset, "source": source, "made": dict(made), "claims": answered, **findings.numbers}
    path = write_pages(out, title, [first, *findings.sections], subtitle=source, rows=[], numbers=numbers)
    for png in (out / "figures").glob("*.png"):
        shrink(png)
    return path


def shrink(path: Path) -> None:
    """Rewrites a drawing with a palette of 128 colours: a third of the bytes, for pages that are kept in the repository.

    Colours are chosen to cover those of the drawing, not its area: a few points keep their algorithm's colour.
    """
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128, method=Image.Quantize.MAXCOVERAGE)
    small.save(path, optimize=True)


OURS = "A claim marked as ours is not stated in the paper; it is asked beside what is."
INDEX = "# The experiments of the papers, made again"  # the first line, by which an index is known


def write_index(folder: Path) -> Path:
    """README.md of a folder of pages, from their summary.json; returns its path."""
    lines = [INDEX, ""]
    lines += [
        "Each page is made by one command, `python -m bench reproduce NAME [--preset quick|long|full]`, and gives the claim,",
        "the rule that decides it (and what of it was changed after a result was seen), the verdict computed from the data,",
        "figures and numbers (`summary.json`). `python -m bench reproduce --list` names them. A verdict belongs to its budget.",
        OURS,
        "",
        "| experiment | budget | claim | verdict |",
        "| --- | --- | --- | --- |",
    ]
    for path in sorted(folder.glob("*/summary.json")):
        page = read_json(path, [])
        for i, claim in enumerate(page.get("claims", [])):
            head = f"[{page['name']}]({path.parent.name}/report.md) | {page['preset']}" if i == 0 else " | "
            revised = " (changed after a result)" if claim.get("revised") else ""
            lines.append(f"| {head} | {claim['claim']} | **{claim['outcome']}**{revised} |")
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return folder / "README.md"


def heatmaps(
    panels: Sequence[tuple[str, np.ndarray]], *, columns: int = 4, paint: Any = None, label: str = "", extent: Any = None,
    top: float | None = None, axes_names: tuple[str, str] = ("", ""),
) -> Any:  # fmt: skip
    """Matrices [rows, columns] as coloured cells on one scale; the painter for `figures.draw`.

    paint(axis, i): draws on top of panel i. extent: (left, right, bottom, top) of the matrices, first row at the bottom; None:
    square cells, first row at the top, no ticks. top: where the scale ends, if not at the largest value.
    axes_names: of x and y.
    """
    from reports.figures import sheet

    figure, axes = sheet(len(panels), columns=columns, height=2.2, legend_rows=0)
    low, largest = min(np.nanmin(m) for _, m in panels), max(np.nanmax(m) for _, m in panels)
    high = min(largest, top or largest)
    for i, (axis, (title, matrix)) in enumerate(zip(axes, panels, strict=True)):
        where = {} if extent is None else {"extent": extent, "origin": "lower", "aspect": "auto"}
        image = axis.imshow(matrix, vmin=low, vmax=high, cmap="viridis", interpolation="nearest", **where)
        axis.set_title(title)
        axis.locator_params(nbins=4)
        if extent is None:
            axis.set(xticks=[], yticks=[])
        axis.set(xlabel=axes_names[0], ylabel=axes_names[1] if i % columns == 0 else "")
        axis.grid(visible=False)
        if paint:
            paint(axis, i)
    figure.subplots_adjust(left=0.05, right=0.89)
    beyond = "max" if high < largest else "neither"
    figure.colorbar(image, extend=beyond, cax=figure.add_axes((0.915, 0.25, 0.014, 0.5)), label=label)
    return figure


def plane(groups: Sequence[np.ndarray], *, seed: int = 0) -> tuple[list[np.ndarray], str]:
    """Groups of samples [M, A] in one plane, [M, 2] each, and how: UMAP if umap-learn is installed, else principal axes."""
    try:
        import umap
    except ImportError:
        points, share = behaviour.embed(list(groups))
        return points, f"first two principal axes, {100 * share.sum():.0f} % of the variance"
    embedded = umap.UMAP(random_state=seed, n_jobs=1).fit_transform(np.concatenate(groups))
    return np.split(embedded, np.cumsum([len(group) for group in groups])[:-1]), "UMAP"


def line(label: str, x: Sequence[float], y: Sequence[float]) -> Any:
    """A curve without seeds, for figures.lines."""
    from reports.figures import Series

    return Series(label, (np.asarray(x, dtype=float), np.asarray(y, dtype=float)))
