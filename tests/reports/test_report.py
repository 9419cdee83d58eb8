"""A report's numbers, recomputed from per_seed.csv; its words; its bytes; and what it does with bad input."""

from __future__ import annotations

import copy
import csv
import dataclasses
import hashlib
import itertools
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scipy import stats as oracle
from synthetic import ENVS

import reports
from reports import action_plots, answer, archive, behaviour, charts, figures, html, load, plots, references, stats, words
from reports import summary as numbers
from reports.charts import Bar
from reports.clocks import leave_out_other_work, on_processor
from reports.figures import Panel, Series, looks
from reports.merge import merge
from reports.records import home_of

Rows = list[dict[str, str]]


DOCS = Path(__file__).parents[2] / "docs"
REPORTS = sorted(path.parent for path in DOCS.rglob("per_seed.csv") if not path.with_name("trials.csv").exists())  # no sweeps
COMMITTED = [str(path.relative_to(DOCS)) for path in REPORTS]  # made from real grids


@pytest.fixture(params=["study", *COMMITTED])
def written(request: pytest.FixtureRequest) -> Path:
    """A report's folder: of the made-up study with everything that goes wrong, and the committed ones."""
    return request.getfixturevalue("study") / "report" if request.param == "study" else DOCS / request.param


def rows_of(report: Path) -> Rows:
    with (report / "per_seed.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: Rows, env: str, label: str, name: str) -> np.ndarray:
    chosen = [row for row in rows if (row["env"], row["label"], row["scored"]) == (env, label, "True")]
    return np.array([float(row[name]) for row in chosen if row[name]])


def summary_of(report: Path) -> dict[str, Any]:
    return json.loads((report / "summary.json").read_text())


def files_of(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def write(*roots: Path, out: Path | None = None, **options: Any) -> tuple[dict[str, Any], str]:
    page = reports.write(list(roots), out or roots[0] / "report", **options)
    return json.loads(page.with_name("summary.json").read_text()), page.with_name("report.md").read_text()


# Numbers


def test_cells_can_be_recomputed_from_the_rows(written: Path) -> None:
    rows, summary = rows_of(written), summary_of(written)
    assert len(summary["cells"]) == len({(row["env"], row["label"]) for row in rows})
    for cell in summary["cells"]:
        key = cell["env"], cell["label"]
        own = [row for row in rows if (row["env"], row["label"]) == key]
        assert cell["conditions"] == sorted({row["condition"] for row in own if row["condition"]})
        timed = len({row["condition"] for row in own if row["scored"] == "True"}) == 1 == len(cell["conditions"])
        normalised = [f"{name}_normalised" for name in ("final", "best", "auc")]
        for name in ("final", "best", "auc", *normalised, "at_equal_time", "untrained"):
            values = column(rows, *key, name)
            if not len(values) or (name == "at_equal_time" and not timed):  # no time that all could be asked at
                assert cell[name] is None
                continue
            spread = oracle.sem(values) or 1e-300  # the oracle has no interval of width 0
            low, high = oracle.t.interval(0.95, len(values) - 1, values.mean(), spread)
            found = cell[name]
            assert (found["value"], found["low"], found["high"]) == pytest.approx((values.mean(), low, high))
        assert cell["n"] == len(column(rows, *key, "final"))
        assert cell["asked"] == sum((row["env"], row["label"]) == key for row in rows)
        for threshold in (50, 80):
            for unit in ("frames", "seconds"):
                times = column(rows, *key, f"{unit}_to_{threshold}")
                median = np.median(times)
                known = np.isfinite(median) and (unit == "frames" or timed)
                assert cell[f"{unit}_to_{threshold}"] == (pytest.approx(median) if known else None)
            assert cell[f"reached_{threshold}"] == np.isfinite(column(rows, *key, f"frames_to_{threshold}")).sum()
        times = {"ms_per_update", "active_s"} if len(cell["conditions"]) == 1 else set()
        assert set(cell["cost"]) & {"ms_per_update", "active_s", "parameters"} == times | {"parameters"}
        for name, mean in cell["cost"].items():
            counted = name.endswith(("parameters", "per_update")) and not name.startswith("ms_")
            values = column([row for row in own if counted or row["condition"]], *key, name)
            assert mean == (pytest.approx(values.mean()) if len(values) else None), name


def test_aggregates_and_pairs_can_be_recomputed_from_the_rows(written: Path) -> None:
    rows, summary = rows_of(written), summary_of(written)
    labels = summary["labels"]
    scored = {env: [label for label in labels if len(column(rows, env, label, "final"))] for env in summary["envs"]}
    tasks_of = [env for env in summary["envs"] if scored[env] == labels]
    assert summary["aggregates"]["envs"] == tasks_of
    for label in labels:
        for name in ("final", "best", "auc"):
            tasks = [column(rows, env, label, f"{name}_normalised") for env in tasks_of]
            found = summary["aggregates"]["labels"][label][name]
            each = math.lcm(*map(len, tasks))
            pooled, means = np.concatenate([task.repeat(each // len(task)) for task in tasks]), [task.mean() for task in tasks]
            assert found["iqm"]["value"] == pytest.approx(oracle.trim_mean(pooled, 0.25))
            assert found["median"]["value"] == pytest.approx(np.median(means))
            assert found["mean"]["value"] == pytest.approx(np.mean(means))
            assert found["optimality_gap"]["value"] == pytest.approx(np.mean([np.maximum(1 - t, 0).mean() for t in tasks]))
            for kind, estimate in stats.aggregate(tasks).items():
                assert (found[kind]["low"], found[kind]["high"]) == pytest.approx((estimate.low, estimate.high))
    scopes = [*scored.values(), *([labels] if len(tasks_of) > 1 else [])]  # each task, and all of them where they are several
    assert len(summary["pairs"]) == sum(len(own) * (len(own) - 1) // 2 for own in scopes)
    for pair in summary["pairs"]:
        envs = [pair["env"]] if pair["env"] else tasks_of
        name = "final" if pair["env"] else "final_normalised"
        x, y = ([column(rows, env, pair[side], name) for env in envs] for side in ("x", "y"))
        wins = np.mean([oracle.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x, y, strict=True)])
        assert pair["improvement"]["value"] == pytest.approx(wins)
        assert pair["difference"]["value"] == pytest.approx(
            np.mean([a.mean() - b.mean() for a, b in zip(x, y, strict=True)])
        )
        needed = stats.seeds_to_separate(x, y), stats.seeds_to_improve(x, y)
        least = 0 if pair["better"] else pair["n"] + 1
        assert pair["seeds_needed"] == (None if None in needed else max(*needed, least))
        assert pair["better"] or pair["seeds_needed"] is None or pair["seeds_more"] > 0
        if pair["env"]:
            assert pair["p"] == pytest.approx(oracle.ttest_ind(x[0], y[0], equal_var=False).pvalue)
    for over_all in (True, False):  # two families of tests
        family = [pair for pair in summary["pairs"] if (pair["env"] is None) == over_all and pair["p"] is not None]
        assert [pair["p_holm"] for pair in family] == pytest.approx(stats.holm([pair["p"] for pair in family]))


def test_tables_show_the_summary(written: Path) -> None:
    summary = summary_of(written)
    for page in ("report.html", "report.md"):
        text = (written / page).read_text()
        for cell in summary["cells"]:
            for name in ("final", "best", "auc"):
                assert words.number(cell[name]["value"]) in text
                assert words.interval(cell[name]) in text
        for label in summary["labels"] if len(summary["aggregates"]["envs"]) > 1 else []:
            for estimate in summary["aggregates"]["labels"][label]["final"].values():
                assert f"{words.number(estimate['value'])}" in text


def test_columns_hold_what_their_headings_say(study: Path) -> None:
    """Numbers that are somewhere on the page may still stand under another name."""
    summary, text = summary_of(study / "report"), (study / "report" / "report.md").read_text()
    parts = [[line.split(" | ") for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
    tables = [[[cell.strip("| ") for cell in row] for row in part] for part in parts if part]
    (scores,) = (table for table in tables if {"untrained", "AUC"} <= set(table[0]))
    (aggregates,) = (table for table in tables if "final: optimality gap" in table[0])
    assert len(scores) == 2 + len(summary["cells"])
    for row, cell in zip(scores[2:], summary["cells"], strict=True):
        for heading, name in (("final", "final"), ("best", "best"), ("AUC", "auc"), ("untrained", "untrained")):
            value = f"{words.number(cell[name]['value'])} {words.interval(cell[name])}" if cell[name] else words.NOTHING
            assert row[scores[0].index(heading)] == value
    for row in aggregates[2:]:
        own = summary["aggregates"]["labels"][row[0]]
        for heading in aggregates[0]:
            column, _, statistic = heading.partition(": ")
            if statistic:
                one = own[column.lower()][statistic.lower().replace(" ", "_")]
                assert row[aggregates[0].index(heading)] == f"{words.number(one['value'])} {words.interval(one)}"


def test_rows_come_from_the_run_directories(quick: Path) -> None:
    run = synthetic.run_dir(quick, "dmc/cartpole-swingup", "dql", 1)
    evals = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]
    clock = [json.loads(line) for line in (run / "clock.jsonl").read_text().splitlines()]
    row = next(row for row in rows_of(quick / "report") if (row["label"], row["seed"]) == ("dql", "1"))
    heights = [np.mean(line["returns"]) for line in evals]
    assert float(row["final"]) == pytest.approx(heights[-1])
    assert float(row["best"]) == pytest.approx(max(heights))
    assert float(row["auc"]) == pytest.approx(np.trapezoid(heights, [line["env_step"] for line in evals]) / 64000)
    assert float(row["final_normalised"]) == pytest.approx((heights[-1] - 25) / 975)
    reached = next((i for i, height in enumerate(heights) if (height - 25) / 975 >= 0.5), None)
    frames = np.inf if reached is None else evals[reached]["env_step"]
    assert float(row["frames_to_50"]) == frames
    last = clock[-1]
    assert float(row["ms_critic"]) == pytest.approx(1e3 * last["wall"]["critic"] / last["updates_timed"])
    update = sum(last["wall"][name] for name in ("sample", "critic", "actor", "target"))
    assert float(row["ms_per_update"]) == pytest.approx(1e3 * update / last["updates_timed"])
    assert float(row["active_s"]) == pytest.approx(last["active"])
    # sac is the fastest: everyone is compared at the active time that its slower seed took
    slowest = min(float(other["active_s"]) for other in rows_of(quick / "report"))
    assert float(row["equal_time_s"]) == pytest.approx(slowest)
    seconds = np.interp(
        [line["env_step"] for line in evals], [line["env_step"] for line in clock], [line["active"] for line in clock]
    )
    assert float(row["at_equal_time"]) == pytest.approx(np.interp(slowest, seconds, heights))


def test_less_is_better_where_the_score_says_so(tmp_path: Path, undrawn: None) -> None:
    score = {"name": "kl", "direction": "min", "low": 2.0, "high": 0.0, "source": "exact"}
    for label, level in (("good", 0.2), ("bad", 1.5)):
        for seed in range(4):
            path = synthetic.run(tmp_path / "kl", "generation/gmm1d", label, seed, score=score)
            lines = [json.loads(line) for line in (path / "evals.jsonl").read_text().splitlines()]
            values = np.linspace(2, level + 0.01 * seed, len(lines))
            values[-2] = level / 2  # the best: neither the last nor the largest
            kept = [{**line, "scores": {"kl": [float(v)] * 3}} for line, v in zip(lines, values, strict=True)]
            synthetic.write_lines(path / "evals.jsonl", kept)
    summary, text = write(tmp_path / "kl")
    rows = rows_of(tmp_path / "kl" / "report")
    assert column(rows, "generation/gmm1d", "good", "final_normalised")[0] == pytest.approx(0.9)
    assert column(rows, "generation/gmm1d", "good", "best")[0] == pytest.approx(0.1)
    assert column(rows, "generation/gmm1d", "good", "best_normalised")[0] == pytest.approx(0.95)
    assert summary["pairs"][0]["better"] == "good"
    assert "**good** has the best mean final score" in text
    assert load.Score("kl", False, 0.0, 2.0).normalise(np.array([0.2])) == pytest.approx(0.9)


def test_what_stands_beside_the_score_is_shown_and_ranks_nothing(tmp_path: Path, undrawn: None) -> None:
    score = {"name": "KL", "direction": "min", "low": 2.0, "high": 0.0}
    for seed in range(3):
        path = synthetic.run(tmp_path / "kl", "generation/gmm1d", "sac", seed, score=score)
        evals = [json.loads(line) for line in (path / "evals.jsonl").read_text().splitlines()]
        for position, row in enumerate(evals):
            if seed == 1:
                del row["on_bound"]  # of a run made before it was recorded: no mean over some of the seeds
            row["scores"] = {"KL": [1.0 / (1 + position + seed)], "reward": [position + seed, position + seed + 1]}
        synthetic.write_lines(path / "evals.jsonl", evals)
    reports.write([tmp_path / "kl"], tmp_path / "kl" / "report")
    rows, (cell,) = rows_of(tmp_path / "kl" / "report"), summary_of(tmp_path / "kl" / "report")["cells"]
    assert [float(row["final"]) for row in rows] == pytest.approx([1 / 17, 1 / 18, 1 / 19])
    assert [float(row["final: reward"]) for row in rows] == [16.5, 17.5, 18.5]
    assert set(cell["others"]) == {"return", "reward"}
    assert (cell["score"], cell["others"]["reward"]["value"]) == ("KL", 17.5)
    text = (tmp_path / "kl" / "report" / "report.md").read_text()
    assert "| environment | algorithm | return | reward |" in text


# Words


def test_two_seeds_decide_nothing(quick: Path) -> None:
    summary = summary_of(quick / "report")
    assert all(pair["better"] is None for pair in summary["pairs"])
    assert all(cell["final"]["low"] is None for cell in summary["cells"])
    text = (quick / "report" / "report.md").read_text()
    assert "With 2 seeds in a cell **nothing is decided** against" in text
    assert "is better than" not in text
    assert "there is no interval" in text


@pytest.mark.parametrize(
    ("seeds", "says"), [(1, "With 1 seed in a cell **nothing is decided**"), (4, "take this as provisional")]
)
def test_few_seeds_in_words(tmp_path: Path, undrawn: None, seeds: int, says: str) -> None:
    synthetic.experiment(tmp_path / "few", seeds=seeds, evaluations=5, metric_lines=4)
    _, text = write(tmp_path / "few")
    assert says in text


def test_a_short_cell_leaves_undecided_only_what_it_takes_part_in(
    tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = "dmc/cheetah-run", "dmc/walker-walk"
    for env, (label, level) in itertools.product((whole, short), (("a", 800), ("b", 500), ("c", 200))):
        for seed in range(2 if (env, label) == (short, "c") else 4):
            returns = np.full((2, 1), float(level + seed))
            synthetic.run(tmp_path / "w", env, label, seed, returns=returns, evaluations=2, metric_lines=2)
    _, text = write(tmp_path / "w", allow_partial=True)
    best = "has the best mean final score: 802 [799, 804]? against 502 (b)"
    few = "It is better than b. With 2 seeds in a cell **nothing is decided** against c"
    assert f"On {short}, a {best} and 200 (c). {few}" in text
    assert f"On {whole}, **a** {best} and 202 (c). It is better than b and c." in text
    a, c = (next(line.split(" | ") for line in text.splitlines() if line.startswith(f"| {label} |"))[2:5] for label in "ac")
    assert a == ["**802** [799, 804]? n = 4", "802 [799, 804]? n = 4", "b"]
    assert c == ["202 [199, 204]? n = 4", "200 n = 2", "not decidable"]
    shade = "the shade its 95 % t interval (of fewer than 3: none), cut off where the axes end."
    assert f"{shade} With 4 seeds the interval is unreliable." in text
    assert "Intervals rest on as few as 4 seeds" in text
    assert "Who leads on which task" not in text
    monkeypatch.setattr(answer, "WIDE", 1)  # with more environments than that a table says who wins where
    _, text = write(tmp_path / "w", allow_partial=True)
    assert f"| {whole} | **a** | 802 [799, 804]? n = 4 | b, c |\n| {short} | a | 802 [799, 804]? n = 4 | b |" in text


def test_a_winner_needs_both_intervals(tmp_path: Path, undrawn: None) -> None:
    root = tmp_path / "close"
    finals = {"a": [500, 510, 520, 530, 540], "b": [505, 515, 525, 535, 600], "c": [100, 110, 120, 130, 140]}
    for label, values in finals.items():
        for seed, value in enumerate(values):
            synthetic.run(root, "dmc/walker-walk", label, seed, returns=np.full((3, 2), float(value)), evaluations=3)
    summary, text = write(root)
    assert {(pair["x"], pair["y"]): pair["better"] for pair in summary["pairs"]} == {
        ("a", "b"): None,
        ("a", "c"): "a",
        ("b", "c"): "b",
    }
    assert "**b** has the best mean final score: 536" in text
    assert "It is better than c. It is **not separated** from a: that would take about" in text
    assert "No result of" not in text


def test_three_seeds_on_one_task_are_told_how_many_would_do(tmp_path: Path, undrawn: None) -> None:
    for label, level in (("a", 100), ("b", 500)):
        for seed in range(3):
            returns = np.full((3, 1), level + seed)
            synthetic.run(tmp_path / "far", "dmc/walker-walk", label, seed, returns=returns, evaluations=3)
    _, text = write(tmp_path / "far")
    assert "It is **not separated** from a: that would take about 4 seeds each." in text
    assert "No result of 3 seeds each on a single task can make one algorithm better" in text
    assert "| 4 (1 more) |" in text


def test_better_needs_both_intervals() -> None:
    def estimate(low: float, high: float) -> stats.Estimate:
        return stats.Estimate((low + high) / 2, low, high, 5)

    gaps = {"above": estimate(0.5, 2), "around": estimate(-0.5, 2), "below": estimate(-2, -0.5)}
    wins = {"above": estimate(0.6, 1), "around": estimate(0.4, 0.9), "below": estimate(0, 0.4)}
    found = {(gap, win): numbers.better(gaps[gap], wins[win], "x", "y") for gap in gaps for win in wins}
    assert found.pop(("above", "above")) == "x"
    assert found.pop(("below", "below")) == "y"
    assert set(found.values()) == {None}


def test_what_went_wrong_is_said_and_not_averaged(study: Path) -> None:
    summary = summary_of(study / "report")
    assert summary["states"] == {"done": 26, "failed": 1, "interrupted": 1, "missing": 1, "running": 1}
    cells = {(cell["env"], cell["label"]): cell for cell in summary["cells"]}
    assert cells[ENVS[0], "dql"]["n"] == cells[ENVS[0], "sac"]["n"] == 4
    text = (study / "report" / "report.md").read_text()
    assert "diverged: critic\\_loss is not finite" in text
    assert "still going when this report was made" in text
    assert "no run directory" in text
    assert "metrics.jsonl: torn last line ignored" in text
    page = (study / "report" / "report.html").read_text()
    assert "FloatingPointError: &lt;nan&gt; &amp; more" in page


def test_published_sac_is_drawn_only_where_the_task_fits() -> None:
    def found(env: str, *budget: int) -> dict[str, references.Reference]:
        return {item.source: item for item in references.published(env, *budget)}

    sources = found("dmc/cartpole-swingup")
    assert set(sources) == {"tdmpc2_sac", "pytorch_sac", "simba_sac", "simbav2_sac"}
    one = sources["tdmpc2_sac"]
    assert set(one.seeds) == {1, 2, 3}
    assert one.mean[list(one.step).index(100000)] == pytest.approx(835, abs=1)  # 844.8, 825.8, 834.3
    assert found("gym/Hopper-v5") == found("dmc/lqr-swim") == {}
    assert "tdmpc2_sac" not in found("dmc/cartpole-swingup", 64_000)  # evaluated at 0 and at 100k
    assert one.step[0] == 0 < one.trained[0][0] == 100_000  # and no line leads from nothing to there
    assert set(found("dmc/humanoid-walk")) == {"tdmpc2_sac", "pytorch_sac", "simba_sac"}


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of references."""
    monkeypatch.setattr(references, "FOLDER", tmp_path / "reference")
    references.FOLDER.mkdir()
    references.all_of_them.cache_clear()
    yield references.FOLDER
    references.all_of_them.cache_clear()


def test_own_results_are_drawn_beside_runs_of_the_same_algorithm_that_are_not_their_own(shelf: Path, tmp_path: Path) -> None:
    env = "dmc/cartpole-swingup"
    old = synthetic.experiment(tmp_path / "grid", labels=("td3", "sac"), seeds=3, repeat=2)
    synthetic.unfinish(synthetic.run_dir(old, env, "sac", 2), state="failed")
    archive.write(load.find([old]), tmp_path / "grid.jsonl")
    assert references.write(tmp_path / "grid.jsonl") == shelf / "grid.csv"
    runs = load.read([old]).runs
    own = np.array([run.evals.value for run in runs if run.label == "td3"])

    root = synthetic.experiment(tmp_path / "new", labels=("hot", "td3", "sac", "dql"), seeds=2, steps=60_000)
    edit(synthetic.run_dir(root, env, "hot", 0).parent, '"algo": {"name": "hot"', '"algo": {"name": "td3"')
    edit(synthetic.run_dir(root, env, "hot", 0).parent, '"changed": {}', '"changed": {"lr": [1, 2]}')
    edit(synthetic.run_dir(root, env, "sac", 0).parent, '"action": "own"', '"action": "sample"')
    new = load.read([root]).runs
    beside = references.ours(env, new)
    assert list(beside) == ["td3"]  # not the variant, not the one evaluated otherwise, not the one of which there is nothing
    assert (beside["td3"].name, len(beside["td3"].seeds), beside["td3"].action_repeat) == ("td3, grid", 3, 2)
    assert beside["td3"].mean == pytest.approx(own.mean(axis=0), abs=0.01)
    assert references.ours("dmc/walker-walk", new) == references.ours(env, []) == {}

    assert references.ours(env, runs) == {}  # those runs themselves
    begun = synthetic.run_dir(old, env, "td3", 0)
    synthetic.unfinish(begun, state="interrupted")
    again = [run for run in load.read([old]).runs if run.path == begun]
    assert list(references.ours(env, again)) == ["td3"]  # as far as it came the same, but not the whole curve

    with pytest.raises(reports.ReportError, match="hot on dmc/cartpole-swingup is a variant of td3"):
        references.rows_of(load.read([root]), "v")
    edit(root, '"action": "sample"', '"action": "own"')
    summary, text = write(root)
    assert "Dotted: the same algorithm's mean in this benchmark's own results, grid (action repeat 2)." in text
    mean = words.number(float(np.interp(60_000, beside["td3"].step, beside["td3"].mean)))
    assert f"| td3, grid | 2 | 3 | 60k | {mean} |" in text
    (told,) = (row for row in summary["references"] if row["name"] == "td3, grid")
    value = pytest.approx(float(np.interp(60_000, beside["td3"].step, beside["td3"].mean)))
    assert told == {"env": env, "name": "td3, grid", "action_repeat": 2, "seeds": 3, "frames": 60_000, "value": value}


def edit(root: Path, old: str, new: str) -> None:
    for config in root.rglob("config.yaml"):
        config.write_text(json.dumps(json.loads(config.read_text())).replace(old, new))


# Bytes


def test_the_cost_of_an_update_comes_from_the_timings_where_they_fit(study: Path, quick: Path) -> None:
    assert "as measured during these runs" in (quick / "report" / "report.md").read_text()
    # sac's 3.5 ms; qsm and dql have T = 5 in their configuration: 3.5 + 0.6 * 5
    text = (study / "report" / "report.md").read_text()
    assert (
        "An update costs 3.50 ms with sac, 6.50 ms (qsm, 1.9 times) and 6.50 ms (dql, 1.9 times), as timed on a quiet core "
        "by `python -m bench timing` (batch 256, width 256, depth 2, device cpu, mode eager)." in text
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"batch_size": 256', '"batch_size": 4096'),
        ('"critic_hidden": [256', '"critic_hidden": [512'),
        ('_hidden": [256', '_hidden": [256, 256'),
        ('"changed": {}', '"changed": {"chains": [4, 16]}'),
    ],
)
def test_timings_of_other_sizes_are_not_those_of_these_runs(tmp_path: Path, undrawn: None, old: str, new: str) -> None:
    root = synthetic.experiment(tmp_path / "large", labels=("qsm", "sac"), seeds=1, evaluations=3)
    synthetic.timing(root / "timing.json")
    assert "as timed on a quiet core" in write(root)[1]
    edit(root, old, new)
    assert "as measured during these runs" in write(root)[1]


def test_timings_stand_for_runs_that_are_missing_on_one_task(tmp_path: Path, undrawn: None) -> None:
    root = synthetic.experiment(tmp_path / "part", labels=("qsm", "sac"), envs=ENVS[:2], seeds=1, evaluations=3)
    synthetic.timing(root / "timing.json")
    synthetic.drop(synthetic.run_dir(root, ENVS[1], "qsm", 0))
    assert "as timed on a quiet core" in write(root)[1]
    edit(root / ENVS[0].replace("/", "_") / "qsm", '"m_q": [50.0, 120.0]', '"m_q": [50.0, 10.0]')
    assert "as measured during these runs" in write(root)[1]


def test_timings_of_a_core_that_others_used_are_its_processor_time(tmp_path: Path, undrawn: None) -> None:
    root = synthetic.experiment(tmp_path / "busy", labels=("qsm", "sac"), seeds=1, evaluations=3)
    content = json.loads(synthetic.timing(root / "timing.json").read_text())
    content["machine"]["busy"] = 2.0
    for row in content["results"]:
        row["cpu_ms"] = row["median_ms"] / 2
    synthetic.write_json(root / "timing.json", content)
    _, text = write(root)
    assert "An update costs 1.75 ms with sac and 3.25 ms (qsm, 1.9 times), as timed in processor time, on a core" in text
    assert "quiet core" not in text


def test_same_input_same_bytes(quick: Path, tmp_path: Path) -> None:
    reports.write([quick], tmp_path)
    again = files_of(tmp_path)
    assert again == files_of(quick / "report")
    assert {"report.html", "report.md", "summary.json", "per_seed.csv", "figures/improvement.svg"} <= set(again)


def test_figures_are_there_as_png_and_svg_and_in_the_markdown(study: Path) -> None:
    folder = study / "report" / "figures"
    names = {path.stem for path in folder.glob("*.png")}
    assert names == {path.stem for path in folder.glob("*.svg")}
    text = (study / "report" / "report.md").read_text()
    assert all(f"](figures/{name}.png)" in text for name in names)
    kinds = (
        "curves_",
        "aggregates",
        "profiles",
        "improvement",
        "phases",
        "timing_steps",
        "actions_",
        "embedding_",
        "spread_",
        "training_",
    )
    assert all(any(name.startswith(kind) for name in names) for kind in kinds)


def test_import_is_light() -> None:
    code = (
        "import reports, sys; print([m for m in ('numpy', 'matplotlib', 'torch', 'algos', 'envs', 'bench') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    """Labels as merged experiments get them, and as many as a study has: every text lies on its figure."""
    labels = [f"algorithm {i} (dmc100k-longer-batch1024)" for i in range(10)]
    look = looks(labels)
    line = (np.arange(3.0), np.arange(3.0))
    curves = [Panel("dmc/cartpole-swingup_sparse", "frames", "return", [Series(label, line, None, [line]) for label in labels])]
    estimate = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 3}
    bars = [Bar(f"{label[:14]} over {label[:20]}", estimate, label) for label in labels]
    with matplotlib.rc_context(figures.style()):
        drawn = [
            figures.lines(curves * 4, look, columns=4, height=1.9),
            figures.lines(curves, look, columns=1),
            charts.intervals([("", bars)], look, columns=1),
            charts.intervals([(name, bars) for name in ("IQM", "median", "mean", "optimality gap (less is better)")], look),
        ]
        for figure in drawn:
            renderer = FigureCanvasAgg(figure).get_renderer()
            figure.draw(renderer)
            told = [text for legend in figure.legends for text in legend.get_texts()]
            for axis in figure.axes:
                told += [axis.title, axis._left_title, axis.xaxis.label, axis.yaxis.label]
                shown = axis.viewLim
                told += [text for text in axis.get_yticklabels() if shown.y0 <= text.get_position()[1] <= shown.y1]
            for text in filter(Text.get_text, told):
                box = text.get_window_extent(renderer)
                assert min(box.x0, box.y0) > -1, text
                assert box.x1 < figure.bbox.x1 + 1, text
                assert box.y1 < figure.bbox.y1 + 1, text


def test_links_within_a_page_lead_to_a_heading(study: Path) -> None:
    text = (study / "report" / "report.md").read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    headings = {re.sub("[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert "wall-clock" in links
    assert links <= headings


def test_counts_that_round_up_take_the_next_unit() -> None:
    assert [words.large(value) for value in (999.6, 999_499, 999_500, 9.996e8)] == ["999.6", "999k", "1M", "1G"]


def test_markup_is_escaped() -> None:
    rows = [["a|b <i>", html.Cell("**x** `1<2` y<z")]]
    section = html.Section("s", "T <b>", [html.Text("see [there](#s) & <script>"), html.Table(["|k|", "v"], rows)])
    page = html.page("t", [section])
    assert "<script>" not in page
    assert "<strong>x</strong> <code>1&lt;2</code> y&lt;z" in page
    assert '<a href="#s">there</a> &amp; &lt;script&gt;' in page
    text = html.markdown("t", [section])
    assert "| \\|k\\| | v |" in text
    assert "a\\|b \\<i\\>" in text
    assert "**x** `1<2` y&lt;z" in text


# Bad input


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(reports.ReportError, match=r"no runs below .*; expected .*config.yaml"):
        write(tmp_path, out=tmp_path / "out")
    with pytest.raises(reports.ReportError, match="is no directory and no archive"):
        write(tmp_path / "nowhere")
    assert issubclass(reports.ReportError, ValueError)


def test_runs_are_found_whatever_they_are_called_and_through_links_once(tmp_path: Path) -> None:
    top = tmp_path / "runs"
    synthetic.experiment(top / "replay", labels=("replay", "report"), seeds=1, evaluations=2)
    synthetic.experiment(tmp_path / "scratch", labels=("sac",), seeds=1, evaluations=2)
    for link, target in (("b", "scratch"), ("again", "runs/replay"), ("runs", "runs")):
        (top / link).symlink_to(tmp_path / target)
    found = load.read([top, top / "b"])
    assert [(run.experiment, run.label) for run in found.runs] == [("replay", "replay"), ("replay", "report"), ("b", "sac")]
    assert found.missing == []


def test_a_run_near_the_root_has_an_experiment_all_the_same() -> None:
    assert [str(home_of(Path(path))) for path in ("/run", "/a/run", "/x/a/b/run")] == ["/", "/", "/x"]


@pytest.mark.parametrize("state", ["failed", "running", "interrupted", "stopped"])
def test_only_unfinished_runs(tmp_path: Path, undrawn: None, state: str) -> None:
    root = synthetic.experiment(tmp_path / "bad", seeds=1)
    now = time.time() if state == "running" else 0.0
    for label in ("qsm", "dql", "sac"):
        synthetic.unfinish(synthetic.run_dir(root, "dmc/cartpole-swingup", label, 0), state=state, time=now)
    summary, text = write(root)
    assert summary["states"] == {state: 3}
    assert f"No run has finished (3 {state})" in text


def test_a_run_killed_between_its_last_heartbeat_and_its_mark_is_not_running(tmp_path: Path) -> None:
    root = synthetic.experiment(tmp_path / "end", labels=("qsm", "sac"), seeds=1)
    synthetic.unfinish(synthetic.run_dir(root, "dmc/cartpole-swingup", "sac", 0), state="done", time=time.time())
    assert {run.label: run.state for run in load.read([root]).runs} == {"qsm": "done", "sac": "interrupted"}


def test_unlike_runs_are_refused_or_marked(tmp_path: Path, undrawn: None) -> None:
    one = synthetic.experiment(tmp_path / "one", labels=("qsm", "dql"), seeds=3)
    two = synthetic.experiment(
        tmp_path / "two", labels=("sac",), seeds=3, rule={"episodes": 5, "action": "sample", "candidates": 8}
    )
    with pytest.raises(
        reports.ReportError, match=r"different evaluation rules.*10 episodes, action own.*best of 8.*--allow-mixed"
    ) as error:
        write(one, two)
    assert "\n" not in str(error.value)
    summary, text = write(one, two, allow_mixed=True)
    env = "dmc/cartpole-swingup"
    assert list(summary["mixed"]) == [env]
    assert not any(pair["comparable"] for pair in summary["pairs"])
    assert summary["aggregates"]["envs"] == []
    assert f"> **{env}**: different evaluation rules" in text
    other = synthetic.experiment(tmp_path / "other", labels=("td3",), seeds=3, repeat=4)
    with pytest.raises(reports.ReportError, match="different action repeats"):
        write(one, other)


def test_one_label_with_two_settings_is_two_variants(tmp_path: Path, undrawn: None) -> None:
    one = synthetic.experiment(tmp_path / "one", labels=("qsm",), seeds=2)
    two = synthetic.experiment(tmp_path / "two", labels=("qsm",), seeds=2)
    with pytest.raises(reports.ReportError, match=r"seed 0 of qsm appears twice, in one/qsm/seed_0 and two/qsm/seed_0"):
        write(one, two)
    for path in two.rglob("config.yaml"):
        path.write_text(path.read_text().replace('"lr": 0.0003', '"lr": 0.001'))
    summary, _ = write(one, two)
    assert summary["labels"] == ["qsm (one)", "qsm (two)"]


def test_seeds_of_a_winner_are_those_of_its_settings_whatever_they_are_called(tmp_path: Path, undrawn: None) -> None:
    """A sweep's confirmation, and further seeds of the file that it left."""
    one = synthetic.experiment(tmp_path / "one", labels=("qsm",), seeds=2)
    two = synthetic.experiment(tmp_path / "two", labels=("qsm",), seeds=0)
    synthetic.run(two, "dmc/cartpole-swingup", "qsm", 2)
    change(two, '"name": "qsm"', '"name": "qsm_tuned", "tuned": {"trials": 50}')
    for roots in ((one, two), (two, one)):
        summary, text = write(*roots)
        assert [(cell["label"], cell["n"]) for cell in summary["cells"]] == [("qsm", 3)]
        assert "tuned with 50 trials" in text


def test_runs_that_are_asked_for_more_frames_by_now_are_named(tmp_path: Path, undrawn: None) -> None:
    root = synthetic.experiment(tmp_path / "one", labels=("qsm",), seeds=2)
    content = json.loads((root / "experiment.json").read_text())
    content["cells"][1]["config"] = {"steps": 128_000}
    synthetic.write_json(root / "experiment.json", content)
    archived = tmp_path / "kept.jsonl"
    archive.write(load.find([root]), archived)
    for text in (write(root)[1], write(archived, out=tmp_path / "again")[1]):
        assert "1 run finished at 64k frames, and 128k are asked for by now" in text
        assert "have finished" not in text
    other = synthetic.experiment(tmp_path / "two", labels=("qsm",), seeds=2)
    change(other, '"lr": 0.0003', '"lr": 0.001')
    assert "1 run finished at 64k frames, and 128k are asked for by now" in write(root, other, out=tmp_path / "both")[1]


def test_equal_scores_have_no_leader(tmp_path: Path, undrawn: None) -> None:
    """A task on which nobody scores: the order of the labels would decide."""
    for label, height in (("qsm", 0.0), ("sac", 0.0), ("td3", -1.0)):
        for seed in range(3):
            synthetic.run(tmp_path / "flat", "dmc/cheetah-run", label, seed, returns=np.full((17, 2), height))
    text = write(tmp_path / "flat")[1]
    assert "On dmc/cheetah-run, qsm and sac share the best mean final score: 0 against −1.00 (td3)." in text
    assert "Bold: the best mean of its column" not in text


def test_a_range_upside_down_is_no_range() -> None:
    """What counts as solved is less than what a random policy gets: nothing is normalised by it."""
    assert np.isnan(load.Score("return", True, low=20, high=10).normalise(np.array([20.0, 10.0]))).all()
    assert load.Score("KL", False, low=2, high=0).normalise(np.array([2.0, 0.0])).tolist() == [0, 1]


def test_code_with_backticks_stays_code() -> None:
    cell = html.Cell("f(`mat1`, ``) <b> | x", code=True)
    text = html.markdown("t", [html.Section("s", "S", [html.Table(["traceback"], [[cell]])])])
    assert "| ``` f(`mat1`, ``) <b> \\| x ``` |" in text


def test_algorithms_from_outside_are_shown_with_all_settings_and_their_code(tmp_path: Path, undrawn: None) -> None:
    root = synthetic.experiment(tmp_path / "outside", labels=("qsm", "mine"), seeds=2)
    assert "Algorithms from outside" not in write(root)[1]
    edit(root, '"agent": "mine"', '"agent": "my_pkg.agents:Mine"')
    for seed, code in enumerate(("0123456789abcdef", "fedcba9876543210")):
        path = synthetic.run_dir(root, "dmc/cartpole-swingup", "mine", seed) / "provenance.json"
        sessions = json.loads(path.read_text())["sessions"]
        own = {"source": code, "env_source": f"e{code[1:]}"}
        synthetic.write_json(path, {"sessions": [session | own for session in sessions]})
    text = write(root)[1].partition("**Algorithms from outside**")[2]
    assert "| dmc/cartpole-swingup | e123456789abcdef, eedcba9876543210 |" in text.partition("**Environments from outside**")[2]
    assert "my_pkg.agents:Mine" in text
    assert "lr 0.0003, batch_size 256, actor_hidden [256, 256]" in text.replace("\\", "")
    assert "0123456789abcdef, fedcba9876543210" in text
    assert "It changed between the sessions or seeds of mine." in text


@pytest.mark.parametrize("written", [0, 1, 3])
def test_a_report_that_was_killed_half_way_is_made_again(tmp_path: Path, undrawn: None, monkeypatch, written: int) -> None:
    root, out = synthetic.experiment(tmp_path / "grid", seeds=1), tmp_path / "report"
    left, replace = [None] * written, Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *paths: (left.pop(), replace(*paths)))
        with pytest.raises(IndexError):
            write(root, out=out)
    assert len([path for path in out.iterdir() if path.suffix in (".json", ".html", ".md", ".csv")]) == written
    write(root, out=out)
    assert not list(out.glob(".*.tmp"))


def test_every_setting_of_every_algorithm_is_listed(tmp_path: Path, undrawn: None) -> None:
    """A column for each, both values where tasks have their own; those from outside have a table of their own."""
    root = synthetic.experiment(tmp_path / "all", labels=("qsm", "sac", "mine"), envs=ENVS, seeds=1)
    edit(root, '"agent": "mine"', '"agent": "my_pkg.agents:Mine"')
    own = synthetic.run_dir(root, ENVS[1], "sac", 0) / "config.yaml"
    own.write_text(own.read_text().replace('"lr": 0.0003', '"lr": 0.001'))
    table = write(root)[1].replace("\\", "").partition("**Settings of the algorithms**")[2].partition("\n\n–")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == ["setting", "qsm", "sac"]
    found = {row[0]: row[1:] for row in rows[2:]}
    assert found["lr"] == ["0.0003", "0.0003, 0.001"]
    assert found["T"] == ["5", "–"]


def test_an_algorithm_looks_the_same_on_every_page() -> None:
    assert looks(["sac", "mine", "qsm"])["sac"] == looks(["sac"])["sac"] == looks(["qsm", "dql", "pg", "sac", "td3"])["sac"]
    many = looks(["sac", *"abcdefgh"]).values()
    assert len({one.color for one in many}) == len({one.marker for one in many}) == 9


def change(root: Path, old: str, new: str, within: str = "config.yaml") -> None:
    for path in root.rglob(within):
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))


def test_variants_are_numbered_alike_on_every_environment_and_take_their_missing_cells(tmp_path: Path, undrawn: None) -> None:
    """One experiment with two settings under one label: on the second task the lower seeds have what was #2 on the first."""
    root = synthetic.experiment(tmp_path / "one", labels=("qsm",), envs=ENVS, seeds=8, evaluations=3, metric_lines=2)
    places = [(ENVS[0], seed) for seed in range(4, 8)] + [(ENVS[1], seed) for seed in range(4)]
    second = [synthetic.run_dir(root, env, "qsm", seed) for env, seed in places]
    for path in second:
        change(path, '"lr": 0.0003', '"lr": 0.5')
    listed = json.loads((root / "experiment.json").read_text())
    for cell in listed["cells"]:
        cell["config"] = {"algo": json.loads((root / cell["dir"] / "config.yaml").read_text())["algo"]}
    synthetic.write_json(root / "experiment.json", listed)
    synthetic.drop(second[0])
    summary, _ = write(root)
    assert summary["labels"] == ["qsm #1", "qsm #2"]
    assert summary["aggregates"]["envs"] == list(ENVS)
    assert [(cell["n"], cell["asked"]) for cell in summary["cells"]] == [(4, 4), (3, 4), (4, 4), (4, 4)]
    lr = {run.label: run.config["algo"]["lr"] for run in merge(load.read([root])).runs}
    assert lr == {"qsm #1": 0.0003, "qsm #2": 0.5}


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [("warmup", '"warmup": 5000', '"warmup": 1000'), ("score", '"direction": "max"', '"direction": "min"')],
)
def test_seeds_of_unlike_warm_up_or_score_are_no_cell(tmp_path: Path, undrawn: None, what: str, old: str, new: str) -> None:
    one = synthetic.experiment(tmp_path / "one", labels=("qsm",), seeds=2)
    change(one / "dmc_cartpole-swingup" / "qsm" / "seed_1", old, new)
    summary, text = write(one, allow_mixed=True)
    assert summary["labels"] == ["qsm #1", "qsm #2"]
    assert f"qsm: its runs differ in {what} and are shown as different variants" in text
    warmer = "> **dmc/cartpole-swingup**: warm-up differs: 1k (qsm #2) and 5k (qsm #1) frames."
    apart = "|  | qsm \\#1 | warmup 5000 |\n|  | qsm \\#2 | warmup 1000 |"
    assert [warmer in text, apart in text] == [what == "warmup"] * 2


def test_commands_of_a_run_that_went_on_under_another_one_are_told_in_order(tmp_path: Path, undrawn: None) -> None:
    path = synthetic.run(tmp_path / "longer", "dmc/walker-walk", "sac", 0) / "provenance.json"
    (session,) = json.loads(path.read_text())["sessions"]
    first, second = (f"python -m bench run --algos sac steps={steps}" for steps in (24_000, 64_000))
    sessions = [session | {"cell_command": command} for command in (first, first, second)]
    synthetic.write_json(path, {"sessions": sessions})
    assert f"| sac | 0 | `{first} && {second}` |" in write(tmp_path / "longer")[1]


def test_unlike_environments_and_unlike_settings_are_no_silent_average(tmp_path: Path, undrawn: None) -> None:
    envs = ("dmc/walker-walk", "dmc/reacher-easy")
    one = synthetic.experiment(tmp_path / "one", labels=("qsm",), envs=envs, seeds=3)
    two = synthetic.experiment(tmp_path / "two", labels=("sac",), envs=envs, seeds=3)
    for root, bounded in ((one, "false"), (two, "true")):  # what kind of action an agent takes is its own affair
        change(root, '"num_envs": 1', f'"num_envs": 1, "bounded": {bounded}')
    change(one / "dmc_walker-walk", '"lr": 0.0003', '"lr": 0.5')
    _, text = write(one, two)
    assert "| all | all | warmup 5000, action\\_repeat 8, num\\_envs 1 |\n|  | qsm | bounded false |" in text
    assert "**qsm** has other settings on some environments than on others (lr)" in text
    assert "**sac** has other" not in text
    change(one, '"bounded"', '"steps": 7, "bounded"')
    write(one, two)  # a setting that only newer runs record
    change(two, '"bounded"', '"steps": 50, "bounded"')
    with pytest.raises(reports.ReportError, match=r"different env.steps cannot be compared: 50 \(two/sac.*7 \(one/qsm"):
        write(one, two)


def test_a_missing_cell_keeps_its_task_out_of_the_aggregates(tmp_path: Path, undrawn: None) -> None:
    envs = ("dmc/cartpole-swingup", "dmc/walker-walk", "dmc/reacher-easy")
    root = synthetic.experiment(tmp_path / "holes", labels=("qsm", "sac"), envs=envs, seeds=3)
    for seed in range(3):
        synthetic.drop(synthetic.run_dir(root, envs[1], "sac", seed))
    summary, text = write(root)
    assert summary["aggregates"]["envs"] == [envs[0], envs[2]]
    assert f"{envs[1]} is left out of the aggregates: no finished run of sac" in text
    summary, text = write(root, allow_partial=True)
    assert summary["aggregates"]["envs"] == list(envs)
    assert summary["aggregates"]["labels"]["sac"]["tasks"] == 2
    assert any(line.startswith("| sac | ") and "**2 of 3 tasks**" in line for line in text.splitlines())
    assert "Over all tasks sac (2 of 3 tasks) cannot be ranked" in text


def test_a_grid_that_was_made_in_two_places_lacks_nothing(tmp_path: Path, undrawn: None) -> None:
    """Each place knows the whole grid and has half of the seeds; a cell that both lack is one cell."""
    for place, absent in (("here", (2, 3, 4)), ("there", (0, 1, 4))):
        synthetic.experiment(tmp_path / place, labels=("qsm", "sac"), seeds=5, evaluations=3)
        for label, seed in itertools.product(("qsm", "sac"), absent):
            synthetic.drop(synthetic.run_dir(tmp_path / place, "dmc/cartpole-swingup", label, seed))
    summary, _ = write(tmp_path / "here", tmp_path / "there")
    assert summary["states"] == {"done": 8, "missing": 2}
    assert [(cell["n"], cell["asked"]) for cell in summary["cells"]] == [(4, 5), (4, 5)]


def test_another_configurations_run_is_not_the_missing_one(tmp_path: Path, undrawn: None) -> None:
    here = synthetic.experiment(tmp_path / "here", labels=("qsm",), seeds=2, evaluations=3)
    there = synthetic.experiment(tmp_path / "there", labels=("qsm", "sac"), seeds=2, evaluations=3)
    content = json.loads((there / "experiment.json").read_text())
    for cell in content["cells"]:
        cell["config"] = json.loads((there / cell["dir"] / "config.yaml").read_text())
        if cell["label"] == "qsm":
            cell["config"]["algo"]["m_q"] = 10.0
            synthetic.drop(there / cell["dir"])
    synthetic.write_json(there / "experiment.json", content)
    assert write(here, there)[0]["states"] == {"done": 4, "missing": 2}


def test_what_has_no_scale_or_no_clock_is_not_told(tmp_path: Path, undrawn: None) -> None:
    """Without a top of the range nobody reached a share of it, nor failed to; a run without a clock has no time of its own,
    and takes none from others, wherever it stands."""
    score = {"name": "return", "direction": "max", "low": 25.0, "high": None}
    synthetic.experiment(tmp_path / "open", labels=("qsm", "sac"), seeds=3, evaluations=3, score=score)
    summary, text = write(tmp_path / "open")
    assert [cell["reached_50"] for cell in summary["cells"]] == [None, None]
    assert "0 of 3" not in text
    for place, (label, seed) in enumerate((("qsm", 0), ("sac", 1))):
        root = synthetic.experiment(tmp_path / str(place), labels=("qsm", "sac"), seeds=3)
        (synthetic.run_dir(root, "dmc/cartpole-swingup", label, seed) / "clock.jsonl").unlink()
        cells = {cell["label"]: cell for cell in write(root)[0]["cells"]}
        rows = rows_of(root / "report")
        assert "nan" not in (root / "report" / "per_seed.csv").read_text()
        (alone,) = (row for row in rows if (row["label"], row["seed"]) == (label, str(seed)))
        assert alone["at_equal_time"] == alone["seconds_to_50"] == ""
        assert len({row["equal_time_s"] for row in rows if row is not alone}) == 1
        timed = {name: [cells[name][key] for key in ("at_equal_time", "seconds_to_50")] for name in cells}
        assert timed.pop(label) == [None, None]
        assert all(value is not None for found in timed.values() for value in found)


def test_figures_mark_an_aggregate_over_fewer_tasks(tmp_path: Path) -> None:
    envs = ("dmc/cartpole-swingup", "dmc/walker-walk")
    root = synthetic.experiment(tmp_path / "holes", labels=("qsm", "sac"), envs=envs, seeds=1, evaluations=3)
    synthetic.drop(synthetic.run_dir(root, envs[1], "sac", 0))
    collection = load.read([root])
    rows = numbers.per_seed(collection)
    summary, look = numbers.summarise(collection, rows, allow_partial=True), looks(["qsm", "sac"])
    assert plots.aggregates(summary, look).svg.count("<!-- (1 of 2 tasks) -->") == 1
    assert "<!-- sac (1 of 2 tasks) -->" in plots.profiles(collection, rows, summary, look).svg


def test_one_aggregated_task_of_several_is_told_once(tmp_path: Path, undrawn: None) -> None:
    envs = ("dmc/cartpole-swingup", "dmc/walker-walk")
    root = synthetic.experiment(tmp_path / "part", labels=("qsm", "sac", "td3"), envs=envs, seeds=3)
    for seed in range(3):
        synthetic.drop(synthetic.run_dir(root, envs[1], "td3", seed))
    summary, text = write(root)
    assert summary["aggregates"]["envs"] == [envs[0]]
    assert [text.count(f"On {env}, ") for env in envs] == [1, 1]
    assert "dmc/walker-walk is left out of the aggregates: no finished run of td3" in text
    costs, told = answer.update_costs(summary)
    shared = [cell for cell in summary["cells"] if cell["env"] == envs[0]]
    assert costs == pytest.approx({cell["label"]: cell["cost"]["ms_per_update"] for cell in shared})
    assert told.endswith("on dmc/cartpole-swingup")


def test_on_a_logarithmic_scale_mean_and_interval_are_those_of_the_logarithms() -> None:
    x, values = np.arange(4.0), np.array([1e-3, 1e-2, 10.0])  # around their sum's mean the interval reaches below zero
    curves = [(x, np.full(4, value)) for value in values]
    found = figures.series("a", curves, log=True)
    low, high = oracle.t.interval(0.95, 2, np.log(values).mean(), oracle.sem(np.log(values)))
    assert found.mean[1] == pytest.approx(oracle.gmean(values))
    assert found.band[1] == pytest.approx(np.exp(low))
    assert found.band[2] == pytest.approx(np.exp(high))
    assert (figures.series("a", curves).band[1] < 0).all()


def sampled(label: str, seed: int, state: str = "done") -> SimpleNamespace:
    return SimpleNamespace(label=label, seed=seed, state=state, steps=0)


def test_policies_are_compared_at_the_states_of_a_seed_that_all_have_finished(undrawn: None) -> None:
    probes = behaviour.Probes(np.zeros(1), np.zeros((1, 4, 2)), np.zeros(1), np.zeros(1))
    both, look = [sampled("qsm", 0), sampled("sac", 1), sampled("qsm", 1), sampled("sac", 0, "failed")], looks(["qsm", "sac"])

    def told(runs: list[SimpleNamespace]) -> set[str]:
        chosen = action_plots.first_of_each([(run, probes) for run in runs], look)
        figures = action_plots.actions("gym/A", chosen, look), action_plots.embedding("gym/A", chosen, look)
        return {re.search(r"Sampled: (.*?)\.", figure.how)[1] for figure in figures}

    assert told(both) == {"the final policy of qsm seed 1 and sac seed 1, at the same states"}
    unlike = "states that differ, since no seed is finished by all"
    assert told(both[:2]) == {f"the final policy of qsm seed 0 and sac seed 1, at {unlike}"}
    early = "the last recorded policy (not the final one: sac) of qsm seed 0 and sac seed 0, at the same states"
    assert told([both[0], both[3]]) == {early}


def test_without_bounds_there_is_no_share_on_them(tmp_path: Path) -> None:
    path = synthetic.run(tmp_path / "free", "generation/gmm1d", "ctq", 0)
    for end in ("low", "high"):
        config = json.loads((path / "config.yaml").read_text())
        config["spec"][f"action_{end}"] = None
        synthetic.write_json(path / "config.yaml", config)
    np.savez(path / "probes.npz", env_step=[64_000], actions=np.linspace(-3, 5, 64).reshape(1, 1, 64, 1))
    archive.write(load.find([tmp_path / "free"]), tmp_path / "free.jsonl")
    for top in (tmp_path / "free", tmp_path / "free.jsonl"):
        (run,) = load.read([top]).runs
        assert run.probes.on_bound is None
    probed, look = [(run, run.probes)], looks(["ctq"])
    chosen = action_plots.first_of_each(probed, look)
    figures = action_plots.actions(run.env, chosen, look), action_plots.spread(run.env, probed, look)
    assert not any("bound" in figure.svg + figure.how + figure.alt for figure in figures)
    assert "<!-- 6 % -->" in figures[0].svg  # of 64 evenly spaced samples in each of 16 bins


def test_recordings_with_an_action_that_is_not_finite_are_left_out_and_noted(tmp_path: Path) -> None:
    actions, file, notes = np.random.default_rng(0).uniform(-1, 1, (3, 2, 8, 6)), tmp_path / "probes.npz", []
    actions[2, 0, 0, 0] = np.inf
    np.savez(file, env_step=[0, 1, 2], actions=actions)
    kept = behaviour.read_probes(file, {}, notes)
    assert kept.step.tolist() == [0, 1]
    assert kept.last == pytest.approx(actions[1])
    np.savez(file, env_step=[0, 1, 2], actions=actions * np.nan)
    assert behaviour.read_probes(file, {}, notes) is None
    assert notes == [f"probes.npz: {n} of 3 recordings ignored, whose actions are not all finite" for n in (1, 3)]


def test_sampled_actions_stand_in_rows_beside_the_share_of_their_highest_bin() -> None:
    def samples(*parts: tuple[float, int]) -> tuple[SimpleNamespace, behaviour.Probes]:
        actions = np.concatenate([np.full(count, value) for value, count in parts])
        return sampled("", 0), behaviour.Probes(np.zeros(1), actions.reshape(1, -1, 1), np.zeros(1), np.zeros(1))

    chosen = {"one": samples((0.9, 70), (-0.5, 30)), "two": samples((-1.0, 100)), "three": samples((0.9, 45), (0.1, 55))}
    svg = action_plots.actions("dmc/cartpole-swingup", chosen, looks(list(chosen))).svg
    assert re.findall(r"<!-- (\w+) -->|<!-- (\d+ %) -->", svg)[-6:] == [
        *((label, "") for label in chosen), ("", "70 %"), ("", "100 %"), ("", "55 %"),
    ]  # fmt: skip


def test_different_set_ups_share_no_time_axis(tmp_path: Path, undrawn: None) -> None:
    env = "dmc/cartpole-swingup"
    for label, jobs in (("qsm", 1), ("sac", 8)):
        for seed in range(3):
            synthetic.run(tmp_path / "mixed", env, label, seed, jobs=jobs)
    summary, text = write(tmp_path / "mixed")
    assert {cell["label"]: cell["conditions"] for cell in summary["cells"]} == {"qsm": ["A"], "sac": ["B"]}
    assert all(cell["at_equal_time"] is None for cell in summary["cells"])
    assert {row["at_equal_time"] for row in rows_of(tmp_path / "mixed" / "report")} == {""}  # a column in any case
    assert {letter: found["jobs"] for letter, found in summary["set_ups"].items()} == {"A": "1", "B": "8"}
    assert "timed under **2 different set-ups**" in text
    assert "An update costs" not in text
    collection = load.read([tmp_path / "mixed"])
    assert "not drawn" in plots._time_panel(collection.runs, set(), {}).message
    reached = [line for line in text.splitlines() if "3 of 3" in line and "set-up" in line]
    assert [("set-up A" in line, "set-up B" in line) for line in reached] == [(True, False), (False, True)]
    change(synthetic.run_dir(tmp_path / "mixed", env, "sac", 2), '"2.', '"1.', "provenance.json")  # another torch
    summary, _ = write(tmp_path / "mixed")
    sac = summary["cells"][1]
    assert (sac["conditions"], sac["reached_50"], sac["seconds_to_50"]) == (["B", "C"], 3, None)
    assert sac["frames_to_50"] > 0
    assert ("ms_per_update" in sac["cost"], sac["ms_per_update_range"], "parameters" in sac["cost"]) == (False, None, True)


def test_sessions_that_differ_in_one_condition_leave_a_run_with_none(tmp_path: Path) -> None:
    """In one that moves wall-clock, that is; fails if one of them is no longer looked at."""
    run = load.read_run(synthetic.run(tmp_path, "dmc/cartpole-swingup", "sac", 0))

    def conditions(other: dict) -> tuple | None:
        return dataclasses.replace(run, sessions=[synthetic.SESSION, synthetic.SESSION | other]).conditions

    assert conditions({"host": "other", "started": "2026-01-02T00:00:00", "load": 0.1}) == run.conditions is not None
    others = dict.fromkeys(("cpu", "cores", "device", "threads", "matmul_precision", "jobs"), "other")
    others["packages"] = synthetic.PACKAGES | {"torch": "2.14.0"}
    assert {name: conditions({name: value}) for name, value in others.items()} == dict.fromkeys(others)


def test_update_costs_come_from_the_set_up_with_most_tasks(tmp_path: Path, undrawn: None) -> None:
    """A grid that went over two machines; fails if times of both are averaged, or if none are told."""
    for env, jobs in (("dmc/cartpole-swingup", 1), ("dmc/walker-walk", 8), ("dmc/cheetah-run", 8)):
        for label in ("qsm", "sac"):
            for seed in range(3):
                synthetic.run(tmp_path / "two", env, label, seed, jobs=jobs)
        for seed, other in enumerate((1, 8, 8)):
            synthetic.run(tmp_path / "two", env, "td3", seed, jobs=other)
            (synthetic.run(tmp_path / "two", env, "pg", seed, jobs=8) / "clock.jsonl").unlink()
    summary, text = write(tmp_path / "two")
    costs, told = answer.update_costs(summary)
    assert told.endswith("on dmc/cheetah-run and dmc/walker-walk, under set-up B (td3: under several; pg: no times)")
    assert text.count(told) == 2  # in the answer and under its table
    assert set(costs) == {"qsm", "sac"}
    for label in ("qsm", "sac"):
        own = [c["cost"]["ms_per_update"] for c in summary["cells"] if (c["label"], c["conditions"]) == (label, ["B"])]
        assert (len(own), costs[label]) == (2, pytest.approx(np.mean(own)))


def test_a_run_continued_under_another_set_up_loses_its_times_and_no_others(tmp_path: Path, undrawn: None) -> None:
    root, env = synthetic.experiment(tmp_path / "resumed", labels=("qsm", "sac"), seeds=3), "dmc/cartpole-swingup"
    before, text = write(root)
    assert "Continued under another set-up" not in text
    path = synthetic.run_dir(root, env, "sac", 1)
    session = json.loads((path / "provenance.json").read_text())["sessions"][0]
    synthetic.write_json(path / "provenance.json", {"sessions": [session, session | {"jobs": 1}]})
    clock = [json.loads(line) for line in (path / "clock.jsonl").read_text().splitlines()]
    synthetic.write_lines(path / "clock.jsonl", [{**row, "wall": {k: 9 * v for k, v in row["wall"].items()}} for row in clock])
    after, text = write(root)
    qsm, sac = after["cells"]
    told = re.search(r"Continued under another set-up \(([^)]*)\): (.*?)\. The scores count", text)
    assert told.groups() == (f"jobs {session['jobs']} and 1", f"sac seed 1 on {env}")
    assert "Not by active time, since continued under another set-up: sac seed 1." in text
    assert (qsm["cost"], qsm["seconds_to_50"]) == (before["cells"][0]["cost"], before["cells"][0]["seconds_to_50"])
    assert qsm["at_equal_time"]["n"] == 3
    assert [sac[name] for name in ("final", "frames_to_50")] == [before["cells"][1][name] for name in ("final", "frames_to_50")]
    assert (sac["at_equal_time"], sac["equal_time_s"], sac["seconds_to_50"]) == (None, None, None)
    rows = [row for row in numbers.per_seed(load.read([root])) if row["label"] == "sac"]
    assert [row["condition"] for row in rows] == ["A", None, "A"]
    others = [row["ms_per_update"] for row in rows if row["condition"]]
    assert sac["cost"]["ms_per_update"] == pytest.approx(np.mean(others))
    assert sac["ms_per_update_range"] == pytest.approx([min(others), max(others)])
    assert "An update costs" in text
    runs = load.read([root]).runs
    scored = {run.path for run in runs}
    drawn = {line.label: line for line in plots._time_panel(runs, scored, looks(["qsm", "sac"])).series}
    assert [len(drawn[label].seeds) for label in ("qsm", "sac")] == [3, 2]


def test_times_that_carry_more_than_the_algorithms_are_called_so(tmp_path: Path, undrawn: None) -> None:
    root, env = synthetic.experiment(tmp_path / "busy", labels=("qsm", "sac"), seeds=3), "dmc/cartpole-swingup"
    assert "Times were not steady" not in write(root)[1]
    slow = synthetic.run_dir(root, env, "sac", 1)
    rows = [json.loads(line) for line in (slow / "clock.jsonl").read_text().splitlines()]
    doubled = [{**row, "wall": {name: 2 * seconds for name, seconds in row["wall"].items()}} for row in rows]
    synthetic.write_lines(slow / "clock.jsonl", doubled)
    session = json.loads((slow / "provenance.json").read_text())["sessions"][0]
    synthetic.write_json(slow / "provenance.json", {"sessions": [session | {"git": "0" * 40}]})
    summary, text = write(root)
    low, high = summary["cells"][1]["ms_per_update_range"]
    assert high > 1.9 * low
    assert f"an update of sac on {env} took {words.number(low)} to {words.number(high)} ms" in text
    assert "made by 2 revisions of the code" in text


def test_other_work_on_the_machine_adds_nothing_to_the_times(tmp_path: Path, undrawn: None) -> None:
    """Half the processor for half of a run: the costs stay what they were, times the share of the synthetic runs."""
    root, env = synthetic.experiment(tmp_path / "busy", labels=("qsm", "sac"), seeds=3), "dmc/cartpole-swingup"
    before, text = write(root)
    assert (before["clock"], "processor time**" in text) == ("wall", False)
    for seed in range(3):
        path = synthetic.run_dir(root, env, "sac", seed) / "clock.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        half = copy.deepcopy(rows[len(rows) // 2])
        for row in rows:
            for key in ("active", "total"):
                row[key] += min(row[key], half[key])
            row["wall"] = {name: seconds + min(seconds, half["wall"][name]) for name, seconds in row["wall"].items()}
        synthetic.write_lines(path, rows)
    after, text = write(root)
    assert after["clock"] == "processor"
    assert "on dmc/cartpole-swingup they had it for 56 % (sac seed" in text
    share = 1.1 / 1.3  # of every synthetic run: its processor seconds and its total
    for old, new in zip(before["cells"], after["cells"], strict=True):
        for name in ("ms_per_update", "active_s"):
            assert new["cost"][name] == pytest.approx(share * old["cost"][name], rel=1e-3), (new["label"], name)
        assert new["cost"]["total_s"] == pytest.approx(old["cost"]["total_s"] * (1.5 if new["label"] == "sac" else 1), rel=0.1)
        assert new["seconds_to_50"] == pytest.approx(share * old["seconds_to_50"], rel=1e-3)
        values = [{key: cell["at_equal_time"][key] for key in ("value", "low", "high")} for cell in (old, new)]
        assert values[1] == pytest.approx(values[0], rel=1e-3)
    change(synthetic.run_dir(root, env, "sac", 2), '"threads": 1', '"threads": 2', "provenance.json")
    assert write(root)[0]["clock"] == "wall"  # processor seconds of two threads are no time


def test_one_environment_whose_runs_were_not_disturbed_alike_is_enough(tmp_path: Path) -> None:
    """All clocks change then, for aggregates are over all tasks. And no interval has more of the processor than it lasted."""
    root = synthetic.experiment(tmp_path / "two", labels=("qsm",), envs=("dmc/walker-walk", "dmc/cheetah-run"), seeds=2)
    path = synthetic.run_dir(root, "dmc/cheetah-run", "qsm", 1) / "clock.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    synthetic.write_lines(path, [row | {"process": row["process"] / 2} for row in rows])
    collection = load.read([root])
    leave_out_other_work(collection)
    assert len(collection.shares) == 4
    clock = dataclasses.replace(collection.runs[0].clock, total=np.array([2.0, 4.0]), process=np.array([1.0, 4.0]))
    clock = dataclasses.replace(clock, step=np.array([10.0, 20.0]), active=np.array([2.0, 3.0]))
    np.testing.assert_allclose(on_processor(clock).active, [1.0, 2.0])
    np.testing.assert_array_equal(clock.at(np.array([5.0, 15.0, 25.0]), "total"), [np.nan, 3.0, np.nan])  # known in between


def test_pairs_that_are_not_separated_need_more_seeds_than_they_have() -> None:
    high, low = [np.array([10.0, 11.0, 12.0, 13.0])], [np.array([0.0, 1.0, 2.0, 3.0])]
    assert (numbers._seeds_needed(high, low, 6, separated=True), numbers._seeds_needed(high, low, 6, separated=False)) == (4, 7)


def test_loads_are_compared_as_numbers(tmp_path: Path, undrawn: None) -> None:
    root = synthetic.experiment(tmp_path / "busy", labels=("qsm",), seeds=4)
    for seed, average in enumerate(("9.5", "10.25", "100.0", "null")):
        path = synthetic.run_dir(root, "dmc/cartpole-swingup", "qsm", seed)
        change(path, '"load": 1.5', f'"load": {average}', "provenance.json")
    _, text = write(root)
    assert "| 4 sessions |" in text
    assert "| 9.5 to 100.0 |" in text


def test_curves_average_the_runs_that_the_tables_do(tmp_path: Path) -> None:
    """A run that diverged is drawn up to where it did, and is in no mean."""
    root = synthetic.experiment(tmp_path / "torn", labels=("qsm",), seeds=3, evaluations=9)
    evals = synthetic.run_dir(root, "dmc/cartpole-swingup", "qsm", 1) / "evals.jsonl"
    lines = evals.read_text().splitlines()
    lines[5] = re.sub(r'"returns": \[[^]]*\]', '"returns": [NaN]', lines[5])
    evals.write_text("\n".join(lines) + "\n")
    collection = load.read([root])
    scored = plots.scored_runs(collection, numbers.per_seed(collection))
    (line,) = plots._lines_of(collection.runs, scored, ["qsm"], lambda run: run.evals.step)
    sound = np.mean([run.evals.value for run in collection.runs if run.seed != 1], axis=0)
    np.testing.assert_allclose(line.mean[1], sound)
    assert [len(line.partial), len(line.partial[0][0])] == [1, 5]


def test_damaged_files_never_raise(tmp_path: Path, undrawn: None) -> None:
    root = synthetic.experiment(tmp_path / "damaged", labels=("qsm",), seeds=9)
    damage = {
        "evals.jsonl": "",
        "clock.jsonl": "nonsense\n",
        "provenance.json": "{",
        "cost.json": "[]",
        "probes.npz": "PK",
    }
    for seed, (name, content) in enumerate(damage.items()):
        (synthetic.run_dir(root, "dmc/cartpole-swingup", "qsm", seed) / name).write_text(content)
    (synthetic.run_dir(root, "dmc/cartpole-swingup", "qsm", 5) / "config.yaml").write_text("label: [")
    for name in ("metrics.jsonl", "clock.jsonl", "probes.npz", "cost.json", "provenance.json", "progress.json"):
        (synthetic.run_dir(root, "dmc/cartpole-swingup", "qsm", 6) / name).unlink()
    evals = synthetic.run_dir(root, "dmc/cartpole-swingup", "qsm", 7) / "evals.jsonl"
    evals.write_text(evals.read_text().replace('"returns": [', '"returns": [NaN, ', 1))
    with (synthetic.run_dir(root, "dmc/cartpole-swingup", "qsm", 8) / "clock.jsonl").open("a") as clock:
        clock.write('{"env_step": 64001}\n')
    synthetic.write_json(root / "timing.json", {"machine": {}, "results": [{"name": "actor", "algo": "qsm"}]})
    summary, text = write(root)
    assert summary["states"] == {"done": 8, "missing": 1}
    assert summary["cells"][0]["n"] == 6
    assert float(rows_of(root / "report")[8]["active_s"]) > 0
    for said in (
        "no evaluation",
        "an evaluation is not finite",
        "config.yaml is not readable YAML",
        "provenance.json is unreadable",
    ):
        assert said in text


def test_runs_are_compared_at_the_shortest_budget(tmp_path: Path, undrawn: None) -> None:
    rising = np.linspace(0, 900, 11)[:, None]
    synthetic.run(tmp_path / "b", "dmc/walker-walk", "long", 0, steps=100_000, evaluations=11, returns=rising)
    synthetic.run(tmp_path / "b", "dmc/walker-walk", "short", 0, steps=50_000, evaluations=11, returns=rising)
    summary, _ = write(tmp_path / "b")
    told = {"env": "dmc/walker-walk", "rule": "10 episodes, action own", "every": 10_000, "action_repeat": 8}
    told |= {"score": "return", "direction": "max", "low": 25, "high": 1000, "source": "the task", "seeds": [0]}
    assert summary["evaluation"] == [told, told | {"every": 5_000}]
    rows = rows_of(tmp_path / "b" / "report")
    assert column(rows, "dmc/walker-walk", "long", "final") == pytest.approx(450)
    assert column(rows, "dmc/walker-walk", "short", "final") == pytest.approx(900)
    assert column(rows, "dmc/walker-walk", "long", "final: on_bound") == pytest.approx(0.2)  # of 0.4 at its own end
    lines = (synthetic.run_dir(tmp_path / "b", "dmc/walker-walk", "long", 0) / "clock.jsonl").read_text().splitlines()
    (then,) = (line for line in map(json.loads, lines) if line["env_step"] == 50_000)
    (cost,) = (cell["cost"] for cell in summary["cells"] if cell["label"] == "long")
    for name in ("active", "process", "total"):
        assert cost[f"{name}_s"] == pytest.approx(then[name])  # of as many frames as the scores


def test_a_curve_ends_where_the_tables_say(tmp_path: Path, undrawn: None) -> None:
    """Fails if it is drawn on to an evaluation beyond the frames that are compared."""
    rising = np.array([25.0, 100, 200, 900, 950, 1000])[:, None]
    for env in ("dmc/walker-walk", "dmc/cheetah-run"):
        for seed in range(2):
            own = rising * (0.2 if (env, seed) == ("dmc/walker-walk", 1) else 1)  # so that mean and IQM differ
            synthetic.run(tmp_path / "b", env, "long", seed, steps=80_000, evaluations=6, returns=own)
        synthetic.run(tmp_path / "b", env, "short", 0, steps=40_000, evaluations=5)
    summary, _ = write(tmp_path / "b")
    collection = load.read([tmp_path / "b"])
    panel = plots._efficiency(collection, numbers.per_seed(collection), summary, {"long": None, "short": None})
    for line in panel.series:
        assert line.mean[1][-1] == pytest.approx(summary["aggregates"]["labels"][line.label]["final"]["mean"]["value"])


def test_training_that_ends_above_its_budget_is_scored_at_its_end(tmp_path: Path, undrawn: None) -> None:
    """Decisions of 8 frames end 2500 frames of training at 2504, those of 3 at 2502."""
    for label, repeat, end in (("eight", 8, 2504), ("three", 3, 2502)):
        path = synthetic.run(tmp_path / "b", "dmc/walker-walk", label, 0, steps=2500, evaluations=3, repeat=repeat)
        steps, values = (0, 1256, end), (0.0, 100.0, 500.0)
        kept = [{"env_step": s, "update": 0, "returns": [v]} for s, v in zip(steps, values, strict=True)]
        synthetic.write_lines(path / "evals.jsonl", kept)
    write(tmp_path / "b", allow_mixed=True)
    assert [float(row["final"]) for row in rows_of(tmp_path / "b" / "report")] == [500, 500]
    collection = load.read([tmp_path / "b"])
    rows = numbers.per_seed(collection)
    panel = plots._efficiency(collection, rows, numbers.summarise(collection, rows), {"eight": None})
    assert panel.series[0].mean[1][-1] == pytest.approx((500 - 25) / 975)


def test_a_run_that_was_not_evaluated_near_the_budget_is_left_out_and_named(tmp_path: Path, undrawn: None) -> None:
    rising = np.linspace(0, 900, 11)[:, None]
    for seed in range(3):
        synthetic.run(tmp_path / "b", "dmc/walker-walk", "long", seed, steps=400_000, evaluations=11, returns=rising)
        synthetic.run(tmp_path / "b", "dmc/walker-walk", "once", seed, steps=20_000, evaluations=2, returns=rising[[0, 5]])
        synthetic.run(tmp_path / "b", "dmc/walker-walk", "like", seed, steps=40_000, evaluations=11, returns=rising)
    summary, text = write(tmp_path / "b")
    cells = {cell["label"]: cell for cell in summary["cells"]}
    assert (cells["long"]["n"], cells["long"]["final"]) == (0, None)
    assert (cells["once"]["final"]["value"], cells["like"]["final"]["value"]) == (450, 450)
    assert "3 finished runs could not be scored" in text
    assert "no evaluation near frame 20000, where runs are compared: the last before it is at 0" in text
    assert "no scored run of long" in text
    assert "| long | not scored |" in text


def test_of_runs_that_are_as_short_the_longest_interval_says_what_is_near_the_budget(tmp_path: Path, undrawn: None) -> None:
    rising = np.linspace(0, 900, 11)[:, None]
    runs = {"often": (40_000, rising), "seldom": (40_000, rising[[0, 5, 10]]), "long": (300_000, rising)}
    for label, (steps, returns) in runs.items():
        synthetic.run(tmp_path / "b", "dmc/walker-walk", label, 0, steps=steps, evaluations=len(returns), returns=returns)
    summary, _ = write(tmp_path / "b")
    assert {cell["label"]: cell["finals"] for cell in summary["cells"]} == {"often": [900], "seldom": [900], "long": [90]}
