"""The report's sections on learning curves, aggregates and behaviour."""

from __future__ import annotations

import math
from typing import Any

from reports import action_plots, coverage, plots, stats
from reports.behaviour import ON_BOUND
from reports.figures import Look, label_cell
from reports.html import Cell, Details, Section, Table, Text, grouped
from reports.load import Collection
from reports.merge import cautions
from reports.summary import THRESHOLDS, Row, active_time, reach_key
from reports.words import NOTHING, estimate, large, number, plural

MANY_PAIRS = 12


def curves(collection: Collection, rows: list[Row], summary: Row, look: dict[str, Look]) -> Section:
    blocks: list[Any] = []
    scored = plots.scored_runs(collection, rows)
    if len(summary["envs"]) > 3:
        blocks.append(plots.overview(collection, scored, summary["cells"], look))
    for env in summary["envs"]:
        if not any(run.env == env and len(run.evals) for run in collection.runs):
            blocks.append(Text(f"**{env}**: no evaluation has been recorded."))
            continue
        cells = [cell for cell in summary["cells"] if cell["env"] == env]
        blocks.append(plots.learning_curves(collection, env, scored, cells, look))
    beside = [
        [row["env"], row["name"], str(row["action_repeat"]), str(row["seeds"]), large(row["frames"]), number(row["value"])]
        for row in summary["references"]
    ]
    if beside:
        note = (
            "Straight lines between a source's evaluations. Sources differ in networks, batch size and updates per frame, "
            "our own grids from a run in action repeat, so that they are a band to be in and no bar to be above."
        )
        blocks.append(
            Table(
                ["environment", "reference", "action repeat", "seeds", "at frames", "mean return"],
                grouped(beside),
                "References at the same budget",
                note,
            )
        )
    return Section("curves", "Learning curves", blocks)


def aggregates(collection: Collection, rows: list[Row], summary: Row, look: dict[str, Look]) -> Section:
    envs = summary["aggregates"]["envs"]
    blocks: list[Any] = [
        Text(
            "Scores are normalised to 0 (a random policy) and 1 (the top of the environment's range). **Final** is "
            "the last evaluation, "
            "**best** the best of all evaluations (optimistic, since it is picked by the score that it reports), "
            "**AUC** the mean height of "
            "the learning curve, which rewards learning early."
        )
    ]
    left = [f"{env} ({reason})" for env, reason in summary["aggregates"]["left_out"].items()]
    if left:
        blocks.append(Text(f"Left out of the aggregates: {'; '.join(left)}.", "notice"))
    blocks += [Text(text, "notice") for text in cautions(collection, rows)]
    if len(envs) > 1:
        blocks += [plots.aggregates(summary, look), _aggregate_table(summary, look)]
    if envs:
        blocks.append(plots.profiles(collection, rows, summary, look))
    blocks += [_score_table(summary, look), *_other_table(summary, look), _threshold_table(summary, look)]
    scopes = [None] if len(envs) > 1 else []
    scopes += envs if len(envs) == 1 else []
    for scope in scopes:
        if any(pair["env"] == scope and pair["comparable"] for pair in summary["pairs"]):
            blocks.append(plots.improvement(summary, look, scope))
    blocks += _pair_tables(summary)
    blocks.append(_method())
    return Section("aggregates", "Aggregates", blocks)


def _aggregate_table(summary: Row, look: dict[str, Look]) -> Table:
    labels = summary["aggregates"]["labels"]
    total = len(summary["aggregates"]["envs"])
    rows = []
    for label in look:
        values = labels.get(label, {})
        if "final" not in values:
            continue
        final = [estimate(values["final"][name]) for name in stats.AGGREGATES]
        others = [estimate(values[name]["mean"]) for name in ("best", "auc")]
        rows.append(
            [
                label_cell(label, look),
                *final,
                *others,
                f"{values['tasks']} of {total}",
                str(values["final"]["mean"]["n"]),
            ]
        )
    columns = [
        "algorithm",
        "final: mean",
        "final: IQM",
        "final: median",
        "final: optimality gap",
        "best: mean",
        "AUC: mean",
        "tasks",
        "n",
    ]
    note = (
        "IQM: the mean of all runs without the lowest and the highest quarter of them (of fewer than four runs, of all), every "
        "task weighing the same; median: of the tasks' means. Over few tasks both leave out nearly whole ones, others for each "
        "algorithm, so that algorithms are ranked by the mean. "
        f"n: the fewest seeds of a task. Fewer than {stats.MIN_SEEDS}: no interval; fewer than {stats.RELIABLE_SEEDS} "
        f"(IQM and median of several tasks: {stats.RELIABLE_BOOTSTRAP}): the interval "
        "is unreliable and marked ?."
    )
    return Table(columns, rows, "Aggregates of normalised scores", note)


def _score_table(summary: Row, look: dict[str, Look]) -> Table:
    rows = []
    for cell in summary["cells"]:
        seeds = f"{cell['n']}" if cell["n"] == cell["asked"] else f"{cell['n']} of {cell['asked']}"
        values = [estimate(cell[name]) for name in ("final", "best", "auc", "untrained")]
        rows.append(
            [
                cell["env"],
                label_cell(cell["label"], look),
                seeds,
                large(cell["budget"]),
                *values,
                ", ".join(map(number, cell["finals"])),
                cell["rule"] or "missing",
            ]
        )
    columns = ["environment", "algorithm", "n", "frames", "final", "best", "AUC", "untrained", "seeds", "evaluation rule"]
    note = (
        "Means over finished seeds with 95 % t intervals, in the environment's own units. Runs of one environment are "
        "compared at the budget "
        "of its shortest finished run. A t interval knows no bounds, and of a few seeds that lie far apart reaches beyond the "
        "scores that can be had. Seeds: the final score of each, in their order."
    )
    return Table(columns, grouped(rows), "Scores by task", note)


def _other_table(summary: Row, look: dict[str, Look]) -> list[Table]:
    """What evaluations recorded beside the score, where there is such."""
    names = list(dict.fromkeys(name for cell in summary["cells"] for name in cell["others"]))
    rows = [
        [cell["env"], label_cell(cell["label"], look), *(estimate(cell["others"].get(name)) for name in names)]
        for cell in summary["cells"]
        if cell["others"]
    ]
    note = "At the last evaluation: means over finished seeds with 95 % t intervals. Algorithms are not ranked by these."
    if "on_bound" in names:
        note += f" On the bound: the share of its episodes' actions at {ON_BOUND} of the bound or beyond."
    columns = ["environment", "algorithm", *("on the bound" if name == "on_bound" else name for name in names)]
    return [Table(columns, grouped(rows), "Beside the score", note)] if rows else []


def _threshold_table(summary: Row, look: dict[str, Look]) -> Table:
    rows, several, active = [], len(summary["set_ups"]) > 1, active_time(summary)
    for cell in summary["cells"]:
        row = [cell["env"], label_cell(cell["label"], look)]
        for threshold in THRESHOLDS:
            key = reach_key(threshold)
            seconds = _reached(cell[f"seconds_to_{key}"], number)
            beside = f"set-up {cell['conditions'][0]}" if several and seconds != NOTHING else ""
            reached = cell[f"reached_{key}"]
            row += [NOTHING if reached is None else f"{reached} of {cell['n']}"]
            row += [_reached(cell[f"frames_to_{key}"], large), Cell(seconds, beside)]
        rows.append(row)
    columns = ["environment", "algorithm"]
    for threshold in THRESHOLDS:
        columns += [f"seeds at {threshold:g}", f"frames to {threshold:g}", f"{active} s to {threshold:g}"]
    note = (
        "Medians over seeds of the first evaluation at or above the normalised score; a seed that never gets there "
        "counts as later than all others. Seconds: only of cells timed under one set-up."
    )
    return Table(columns, grouped(rows), f"Frames and {active} seconds to a score", note)


def _reached(value: float | None, words: Any) -> str:
    if value is None or math.isnan(value):
        return NOTHING
    return words(value) if math.isfinite(value) else "not reached"


def _pair_tables(summary: Row) -> list[Any]:
    blocks: list[Any] = []
    several = [pair for pair in summary["pairs"] if pair["env"] is None]
    if several:
        blocks.append(_pair_table(several, "Pairs over all tasks (normalised scores)"))
    single = [pair for pair in summary["pairs"] if pair["env"] is not None]
    if single:
        table = _pair_table(single, "Pairs by task")
        blocks.append(Details(f"{plural(len(single), 'pair')} by task", [table]) if len(single) > MANY_PAIRS else table)
    return blocks


def _pair_table(pairs: list[Row], caption: str) -> Table:
    rows, tested = [], [pair for pair in pairs if pair.get("p") is not None]
    for pair in pairs:
        names = [pair["env"] or "all tasks", f"{pair['x']} against {pair['y']}"]
        if not pair["comparable"]:
            rows.append([*names, NOTHING, NOTHING, NOTHING, "not comparable", NOTHING])
            continue
        values = [estimate(pair["difference"]), number(pair["p_holm"], 2), estimate(pair["improvement"])]
        rows.append([*names, *values, _verdict(pair), _power(pair)])
    columns = ["environment", "pair", "difference of means", "p (Holm)", "P(improvement)", "better", "seeds to separate"]
    note = (
        "Positive differences favour the first. “Better” needs both 95 % intervals to agree; they are not corrected for the "
        f"number of pairs. p (Holm): of Welch's t test of the difference, as if scores were normal, corrected for the "
        f"{len(tested)} pairs; it decides nothing here. "
        "Seeds to separate: per algorithm and task, for each interval to leave out “no difference” with 80 % power if "
        f"today's means and spreads are the true ones; at least {stats.SEPARABLE_SEEDS} each on one task, and more than an "
        "open pair has. More than 1000: or no number does."
    )
    return Table(columns, grouped(rows), caption, note)


def _verdict(pair: Row) -> str:
    if pair["n"] < stats.MIN_SEEDS:
        return f"undecided: {pair['difference']['caution']}"
    provisional = " (provisional)" if pair["n"] < stats.RELIABLE_SEEDS else ""
    return f"{pair['better']}{provisional}" if pair["better"] else "not separated"


def _power(pair: Row) -> str:
    if pair["n"] < stats.MIN_SEEDS:
        return "spread unknown"
    if pair["seeds_needed"] is None:
        return "more than 1000"
    return f"{pair['seeds_needed']} ({pair['seeds_more']} more)"


def _method() -> Details:
    text = (
        "Intervals are at 95 %. IQM and median over tasks: stratified bootstrap over the seeds of each task, residuals scaled "
        "by √(n / (n − 1)) and percentiles taken further out by the t distribution. Mean and optimality gap, and means of one "
        "cell: Student's t. Over tasks it has Satterthwaite's degrees of freedom, since seeds spread more on some than on "
        "others. Probability of improvement: score interval of the Mann–Whitney statistic. "
        f"Fewer than {stats.MIN_SEEDS} seeds: no interval. Fewer than {stats.RELIABLE_SEEDS}: the interval is shown, "
        "and marked as unreliable.\n\n"
        "How often such intervals contain the truth, in 10 000 simulated studies with normal scores (the goal is 95 %). Where "
        "tasks differ in level too, those of the IQM are too narrow: over four tasks with the means and spreads that five "
        "algorithms had after 100 000 frames they contained it in 75 to 89 % with 3 seeds, 84 to 95 % with 5 and 91 to 96 % "
        "with 10, those of the mean over tasks in 93 to 96 %."
    )
    rows = []
    for (tasks, n, ratio), row in coverage.COVERAGE.items():
        spread = "as others" if ratio == 1 else f"{ratio} times"
        rows.append([str(tasks), str(n), spread, *(f"{100 * row[method]:.1f} %" for method in coverage.METHODS)])
    columns = ["tasks", "seeds", "one task spreads", "IQM, plain bootstrap", "IQM, as here", "mean over tasks, as here"]
    columns += ["mean of a cell, as here", "P(improvement), as here"]
    return Details("How these intervals are made, and how far they can be trusted", [Text(text), Table(columns, rows)])


def behaviour(collection: Collection, summary: Row, look: dict[str, Look]) -> Section:
    blocks: list[Any] = []
    for env in summary["envs"]:
        probed = action_plots.probed_runs(collection, env)
        if not probed:
            continue
        chosen = action_plots.first_of_each(probed, look)
        sampled = [action_plots.actions(env, chosen, look), action_plots.embedding(env, chosen, look)]
        drawn = [*sampled, action_plots.spread(env, probed, look)]
        blocks += [figure for figure in drawn if figure]
    if not blocks:
        blocks.append(Text("No run recorded sampled actions (probes.npz)."))
    return Section("behaviour", "Behaviour", blocks)
