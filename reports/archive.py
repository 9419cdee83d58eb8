"""Experiments in one small file that a report reads like their run directories: to publish, to keep, to compare with.

JSON lines, the first of them `{"archive": 1}`: then one for each experiment (`{"experiment": name, ...}`, its cells and its
timings) and one for each run (`{"run": <environment>/<label>/seed_<k>, "of": name, ...}`, a record as in records.py). Scores
are whole, to the last digit of every episode. What a report only draws is thinned: of the clock the lines at evaluations are
kept, of the metrics about a hundred lines, of the sampled actions the last. Weights, replay and who ran it where stay behind.
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
from reports.records import METRICS, Found, Record, by_step, home_of, is_number, jsonable

VERSION = 1
METRIC_LINES = 100
DIGITS = 5  # of metrics
PLACES = 3  # of sampled actions
KINDS: dict[str, type] = {
    "config": dict, "state": str, "progress": dict, "failure": dict, "sessions": list, "cost": dict, "evals": list,
    "metrics": list, "clock": list, "notes": list,
}  # fmt: skip
OF_PLACE = ("command", "host")  # of a session: where on whose machine; its cell_command says how to make the run
OF_PROGRESS = ("state", "env_step", "steps", "update")  # not which process wrote it, and when


def write(found: Found, out: Path) -> tuple[int, int]:
    """Archive what was found (load.find) into the file `out`; returns the numbers of runs and of bytes.

    Raises ReportError where there is no run, where one is still going or something cannot be read, and where `out` is another
    file, a damaged archive, or one of runs that would be gone then.
    """
    if found.notes:
        raise ReportError(f"{found.notes[0]}: it would be missing in the archive; mend it or move it away")
    if not found.runs:
        raise ReportError("there are no runs to archive; expected <environment>/<label>/seed_<k>/config.yaml")
    names = found.names
    lines: list[dict[str, Any]] = [{"archive": VERSION}]
    for home, content in found.experiments.items():
        lines.append({"experiment": names[home]} | jsonable(_slim_experiment(content, home, found)))
    kept: dict[str, Record] = {}
    for path, read_record in found.runs.items():
        try:
            record = read_record()
        except (ValueError, OSError) as error:
            raise ReportError(f"{path} cannot be read: {error}; mend it or move it away") from error
        if record["state"] == "running":
            raise ReportError(f"{path} is still going; archive it when it has ended")
        name, place = names[home_of(path)], path.relative_to(home_of(path)).as_posix()
        kept[f"{name}/{place}"] = jsonable(slim(record))
        lines.append({"run": place, "of": name} | kept[f"{name}/{place}"])
    _refuse_loss(out, kept)
    data = "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines).encode()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return len(kept), len(data)


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
                path = file / content["of"] / content["run"]
                if path in found.runs:
                    raise ValueError("twice")
                found.runs[path] = partial(dict, _whole(content))
            else:
                found.experiments[file / content.pop("experiment")] = _checked(content, {"cells": list})
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
        "on_bound": None if probes.on_bound is None else probes.on_bound.tolist(),
    }
    return record | {
        "progress": {key: record["progress"][key] for key in OF_PROGRESS if key in record["progress"]},
        "clock": around(record["clock"], steps),
        "metrics": list(_drawn(record["metrics"])),
        "probes": kept,
        "sessions": [{key: value for key, value in session.items() if key not in OF_PLACE} for session in record["sessions"]],
    }


def _whole(content: dict[str, Any]) -> Record:
    """The record of a line. Raises KeyError, TypeError or ValueError where something is missing or of another kind."""
    record, probes = _checked(content, KINDS), content["probes"]
    if probes is not None:
        step, last, spread = (np.array(probes[name], dtype=float) for name in ("step", "last", "spread"))
        on_bound = None if probes["on_bound"] is None else np.array(probes["on_bound"], dtype=float)
        if last.ndim != 3 or {values.shape for values in (step, spread, on_bound) if values is not None} != {(len(step),)}:
            raise ValueError("probes of another shape")
        probes = Probes(step, last.astype(np.float32), spread, on_bound)
    own = {name: value for name, value in record.items() if name in (*KINDS, "probes")}
    return own | {name: by_step(own[name]) for name in ("evals", "metrics", "clock")} | {"probes": probes}


def _checked(content: dict[str, Any], kinds: dict[str, type]) -> dict[str, Any]:
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise TypeError(f"{name} is no {kind.__name__}")
        if kind is list and not all(isinstance(item, str if name == "notes" else dict) for item in content[name]):
            raise TypeError(f"{name} holds something else")
    return content


def around(rows: list[dict[str, Any]], steps: list[float]) -> list[dict[str, Any]]:
    """The lines at the given steps, or on both sides of one where there is none; and the last, which has the totals. Twice is
    as once."""
    at = np.array([row["env_step"] for row in rows], dtype=float)
    if not len(at):
        return []
    before = np.searchsorted(at, steps, side="right") - 1
    after = np.searchsorted(at, steps, side="left")
    kept = sorted({*before.tolist(), *after.tolist(), len(at) - 1} & set(range(len(at))))
    return [rows[i] for i in kept]


def _drawn(rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Evenly spaced lines and the last, of the metrics that a report draws."""
    rows = [row for row in rows if any(name in row for name in METRICS)]
    for row in [*rows[:-1][:: max(1, -(-(len(rows) - 1) // METRIC_LINES))], *rows[-1:]]:
        values = {name: row[name] for name in METRICS if is_number(row.get(name))}
        yield {key: row[key] for key in ("env_step", "update") if key in row} | {
            name: float(f"{value:.{DIGITS}g}") for name, value in values.items()
        }


def _slim_experiment(content: dict[str, Any], home: Path, found: Found) -> dict[str, Any]:
    """A cell's settings stand in its run's record; they are kept here only where there is none. Its steps are what is asked
    for now."""
    cells = []
    for cell in content.get("cells") or []:
        config = cell.get("config") or {}
        kept = home / str(cell.get("dir")) not in found.runs or not config
        cells.append(cell if kept else cell | {"config": {"steps": config.get("steps")}})
    return {key: value for key, value in content.items() if key != "name"} | {"cells": cells}


def _refuse_loss(out: Path, kept: dict[str, Record]) -> None:
    """Refuse to write over another file, or over runs (`kept`: <experiment>/<run>) whose evaluations would be gone then."""
    if out.is_dir() or not out.parent.is_dir():
        raise ReportError(f"{out} cannot be written: {'it is' if out.is_dir() else f'{out.parent} is not'} a directory")
    if not out.exists():
        return
    held = Found()
    try:
        read(out, held)
    except ReportError as error:
        raise ReportError(f"{out} exists and is no archive; give --out another name") from error
    if held.notes:
        raise ReportError(f"{out} exists and is damaged ({held.notes[0]}); give --out another name")
    for path, read_record in held.runs.items():
        place, before = path.relative_to(out).as_posix(), read_record()["evals"]
        if place not in kept or kept[place]["evals"][: len(before)] != before:
            raise ReportError(f"{out} holds another {place} than these runs, and would lose it; give --out another name")


def _version(lines: list[str]) -> Any:
    try:
        return json.loads(lines[0]).get("archive")
    except (IndexError, ValueError, AttributeError):
        return None
