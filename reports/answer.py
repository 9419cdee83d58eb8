"""The first thing a reader sees: who wins where, with what confidence, at what cost, and nothing that the data do not say."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

from reports import stats
from reports.figures import Look, label_cell
from reports.html import Bullets, Cell, Section, Table, Text
from reports.summary import SIZED, Row, share_of_tasks
from reports.words import NOTHING, estimate, interval, large, listing, number, plural

WIDE = 5  # more environments than this get a row each in a table of their own, instead of a column and a sentence
FEW_SETTINGS = 3  # as many of a variant's stand beside its label


def section(summary: Row, look: dict[str, Look]) -> Section:
    blocks = [
        Text(f"**{env}**: {what}. No conclusion is drawn across them.", "notice")
        for env, what in summary["mixed"].items()
    ]
    blocks += [
        Text(f"**{label}** ran as {versions} versions of its code (Provenance), and its means are over all of them.", "notice")
        for label, versions in summary["recoded"].items()
    ]
    blocks.append(Text(_lead(summary), "lead"))
    if items := _by_environment(summary):
        blocks.append(Bullets(items))
    incomplete = {state: count for state, count in summary["states"].items() if state != "done"}
    if incomplete:
        total = sum(summary["states"].values())
        found = listing([f"{count} {state}" for state, count in incomplete.items()])
        text = (
            f"Of {plural(total, 'run')} asked for, {found}: see [Health](#health). They are in no table, and leaving "
            "out failed runs flatters their algorithm."
        )
        blocks.append(Text(text, "notice"))
    unscored = sum(cell["states"].get("done", 0) - cell["n"] for cell in summary["cells"])
    if unscored:
        text = f"{plural(unscored, 'finished run')} could not be scored: [Health](#health) says why."
        blocks.append(Text(text, "notice"))
    if any(cell["n"] for cell in summary["cells"]):
        blocks.append(_table(summary, look))
        blocks += _leaders(summary, look)
    return Section("answer", "The answer", blocks)


def _lead(summary: Row) -> str:
    """The paragraph: the widest scope's verdict, how far it can be trusted, and the cost. Several tasks have theirs below."""
    scored = [cell for cell in summary["cells"] if cell["n"]]
    finished = "scored" if any(cell["states"].get("done", 0) > cell["n"] for cell in summary["cells"]) else "finished"
    if not scored:
        what = finished.replace("scored", "been scored")
        return f"No run has {what} ({_states(summary['states'])}), so there is nothing to compare yet."
    if len({cell["label"] for cell in scored}) == 1:
        return (
            f"Only one algorithm has {finished} runs, **{scored[0]['label']}**, so there is nothing to compare it with."
        )
    envs = _scored_envs(summary)
    several = len(summary["aggregates"]["envs"]) > 1
    parts = [_verdict(summary, None if several else envs[0])] if several or len(envs) == 1 else []
    if len(envs) > 1:
        parts.append(_counts(summary, envs))
    return " ".join(part for part in [*parts, *_cautions(summary), *_cost(summary)] if part)


def _scored_envs(summary: Row) -> list[str]:
    return list(dict.fromkeys(cell["env"] for cell in summary["cells"] if cell["n"]))


def _by_environment(summary: Row) -> list[str]:
    envs = _scored_envs(summary)
    return [text for env in envs if (text := _verdict(summary, env))] if 1 < len(envs) <= WIDE else []


def _states(states: dict[str, int]) -> str:
    return listing([f"{count} {state}" for state, count in states.items()])


def ranking(summary: Row, env: str | None) -> list[tuple[str, dict]]:
    """(label, estimate), best first: by the mean final score, over all tasks (env None) of the normalised ones."""
    if env is None:
        labels = summary["aggregates"]["labels"]
        full = len(summary["aggregates"]["envs"])
        found = [(label, values["final"]["mean"]) for label, values in labels.items() if values.get("tasks") == full]
        return sorted(found, key=lambda item: -item[1]["value"])
    cells = [cell for cell in summary["cells"] if cell["env"] == env and cell["n"]]
    lower = any(cell.get("direction") == "min" for cell in cells)
    return sorted(
        ((cell["label"], cell["final"]) for cell in cells), key=lambda item: item[1]["value"] * (1 if lower else -1)
    )


def _verdict(summary: Row, env: str | None) -> str:
    """One sentence or two about the leader of one scope: whom it beats, whom it is not separated from."""
    if env in summary["mixed"]:
        return ""
    ranked = ranking(summary, env)
    if len(ranked) < 2:
        return ""
    (leader, top), others = ranked[0], ranked[1:]
    where = f"Over {len(summary['aggregates']['envs'])} tasks" if env is None else f"On {env}"
    what = "mean normalised final score" if env is None else "mean final score"
    against = listing([f"{number(value['value'])} ({label})" for label, value in others])
    if tied := [label for label, value in others if value["value"] == top["value"]]:
        rest = listing([f"{number(value['value'])} ({label})" for label, value in others if label not in tied])
        beside = f" against {rest}" if rest else ""
        return f"{where}, {listing([leader, *tied])} share the best {what}: {number(top['value'])}{beside}."
    bounds = f" {interval(top)}" if interval(top) else ""
    pairs = [pair for pair in summary["pairs"] if pair["env"] == env and leader in (pair["x"], pair["y"])]
    few = [pair for pair in pairs if pair["n"] < stats.MIN_SEEDS]
    beaten = [_other(pair, leader) for pair in pairs if pair["better"] == leader]
    open_ = [pair for pair in pairs if not pair["better"] and pair["n"] >= stats.MIN_SEEDS]
    name = leader if few else f"**{leader}**"
    parts = [f"{where}, {name} has the best {what}: {number(top['value'])}{bounds} against {against}."]
    if beaten:
        parts.append(f"It is better than {listing(beaten)}.")
    if open_:
        first, *rest = map(_needed, open_)
        needed = listing([first, *(text.removeprefix("about ") if first.startswith("about") else text for text in rest)])
        names = listing([_other(pair, leader) for pair in open_])
        parts.append(f"It is **not separated** from {names}: that would take {needed} seeds each.")
    if few:
        seeds = plural(min(pair["n"] for pair in few), "seed")
        others = listing([_other(pair, leader) for pair in few])
        parts.append(f"With {seeds} in a cell **nothing is decided** against {others}: the order may be luck.")
    return " ".join(parts)


def _other(pair: Row, label: str) -> str:
    return pair["y"] if pair["x"] == label else pair["x"]


def _needed(pair: Row) -> str:
    return "more than 1000 (if any number)" if pair["seeds_needed"] is None else f"about {pair['seeds_needed']}"


def _counts(summary: Row, envs: list[str]) -> str:
    """On how many environments one label is better than every other."""
    winners = Counter(clear_winner(summary, env) for env in envs)
    none = winners.pop(None, 0)
    won = [f"{label} on {count}" for label, count in winners.most_common()]
    clear = (
        f"A clear winner, better than every other: {listing(won)} of {len(envs)} tasks"
        if won
        else f"No task of {len(envs)} has a clear winner"
    )
    return f"{clear}; none on {none}." if won and none else f"{clear}."


def clear_winner(summary: Row, env: str) -> str | None:
    ranked = ranking(summary, env)
    if len(ranked) < 2:
        return None
    leader = ranked[0][0]
    pairs = [pair for pair in summary["pairs"] if pair["env"] == env and leader in (pair["x"], pair["y"])]
    return leader if pairs and all(pair.get("better") == leader for pair in pairs) else None


def _cautions(summary: Row) -> list[str]:
    seeds = [cell["n"] for cell in summary["cells"] if cell["n"] >= stats.MIN_SEEDS]
    parts = []
    if seeds and min(seeds) < stats.RELIABLE_SEEDS:
        parts.append(
            f"Intervals rest on as few as {min(seeds)} seeds and are unreliable (marked ?): take this as provisional."
        )
    if seeds and max(seeds) < stats.SEPARABLE_SEEDS:
        parts.append(
            f"No result of {max(seeds)} seeds each on a single task can make one algorithm better than another by the rule of "
            f"this report; of {stats.SEPARABLE_SEEDS} each it can."
        )
    several = len(summary["aggregates"]["envs"]) > 1
    if several and (partial := [label for label in summary["labels"] if share_of_tasks(summary, label)]):
        shares = listing([f"{label} ({share_of_tasks(summary, label)})" for label in partial])
        parts.append(f"Over all tasks {shares} cannot be ranked: runs are missing.")
    for env, reason in summary["aggregates"]["left_out"].items():
        if env not in summary["mixed"]:
            parts.append(f"{env} is left out of the aggregates: {reason}.")
    return parts


def _cost(summary: Row) -> list[str]:
    costs, measured = update_costs(summary)
    if len(costs) < 2:
        return []
    fastest = min(costs, key=costs.get)
    rest = sorted((label for label in costs if label != fastest), key=costs.get)
    others = [f"{number(costs[label])} ms ({label}, {costs[label] / costs[fastest]:.1f} times)" for label in rest]
    return [f"An update costs {listing([f'{number(costs[fastest])} ms with {fastest}', *others])}, {measured}."]


def update_costs(summary: Row) -> tuple[dict[str, float], str]:
    """Milliseconds per update of each label, and how they were measured.

    From timings made apart where these have every label with its own settings, and all with the batch, networks, device and
    mode of the runs. Otherwise from the runs, mean over the environments that all of them were
    timed on under one set-up, the one with the most of these; {} where there is none.
    """
    rows = main_timings(summary["timing"], "update")
    updates = {(row.get("algo"), json.dumps(row.get("changed"), sort_keys=True)): row["median_ms"] for row in rows}
    settings: dict[str, set[str]] = {}
    for cell in summary["cells"]:
        if cell["changed"] is not None:  # else it has no run
            settings.setdefault(cell["label"], set()).add(json.dumps(cell["changed"], sort_keys=True))
    timed = {label: updates.get((label, *own)) for label, own in settings.items()}
    if timed and all(timed.values()):
        sized = {key: rows[0].get(key) for key in SIZED}
        if all(_fits(cell["sized"], sized) for cell in summary["cells"] if cell["sized"]):
            told = ", ".join(f"{key} {sized[key]}" for key in SIZED if sized[key])
            how = "on a quiet core" if rows[0]["clock"] == "wall" else "in processor time, on a core that others used,"
            return timed, f"as timed {how} by `python -m bench timing` ({told})"
    costs: dict[str, dict[str, dict[str, float]]] = {name: {} for name in sorted(summary["set_ups"])}
    for cell in summary["cells"]:
        if cell["cost"].get("ms_per_update") and len(cell["conditions"]) == 1:
            costs[cell["conditions"][0]].setdefault(cell["label"], {})[cell["env"]] = cell["cost"]["ms_per_update"]
    labels = {label for under in costs.values() for label in under}  # without one whose runs have no times of their own
    found = {name: [set(under.get(label, ())) for label in labels] for name, under in costs.items() if under}
    shared = {name: set.intersection(*envs) for name, envs in found.items()}
    chosen = max(shared, key=lambda name: len(shared[name]), default=None)
    if chosen is None or not shared[chosen]:
        return {}, ""
    envs = sorted(shared[chosen])
    told = "as measured during these runs" + (" in processor time" if summary["clock"] == "processor" else "")
    if len(envs) < len({env for under in costs.values() for timed in under.values() for env in timed}):
        told += f", on {listing(envs)}"
    if len(costs) > 1:
        told += f", under set-up {chosen}"
    rest = [cell for cell in summary["cells"] if cell["n"] and cell["label"] not in labels]
    several = {cell["label"] for cell in rest if len(cell["conditions"]) > 1}
    why = {"under several": several, "no times": {cell["label"] for cell in rest} - several}
    if rest:
        told += f" ({'; '.join(f'{listing(sorted(names))}: {text}' for text, names in why.items() if names)})"
    return {label: sum(timed[env] for env in envs) / len(envs) for label, timed in costs[chosen].items()}, told


def _fits(run: Row, timed: Row) -> bool:
    """Whether runs have the batch (where they have one), networks, device and mode of timings."""
    return run["batch"] in (None, timed["batch"]) and all(run[key] == timed[key] for key in SIZED if key != "batch")


def main_timings(timing: list[Row], name: str) -> list[Row]:
    """The timings of one thing under the set-up (machine, clock, device, mode, batch, networks) that most of them share."""
    rows = [row for row in timing if row["name"] == name and row.get("median_ms") is not None]

    def setup(row: Row) -> tuple:
        return tuple(str(row.get(key)) for key in ("machine", "clock", *SIZED))

    counts = Counter(map(setup, rows))
    chosen = max(sorted(counts), key=lambda key: counts[key], default=None)
    return [row for row in rows if setup(row) == chosen]


def _table(summary: Row, look: dict[str, Look]) -> Table:
    """One row for each label: aggregate, final score by environment, whom it is better than, cost."""
    envs = summary["envs"] if len(summary["envs"]) <= WIDE else []
    several = len(summary["aggregates"]["envs"]) > 1
    cells = {(cell["env"], cell["label"]): cell for cell in summary["cells"]}
    costs, measured = update_costs(summary)
    few = {cell["env"] for cell in summary["cells"] if 0 < cell["n"] < stats.MIN_SEEDS}
    orders = {env: ranking(summary, env) for env in envs if env not in few and env not in summary["mixed"]}
    best = {env: order[0][0] for env, order in orders.items() if len(order) > 1 and not _shared(order)}
    alike = _alike_seeds(summary)
    rows = []
    for label in look:
        row = [replace(label_cell(label, look), detail=_changed(summary, label))]
        if several:
            row.append(_over_tasks(summary, label))
        for env in envs:
            cell = cells.get((env, label))
            row.append(_score(cell, alike, strong=best.get(env) == label))
        row += (
            [_better_than(summary, label, None if several else summary["envs"][0])] if several or len(envs) == 1 else []
        )
        row += [number(costs.get(label))] if costs else []
        row.append(_parameters(summary, label))
        rows.append(row)
    columns = ["algorithm", *(["mean over tasks"] if several else []), *envs]
    columns += ["better than"] if several or len(envs) == 1 else []
    columns += ["ms per update"] if costs else []
    bold = "Bold: the best mean of its column, which is not yet a win. " if best else ""
    note = (
        f"Final score: mean over seeds of the last evaluation, with its 95 % interval{_seeds_note(alike)}. {bold}"
        "“Better than” needs the 95 % intervals of both the difference of means and "
        "the probability of improvement; the seeds that a separation would take, by both of them, assume that today's "
        "means and spreads are the true ones."
    ) + (f" Updates: {measured}." if costs else "")
    return Table([*columns, "parameters"], rows, note=note)


def _shared(ranked: list[tuple[str, dict]]) -> bool:
    """Whether several have the best value: where nobody scores, say, or all reach the top."""
    return ranked[0][1]["value"] == ranked[1][1]["value"]


def _leaders(summary: Row, look: dict[str, Look]) -> list[Table]:
    """Of more environments than have a column: whose mean is the best on each, and whom that one is better than."""
    envs = _scored_envs(summary)
    cells = {(cell["env"], cell["label"]): cell for cell in summary["cells"]}
    rows, alike = [], _alike_seeds(summary)
    for env in envs if len(envs) > WIDE else []:
        ranked = ranking(summary, env)
        if env in summary["mixed"] or len(ranked) < 2:
            continue
        if _shared(ranked):
            rows.append([env, "several", _score(cells[env, ranked[0][0]], alike), NOTHING])
            continue
        leader = ranked[0][0]
        name = Cell(leader, color=look[leader].color, strong=clear_winner(summary, env) == leader)
        rows.append([env, name, _score(cells[env, leader], alike), _better_than(summary, leader, env)])
    columns = ["environment", "best mean", "final score", "better than"]
    note = "Bold: a clear winner, better than every other."
    return [Table(columns, rows, "Who leads on which task", note)] if rows else []


def _over_tasks(summary: Row, label: str) -> Cell:
    """The mean of the normalised scores, marked where it is over other tasks than the rest of its column."""
    found = estimate(summary["aggregates"]["labels"].get(label, {}).get("final", {}).get("mean"))
    share = share_of_tasks(summary, label)
    return replace(found, detail=f"{found.detail} **{share}**".strip()) if share and found.text != NOTHING else found


def _alike_seeds(summary: Row) -> int | None:
    """The number of seeds behind every cell, where all have the same and none is missing."""
    found = {(cell["n"], cell["asked"]) for cell in summary["cells"]}
    n, asked = found.pop() if len(found) == 1 else (0, 1)
    return n if n == asked else None


def _seeds_note(alike: int | None) -> str:
    return f" (n = {alike} throughout)" if alike else " and n, the number of finished seeds of those asked for"


def _changed(summary: Row, label: str) -> str:
    """The few settings by which a label differs from its algorithm's defaults, '' where they are many or none."""
    found = [cell["changed"] for cell in summary["cells"] if cell["label"] == label and cell["changed"]]
    if any(len(own) > FEW_SETTINGS for own in found):
        return f"({max(map(len, found))} settings changed)"
    few = found and all(own == found[0] for own in found)
    told = (f"{key} {f'{value:g}' if isinstance(value, float) else value}" for key, value in (found[0] if few else {}).items())
    return f"({', '.join(told)})" if few else ""


def _score(cell: Row | None, alike: int | None, *, strong: bool = False) -> Cell:
    if not cell or not cell["n"]:
        return Cell(("not scored" if cell["states"].get("done") else _states(cell["states"])) if cell else NOTHING)
    seeds = f"n = {cell['n']}" if cell["n"] == cell["asked"] else f"n = {cell['n']} of {cell['asked']}"
    seeds = "" if alike else seeds
    return Cell(number(cell["final"]["value"]), f"{interval(cell['final'])} {seeds}".strip(), strong=strong)


def _better_than(summary: Row, label: str, env: str | None) -> str:
    pairs = [pair for pair in summary["pairs"] if pair["env"] == env and label in (pair["x"], pair["y"])]
    decided = [pair for pair in pairs if pair.get("n", 0) >= stats.MIN_SEEDS]
    if pairs and not decided:
        return "not decidable"
    return ", ".join(_other(pair, label) for pair in decided if pair["better"] == label) or NOTHING


def _parameters(summary: Row, label: str) -> str:
    """Their number, or its range over environments (their observations and actions differ in size)."""
    values = [
        cell["cost"]["parameters"]
        for cell in summary["cells"]
        if cell["label"] == label and "parameters" in cell["cost"]
    ]
    if not values:
        return NOTHING
    low, high = large(min(values)), large(max(values))
    return low if low == high else f"{low} to {high}"
