"""The report's end: what went wrong, and how everything was made."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from reports import plots
from reports.figures import Look, label_cell
from reports.html import Bullets, Cell, Details, Section, Table, Text, grouped
from reports.load import Collection, Run
from reports.summary import Row, condition_names
from reports.words import NOTHING, large, listing, number, plural


def health(collection: Collection, rows: list[Row], look: dict[str, Look]) -> Section:
    """Runs that are not in the tables and why, unreadable files, Q-values and losses."""
    runs = {(run.env, run.label, run.seed): run for run in collection.runs}
    bad = [row for row in rows if not row["scored"]]
    blocks: list[Any] = []
    if bad:
        table = [_trouble(row, runs.get((row["env"], row["label"], row["seed"])), look) for row in bad]
        blocks.append(
            Table(
                ["environment", "algorithm", "seed", "state", "frames", "what happened"],
                table,
                "Runs that are in no table",
            )
        )
        blocks += _tracebacks(collection.runs)
    raised = collection.raised()
    for steps, own in raised.items():
        frames = listing([large(done) for done in sorted({run.steps for run in own})])
        what = f"{plural(len(own), 'run')} finished at {frames} frames, and {large(steps)} are asked for by now"
        blocks.append(Text(f"{what}: repeating the command goes on with them."))
    if not bad and not raised:
        blocks.append(
            Text(f"All {plural(len(rows), 'run')} of these experiments have finished; none failed, diverged or is missing.")
        )
    if notes := collection.all_notes():
        blocks += [Text("Noted while reading:"), Bullets(notes)]
    for env in collection.envs:
        if figure := plots.training_curves(collection, env, look):
            blocks.append(figure)
    return Section("health", "Health", blocks)


def _trouble(row: Row, run: Run | None, look: dict[str, Look]) -> list[Any]:
    what = row["left_out"]
    if run and run.failure:
        quantity = run.failure.get("quantity")
        diverged = f"diverged: {quantity} is not finite. " if quantity else ""
        what = f"{diverged}{run.failure.get('error', '')}"
    elif row["state"] == "running":
        what = "still going when this report was made"
    elif row["state"] in ("interrupted", "stopped"):
        what = f"{row['state']} before the end; resuming continues it"
    reached = int((run.progress if run else {}).get("env_step") or row.get("env_step") or 0)
    frames = f"{large(reached)} of {large(row.get('steps'))}" if run else NOTHING
    return [row["env"], label_cell(row["label"], look), str(row["seed"]), row["state"], frames, what]


def _tracebacks(runs: list[Run]) -> list[Details]:
    """One for each different error, with the runs that ended in it."""
    same: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.failure.get("traceback"):
            same[str(run.failure["traceback"])].append(run)
    return [
        Details(
            f"Traceback of {', '.join(f'{run.label} on {run.env}, seed {run.seed}' for run in group)}",
            [Table(["traceback"], [[Cell(text.strip(), code=True)]])],
        )
        for text, group in same.items()
    ]


def provenance(collection: Collection, summary: Row, look: dict[str, Look]) -> Section:
    files = (
        "Beside this page: `per_seed.csv` has one row for each seed, from which every score, cost and comparison here can be "
        "recomputed; `summary.json` has what the tables of scores, comparisons, references, costs and evaluation show; "
        "`figures/` each figure."
    )
    blocks: list[Any] = [Text(files)]
    blocks += [_rules(summary), _differences(collection, look), _outside(collection, look), _tasks_outside(collection)]
    blocks += [_settings(collection), _algorithms(collection, look), _tuning(collection, look)]
    blocks += [_versions(collection), _commands(collection, look)]
    return Section("provenance", "Provenance", [block for block in blocks if block])


def _rules(summary: Row) -> Table:
    rows = []
    for found in summary["evaluation"]:
        reach = "no range" if None in (found["low"], found["high"]) else f"{found['low']:g} to {found['high']:g}"
        seeds, source = ", ".join(map(str, found["seeds"])), str(found["source"] or "")
        names = [found["env"], found["rule"], large(found["every"]), str(found["action_repeat"])]
        score = f"{found['score']}, {reach}{', less is better' if found['direction'] == 'min' else ''}"
        rows.append([*names, score, seeds, source])
    columns = ["environment", "evaluation rule", "every (frames)", "action repeat", "score and range", "seeds"]
    columns.append("source of the range")
    note = (
        "Action own: what a method's authors play in evaluation, its mean action or one draw, with no noise added for "
        "exploration; sample: a draw as in training, for all alike. Candidates: the best of so many by the method's own value."
    )
    return Table(columns, rows, "How runs were evaluated", note)


def _differences(collection: Collection, look: dict[str, Look]) -> Table | Text:
    """What the variants change of their algorithm's defaults, with the environments where they do when not in all."""
    found: dict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    where: dict[str, set[str]] = defaultdict(set)
    for run in collection.runs:
        where[run.label].add(run.env)
        for key, (default, value) in run.changed.items():
            found[run.label, key, _value(default), _value(value)].add(run.env)
    if not found:
        return Text("Every algorithm has its default settings.")
    order = {label: i for i, label in enumerate(look)}
    rows = [
        [label_cell(label, look), key, default, value, "all" if envs == where[label] else ", ".join(sorted(envs))]
        for (label, key, default, value), envs in sorted(found.items(), key=lambda item: (order[item[0][0]], item[0]))
    ]
    same = [label for label in look if label in where and not any(key[0] == label for key in found)]
    note = f"With the defaults throughout: {', '.join(same)}." if same else ""
    return Table(
        ["algorithm", "setting", "default", "here", "environments"],
        rows,
        "Settings of the algorithms that differ from their defaults",
        note,
    )


def _algorithms(collection: Collection, look: dict[str, Look]) -> Details | None:
    """Every setting of every algorithm of the benchmark's own, a column for each; several values where tasks have their own."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in collection.runs:
        settings = run.config.get("algo") or {}
        if ":" in str(settings.get("agent")):
            continue
        own = found.setdefault(run.label, defaultdict(list))
        for key, value in settings.items():
            if key not in ("name", "agent", "tuned") and _value(value) not in own[key]:
                own[key].append(_value(value))
    labels = [label for label in look if label in found]
    if not labels:
        return None
    keys = dict.fromkeys(key for label in labels for key in found[label])
    rows = [[key, *(", ".join(found[label].get(key, [NOTHING])) for label in labels)] for key in keys]
    table = Table(["setting", *labels], rows, "Settings of the algorithms", "–: the algorithm has no such setting.")
    return Details("Every setting of every algorithm", [table])


def _outside(collection: Collection, look: dict[str, Look]) -> Table | None:
    """All settings of algorithms that are not the benchmark's own, whose defaults nobody knows, and which code they ran."""
    rows, changed = [], []
    for label in look:
        runs = [run for run in collection.runs if run.label == label]
        settings = (runs[0].config.get("algo") or {}) if runs else {}
        if ":" not in str(settings.get("agent")):
            continue
        code = collection.codes(label)
        told = ", ".join(f"{k} {_value(v)}" for k, v in settings.items() if k not in ("name", "agent", "tuned"))
        rows.append([label_cell(label, look), Cell(str(settings["agent"]), code=True), told, ", ".join(code) or NOTHING])
        changed += [label] if len(code) > 1 else []
    if not rows:
        return None
    note = "Code: for each session, a hash of the files of its module and of those that it imports, but for libraries."
    note += f" It changed between the sessions or seeds of {', '.join(changed)}." if changed else ""
    return Table(["algorithm", "class", "settings", "code"], rows, "Algorithms from outside", note)


def _tasks_outside(collection: Collection) -> Table | None:
    """Which code environments ran that are not the benchmark's own."""
    found: dict[str, set[str]] = defaultdict(set)
    for run in collection.runs:
        found[run.env] |= {str(session["env_source"]) for session in run.sessions if session.get("env_source")}
    rows = [[env, ", ".join(sorted(codes))] for env, codes in found.items() if codes]
    changed = [env for env, codes in found.items() if len(codes) > 1]
    note = f"It changed between the runs on {', '.join(changed)}." if changed else ""
    return Table(["environment", "code"], rows, "Environments from outside", note) if rows else None


def _settings(collection: Collection) -> Table:
    """Warm-up and settings of the environments: one set of rows for those where they are the same."""
    same: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for env in dict.fromkeys(run.env for run in collection.runs):
        same[_settings_on([run for run in collection.runs if run.env == env])].append(env)
    rows = []
    for found, envs in same.items():
        where = "all" if 1 < len(envs) == len(collection.envs) else ", ".join(envs)
        rows += [[where, *row] for row in found]
    note = (
        "warmup: frames of uniform actions before the first update; null: the agent has none. What is null for all, and so has "
        "the environment's own value, is left out."
    )
    return Table(["environment", "algorithms", "settings"], grouped(rows), "Warm-up and settings of the environments", note)


def _settings_on(runs: list[Run]) -> tuple[tuple[str, str], ...]:
    """(labels, settings) of one environment's runs: what all have in common, then what is not the same for all."""
    own = {run.label: {"warmup": run.warmup} | {k: v for k, v in run.config["env"].items() if k != "id"}
           for run in runs}  # fmt: skip
    keys = dict.fromkeys(key for found in own.values() for key in found)
    values = {key: {_value(found.get(key)) for found in own.values()} for key in keys}
    common = [f"{key} {value}" for key, (value, *others) in values.items() if not others and value != "null"]
    apart: dict[str, list[str]] = defaultdict(list)
    for label, found in own.items():
        apart[", ".join(f"{key} {_value(found.get(key))}" for key in keys if len(values[key]) > 1)].append(label)
    different = ((", ".join(labels), settings) for settings, labels in apart.items() if settings)
    return ("all", ", ".join(common)), *different


def _value(value: Any) -> str:
    return json.dumps(value, default=str) if not isinstance(value, str) else value


def _tuning(collection: Collection, look: dict[str, Look]) -> Table | Text:
    """How much search is behind each algorithm's settings, from the run configurations."""
    found: dict[str, dict[str, Any]] = {}
    for run in collection.runs:  # of the seeds of one configuration, the search that had made most trials when it was recorded
        tuned = (run.config.get("algo") or {}).get("tuned")
        if isinstance(tuned, dict):
            found[run.label] = max(found.get(run.label, tuned), tuned, key=lambda own: (own.get("trials") or 0, _value(own)))
    if not found:
        return Text("No configuration in this report came from a sweep.")
    rows = []
    for label, last in found.items():
        searches = _searches(last)
        frames, hours = (sum(search.get(key) or 0 for search in searches) for key in ("env_steps", "hours"))
        trials = " + ".join(str(search.get("trials", "?")) for search in searches)
        used = ([str(value) for search in searches for value in search.get(key) or [NOTHING]] for key in ("envs", "seeds"))
        names = ", then ".join(str(search.get("sweep", NOTHING)) for search in searches)
        words = (", ".join(dict.fromkeys(values)) for values in used)
        rows.append([label_cell(label, look), f"tuned with {trials} trials", large(frames), number(hours), *words, names])
    rest = [label for label in look if label not in found]
    columns = ["algorithm", "tuning", "frames", "hours", "tuned on", "tuning seeds", "sweep"]
    return Table(columns, rows, "Tuning budget", f"Not tuned here: {', '.join(rest)}." if rest else "")


def _searches(last: dict[str, Any]) -> list[dict[str, Any]]:
    """All searches behind a configuration, the first one first: a winner can have been tuned again."""
    before = last.get("before")
    return [*(_searches(before) if isinstance(before, dict) else []), last]


def _versions(collection: Collection) -> Table:
    """One row for each different session set-up, with how many runs it holds for."""
    letters = condition_names(collection.runs)
    same: dict[tuple, list[float | None]] = defaultdict(list)
    for run in collection.runs:
        for session in run.sessions:
            packages = session.get("packages") or {}
            git = str(session.get("git") or "none")[:12] + (" + changes" if session.get("dirty") else "")
            text = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
            key = (
                letters.get(run.conditions, "several"),
                git,
                str(session.get("python", "?")).split()[0],
                str(session.get("platform", "?")),
                text,
            )
            same[key].append(session["load"] if isinstance(session.get("load"), int | float) else None)
    rows = []
    for (letter, git, python, platform, packages), loads in sorted(same.items()):
        known = [load for load in loads if load is not None]
        low, high = (f"{end(known):.1f}" if known else "?" for end in (min, max))
        rows.append(
            [
                letter,
                plural(len(loads), "session"),
                git,
                python,
                platform,
                low if low == high else f"{low} to {high}",
                Cell(packages, code=True),
            ]
        )
    note = (
        "What the set-ups are is in [Wall-clock](#clock). Load: the machine's one-minute average when a session began."
    )
    return Table(["set-up", "sessions", "git", "python", "platform", "load", "packages"], rows, "Versions", note)


def _commands(collection: Collection, look: dict[str, Look]) -> Details:
    """For each cell the command that makes it."""
    seeds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for run in collection.runs:
        commands = dict.fromkeys(str(session["cell_command"]) for session in run.sessions if session.get("cell_command"))
        if commands:  # several where it went on under another one, with more steps for example
            seeds[run.env, run.label, " && ".join(commands)].append(run.seed)
    order = {label: i for i, label in enumerate(look)}
    rows = [
        [env, label_cell(label, look), ", ".join(map(str, numbers)), Cell(command, code=True)]
        for (env, label, command), numbers in sorted(
            seeds.items(), key=lambda item: (item[0][0], order[item[0][1]], item[1])
        )
    ]
    blocks: list[Any] = [
        Table(["environment", "algorithm", "seeds", "command"], grouped(rows), "The command that makes each cell")
        if rows
        else Text("No run recorded its command.")
    ]
    whole = [
        [
            experiment["name"],
            str(experiment.get("preset") or NOTHING),
            str(experiment.get("created") or NOTHING),
            Cell(" ".join(map(str, experiment["command"])), code=True),
        ]
        for experiment in collection.experiments
        if experiment.get("command")
    ]
    if whole:
        blocks.insert(
            0, Table(["experiment", "preset", "begun", "newest command"], whole, "The newest command of each experiment")
        )
    return Details("Commands", blocks)
