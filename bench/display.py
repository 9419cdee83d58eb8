"""What one sees of a grid while it runs, made from the run directories alone: a live table, or plain lines."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter, defaultdict
from typing import Any

from bench.config import from_plain
from bench.rundir import Experiment, RunDir
from bench.typed import UsageError
from bench.worker import held

PLAIN_INTERVAL = 15.0  # seconds between plain lines
MOST_ROWS = 40


def rows(experiment: Experiment, indices: list[int] | None = None) -> list[dict[str, Any]]:
    """One row for each cell: what its directory says now."""
    now = time.time()
    cells = experiment.cells()
    out = []
    for index in range(len(cells)) if indices is None else indices:
        cell, directory = cells[index], experiment.run_dir(cells[index])
        progress = directory.progress() or {}
        state, steps, rate = experiment.state(cell, now), cell["config"]["steps"], progress.get("sps") or 0.0
        step = (directory.completion() or progress).get("env_step", 0)  # an end is on the disk for sure; a heartbeat is not
        out.append(
            {
                "run": f"{cell['env']} {cell['label']} seed {cell['seed']}",
                "state": state, "env_step": step, "steps": steps, "return": progress.get("return"), "sps": rate,
                "eta": (steps - step) / rate if state == "running" and rate > 0 else None,
                "age": now - progress["time"] if progress else None,
            }
        )  # fmt: skip
    return out


class GridView:
    """A grid as `status` and `watch` show it."""

    score = "return"

    def __init__(self, experiment: Experiment, indices: list[int] | None = None):
        self.experiment, self.indices, self.path = experiment, indices, experiment.path

    def rows(self) -> list[dict[str, Any]]:
        return rows(self.experiment, self.indices)

    def remarks(self) -> list[str]:
        return remarks(self.experiment)

    def going(self) -> bool:
        return held(self.path / "lock") or any(r["state"] == "running" for r in self.rows())

    def complete(self) -> bool:
        return all(r["state"] == "done" for r in self.rows())


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


MACHINE = ("cpu", "device", "threads", "matmul_precision", "python", "git")  # bytes may depend on these, and on packages
OUTSIDE = {"source": "label", "env_source": "env"}  # and on code from outside: of whom a session names the hash
SEVERAL = ", then "


def remarks(experiment: Experiment) -> list[str]:
    """A line for each cell that failed, cannot go on with the settings asked for, or ran on another set-up than most; and for
    each whose own sessions differ, since such a run is not what an undisturbed one would have been."""
    cells = experiment.cells()
    setups, lines = {}, []
    for cell in cells:
        try:
            setups[cell["dir"]] = setup(experiment.run_dir(cell))
        except UsageError as error:
            setups[cell["dir"]] = {}
            lines.append(f"{cell['dir']}: {error}")
    of = lambda key, cell: (key, cell[OUTSIDE[key]] if key in OUTSIDE else None)  # noqa: E731
    values: dict[tuple, Counter] = defaultdict(Counter)
    for cell in cells:
        for key, value in setups[cell["dir"]].items():
            values[of(key, cell)][value] += 1
    usual = {key: found.most_common(1)[0][0] for key, found in values.items()}
    for cell in cells:
        directory = experiment.run_dir(cell)
        try:
            directory.prepare(from_plain(cell["config"]))
        except UsageError as error:
            lines.append(f"{cell['dir']}: {error}")
        if directory.state() == "failed":
            lines.append(f"{cell['dir']}: failed: {directory.failure()['error']}")
        for key, value in setups[cell["dir"]].items():
            if SEVERAL in value:
                lines.append(f"{cell['dir']}: {key} changed between its sessions: {value}")
            elif value != (most := usual[of(key, cell)]):
                lines.append(f"{cell['dir']}: {key} is {value}; most runs have {most}")
    return lines


def setup(directory: RunDir) -> dict[str, str]:
    """What a run's sessions ran on; values joined by SEVERAL where its sessions differ."""
    found: dict[str, list[str]] = {}
    for session in directory.sessions():
        flat = session | session.get("packages", {})
        for key in (*MACHINE, *(key for key in OUTSIDE if session.get(key)), *session.get("packages", {})):
            seen = found.setdefault(key, [])
            if str(flat.get(key)) not in seen:
                seen.append(str(flat.get(key)))
    return {key: SEVERAL.join(seen) for key, seen in found.items()}


def table(view: GridView, most: int = MOST_ROWS):
    """The grid as a table of at most so many rows, what runs first."""
    from rich.table import Table

    data = view.rows()
    out = Table(title=str(view.path), title_justify="left")
    for name in ("run", "state", "heartbeat", "step", view.score, "steps/s", "ETA"):
        out.add_column(name, justify="left" if name in ("run", "state") else "right")
    order = ("running", "failed", "stopped", "missing", "done", "complete", "pruned")
    shown = data if len(data) <= most else sorted(data, key=lambda r: order.index(r["state"]))[:most]
    for r in shown:
        value = "" if r["return"] is None else f"{r['return']:.1f}" if view.score == "return" else f"{r['return']:.3f}"
        step = f"{r['env_step']:,} / {r['steps']:,}"
        rate = f"{r['sps']:.0f}" if r["state"] == "running" else ""
        beat = f"{duration(r['age'])} ago" if r["state"] in ("running", "stopped") and r["age"] is not None else ""
        out.add_row(r["run"], r["state"], beat, step, value, rate, duration(r["eta"]))
    if len(shown) < len(data):
        out.add_row(f"... and {len(data) - len(shown)} more", "", "", "", "", "", "")
    return out


def line(data: list[dict[str, Any]], started: float) -> str:
    """One plain line: how many runs are where, how far all of them are, and what runs now."""
    done = sum(r["state"] in ("done", "complete", "pruned") for r in data)
    frames, total = sum(min(r["env_step"], r["steps"]) for r in data), sum(r["steps"] for r in data)
    running = [
        f"{r['run']} {100 * r['env_step'] // max(r['steps'], 1)}%"
        + ("" if r["return"] is None else f" return {r['return']:.0f}")
        for r in data if r["state"] == "running"
    ]  # fmt: skip
    head = f"[{duration(time.time() - started)}] {done}/{len(data)} runs done, {100 * frames // max(total, 1)}% of all frames"
    return "; ".join([head, *running[:4]])


class Watcher:
    """Call it as often as you like; it shows the view a few times a second in a terminal, else a line now and then."""

    def __init__(self, view: GridView):
        self.view = view
        self.started = self.shown = time.time()
        self.live = None

    def __enter__(self) -> Watcher:
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(self.table(), refresh_per_second=2)
            self.live.__enter__()
        return self

    def table(self):
        """As much of the table as the terminal shows, beside title, header, rules and the line on the rest."""
        return table(self.view, min(MOST_ROWS, max(1, shutil.get_terminal_size().lines - 6)))

    def __call__(self) -> None:
        now = time.time()
        if self.live is not None:
            if now - self.shown >= 0.5:
                self.shown = now
                self.live.update(self.table())
        elif now - self.shown >= PLAIN_INTERVAL:
            self.shown = now
            print(line(self.view.rows(), self.started), flush=True)

    def __exit__(self, *error) -> None:
        if self.live is not None:
            self.live.update(self.table())
            self.live.__exit__(*error)
        else:
            print(line(self.view.rows(), self.started), flush=True)
