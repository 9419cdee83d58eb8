"""Reads run directories, and archives of them, into memory.

They are the only input of a report; `docs/report_schema.md` says what comes out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reports import ReportError, archive, records
from reports.behaviour import Probes
from reports.records import METRICS, Found, Record, home_of, is_number

LOOP_PHASES = ("env", "act", "store")  # of the loop, not of an update
IDLE_PHASES = ("setup", "eval", "checkpoint", "log")  # not training: left out of active time
PRUNED = {"__pycache__", ".git"}
OF_EPISODES = {"return": "returns", "on_bound": "on_bound"}  # a line of evals.jsonl has these for each episode, by its keys


@dataclass(frozen=True)
class Score:
    """What a run's value is: the name of the score, its direction, and the range that is mapped to [0, 1]."""

    name: str = "return"
    maximise: bool = True
    low: float | None = None
    high: float | None = None

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Scores [...] -> [...] with a random policy at 0 and the top of the range at 1, also where less is better; NaN
        without a range, or where what counts as solved is less than what a random policy gets."""
        if self.low is None or self.high is None or self.low == self.high or (self.maximise and self.high < self.low):
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
    total: np.ndarray
    wall: dict[str, float]
    updates_timed: int
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
    probes: Probes | None
    notes: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The evaluation rule, canonical: '10 episodes, action own', or '10 episodes, best of 8 samples'."""
        rule = self.config.get("eval") or {}
        candidates = rule.get("candidates", 1)
        action = f"action {rule.get('action', '?')}" if candidates == 1 else f"best of {candidates} samples"
        text = f"{rule.get('episodes', '?')} episodes, {action}"
        rest = {key: rule[key] for key in sorted(rule) if key not in ("episodes", "action", "candidates")}
        return text + (f", {json.dumps(rest)}" if rest else "")

    @property
    def warmup(self) -> int | None:
        """Frames of uniform actions before the first update; None for an agent of rollouts, whatever was recorded."""
        return None if "envs" in (self.config.get("algo") or {}) else self.config.get("warmup")

    @property
    def algo(self) -> str:
        """The algorithm, whatever its label."""
        return str((self.config.get("algo") or {}).get("name"))

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """The algorithm's settings that differ from its defaults: (default, value) by name."""
        pairs = (self.config.get("changed") or {}).items()
        return {str(key): tuple(pair) if isinstance(pair, list) and len(pair) == 2 else (None, pair) for key, pair in pairs}

    @property
    def action(self) -> str:
        """Which action its evaluations took: own, sample, or the best of several."""
        rule = self.config.get("eval") or {}
        return "best of several" if rule.get("candidates", 1) != 1 else str(rule.get("action"))

    @property
    def env_settings(self) -> dict[str, Any]:
        """The settings of its environment, as `envs.make` takes them."""
        return {key: value for key, value in (self.config.get("env") or {}).items() if key not in ("id", "num_envs")}

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
    def sized(self) -> dict[str, Any]:
        """What the cost of an update depends on beside the algorithm, as `bench timing` names it; None: no single number."""
        algo = self.config.get("algo") or {}
        hidden = [algo[key] for key in ("actor_hidden", "critic_hidden") if algo.get(key)]
        widths, depths = {size for sizes in hidden for size in sizes}, {len(sizes) for sizes in hidden}
        width, depth = (found.pop() if len(found) == 1 else None for found in (widths, depths))
        chosen = {"batch": algo.get("batch_size"), "width": width, "depth": depth}
        return chosen | {"device": self.config.get("device", "cpu"), "mode": self.config.get("speed", "eager")}

    @property
    def conditions(self) -> tuple[tuple[str, str], ...] | None:
        """What wall-clock depends on beside the code; runs share a time axis only where this is equal. None: the run was
        continued under other conditions than it began with, so that its times belong to none."""
        found = self.set_ups
        return found[0] if len(found) == 1 else None

    @property
    def set_ups(self) -> list[tuple[tuple[str, str], ...]]:
        """The conditions of its sessions, each once."""
        names = ("cpu", "cores", "device", "threads", "matmul_precision", "jobs")
        speed = ("speed", str(self.config.get("speed", "eager")))
        seen = []
        for session in self.sessions:
            torch = str((session.get("packages") or {}).get("torch", "?"))
            seen.append((*((name, str(session.get(name, "?"))) for name in names), ("torch", torch), speed))
        return list(dict.fromkeys(seen)) or [(("provenance", "missing"),)]


@dataclass(frozen=True)
class Missing:
    """A cell that an experiment asked for and that has no readable run."""

    experiment: str
    env: str
    label: str
    seed: int
    reason: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Collection:
    """Everything below the given directories."""

    runs: list[Run] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)  # contents of the experiments' timing.json
    notes: list[str] = field(default_factory=list)
    mixed: dict[str, str] = field(default_factory=dict)  # env -> what differs, where --allow-mixed let it through
    shares: dict[Path, float] = field(default_factory=dict)  # of the processor, by run, where clocks count its time alone

    def all_notes(self) -> list[str]:
        """What was noted while reading, of the directories and of each run."""
        return [*self.notes, *(f"{run.env} {run.label} seed {run.seed}: {note}" for run in self.runs for note in run.notes)]

    def raised(self) -> dict[int, list[Run]]:
        """Finished runs of which more frames are asked for by now, by that number."""
        asked = {
            (experiment["name"], cell["env"], cell["label"], cell["seed"]): (cell.get("config") or {}).get("steps")
            for experiment in self.experiments
            for cell in experiment["cells"]
        }
        found: dict[int, list[Run]] = {}
        for run in self.runs:
            steps = asked.get((run.experiment, run.env, run.config.get("label"), run.seed))  # a variant is called otherwise
            if run.state == "done" and is_number(steps) and steps > run.steps:
                found.setdefault(int(steps), []).append(run)
        return found

    def codes(self, label: str) -> list[str]:
        """Hashes of the code that the sessions of an algorithm from outside ran; [] for the benchmark's own."""
        runs = (run for run in self.runs if run.label == label)
        return sorted({str(session["source"]) for run in runs for session in run.sessions if session.get("source")})

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


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """One number for each row, nan where it is missing or not a number."""
    try:
        return np.array([row.get(name) for row in rows], dtype=np.float64)  # None becomes nan
    except (TypeError, ValueError):
        return np.array([row[name] if is_number(row.get(name)) else np.nan for row in rows], dtype=np.float64)


def _evals(rows: list[dict[str, Any]], name: str, notes: list[str]) -> Curve:
    """The value of an evaluation is the mean of its episodes' returns, or of what it recorded of them under another name."""
    kept, values = [], []
    for row in rows:
        episodes = row.get(OF_EPISODES[name]) if name in OF_EPISODES else (row.get("scores") or {}).get(name)
        try:
            values.append(sum(np.nan if value is None else value for value in episodes) / len(episodes))  # NaN is null in JSON
            kept.append(row)
        except (TypeError, ZeroDivisionError):
            notes.append(f"evals.jsonl: no {name} at env_step {row['env_step']}")
    return Curve(_column(kept, "env_step"), _column(kept, "update"), np.array(values, dtype=np.float64))


def _others(rows: list[dict[str, Any]], score: Score) -> dict[str, Curve]:
    """Curves of what evaluations recorded beside the score."""
    named = dict.fromkeys(name for row in rows for name in row.get("scores") or {})
    known = [name for name, key in OF_EPISODES.items() if any(key in row for row in rows)]
    return {name: _evals(rows, name, []) for name in (*known, *named) if name != score.name}


def _metrics(rows: list[dict[str, Any]]) -> dict[str, Curve]:
    step, update = _column(rows, "env_step"), _column(rows, "update")
    curves = {}
    for name in METRICS:
        value = _column(rows, name)
        if (known := np.isfinite(value)).any():
            curves[name] = Curve(step[known], update[known], value[known])
    return curves


def _clock(rows: list[dict[str, Any]]) -> Clock:
    rows = [row for row in rows if is_number(row.get("active"))]
    last = rows[-1] if rows else {}

    wall = {name: float(value) for name, value in (last.get("wall") or {}).items() if is_number(value)}
    return Clock(
        _column(rows, "env_step"),
        _column(rows, "active"),
        _column(rows, "process"),
        _column(rows, "total"),
        wall,
        int(last.get("updates_timed") or 0),
        float(last.get("rss_mb", np.nan)),
    )


def _score(spec: dict[str, Any]) -> Score:
    score = spec.get("score") or {}
    low, high = (float(score[key]) if is_number(score.get(key)) else None for key in ("low", "high"))
    return Score(str(score.get("name", "return")), score.get("direction", "max") != "min", low, high)


def read_run(path: Path) -> Run:
    """One run directory. Raises ValueError when its config.yaml cannot be read or lacks label, env.id or seed."""
    return run_of(records.of_directory(path), path, home_of(path).name)


def run_of(record: Record, path: Path, experiment: str) -> Run:
    """The run that a record tells of. Raises ValueError when its config lacks label, env.id or seed."""
    notes, config = list(record["notes"]), record["config"]
    place = config.get("env")
    env, seed = place.get("id") if isinstance(place, dict) else None, config.get("seed")
    if not isinstance(env, str) or not isinstance(seed, int) or "label" not in config:
        raise ValueError("config.yaml lacks label, env.id or seed")
    score = _score(config.get("spec") or {})
    return Run(
        path=path,
        experiment=experiment,
        env=env,
        label=str(config["label"]),
        seed=seed,
        config=config,
        score=score,
        state=record["state"],
        failure=record["failure"],
        progress=record["progress"],
        evals=_evals(record["evals"], score.name, notes),
        others=_others(record["evals"], score),
        metrics=_metrics(record["metrics"]),
        clock=_clock(archive.around(record["clock"], [row["env_step"] for row in record["evals"]])),  # as archives have it
        sessions=record["sessions"],
        cost=record["cost"],
        probes=record["probes"],
        notes=tuple(notes),
    )


def find(tops: list[Path]) -> Found:
    """Everything at or below the given directories and in the given archives. Raises ReportError when one is neither."""
    found, seen = Found(), set()
    for top in tops:
        if top.is_dir():
            _find_below(top.resolve(), found, seen)
        elif top.is_file():
            archive.read(top.resolve(), found)
        else:
            raise ReportError(f"{top} is no directory and no archive; give experiments, a directory above them, or archives")
    return found


def _find_below(top: Path, found: Found, seen: set[Path]) -> None:
    """Run directories and experiments at or below `top`, through links too, each place once (`seen`: where this has been);
    does not look inside runs."""
    for here, folders, files in os.walk(top, followlinks=True):
        home = Path(here)
        if home.resolve() in seen:
            folders.clear()
            continue
        seen.add(home.resolve())
        # of a directory and a link to it the directory comes first: an experiment has its name
        folders[:] = sorted(set(folders) - PRUNED, key=lambda name: ((home / name).is_symlink(), name))
        if "sweep.json" in files:
            folders[:] = ["confirm"]  # trials were chosen by their own score: they enter no comparison
        if "config.yaml" in files:
            found.runs[home] = partial(records.of_directory, home)
            folders.clear()
        if "experiment.json" in files:
            found.experiments[home] = _experiment(home, found.notes)


def _experiment(home: Path, notes: list[str]) -> dict[str, Any]:
    """experiment.json, with the timings beside it as `timing`, and with what ended a cell before it began as its `failure`."""
    noted: list[str] = []
    content = records.read_json(home / "experiment.json", noted)
    content["timing"] = records.read_json(home / "timing.json", noted)
    for cell in content.get("cells") or []:
        if isinstance(cell, dict) and (place := home / str(cell.get("dir"))).is_dir() and not (place / "config.yaml").exists():
            cell["failure"] = records.read_json(place / "FAILED.json", noted).get("error")
    notes += [f"{home.name}: {note}" for note in noted]
    return content


def read(tops: list[Path]) -> Collection:
    """Everything that is found there, each run once. Raises ReportError when there is no run."""
    found = find(tops)
    names = found.names
    collection = Collection(notes=found.notes)
    for home, content in found.experiments.items():
        _add_experiment(content, names[home], collection)
    for path, record in found.runs.items():
        try:
            collection.runs.append(run_of(record(), path, names[home_of(path)]))
        except (ValueError, OSError) as error:
            collection.notes.append(f"{'/'.join(path.parts[-4:])}: {error}; left out")
    if not collection.runs:
        places = ", ".join(map(str, tops))
        unread = f" ({collection.notes[-1]})" if collection.notes else ""
        raise ReportError(f"no runs below {places}; expected <environment>/<label>/seed_<k>/config.yaml{unread}")
    have = {(run.experiment, run.env, run.label, run.seed) for run in collection.runs}
    collection.missing = [
        cell for cell in collection.missing if (cell.experiment, cell.env, cell.label, cell.seed) not in have
    ]
    return collection


def _add_experiment(content: dict[str, Any], name: str, collection: Collection) -> None:
    cells = [cell for cell in content.get("cells") or [] if {"env", "label", "seed"} <= set(cell)]
    timing = content.get("timing")
    collection.experiments.append({**content, "name": name, "cells": cells})
    collection.missing += [
        Missing(
            name, str(cell["env"]), str(cell["label"]), int(cell["seed"]), config=cell.get("config") or {},
            reason=f"failed before it began: {cell['failure']}" if cell.get("failure") else "no run directory",
        )
        for cell in cells
    ]
    if timing:
        collection.timing.append(timing)
