"""Puts several experiments into one comparison, and refuses to put unlike runs side by side unasked."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

from reports import ReportError
from reports.load import Collection, Missing, Run
from reports.words import large, listing


def merge(collection: Collection, *, allow_mixed: bool = False) -> Collection:
    """One label for each variant: what differs under one label is told apart, what must not be compared is refused.

    Raises ReportError when runs of one environment differ in evaluation rule, score or a setting of the environment (unless
    allow_mixed: then `mixed` says what differs), or when one seed of a variant appears twice.
    """
    _refuse_mixed(collection, allow_mixed)
    _separate_variants(collection)
    _refuse_twice(collection.runs)
    _fill(collection)
    return collection


def _fill(collection: Collection) -> None:
    """Drops the missing cells whose run lies in another experiment, and all but one of those that several lack: a grid may
    have been worked on in several places. A run with other settings is not theirs."""
    runs = {(run.env, run.label, run.seed): run for run in collection.runs}
    first = {}
    for cell in collection.missing:
        first.setdefault((cell.env, cell.label, cell.seed, _algo(cell.config)), cell)

    def made(cell: Missing) -> bool:
        run = runs.get((cell.env, cell.label, cell.seed))
        return run is not None and (not cell.config or _algo(cell.config) == _algo(run.config))

    collection.missing = [cell for cell in first.values() if not made(cell)]


def _refuse_mixed(collection: Collection, allow_mixed: bool) -> None:
    for env in collection.envs:
        runs = [run for run in collection.runs if run.env == env]
        for what, values in (
            ("evaluation rules", [run.rule for run in runs]),
            ("action repeats", [str(run.action_repeat) for run in runs]),
            ("scores", [_score_text(run) for run in runs]),
            *_env_settings(runs),
        ):
            examples = {value: _where(run) for value, run in zip(values, runs, strict=True) if value}
            if len(examples) < 2:
                continue
            found = "; ".join(f"{value} ({examples[value]})" for value in sorted(examples))
            if not allow_mixed:
                raise ReportError(
                    f"{env}: runs with different {what} cannot be compared: {found}; "
                    "report them apart, or pass --allow-mixed to have them side by side and marked"
                )
            earlier = f"{collection.mixed[env]}; " if env in collection.mixed else ""
            collection.mixed[env] = f"{earlier}different {what}: {found}"


def _env_settings(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """The other settings of an environment, '' where a run does not have one. What kind of action and how many copies there
    are is the agent's own choice."""
    settings = [run.env_settings for run in runs]
    keys = sorted({key for own in settings for key in own} - {"action_repeat", "bounded"})
    return [(f"env.{key}", [json.dumps(own[key]) if key in own else "" for own in settings]) for key in keys]


def _score_text(run: Run) -> str:
    """The score and its range, in three digits: one that was measured anew in the same way is no other."""
    score = run.score
    low, high = (None if end is None else f"{end:.3g}" for end in (score.low, score.high))
    return f"{score.name}, {'max' if score.maximise else 'min'}, from {low} to {high}"


def _where(run: Run) -> str:
    return f"{run.experiment}/{run.label}/seed_{run.seed}"


def _separate_variants(collection: Collection) -> None:
    """Gives runs of one label that differ in settings of algorithm or environment, warm-up, rule or score a label each.

    Named after their experiments where that tells them apart, numbered otherwise: a number stands for the same settings of
    the algorithm on every environment, where these tell the variants apart.
    """
    variants: dict[str, dict[str, dict[str, list[Run]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in collection.runs:
        variants[run.label][run.env][_text(_settings(run))].append(run)
    names: dict[int, str] = {}
    for label, envs in variants.items():
        if all(len(kinds) == 1 for kinds in envs.values()):
            continue
        by_experiment = all(
            len({run.experiment for run in runs}) == 1
            and len({runs[0].experiment for runs in kinds.values()}) == len(kinds)
            for kinds in envs.values()
            for runs in kinds.values()
        )
        own = all(len({_algo(runs[0].config) for runs in kinds.values()}) == len(kinds) for kinds in envs.values())
        number: dict[str, int] = {}
        for run in collection.runs:
            if run.label == label:
                place = number.setdefault(_algo(run.config) if own else _text(_settings(run)), len(number) + 1)
                names[id(run)] = f"{label} ({run.experiment})" if by_experiment else f"{label} #{place}"
        differ = listing(_differing([[_settings(runs[0]) for runs in kinds.values()] for kinds in envs.values()]))
        collection.notes.append(f"{label}: its runs differ in {differ} and are shown as different variants")
    collection.missing = [replace(cell, label=_missing_name(cell, collection.runs, names)) for cell in collection.missing]
    collection.runs = [replace(run, label=names.get(id(run), run.label)) for run in collection.runs]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _algo_settings(config: dict[str, Any]) -> dict[str, Any]:
    """What decides a number of the algorithm: neither what it is called nor how its settings were found."""
    return {key: value for key, value in (config.get("algo") or {}).items() if key not in ("name", "tuned")}


def _algo(config: dict[str, Any]) -> str:
    return _text(_algo_settings(config))


def _settings(run: Run) -> dict[str, Any]:
    """What makes seeds of one label and environment those of one variant. An automatic warm-up depends on the budget."""
    groups = {"algo": _algo_settings(run.config), "env": run.config.get("env") or {}}
    flat = {f"{name}.{key}": value for name, group in groups.items() for key, value in group.items() if key != "id"}
    return {**flat, "evaluation rule": run.rule, "score": _score_text(run), "warmup": run.warmup}


def _differing(kinds: list[list[dict[str, Any]]]) -> list[str]:
    """The settings in which the variants of some environment differ; kinds: those of each environment."""
    return sorted(
        {key for same in kinds for one in same for key in one if len({_text(other.get(key)) for other in same}) > 1}
    )


def _missing_name(cell: Missing, runs: list[Run], names: dict[int, str]) -> str:
    """The variant of a cell without a run: that of runs with its settings, or else of those nearest to it."""
    same = [run for run in runs if run.label == cell.label and id(run) in names]
    if not same:
        return cell.label

    def distance(run: Run) -> tuple[bool, bool, bool]:
        return _algo(run.config) != _algo(cell.config), run.experiment != cell.experiment, run.env != cell.env

    return names[id(min(same, key=distance))]


def cautions(collection: Collection, rows: list[dict[str, Any]]) -> list[str]:
    """What averages over these runs do not show: unlike budgets, intervals and settings, and finished runs left out."""
    texts = [
        f"**{row['env']}**: {row['label']} seed {row['seed']} is left out: {row['left_out']}."
        for row in rows
        if row["state"] == "done" and not row["scored"]
    ]
    for env in collection.envs:
        runs = [run for run in collection.runs if run.env == env and run.state == "done"]
        if len(steps := sorted({run.steps for run in runs})) > 1:
            texts.append(
                f"**{env}**: runs of {listing([large(s) for s in steps])} frames are compared at {large(steps[0])}."
            )
        if len(every := sorted({run.config.get("eval_every") or 0 for run in runs})) > 1:
            texts.append(
                f"**{env}**: evaluated every {listing([large(e) for e in every])} frames. Where runs are evaluated more often, "
                "“best” is picked from more values, a score is seen to be reached earlier, and AUC is closer to the curve."
            )
        warm: dict[int, list[str]] = {}
        for label, frames in sorted({(run.label, run.warmup) for run in runs if run.warmup is not None}):
            warm.setdefault(frames, []).append(label)
        if len(warm) > 1:
            found = listing([f"{large(frames)} ({', '.join(warm[frames])})" for frames in sorted(warm)])
            texts.append(f"**{env}**: warm-up differs: {found} frames. Before its end nothing is learnt.")
    for label in collection.labels:
        settings = {run.env: run.config.get("algo") or {} for run in collection.runs if run.label == label}
        keys = sorted({key for algo in settings.values() for key in algo} - {"name", "tuned"})
        differ = [key for key in keys if len({json.dumps(algo.get(key)) for algo in settings.values()}) > 1]
        if differ:
            texts.append(
                f"**{label}** has other settings on some environments than on others ({', '.join(differ)}): its aggregates "
                "are of no single configuration."
            )
    return texts


def _refuse_twice(runs: list[Run]) -> None:
    seen: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        key = (run.env, run.label, run.seed)
        if key in seen:
            raise ReportError(
                f"{run.env}: seed {run.seed} of {run.label} appears twice, in {_where(seen[key])} and {_where(run)}; "
                "a seed counts once, so leave one of them out"
            )
        seen[key] = run
