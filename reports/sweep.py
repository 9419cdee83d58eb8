"""The report of a hyperparameter sweep, from sweep.json and the runs of its confirmation."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from reports import ReportError, stats, summary, sweep_plots
from reports.charts import Bar, intervals
from reports.figures import Look, draw, label_cell, looks
from reports.html import Bullets, Cell, Details, Figure, Section, Table, Text
from reports.load import read
from reports.merge import merge
from reports.report import refuse_files_of_others, write_pages
from reports.summary import Row
from reports.sweep_plots import Record, of_state, winner
from reports.words import NOTHING, estimate, interval, large, listing, number, plural

TUNED = "_tuned"  # the label of a winner is the algorithm's with this behind it
OWN = ("env.num_envs", "env.bounded")  # copies and the kind of action are the agent's own


def write(sweep: Path, out: Path | None = None, *, allow_mixed: bool = False) -> Path:
    """Writes report.html, report.md, summary.json, trials.csv and figures/ for a sweep's directory; returns report.html's path.

    out: by default report/ in that directory. allow_mixed: as in reports.write; nothing is compared on a task whose runs
    differ. Raises ReportError where the directory holds no sweep, or unlike runs without it.
    """
    out = Path(out) if out else Path(sweep) / "report"
    refuse_files_of_others(out)
    content = _read(Path(sweep))
    studies: dict[str, Record] = content["studies"]
    look = looks(list(studies))
    rows, mixed, outdated = _confirmed(Path(sweep), studies, allow_mixed)
    alike = [row for row in rows if row["env"] not in mixed]
    gains = {label: gain(label, alike) for label in studies}
    parts = [
        _answer(content, gains, rows, mixed, outdated, look),
        _search(studies, look),
        _parameters(studies, look),
        _best(studies),
        _budget(content),
        _made(content),
    ]
    found = {label: _numbers(study) for label, study in studies.items()}
    numbers = {"schema": 1, "sweep": content["name"], "gains": gains, "studies": found}
    title = f"Sweep of {listing(list(studies))}"
    path = write_pages(out, title, parts, subtitle=_subtitle(content), rows=rows, numbers=numbers)
    (out / "trials.csv").write_text(summary.to_csv(_trial_rows(studies)), encoding="utf-8", newline="\n")
    return path


def _read(sweep: Path) -> Record:
    path = sweep / "sweep.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReportError(f"{sweep} holds no sweep: there is no sweep.json") from error
    except ValueError as error:
        raise ReportError(f"{path} cannot be read ({error})") from error
    return content


def _confirmed(
    sweep: Path, studies: dict[str, Record], allow_mixed: bool
) -> tuple[list[Row], dict[str, str], dict[str, int]]:
    """One row for each run of the confirmation, none where there was none; task -> in what its runs differ; and label -> the
    trial that was confirmed where another has won since, whose runs are not among the rows."""
    if not any((sweep / "confirm").glob("*/*/seed_*/config.yaml")):
        return [], {}, {}
    collection, outdated = read([sweep / "confirm"]), {}
    winners = {label + TUNED: (label, study["best"]) for label, study in studies.items()}
    for run in collection.runs:
        label, best = winners.get(run.label, (None, None))
        if label is not None and (trial := (run.config["algo"].get("tuned") or {}).get("trial")) != best:
            outdated[label] = trial
    collection.runs = [run for run in collection.runs if winners.get(run.label, (None,))[0] not in outdated]
    merge(collection, allow_mixed=allow_mixed)
    return summary.per_seed(collection), collection.mixed, outdated


def gain(label: str, rows: list[Row]) -> Row | None:
    """Tuned and default scores on the fresh seeds, and their difference with its interval; None without both."""
    scored = [row for row in rows if row["scored"] and row.get("final_normalised") is not None]
    have = {name: {row["env"] for row in scored if row["label"] == name} for name in (label, label + TUNED)}
    envs = sorted(have[label] & have[label + TUNED])
    if not envs:
        return None
    before, after = (summary.scores(scored, name, envs, "final_normalised") for name in (label, label + TUNED))
    asked = {row["env"] for row in rows if row["label"] in have}
    gap, wins = stats.difference(after, before), stats.improvement(after, before)
    return {
        "envs": envs,
        "left_out": sorted(asked - set(envs)),
        "default": summary.estimate(stats.aggregate(before)["mean"]),
        "tuned": summary.estimate(stats.aggregate(after)["mean"]),
        "difference": summary.estimate(gap),
        "improvement": summary.estimate(wins),
        "better": summary.better(gap, wins, "tuned", "default"),
    }


def _numbers(study: Record) -> Record:
    return {key: study[key] for key in ("budget", "best", "settings", "importance")}


def _trial_rows(studies: dict[str, Record]) -> list[Row]:
    names = list(dict.fromkeys(name for study in studies.values() for name in study["definition"]["space"]))
    return [
        {
            "study": label, "trial": trial["number"], "state": trial["state"], "value": trial["value"],
            **{name: trial["params"].get(name) for name in names},
            **{key: trial.get(key) for key in ("env_steps", "hours", "runs", "error")},
        }
        for label, study in studies.items() for trial in study["trials"]
    ]  # fmt: skip


def _subtitle(content: Record) -> str:
    studies = list(content["studies"].values())
    if _unlike(studies):
        return f"{plural(len(studies), 'algorithm')}, searched differently · {content['name']}"
    study = studies[0]
    tasks = listing(list(study["definition"]["runs"]))
    seeds = len(study["definition"]["tuning seeds"])
    each = f"{plural(study['asked'], 'trial')} for each algorithm on {tasks}"
    return f"{each}, {plural(seeds, 'tuning seed')} · {content['name']}"


# -- sections ----------------------------------------------------------------------------------------------------------


def _answer(
    content: Record, gains: dict[str, Row | None], confirmed: list[Row], mixed: dict[str, str], outdated: dict[str, int],
    look: dict[str, Look],
) -> Section:  # fmt: skip
    blocks: list[Any] = [Text(" ".join(_verdict(label, found) for label, found in gains.items()), "lead")]
    for label, trial in outdated.items():
        best = content["studies"][label]["best"]
        do = "repeat the command" if content["confirm"] else "give --confirm N"
        text = f"{label}: trial {trial}, which led before, was confirmed, trial {best} was not; {do} to have it confirmed."
        blocks.append(Text(text, "notice"))
    blocks += [Text(text, "notice") for text in _cautions(content, gains, confirmed)]
    blocks += [Text(f"Tuned and default are not compared on {env}: {what}.", "notice") for env, what in mixed.items()]
    rows = []
    for label, study in content["studies"].items():
        found, best = gains[label], winner(study)
        rows.append(
            [
                label_cell(label, look),
                estimate(found["default"]) if found else NOTHING,
                estimate(found["tuned"], strong=True) if found else NOTHING,
                estimate(found["difference"]) if found else NOTHING,
                number(best["value"]) if best else NOTHING,
                str(study["budget"]["trials"]),
                large(study["budget"]["env_steps"]),
            ]
        )
    columns = ["algorithm", "default", "tuned", "tuned − default", "best trial (not comparable)", "trials", "frames of tuning"]
    note = (
        "Default and tuned: final normalised scores on fresh seeds, which no trial has seen, with 95 % intervals. A gain or "
        "loss needs those of both the difference and the probability of improvement. The "
        "value of the "
        "best trial is the largest of many noisy ones and so too high; it enters no comparison."
    )
    blocks.append(Table(columns, rows, "What tuning changed", note))
    if any(gains.values()):
        blocks.append(_gain_figure({label: found for label, found in gains.items() if found}, look))
    return Section("answer", "Answer", blocks)


def _verdict(label: str, found: Row | None) -> str:
    if not found:
        return f"Whether tuning helps **{label}** is not known: its best configuration was not confirmed on fresh seeds."
    gap = found["difference"]
    seeds = plural(gap["n"], "fresh seed")
    if gap["low"] is None:
        return f"Tuning moved **{label}** by **{number(gap['value'])}** on {seeds}, too few for an interval."
    size = f"**{number(gap['value'])}** {interval(gap)}"
    provisional = " This is provisional: few seeds, unreliable intervals." if gap["n"] < stats.RELIABLE_SEEDS else ""
    if found["better"] == "tuned":
        return f"Tuning improved the score of **{label}** by {size} on {seeds}.{provisional}"
    if found["better"] == "default":
        return f"The tuned configuration of **{label}** is worse than its defaults on {seeds}: {size}.{provisional}"
    return f"Tuning changed the score of **{label}** by {size} on {seeds}, which may be nothing."


def _cautions(content: Record, gains: dict[str, Row | None], rows: list[Row]) -> list[str]:
    found = []
    for label, study in content["studies"].items():
        done = study["budget"]["trials"]
        if done < study["asked"]:
            found.append(f"{label}: {done} of {study['asked']} trials are done; repeat the command to finish.")
        if study["budget"]["fail"]:
            found.append(f"{label}: {plural(study['budget']['fail'], 'trial')} failed; the table of trials says why.")
        for name, what in ((label, "its defaults"), (label + TUNED, "its winner")):
            own = [row for row in rows if row["label"] == name]
            lost = Counter("left out" if row["state"] == "done" else row["state"] for row in own if not row["scored"])
            if lost and gains[label]:
                ends = listing([f"{count} {state}" for state, count in sorted(lost.items())])
                found.append(f"{label}: of {len(own)} confirmation runs of {what}, {ends}; the comparison is of the others.")
        if gains[label] and gains[label]["left_out"]:
            found.append(f"{label}: not confirmed on {listing(gains[label]['left_out'])}, where runs are missing.")
    if unlike := _unlike(list(content["studies"].values())):
        found.append(f"The algorithms had different {listing(unlike)}; their tuned scores are no equal comparison.")
    return found


def _unlike(studies: list[Record]) -> list[str]:
    """In what the searches of a report differ beside algorithm and search space."""

    def runs(study: Record, *prefixes: str) -> dict[str, Any]:
        return {
            env: {key: value for key, value in settings.items() if key.startswith(prefixes) and key not in OWN}
            for env, settings in study["definition"]["runs"].items()
        }

    looks_at = {
        "numbers of trials": lambda study: study["asked"],
        "samplers": lambda study: study["definition"]["sampler"],
        "pruners": lambda study: study["definition"]["pruner"],
        "tuning seeds": lambda study: study["definition"]["tuning seeds"],
        "tasks": lambda study: sorted(study["definition"]["runs"]),
        "frames": lambda study: runs(study, "steps"),
        "evaluations or environment settings": lambda study: runs(study, "eval", "env."),
    }
    texts = {what: {json.dumps(value(study), sort_keys=True) for study in studies} for what, value in looks_at.items()}
    if len(texts["tasks"]) > 1:  # then these differ with them
        del texts["frames"], texts["evaluations or environment settings"]
    return [what for what, found in texts.items() if len(found) > 1]


def _gain_figure(gains: dict[str, Row], look: dict[str, Look]) -> Figure:
    panels = [
        ("tuned − default", [Bar(label, found["difference"], label) for label, found in gains.items()]),
        ("P(tuned > default)", [Bar(label, found["improvement"], label) for label, found in gains.items()]),
    ]
    return draw(
        "gain", "How much tuning moved the score", "Difference of tuned and default scores for each algorithm.",
        lambda: intervals(panels, look, columns=2),
        how="Points with 95 % intervals over fresh seeds: the difference of the final normalised scores (0: no "
        "difference), and the "
        "probability that a tuned run beats a default one (0.5: no difference).",
    )  # fmt: skip


def _search(studies: dict[str, Record], look: dict[str, Look]) -> Section:
    drawn = [sweep_plots.curves(label, study, look) for label, study in studies.items()]
    return Section("search", "The search", [sweep_plots.history(studies, look), *filter(None, drawn), _trials(studies, look)])


def _trials(studies: dict[str, Record], look: dict[str, Look]) -> Details:
    names = list(dict.fromkeys(name for study in studies.values() for name in study["definition"]["space"]))
    rows = [
        [
            label_cell(label, look), str(trial["number"]), trial["state"], number(trial["value"]),
            *(_value(trial["params"].get(name)) for name in names), large(trial.get("env_steps")), trial.get("error", ""),
        ]
        for label, study in studies.items()
        for trial in sorted(study["trials"], key=_rank)
    ]  # fmt: skip
    columns = ["algorithm", "trial", "end", "value", *names, "frames", "what happened"]
    return Details("All trials, the best first", [Table(columns, rows)])


def _rank(trial: Record) -> tuple[bool, float]:
    return trial["value"] is None, -(trial["value"] or 0.0)


def _value(value: Any) -> str:
    if value is None:
        return NOTHING
    return number(value) if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _parameters(studies: dict[str, Record], look: dict[str, Look]) -> Section:
    blocks: list[Any] = []
    for label, study in studies.items():
        if of_state(study, "complete", "pruned"):
            blocks += filter(None, [sweep_plots.slices(label, study, look), sweep_plots.parallel(label, study)])
        blocks.append(_space(label, study))
    blocks.append(sweep_plots.importance(studies, look))
    blocks += [
        Text(f"No importance for {label}: {study['no_importance']}.")
        for label, study in studies.items()
        if study["no_importance"]
    ]
    return Section("parameters", "Parameters", [block for block in blocks if block])


def _space(label: str, study: Record) -> Table:
    best = winner(study)
    rows = []
    for name, given in study["definition"]["space"].items():
        shape = listing([_value(choice) for choice in given["choices"]]) if "choices" in given else (
            f"{number(given['low'])} to {number(given['high'])}"
            + (", log" if given.get("log") else "") + (f", step {number(given['step'])}" if given.get("step") else "")
        )  # fmt: skip
        values = [_value(study["defaults"][name]), Cell(_value(best["params"][name]) if best else NOTHING, strong=True)]
        rows.append([name, ", ".join(given["sets"]), shape, *values])
    return Table(["parameter", "settings", "range", "default", "best"], rows, f"Search space of {label}")


def _best(studies: dict[str, Record]) -> Section:
    blocks: list[Any] = [
        Text(
            "Each winner lies beside this page's folder as a file of `conf/algo`. Copied to `conf/algo/` it can be "
            "named in `--algos`, "
            "and every report on its runs says how it was tuned."
        )
    ]
    for label, study in studies.items():
        name = f"conf/algo/{label}{TUNED}.yaml"
        blocks.append(
            Table([name], [[Cell(line, code=True)] for line in study["config"].splitlines()])
            if study["config"]
            else Text(f"{label}: no trial is complete, so there is no best configuration.")
        )
    return Section("best", "Best configurations", blocks)


def _budget(content: Record) -> Section:
    rows = [
        [
            label, str(study["budget"]["trials"]), str(study["budget"]["complete"]), str(study["budget"]["pruned"]),
            str(study["budget"]["fail"]), str(study["budget"]["runs"]), large(study["budget"]["env_steps"]),
            number(study["budget"]["hours"]),
        ]
        for label, study in content["studies"].items()
    ]  # fmt: skip
    columns = ["algorithm", "trials", "complete", "pruned", "failed", "runs", "environment frames", "hours"]
    note = (
        "Everything that the search has cost, pruned and failed trials included, without the confirmation. Hours are "
        "those of run "
        "processes, added up, on whatever else the machine was doing; frames are the budget that can be compared."
    )
    return Section("budget", "Budget", [Table(columns, rows, "What the search has cost", note)])


def _made(content: Record) -> Section:
    items = []
    for label, study in content["studies"].items():
        given = study["definition"]
        seeds = given["tuning seeds"]
        items.append(
            f"**{label}**: sampler {given['sampler']} (seed {given['sampler_seed']}), pruner {given['pruner']}, "
            "tuning seeds "
            f"{seeds[0]} to {seeds[-1]}, search space `{study['source']}`, git `{study['git'] or 'unknown'}`"
        )
    method = (
        "A trial is a run on every task and tuning seed. Its value is the final score, normalised by the task's range "
        "and averaged "
        "over seeds and tasks; the median pruner compares the best such average so far with the median of the others at the "
        "same frames. Tuning seeds and the seeds of the "
        "confirmation are "
        "disjoint. The confirmation is an ordinary experiment in `confirm/`, with a report of its own."
    )
    command = Table(["command"], [[Cell(" ".join(content["command"]), code=True)]])
    return Section("made", "How it was made", [Text(method), Bullets(items), command])
