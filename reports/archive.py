"""Experiments in one small file that a report reads like their run directories: to publish, to keep, to compare with.

JSON lines, the first of them `{"archive": 1}`: then one for each experiment (`{"experiment": name, ...}`, its cells and its
timings) and one for each run (`{"run": <environment>/<label>/seed_<k>, "of": name, ...}`, a record as in records.py). Scores
are whole, to the last digit of every episode. What a report only draws is thinned: of the clock the lines at evaluations are
kept, of the metrics about a hundred lines, of the sampled actions the last. Weights and replay stay behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reports import ReportError
from reports.behaviour import Probes
from reports.records import METRICS, Found, Record, home_of, is_number, jsonable

VERSION = 1
METRIC_LINES = 100
DIGITS = 5  # of metrics
PLACES = 3  # of sampled actions
OF_PROGRESS = ("state", "env_step", "steps", "update")  # not which process wrote it, and when


def write(found: Found, out: Path) -> tuple[int, int]:
    """Archive what was found (load.find) into the file `out`; returns the numbers of runs and of bytes.

    Raises ReportError where there is no run, where one is still going or cannot be read, and where `out` is another file or
    an archive of other runs.
    """
    names = found.names
    places = {path: f"{names[home_of(path)]}/{path.relative_to(home_of(path)).as_posix()}" for path in found.runs}
    _refuse_loss(out, set(places.values()))
    lines: list[dict[str, Any]] = [{"archive": VERSION}]
    for home, content in found.experiments.items():
        lines.append({"experiment": names[home]} | _slim_experiment(content, home, found))
    for path, read in found.runs.items():
        try:
            record = read()
        except (ValueError, OSError) as error:
            raise ReportError(f"{path} cannot be read: {error}; mend it or move it away") from error
        if record["state"] == "running":
            raise ReportError(f"{path} is still going; archive it when it has ended")
        name, _, place = places[path].partition("/")
        lines.append({"run": place, "of": name} | slim(record))
    if not found.runs:
        raise ReportError("there are no runs to archive; expected <environment>/<label>/seed_<k>/config.yaml")
    data = "".join(json.dumps(jsonable(line), separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines).encode()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return len(found.runs), len(data)


def read(file: Path, found: Found) -> None:
    """Add an archive's experiments and runs; unreadable lines are left out and noted.

    Raises ReportError when the file is not an archive of this version.
    """
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    version = _version(lines)
    if version != VERSION:
        what = "is no archive" if version is None else f"is an archive of version {version}, this code reads {VERSION}"
        raise ReportError(f"{file} {what}; `python -m bench archive RUNS --out FILE` makes one")
    for position, line in enumerate(lines[1:], start=2):
        try:
            content = json.loads(line)
            if "run" in content:
                record = _whole(content)
                found.runs[file / content["of"] / content["run"]] = partial(dict, record)
            else:
                found.experiments[file / content.pop("experiment")] = content
        except (ValueError, KeyError, TypeError, AttributeError):
            found.notes.append(f"{file.name}: unreadable line {position} left out")


def slim(record: Record) -> Record:
    """What of a record a report needs, in plain JSON."""
    steps = [row["env_step"] for row in record["evals"]]
    probes: Probes | None = record["probes"]
    kept = probes and {
        "step": probes.step.tolist(),
        "last": np.round(probes.last.astype(float), PLACES).tolist(),
        "spread": probes.spread.tolist(),
        "on_bound": probes.on_bound.tolist(),
    }
    return record | {
        "progress": {key: record["progress"][key] for key in OF_PROGRESS if key in record["progress"]},
        "clock": _around(record["clock"], steps),
        "metrics": list(_drawn(record["metrics"])),
        "probes": kept,
    }


def _whole(content: dict[str, Any]) -> Record:
    """The record of a line. Raises KeyError, TypeError or ValueError where it lacks something."""
    probes = content["probes"]
    if probes is not None:
        probes = Probes(
            np.array(probes["step"], dtype=float),
            np.array(probes["last"], dtype=np.float32),
            np.array(probes["spread"], dtype=float),
            np.array(probes["on_bound"], dtype=float),
        )
    names = ("config", "state", "progress", "failure", "sessions", "cost", "evals", "metrics", "clock", "probes", "notes")
    return {name: content[name] for name in names} | {"probes": probes}


def _around(rows: list[dict[str, Any]], steps: list[float]) -> list[dict[str, Any]]:
    """The lines at the given steps, or on both sides of one where there is none; and the last, which has the totals."""
    at = np.array([row["env_step"] for row in rows], dtype=float)
    if not len(at):
        return []
    before = np.searchsorted(at, steps, side="right") - 1
    after = np.searchsorted(at, steps, side="left")
    kept = sorted({*before.tolist(), *after.tolist(), len(at) - 1} & set(range(len(at))))
    return [rows[i] for i in kept]


def _drawn(rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Evenly spaced lines, of the metrics that a report draws."""
    rows = [row for row in rows if any(name in row for name in METRICS)]
    for row in rows[:: max(1, -(-len(rows) // METRIC_LINES))]:
        values = {name: row[name] for name in METRICS if is_number(row.get(name))}
        yield {key: row[key] for key in ("env_step", "update") if key in row} | {
            name: float(f"{value:.{DIGITS}g}") for name, value in values.items()
        }


def _slim_experiment(content: dict[str, Any], home: Path, found: Found) -> dict[str, Any]:
    """A cell's settings stand in its run's record; they are kept here only where there is none."""
    cells = [
        {key: value for key, value in cell.items() if key != "config" or home / str(cell.get("dir")) not in found.runs}
        for cell in content.get("cells") or []
    ]
    return {key: value for key, value in content.items() if key != "name"} | {"cells": cells}


def _refuse_loss(out: Path, places: set[str]) -> None:
    """Refuse to write over another file, or over an archive of runs (`places`: experiment/run) that would be gone then."""
    if out.is_dir() or not out.parent.is_dir():
        raise ReportError(f"{out} cannot be written: {'it is' if out.is_dir() else f'{out.parent} is not'} a directory")
    if not out.exists():
        return
    held = Found()
    try:
        read(out, held)
    except ReportError as error:
        raise ReportError(f"{out} exists and is no archive; give --out another name") from error
    if lost := [path.relative_to(out).as_posix() for path in held.runs if path.relative_to(out).as_posix() not in places]:
        raise ReportError(f"{out} holds {lost[0]}, which is not among these runs ({len(lost)} such); give --out another name")


def _version(lines: list[str]) -> Any:
    try:
        return json.loads(lines[0]).get("archive")
    except (IndexError, ValueError, AttributeError):
        return None
