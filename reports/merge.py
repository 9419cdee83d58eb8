"""Puts several experiments into one comparison, and refuses to put unlike runs side by side unasked."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace

from reports import ReportError
from reports.load import Collection, Run


def merge(collection: Collection, *, allow_mixed: bool = False) -> Collection:
    """One label for each variant: what differs under one label is told apart, what must not be compared is refused.

    Raises ReportError when runs of one environment differ in evaluation rule, action repeat or score (unless
    allow_mixed: then `mixed` says what differs), or when one seed of a variant appears twice.
    """
    _refuse_mixed(collection, allow_mixed)
    _separate_variants(collection)
    _refuse_twice(collection.runs)
    return collection


def _refuse_mixed(collection: Collection, allow_mixed: bool) -> None:
    for env in collection.envs:
        runs = [run for run in collection.runs if run.env == env]
        for what, values in (
            ("evaluation rules", [run.rule for run in runs]),
            ("action repeats", [str(run.action_repeat) for run in runs]),
            ("scores", [_score_text(run) for run in runs]),
        ):
            examples = {value: _where(run) for value, run in zip(values, runs, strict=True)}
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


def _score_text(run: Run) -> str:
    score = run.score
    return f"{score.name}, {'max' if score.maximise else 'min'}, from {score.low} to {score.high}"


def _where(run: Run) -> str:
    return f"{run.experiment}/{run.label}/seed_{run.seed}"


def _separate_variants(collection: Collection) -> None:
    """Gives runs of one label that differ in algorithm settings, environment settings or rule a label each.

    Named after their experiments where that tells them apart, numbered otherwise.
    """
    variants: dict[str, dict[str, dict[str, list[Run]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in collection.runs:
        settings = json.dumps([run.config.get("algo"), run.config.get("env"), run.rule], sort_keys=True, default=str)
        variants[run.label][run.env][settings].append(run)
    renamed: dict[int, str] = {}
    for label, envs in variants.items():
        if all(len(kinds) == 1 for kinds in envs.values()):
            continue
        by_experiment = all(
            len({run.experiment for run in runs}) == 1
            and len({runs[0].experiment for runs in kinds.values()}) == len(kinds)
            for kinds in envs.values()
            for runs in kinds.values()
        )
        for kinds in envs.values():
            for number, runs in enumerate(kinds.values(), start=1):
                name = f"{label} ({runs[0].experiment})" if by_experiment else f"{label} #{number}"
                renamed |= {id(run): name for run in runs}
        collection.notes.append(f"{label}: its runs have different settings and are shown as different variants")
    collection.runs = [replace(run, label=renamed.get(id(run), run.label)) for run in collection.runs]


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
