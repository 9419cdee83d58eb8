"""From runs to numbers: one row for each seed, and from those rows alone every number that the tables show."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from reports import stats
from reports.load import IDLE_PHASES, LOOP_PHASES, Collection, Curve, Missing, Run

THRESHOLDS = (0.5, 0.8)  # of the normalised score
COLUMNS = ("final", "best", "auc")
SIZED = ("batch", "width", "depth", "device", "mode")
ROW = [
    "experiment", "env", "label", "seed", "state", "scored", "left_out", "env_step", "steps", "budget", "rule",
    "action_repeat", "T", "batch", "width", "depth", "device", "mode", "score", "direction", "low", "high",
    "evaluations", "untrained", "final", "best", "auc", "final_normalised", "best_normalised", "auc_normalised",
    "frames_to_50", "seconds_to_50", "frames_to_80", "seconds_to_80", "updates", "active_s", "process_s", "total_s",
    "ms_per_update", "updates_per_s", "frames_per_s", "peak_memory_mb", "parameters", "actor_parameters",
    "flops_per_update", "operations_per_update", "condition", "equal_time_s", "at_equal_time",
]  # the columns of every per_seed.csv; those of phases and of other scores follow
Row = dict[str, Any]


def reach_key(threshold: float) -> str:
    return f"{100 * threshold:.0f}"


def per_seed(collection: Collection) -> list[Row]:
    """One row for each run and each missing cell. None: does not apply or is not known; inf: never reached."""
    budgets, tolerances = _budgets(collection.runs)
    conditions = condition_names(collection.runs)
    rows = [
        _row(run, budgets.get(run.env, 0), tolerances.get(run.env, 0), conditions.get(run.conditions))
        for run in collection.runs
    ]
    _equal_time(rows, collection.runs)
    rows += [_missing_row(cell) for cell in collection.missing]
    keys = list(dict.fromkeys([*ROW, *(key for row in rows for key in row)]))
    env, label = ({name: i for i, name in enumerate(names)} for names in (collection.envs, collection.labels))
    rows.sort(key=lambda row: (env[row["env"]], label[row["label"]], row["seed"], row["experiment"]))
    return [{key: row.get(key) for key in keys} for row in rows]


def condition_names(runs: Iterable[Run]) -> dict[tuple, str]:
    """A letter for each set-up (hardware, torch, threads, concurrency) that runs were timed under."""
    found = sorted({run.conditions for run in runs if run.conditions})
    return {condition: _letters(number) for number, condition in enumerate(found)}


def _letters(number: int) -> str:
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _budgets(runs: list[Run]) -> tuple[dict[str, int], dict[str, int]]:
    """Frames at which an environment's runs are compared, those of its shortest finished run, and by how many frames an
    evaluation may come before them: less than the interval of that run (the longest one's, if several are as short)."""
    finished = [run for run in runs if run.state == "done"]
    budgets: dict[str, int] = {}
    tolerances: dict[str, int] = {}
    for run in finished:
        budgets[run.env] = min(run.steps, budgets.get(run.env, run.steps))
    for run in finished:
        if run.steps == budgets[run.env]:
            every = min(int(run.config.get("eval_every") or run.steps), run.steps)
            tolerances[run.env] = max(every, tolerances.get(run.env, 0))
    return budgets, tolerances


def _missing_row(cell: Missing) -> Row:
    same = {"experiment": cell.experiment, "env": cell.env, "label": cell.label, "seed": cell.seed}
    return {**same, "state": "missing", "scored": False, "left_out": cell.reason}


def _row(run: Run, budget: int, tolerance: int, condition: str | None) -> Row:
    row: Row = {
        "experiment": run.experiment,
        "env": run.env,
        "label": run.label,
        "seed": run.seed,
        "state": run.state,
        "scored": False,
        "left_out": "" if run.state == "done" else run.state,
        "env_step": int(run.evals.step[-1]) if len(run.evals) else 0,
        "steps": run.steps,
        "budget": budget or None,
        "rule": run.rule,
        "action_repeat": run.action_repeat,
        "T": _denoising_steps(run.config.get("algo") or {}),
        **run.sized,
        "score": run.score.name,
        "direction": "max" if run.score.maximise else "min",
        "low": run.score.low,
        "high": run.score.high,
    }
    if run.state == "done":
        row |= _scores(run, budget, tolerance)
        row |= {f"final: {name}": _last(curve, run.whole(budget)) for name, curve in run.others.items()}
    return row | _clock_columns(run, budget) | {"condition": condition}


def _denoising_steps(algo: Row) -> int | None:
    """T of a diffusion policy; an algorithm from outside may call something else so, such as a temperature."""
    return algo.get("T") if "T" in algo and "schedule" in algo else None


def _scores(run: Run, budget: int, tolerance: int) -> Row:
    """Final (the last evaluation), best and AUC (mean height of the curve), of the evaluations within the budget."""
    budget = run.whole(budget)
    within = run.evals.step <= budget
    step, value = run.evals.step[within], run.evals.value[within]
    if not len(value) or not np.isfinite(value).all():
        return {"left_out": "no evaluation" if not len(value) else "an evaluation is not finite"}
    if budget - step[-1] >= tolerance:
        last = f"the last before it is at {step[-1]:.0f}"
        return {"left_out": f"no evaluation near frame {budget}, where runs are compared: {last}"}
    raw = {
        "final": float(value[-1]),
        "best": float(value.max() if run.score.maximise else value.min()),
        "auc": stats.area_under_curve(step, value),
    }
    normalised = run.score.normalise(np.array(list(raw.values())))
    if np.isnan(normalised).any():
        return {"scored": True, "evaluations": len(value), "untrained": float(value[0]), **raw}
    reach = {}
    seconds = run.clock.at(step)
    for threshold in THRESHOLDS:
        key, height = reach_key(threshold), run.score.normalise(value)
        reach[f"frames_to_{key}"] = stats.first_reach(step, height, threshold)
        if np.isfinite(seconds).all():
            reach[f"seconds_to_{key}"] = stats.first_reach(seconds, height, threshold)
    named = {f"{name}_normalised": float(number) for name, number in zip(raw, normalised, strict=True)}
    return {"scored": True, "evaluations": len(value), "untrained": float(value[0]), **raw, **named, **reach}


def _last(curve: Curve, budget: int) -> float | None:
    within = curve.value[curve.step <= budget]
    return float(within[-1]) if len(within) else None


def _clock_columns(run: Run, budget: int) -> Row:
    """What the run cost, its seconds those of the budget's frames, where the scores are compared too."""
    clock = run.clock
    if not len(clock.step):
        return {}
    end = np.minimum(clock.step[-1:], run.whole(budget) or np.inf)
    until = {f"{name}_s": float(clock.at(end, name)[0]) for name in ("active", "process", "total")}
    timed = clock.updates_timed
    phases = {name: 1e3 * seconds / timed for name, seconds in clock.wall.items() if timed and name not in IDLE_PHASES}
    update = sum(value for name, value in phases.items() if name not in LOOP_PHASES)
    columns: Row = {
        "updates": int(run.evals.update[-1]) if len(run.evals) else 0,
        **until,
        "ms_per_update": update if timed else None,
        "updates_per_s": 1e3 / update if update else None,
        "frames_per_s": float(clock.step[-1] / clock.active[-1]) if clock.active[-1] > 0 else None,
        "peak_memory_mb": run.cost.get("peak_memory_mb", clock.rss_mb),
    }
    for name in ("parameters", "actor_parameters", "flops_per_update", "operations_per_update"):
        columns[name] = run.cost.get(name)
    return columns | {f"ms_{name}": value for name, value in phases.items()}


def _equal_time(rows: list[Row], runs: list[Run]) -> None:
    """Adds the value at the active time that all scored runs of an environment reached, if all were timed alike; those of
    several set-ups, or without a clock, have no time to be asked at."""
    timed = [(row, run, run.clock.at(run.evals.step)) for row, run in zip(rows, runs, strict=True)
             if row["scored"] and row["condition"]]  # fmt: skip
    for env in {row["env"] for row in rows}:
        found = [(row, run, times) for row, run, times in timed if row["env"] == env and np.isfinite(times).all()]
        if len({row["condition"] for row, *_ in found}) != 1:
            continue
        shared = min(times[-1] for _, _, times in found)
        for row, run, times in found:
            row["equal_time_s"] = float(shared)
            row["at_equal_time"] = float(np.interp(shared, times, run.evals.value))


def to_csv(rows: list[Row]) -> str:
    """RFC 4180 text with every digit; an empty field is None, `inf` a threshold that was not reached."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def summarise(collection: Collection, rows: list[Row], *, allow_partial: bool = False) -> Row:
    """Everything that the tables show, from the per-seed rows; see docs/report_schema.md."""
    envs, labels = collection.envs, collection.labels
    changed = {(run.env, run.label): {name: own for name, (_, own) in run.changed.items()} for run in collection.runs}
    cells = [
        _cell(found) | {"changed": changed.get(key)}
        for key in itertools.product(envs, labels)
        if (found := [row for row in rows if (row["env"], row["label"]) == key])
    ]
    chosen, left_out = _aggregated_envs(collection, rows, allow_partial)
    pairs = [pair for env in envs for pair in _pairs([env], rows, labels, env in collection.mixed)]
    _correct(pairs)
    if len(chosen) > 1:
        together = _pairs(chosen, rows, labels, False)
        _correct(together)
        pairs = together + pairs
    return {
        "schema": 1,
        "clock": "processor" if collection.shares else "wall",
        "envs": envs,
        "labels": labels,
        "cells": cells,
        "aggregates": {
            "envs": chosen,
            "left_out": left_out,
            "labels": {label: _aggregate(label, chosen, rows) for label in labels},
        },
        "pairs": pairs,
        "states": dict(sorted(Counter(row["state"] for row in rows).items())),
        "mixed": collection.mixed,
        "recoded": {label: len(codes) for label in collection.labels if len(codes := collection.codes(label)) > 1},
        "set_ups": {letter: dict(condition) for condition, letter in condition_names(collection.runs).items()},
        "evaluation": [found for env in envs for found in _evaluation(env, collection.runs)],
    }


def _evaluation(env: str, runs: list[Run]) -> list[Row]:
    """How runs of an environment were evaluated, with the seeds of each way: one way, if they are to be compared."""
    seeds: dict[str, set[int]] = {}
    for run in runs:
        if run.env == env:
            score = (run.config.get("spec") or {}).get("score") or {}
            way = {"env": env, "rule": run.rule, "every": run.config.get("eval_every"), "action_repeat": run.action_repeat}
            way |= {"score": run.score.name, "direction": "max" if run.score.maximise else "min"}
            way |= {"low": run.score.low, "high": run.score.high, "source": score.get("source")}
            seeds.setdefault(json.dumps(way), set()).add(run.seed)
    return [{**json.loads(way), "seeds": sorted(own)} for way, own in seeds.items()]


def _values(rows: list[Row], column: str) -> np.ndarray:
    values = [row.get(column) for row in rows]
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _cell(rows: list[Row]) -> Row:
    scored = [row for row in rows if row["scored"]]
    timed = all(row["condition"] for row in scored)
    cell: Row = {
        "env": rows[0]["env"],
        "label": rows[0]["label"],
        "asked": len(rows),
        "n": len(scored),
        "states": dict(sorted(Counter(row["state"] for row in rows).items())),
        "budget": scored[0]["budget"] if scored else None,
        "T": next((row["T"] for row in rows if row.get("T")), None),
        "sized": next(({key: row[key] for key in SIZED} for row in rows if row.get("device")), None),
        "rule": next((row["rule"] for row in rows if row.get("rule")), None),
        "score": next((row["score"] for row in rows if row.get("score")), None),
        "direction": next((row["direction"] for row in rows if row.get("direction")), None),
        "conditions": sorted({row["condition"] for row in rows if row.get("condition")}),
        "equal_time_s": scored[0].get("equal_time_s") if scored and timed else None,
    }
    names = ("untrained", *COLUMNS, *(f"{name}_normalised" for name in COLUMNS), "at_equal_time")
    for name in names:
        values = _values(scored, name)
        every = 0 < len(values) == len(scored)  # a mean over some of the seeds would stand beside means over all
        cell[name] = estimate(stats.mean_estimate(values)) if every else None
    cell["finals"] = _values(scored, "final").tolist()
    others = [key for key in rows[0] if key.startswith("final: ") and 0 < len(_values(scored, key)) == len(scored)]
    cell["others"] = {key.removeprefix("final: "): estimate(stats.mean_estimate(_values(scored, key))) for key in others}
    for threshold in THRESHOLDS:
        key = reach_key(threshold)
        asked = _values(scored, f"frames_to_{key}")  # none where the score has no range to place the threshold in
        cell[f"reached_{key}"] = int(np.isfinite(asked).sum()) if len(asked) else None
        for unit in ("frames", "seconds"):
            values = _values(scored, f"{unit}_to_{key}")
            known = 0 < len(values) == len(scored) and (unit == "frames" or (timed and len(cell["conditions"]) == 1))
            cell[f"{unit}_to_{key}"] = float(np.median(values)) if known else None
    cost = _cost(rows)
    updates = _values([row for row in rows if row["state"] == "done" and row["condition"]], "ms_per_update")
    cell["ms_per_update_range"] = [float(updates.min()), float(updates.max())] if "ms_per_update" in cost else None
    return cell | {"cost": cost}


def _cost(rows: list[Row]) -> Row:
    """Means over a cell's runs, times only where all that have one set-up have the same; sizes do not depend on it."""
    sizes = ("parameters", "actor_parameters", "flops_per_update", "operations_per_update")
    timed = [key for key in rows[0] if key.startswith("ms_") or key.endswith(("_per_s", "_s", "_mb"))]
    alike = len({row["condition"] for row in rows if row.get("condition")}) == 1
    finished = [row for row in rows if row["state"] == "done"]
    cost: Row = {}
    for names, runs in ((timed if alike else [], [row for row in finished if row["condition"]]), (sizes, finished)):
        for name in names:
            if name != "equal_time_s" and len(values := _values(runs, name)):
                cost[name] = float(values.mean())
    return cost


def _aggregated_envs(collection: Collection, rows: list[Row], allow_partial: bool) -> tuple[list[str], dict[str, str]]:
    """Tasks for which every label has a normalised score, and why the others are left out."""
    chosen, left_out = [], {}
    for env in collection.envs:
        have = {row["label"] for row in rows if row["env"] == env and row.get("final_normalised") is not None}
        lacking = [label for label in collection.labels if label not in have]
        if env in collection.mixed:
            left_out[env] = collection.mixed[env]
        elif not have:
            here = [row for row in rows if row["env"] == env]
            ended = "no scored run" if any(row["state"] == "done" for row in here) else "no finished run"
            left_out[env] = "its score has no range to normalise by" if any(row["scored"] for row in here) else ended
        elif lacking and not allow_partial:
            ended = any(row["env"] == env and row["label"] in lacking and row["state"] == "done" for row in rows)
            left_out[env] = f"no {'scored' if ended else 'finished'} run of {', '.join(lacking)}"
        else:
            chosen.append(env)
    return chosen, left_out


def scores(rows: list[Row], label: str, envs: list[str], column: str) -> list[np.ndarray]:
    """The seeds' values of one column for each environment that the label has any for."""
    tasks = [[row for row in rows if row["env"] == env and row["label"] == label and row["scored"]] for env in envs]
    return [values for task in tasks if len(values := _values(task, column))]


def _aggregate(label: str, envs: list[str], rows: list[Row]) -> Row:
    result: Row = {}
    for name in COLUMNS:
        tasks = scores(rows, label, envs, f"{name}_normalised")
        if tasks:
            result[name] = {key: estimate(value) for key, value in stats.aggregate(tasks).items()}
            result["tasks"] = len(tasks)
    return result


def active_time(summary: Row) -> str:
    """What the seconds of acting, storing, sampling and updating are: the clock's, or the processor's in that time."""
    return "active processor" if summary["clock"] == "processor" else "active"


def share_of_tasks(summary: Row, label: str) -> str:
    """'1 of 2 tasks' where a label's aggregates are over fewer tasks than others', '' where they are over all of them."""
    total, found = len(summary["aggregates"]["envs"]), summary["aggregates"]["labels"].get(label, {}).get("tasks", 0)
    return f"{found} of {total} tasks" if found < total else ""


def _pairs(envs: list[str], rows: list[Row], labels: list[str], mixed: bool) -> list[Row]:
    """Every pair of labels on one environment (raw scores, better is positive) or over several (normalised)."""
    several = len(envs) > 1
    lower = not several and any(row["env"] == envs[0] and row.get("direction") == "min" for row in rows)
    values = {label: scores(rows, label, envs, "final_normalised" if several else "final") for label in labels}
    pairs = []
    for x, y in itertools.combinations(labels, 2):
        if len(values[x]) != len(envs) or len(values[y]) != len(envs):
            continue
        a, b = ([-task if lower else task for task in values[label]] for label in (x, y))
        pair: Row = {"env": None if several else envs[0], "x": x, "y": y, "comparable": not mixed}
        if not mixed:
            gap, wins = stats.difference(a, b), stats.improvement(a, b)
            needed = _seeds_needed(a, b, gap.n, separated=better(gap, wins, x, y) is not None)
            pair |= {
                "difference": estimate(gap),
                "improvement": estimate(wins),
                "p": stats.difference_p(a, b),
                "n": gap.n,
                "better": better(gap, wins, x, y),
            }
            pair |= {"seeds_needed": needed, "seeds_more": None if needed is None else max(0, needed - gap.n)}
        pairs.append(pair)
    return pairs


def _correct(pairs: list[Row]) -> None:
    """Adds `p_holm`: the pairs of one task each are one family of tests, those over all tasks another."""
    compared = [pair for pair in pairs if pair["comparable"]]
    corrected = iter(stats.holm([pair["p"] for pair in compared if pair["p"] is not None]))
    for pair in compared:
        pair["p_holm"] = None if pair["p"] is None else next(corrected)


def _seeds_needed(x: stats.Scores, y: stats.Scores, n: int, *, separated: bool) -> int | None:
    """Seeds at which both criteria would be met; of a pair that is not separated more than the n it has, whatever its means
    and spreads say: scores far from normal can be that unlike."""
    both = stats.seeds_to_separate(x, y), stats.seeds_to_improve(x, y)
    if None in both:
        return None
    return max(stats.MIN_SEEDS, *both, 0 if separated else n + 1)


def better(gap: stats.Estimate, wins: stats.Estimate, x: str, y: str) -> str | None:
    """The better one of a pair if both intervals agree on it: that of the mean difference and that of P(improvement)."""
    if gap.low is None or wins.low is None:
        return None
    if gap.low > 0 and wins.low > 0.5:
        return x
    return y if gap.high < 0 and wins.high < 0.5 else None


def estimate(value: stats.Estimate) -> Row:
    return {"value": value.value, "low": value.low, "high": value.high, "n": value.n, "caution": value.caution}
