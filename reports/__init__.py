"""Reads run directories and writes a comparison report; knows nothing of torch, algorithms or environments."""

from __future__ import annotations

from pathlib import Path


class ReportError(ValueError):
    """The runs cannot be reported as asked; the message is one line that says what would be right."""


def write(
    run_dirs: list[Path],
    out: Path,
    *,
    allow_mixed: bool = False,
    allow_partial: bool = False,
    title: str | None = None,
) -> Path:
    """Writes report.html, report.md, summary.json, per_seed.csv and figures/ into `out`; returns report.html's path.

    run_dirs: experiment directories, any directories below which runs (config.yaml) lie, or archives; merged into one report.
    allow_mixed: report runs of one environment that differ in evaluation rule or environment settings, marked as such.
    allow_partial: aggregate also over tasks that some algorithm has no finished run for.

    Timings of `python -m bench timing` are those that lie as timing.json in the experiment directories.

    The same run directories give the same bytes. Raises ReportError when there is nothing to report or when unlike runs
    would be averaged.
    """
    from reports.report import write_report

    return write_report(
        [Path(run_dir) for run_dir in run_dirs],
        Path(out),
        allow_mixed=allow_mixed,
        allow_partial=allow_partial,
        title=title,
    )
