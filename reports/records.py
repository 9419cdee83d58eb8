"""What the files of a run say, as one plain record: of its directory here, of a line of an archive in archive.py.

Tolerant of what a crash leaves behind: what cannot be read is left out and noted. A record's keys are `config`, `state`,
`progress`, `failure`, `sessions`, `cost`, the lines of `evals`, `metrics` and `clock`, `probes`, and `notes`.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reports import behaviour

Record = dict[str, Any]

DRAWN_LINES = 500  # metrics are only drawn
CLOCK_LINES = 1000  # cumulative seconds are close to a straight line between neighbours
METRICS = ("q_mean", "critic_loss", "alignment", "actor_grad_norm", "actor_loss")  # those that a report draws
BUSY = 1.05  # clock over processor time of a measured core from which others used it too
HEARTBEAT_S = 60  # a run whose progress.json is older has been interrupted


@dataclass
class Found:
    """What lies below the directories and in the archives of a report: runs by path, each with what reads its record, and
    experiments by their directory. An archive's experiment counts as a directory below its file."""

    runs: dict[Path, Callable[[], Record]] = field(default_factory=dict)
    experiments: dict[Path, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> dict[Path, str]:
        """The names of experiments, by their directories; a second one of the same name is numbered. The confirmation of a
        sweep is called after the sweep, since all have one directory name."""
        names: dict[str, Path] = {}
        for folder in dict.fromkeys([*self.experiments, *map(home_of, self.runs)]):
            own = f"{folder.parent.name} confirm" if (folder.parent / "sweep.json").is_file() else folder.name
            numbered = (f"{own} #{number}" for number in itertools.count(2))
            names[next(name for name in itertools.chain([own], numbered) if name not in names)] = folder
        return {folder: name for name, folder in names.items()}


def home_of(run: Path) -> Path:
    """The experiment's directory, three levels above its run, or the root where there are fewer."""
    return run.parents[min(2, len(run.parents) - 1)]


def of_directory(path: Path) -> Record:
    """The record of a run directory. Raises ValueError when its config.yaml cannot be read."""
    notes: list[str] = []
    config = read_config(path / "config.yaml")
    progress = read_json(path / "progress.json", notes)
    sessions = read_json(path / "provenance.json", notes).get("sessions") or []
    return {
        "config": config,
        "state": _state(path, progress),
        "progress": progress,
        "failure": read_json(path / "FAILED.json", notes),
        "sessions": [session for session in sessions if isinstance(session, dict)],
        "cost": read_json(path / "cost.json", notes),
        "evals": read_lines(path / "evals.jsonl", notes),
        "metrics": read_lines(path / "metrics.jsonl", notes, most=DRAWN_LINES),
        "clock": read_lines(path / "clock.jsonl", notes, most=CLOCK_LINES),
        "probes": behaviour.read_probes(path / "probes.npz", config.get("spec") or {}, notes),
        "notes": notes,
    }


def _state(path: Path, progress: dict[str, Any]) -> str:
    if (path / "DONE").exists():
        return "done"
    if (path / "FAILED.json").exists():
        return "failed"
    if progress.get("state") == "stopped":
        return "stopped"
    beat = progress.get("time")
    alive = progress.get("state") == "running" and is_number(beat) and time.time() - beat < HEARTBEAT_S
    return "running" if alive else "interrupted"


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml as a dictionary; raises ValueError when it is not one."""
    import yaml

    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not readable YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} does not hold a mapping")
    return config


def read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """A JSON object, or {} when the file is missing (silently) or unreadable (noted)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError):
        notes.append(f"{path.name} is unreadable")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} holds no JSON object")
        return {}
    return value


def read_lines(path: Path, notes: list[str], *, most: int | None = None) -> list[dict[str, Any]]:
    """JSON lines in the order of env_step, the last of each step; unreadable lines are left out and noted.

    most: of a longer file read about so many lines, evenly spaced, and always the last one.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = [line for line in text.split("\n") if line.strip()]
    if most and len(lines) > most:
        every = -(-len(lines) // most)
        lines = [*lines[:-1][::every], lines[-1]]
    try:
        rows = json.loads(f"[{','.join(lines)}]")
    except ValueError:
        rows = _readable(lines, path.name, notes)
    return by_step(rows)


def by_step(rows: list[Any]) -> list[dict[str, Any]]:
    """The lines that say their env_step, in its order, the last of each."""
    steps = {row["env_step"]: row for row in rows if isinstance(row, dict) and is_number(row.get("env_step"))}
    return [steps[step] for step in sorted(steps)]


def _readable(lines: list[str], name: str, notes: list[str]) -> list[Any]:
    rows = []
    for position, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError:
            torn = position == len(lines) - 1
            notes.append(f"{name}: {'torn last line' if torn else f'unreadable line {position + 1}'} ignored")
    return rows


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def jsonable(value: Any) -> Any:
    """The same structure with numpy scalars as Python's and what JSON has no number for (inf, nan) as null."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
