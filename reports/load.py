"""Reads run directories into memory. Tolerant of what a crash leaves behind: what cannot be read is left out and noted.

The run directory is the only input of a report; `docs/report_schema.md` says what comes out.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reports import ReportError

DRAWN_LINES = 500  # metrics are only drawn
CLOCK_LINES = 1000  # cumulative seconds are close to a straight line between neighbours
METRICS = ("q_mean", "critic_loss", "alignment", "actor_grad_norm", "actor_loss")  # those that a report draws
HEARTBEAT_S = 60  # a run whose progress.json is older has been interrupted
LOOP_PHASES = ("env", "act", "store")  # of the loop, not of an update
IDLE_PHASES = ("setup", "eval", "checkpoint", "log")  # not training: left out of active time
PRUNED = {"report", "replay", "__pycache__", ".git"}


@dataclass(frozen=True)
class Score:
    """What a run's value is: the name of the score, its direction, and the range that is mapped to [0, 1]."""

    name: str = "return"
    maximise: bool = True
    low: float | None = None
    high: float | None = None

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Scores [...] -> [...] with a random policy at 0 and the top of the range at 1, also where less is better."""
        if self.low is None or self.high is None or self.low == self.high:
            return np.full_like(np.asarray(values, dtype=np.float64), np.nan)
        worst, best = sorted((self.low, self.high), reverse=not self.maximise)
        return (np.asarray(values, dtype=np.float64) - worst) / (best - worst)


@dataclass(frozen=True)
class Curve:
    """One line for each evaluation (or log interval): env_step in frames, update, and a value."""

    step: np.ndarray
    update: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class Clock:
    """Cumulative seconds at each recorded env_step, and the totals by phase at the end of the run."""

    step: np.ndarray
    active: np.ndarray
    process: np.ndarray
    wall: dict[str, float]
    updates_timed: int
    total: float
    rss_mb: float

    def at(self, steps: np.ndarray, column: str = "active") -> np.ndarray:
        """Seconds at the given env_steps; nan outside what was recorded."""
        if not len(self.step):
            return np.full(len(steps), np.nan)
        return np.interp(steps, self.step, getattr(self, column), left=np.nan, right=np.nan)


@dataclass(frozen=True)
class Run:
    """One run directory. `label` is the name it has in this report; state is done, failed, running, stopped or interrupted."""

    path: Path
    experiment: str
    env: str
    label: str
    seed: int
    config: dict[str, Any]
    score: Score
    state: str
    failure: dict[str, Any]
    progress: dict[str, Any]
    evals: Curve
    others: dict[str, Curve]  # what evaluations recorded beside the score, by name
    metrics: dict[str, Curve]
    clock: Clock
    sessions: list[dict[str, Any]]
    cost: dict[str, float]
    notes: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The evaluation rule, canonical: '10 episodes, action own'; with best-of-N and action repeat where they differ."""
        rule = self.config.get("eval") or {}
        text = f"{rule.get('episodes', '?')} episodes, action {rule.get('action', '?')}"
        if (candidates := rule.get("candidates", 1)) != 1:
            text += f", best of {candidates}"
        rest = {key: rule[key] for key in sorted(rule) if key not in ("episodes", "action", "candidates")}
        return text + (f", {json.dumps(rest)}" if rest else "")

    @property
    def action_repeat(self) -> int:
        return (self.config.get("env") or {}).get("action_repeat", 1)

    @property
    def steps(self) -> int:
        """The budget in frames."""
        return int(self.config.get("steps") or 0)

    def whole(self, frames: int) -> int:
        """`frames` up to the end of this run's decision they fall into: no evaluation stands between two decisions."""
        decision = self.action_repeat * (self.config.get("env") or {}).get("num_envs", 1)
        return -(-frames // decision) * decision

    @property
    def conditions(self) -> tuple[tuple[str, str], ...]:
        """What wall-clock depends on beside the code; runs share a time axis only where this is equal."""
        names = ("cpu", "cores", "device", "threads", "matmul_precision", "jobs")
        speed = ("speed", str(self.config.get("speed", "eager")))
        seen = {(*((name, str(session.get(name, "?"))) for name in names), speed) for session in self.sessions}
        if len(seen) > 1:
            return (("sessions", f"{len(seen)} different set-ups ({self.path.parent.name}/{self.path.name})"),)
        return seen.pop() if seen else (("provenance", "missing"),)


@dataclass(frozen=True)
class Missing:
    """A cell that an experiment asked for and that has no readable run."""

    experiment: str
    env: str
    label: str
    seed: int
    reason: str = "no run directory"
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Collection:
    """Everything below the given directories."""

    runs: list[Run] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    timing: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mixed: dict[str, str] = field(default_factory=dict)  # env -> what differs, where --allow-mixed let it through

    @property
    def envs(self) -> list[str]:
        return list(dict.fromkeys(cell.env for cell in self._cells()))

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(cell.label for cell in self._cells()))

    def _cells(self) -> list[Run | Missing]:
        """Runs and missing cells in the order in which the experiments ask for them."""
        order = {
            (experiment["name"], cell.get("env"), cell.get("label")): position
            for experiment in self.experiments
            for position, cell in enumerate(experiment["cells"])
        }
        last = 1 + max(order.values(), default=0)
        named = {experiment["name"]: rank for rank, experiment in enumerate(self.experiments)}

        def position(cell: Run | Missing) -> tuple:
            label = cell.config.get("label", cell.label)
            return named.get(cell.experiment, last), order.get((cell.experiment, cell.env, label), last)

        return sorted([*self.runs, *self.missing], key=position)


def _config_loader() -> Any:
    """PyYAML's safe loader, but 3e-4 is a number: YAML 1.1 wants a dot in the mantissa and would give a string."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        pass

    number = re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml as a dictionary; raises ValueError when it is not one."""
    import yaml

    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_config_loader())
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
    steps = {row["env_step"]: row for row in rows if isinstance(row, dict) and _number(row.get("env_step"))}
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


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """One number for each row, nan where it is missing or not a number."""
    try:
        return np.array([row.get(name) for row in rows], dtype=np.float64)  # None becomes nan
    except (TypeError, ValueError):
        return np.array([row[name] if _number(row.get(name)) else np.nan for row in rows], dtype=np.float64)


def _evals(rows: list[dict[str, Any]], name: str, notes: list[str]) -> Curve:
    """The value of an evaluation is the mean of its episodes' returns, or of what it recorded under another name."""
    kept, values = [], []
    for row in rows:
        episodes = row.get("returns") if name == "return" else (row.get("scores") or {}).get(name)
        try:
            values.append(sum(episodes) / len(episodes))
            kept.append(row)
        except (TypeError, ZeroDivisionError):
            notes.append(f"evals.jsonl: no {name} at env_step {row['env_step']}")
    return Curve(_column(kept, "env_step"), _column(kept, "update"), np.array(values, dtype=np.float64))


def _others(rows: list[dict[str, Any]], score: Score) -> dict[str, Curve]:
    """Curves of what evaluations recorded beside the score: only where they recorded anything but returns."""
    named = dict.fromkeys(name for row in rows for name in row.get("scores") or {})
    return {name: _evals(rows, name, []) for name in ("return", *named) if named and name != score.name}


def _metrics(rows: list[dict[str, Any]]) -> dict[str, Curve]:
    step, update = _column(rows, "env_step"), _column(rows, "update")
    curves = {}
    for name in METRICS:
        value = _column(rows, name)
        if (known := np.isfinite(value)).any():
            curves[name] = Curve(step[known], update[known], value[known])
    return curves


def _clock(rows: list[dict[str, Any]]) -> Clock:
    rows = [row for row in rows if _number(row.get("active"))]
    last = rows[-1] if rows else {}

    wall = {name: float(value) for name, value in (last.get("wall") or {}).items() if _number(value)}
    return Clock(
        _column(rows, "env_step"),
        _column(rows, "active"),
        _column(rows, "process"),
        wall,
        int(last.get("updates_timed") or 0),
        float(last.get("total", np.nan)),
        float(last.get("rss_mb", np.nan)),
    )


def _score(spec: dict[str, Any]) -> Score:
    score = spec.get("score") or {}
    low, high = (float(score[key]) if _number(score.get(key)) else None for key in ("low", "high"))
    return Score(str(score.get("name", "return")), score.get("direction", "max") != "min", low, high)


def _state(path: Path, progress: dict[str, Any]) -> str:
    if (path / "DONE").exists():
        return "done"
    if (path / "FAILED.json").exists() or progress.get("state") == "failed":
        return "failed"
    if progress.get("state") == "stopped":
        return "stopped"
    beat = progress.get("time")
    return "running" if _number(beat) and time.time() - beat < HEARTBEAT_S else "interrupted"


def read_run(path: Path, experiment: str | None = None) -> Run:
    """One run directory. Raises ValueError when its config.yaml cannot be read or lacks label, env.id or seed.

    experiment: the name to give its experiment, the name of the directory three levels above by default.
    """
    notes: list[str] = []
    config = read_config(path / "config.yaml")
    env, seed = (config.get("env") or {}).get("id"), config.get("seed")
    if not isinstance(env, str) or not isinstance(seed, int) or "label" not in config:
        raise ValueError("config.yaml lacks label, env.id or seed")
    score = _score(config.get("spec") or {})
    progress = read_json(path / "progress.json", notes)
    evaluations = read_lines(path / "evals.jsonl", notes)
    sessions = read_json(path / "provenance.json", notes).get("sessions") or []
    run = Run(
        path=path,
        experiment=experiment or _home(path).name,
        env=env,
        label=str(config["label"]),
        seed=seed,
        config=config,
        score=score,
        state=_state(path, progress),
        failure=read_json(path / "FAILED.json", notes),
        progress=progress,
        evals=_evals(evaluations, score.name, notes),
        others=_others(evaluations, score),
        metrics=_metrics(read_lines(path / "metrics.jsonl", notes, most=DRAWN_LINES)),
        clock=_clock(read_lines(path / "clock.jsonl", notes, most=CLOCK_LINES)),
        sessions=[session for session in sessions if isinstance(session, dict)],
        cost=read_json(path / "cost.json", notes),
    )
    return replace(run, notes=tuple(notes))


def _home(run: Path) -> Path:
    """The experiment's directory, three levels above its run, or the root where there are fewer."""
    return run.parents[min(2, len(run.parents) - 1)]


def _find(top: Path) -> tuple[list[Path], list[Path]]:
    """Run directories and experiment.json files at or below `top`; does not look inside runs and reports."""
    runs, experiments = [], []
    for here, folders, files in os.walk(top):
        folders[:] = sorted(folder for folder in folders if folder not in PRUNED)
        if "sweep.json" in files:
            folders[:] = ["confirm"]  # trials were chosen by their own score: they enter no comparison
        if "config.yaml" in files:
            runs.append(Path(here))
            folders.clear()
        if "experiment.json" in files:
            experiments.append(Path(here) / "experiment.json")
    return runs, experiments


def read(run_dirs: list[Path]) -> Collection:
    """Everything at or below the given directories, each run once. Raises ReportError when there is no run."""
    for top in run_dirs:
        if not top.is_dir():
            raise ReportError(f"{top} is not a directory; give experiment directories or a directory above them")
    found = [_find(top.resolve()) for top in run_dirs]
    runs = list(dict.fromkeys(path for paths, _ in found for path in paths))
    experiments = list(dict.fromkeys(path for _, paths in found for path in paths))
    names = _unique_names([path.parent for path in experiments] + [_home(path) for path in runs])
    collection = Collection()
    for path in experiments:
        _read_experiment(path, names[path.parent], collection)
    for path in runs:
        try:
            collection.runs.append(read_run(path, names[_home(path)]))
        except (ValueError, OSError) as error:
            collection.notes.append(f"{'/'.join(path.parts[-4:])}: {error}; left out")
    if not collection.runs:
        tops = ", ".join(map(str, run_dirs))
        unread = f" ({collection.notes[-1]})" if collection.notes else ""
        raise ReportError(f"no runs below {tops}; expected <environment>/<label>/seed_<k>/config.yaml{unread}")
    have = {(run.experiment, run.env, run.label, run.seed) for run in collection.runs}
    collection.missing = [
        cell for cell in collection.missing if (cell.experiment, cell.env, cell.label, cell.seed) not in have
    ]
    return collection


def _unique_names(folders: list[Path]) -> dict[Path, str]:
    """The names of experiment directories; a second one of the same name is numbered."""
    names: dict[Path, str] = {}
    for folder in dict.fromkeys(folders):
        taken = sum(other.name == folder.name for other in names)
        names[folder] = f"{folder.name} #{taken + 1}" if taken else folder.name
    return names


def _read_experiment(path: Path, name: str, collection: Collection) -> None:
    notes: list[str] = []
    experiment = read_json(path, notes)
    collection.notes += [f"{name}: {note}" for note in notes]
    cells = [cell for cell in experiment.get("cells") or [] if {"env", "label", "seed"} <= set(cell)]
    collection.experiments.append({**experiment, "name": name, "cells": cells})
    collection.missing += [
        Missing(name, str(cell["env"]), str(cell["label"]), int(cell["seed"]), config=cell.get("config") or {})
        for cell in cells
    ]
    if (path.parent / "timing.json").exists():
        collection.timing.append(path.parent / "timing.json")
