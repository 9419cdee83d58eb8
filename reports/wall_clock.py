"""The report's section on time: what each phase cost, under which set-ups, and what disturbed it."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from reports.answer import main_timings
from reports.charts import LOOP, stacked
from reports.figures import Look, Panel, Series, draw, label_cell, lines, looks
from reports.html import Cell, Details, Figure, Section, Table, Text, grouped
from reports.load import IDLE_PHASES, LOOP_PHASES, Collection
from reports.summary import SIZED, Row, active_time
from reports.words import NOTHING, estimate, large, listing, number

STEADY = 1.2  # times the fastest seed's milliseconds per update: the slowest that goes without a word


def section(collection: Collection, summary: Row, timing: list[Row], look: dict[str, Look]) -> Section:
    text = (
        "Measured during the runs, as means over finished seeds. Active time is acting, stepping, storing, sampling "
        "and updating; evaluation and "
        "checkpoints are left out. Process time adds up the processor time of all threads."
    )
    blocks: list[Any] = [Text(text)]
    if len(summary["set_ups"]) > 1:
        blocks.append(
            Text(
                f"These runs were timed under **{len(summary['set_ups'])} different set-ups**. Times are comparable only "
                "within one: learning curves of a task share a time axis only if all were timed under one, a cell with several "
                "has no times, and elsewhere the set-up stands beside them.",
                "notice",
            )
        )
    blocks += [Text(text, "notice") for text in _continued(collection)]
    blocks += [Text(text, "notice") for text in (*_disturbed(collection), *_unsteady(collection, summary))]
    if figure := phases(summary):
        blocks.append(figure)
    blocks += [_cost_table(summary, look), _phase_table(summary, look), _size_table(summary, look)]
    blocks.append(
        Table(
            ["set-up", "what it is"],
            [[letter, "; ".join(f"{k} {v}" for k, v in found.items())] for letter, found in summary["set_ups"].items()],
            "Set-ups",
        )
    )
    if timing:
        if figure := steps_of_denoising(timing, list(look)):
            blocks.append(figure)
        blocks.append(_timing_table(timing))
    return Section("clock", "Wall-clock", blocks)


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
    parts = [name for name in LOOP if name in parts] + sorted(set(parts) - set(LOOP), key=parts.index)
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


def _continued(collection: Collection) -> list[str]:
    """Which runs were continued under another set-up, and what changed."""
    found: dict[str, list[str]] = {}
    for run in collection.runs:
        if run.conditions is None:
            values = [list(dict.fromkeys(value for _, value in column)) for column in zip(*run.set_ups, strict=True)]
            names = [name for name, _ in run.set_ups[0]]
            changed = [f"{name} {listing(own)}" for name, own in zip(names, values, strict=True) if len(own) > 1]
            found.setdefault("; ".join(changed), []).append(f"{run.label} seed {run.seed} on {run.env}")
    return [
        f"Continued under another set-up ({changed}): {listing(runs)}. The scores count; the times are left out, and an "
        "algorithm with such a seed has no seconds to a score on that task and no score at equal time."
        for changed, runs in found.items()
    ]


def _disturbed(collection: Collection) -> list[str]:
    """That and why times are processor time, with the least and the largest share of the processor on each environment."""
    if not collection.shares:
        return []
    found = []
    for env in collection.envs:
        runs = [run for run in collection.runs if run.env == env and run.path in collection.shares]
        if not runs:
            continue
        ends = [end(runs, key=lambda run: collection.shares[run.path]) for end in (min, max)]
        low, high = (f"{100 * collection.shares[run.path]:.0f} % ({run.label} seed {run.seed})" for run in ends)
        found.append(f"on {env} they had it for {low} to {high} of their time")
    return [
        f"Other work on the machine took the processor from these runs, and not alike: {listing(found)}. **All times but the "
        "total are therefore processor time**, to which such work adds little: each interval's active seconds times the share "
        "of it in which the run had the processor."
    ]


def _unsteady(collection: Collection, summary: Row) -> list[str]:
    """What else than the algorithms these times carry: other work on the machine, and changes of the code."""
    texts = []
    timed = [(*cell["ms_per_update_range"], cell) for cell in summary["cells"] if cell["ms_per_update_range"]]
    low, high, cell = max(timed, key=lambda found: found[1] / (found[0] or math.inf), default=(1.0, 1.0, {}))
    if high > STEADY * low:
        texts.append(
            f"Times were not steady: from seed to seed an update of {cell['label']} on {cell['env']} took {number(low)} to "
            f"{number(high)} ms. What else ran on the machine is in these times, and in the scores at equal time."
        )
    revisions = {str(session["git"]) for run in collection.runs for session in run.sessions if session.get("git")}
    if len(revisions) > 1:
        texts.append(f"These runs were made by {len(revisions)} revisions of the code, whose speed may differ (Provenance).")
    return texts


def _cost_table(summary: Row, look: dict[str, Look]) -> Table:
    rows = []
    for cell in summary["cells"]:
        cost = cell["cost"]
        seconds = f"{number(cell['equal_time_s'])} s" if cell["equal_time_s"] else NOTHING
        rest = ("active_s", "process_s", "total_s", "peak_memory_mb")
        names = [cell["env"], label_cell(cell["label"], look), ", ".join(cell["conditions"]) or NOTHING]
        low, high = map(number, cell["ms_per_update_range"] or (None, None))
        update = Cell(number(cost.get("ms_per_update")), f"{low} to {high}" if low != high else "")
        equal = [estimate(cell["at_equal_time"]), seconds]
        rows.append(
            [*names, update, number(cost.get("updates_per_s")), *equal, *(number(cost.get(key)) for key in rest)]
        )
    columns = [
        "environment",
        "algorithm",
        "set-up",
        "ms per update",
        "updates per s",
        "score at equal time",
        "that time",
    ]
    active = active_time(summary)
    columns += [f"{active} s", "process s", "total s", "peak memory, MB"]
    note = (
        "ms per update: mean and range over finished seeds of one set-up. Seconds: up to the frames at which scores are "
        f"compared. Equal time: the {active} seconds that every finished "
        "run of the environment spent; the score there lies on a straight line between evaluations."
    )
    return Table(columns, grouped(rows), "What it cost", note)


def _size_table(summary: Row, look: dict[str, Look]) -> Table:
    names = ("parameters", "actor_parameters", "flops_per_update", "operations_per_update")
    rows = [
        [cell["env"], label_cell(cell["label"], look), *(large(cell["cost"].get(name)) for name in names)]
        for cell in summary["cells"]
    ]
    columns = ["environment", "algorithm", "parameters", "of them, actor", "FLOPs per update", "operations per update"]
    note = "Counted, not timed: the same on every machine. Operations are those dispatched by the framework."
    return Table(columns, grouped(rows), "What an update does", note)


def _phase_table(summary: Row, look: dict[str, Look]) -> Table:
    parts = list(
        dict.fromkeys(
            key for cell in summary["cells"] for key in cell["cost"] if key.startswith("ms_") and key != "ms_per_update"
        )
    )
    order = [f"ms_{name}" for name in LOOP]
    parts = [part for part in order if part in parts] + [
        part for part in parts if part not in order and part[3:] not in IDLE_PHASES
    ]
    rows = [
        [
            cell["env"],
            label_cell(cell["label"], look),
            *(number(cell["cost"].get(part)) for part in parts),
            number(cell["cost"].get("ms_per_update")),
        ]
        for cell in summary["cells"]
    ]
    note = (
        f"The phases {listing(LOOP_PHASES)} belong to the loop and not to the update; they are shown per update all "
        "the same."
    )
    return Table(
        ["environment", "algorithm", *(part[3:] for part in parts), "update"],
        grouped(rows),
        "Milliseconds per update by phase",
        note,
    )


def _timing_table(timing: list[Row]) -> Details:
    rows = [
        [
            str(row.get("algo", "")),
            str(row.get("name", "")),
            *(
                str(row.get(key) if row.get(key) is not None else NOTHING)
                for key in ("batch", "width", "depth", "T", "device", "mode")
            ),
            number(row.get("median_ms")),
            number(row.get("iqr_ms")),
            large(row.get("flops")),
            str(row.get("machine", "")),
        ]
        for row in timing
    ]
    columns = [
        "algorithm",
        "what",
        "batch",
        "width",
        "depth",
        "T",
        "device",
        "mode",
        "median ms",
        "interquartile ms",
        "FLOPs",
        "machine",
    ]
    busy = any(row["clock"] == "processor" for row in timing)
    note = "Processor time where there is no interquartile range: others used the core." if busy else ""
    return Details("Timings (python -m bench timing)", [Table(columns, rows, note=note)])
