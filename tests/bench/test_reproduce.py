"""The framework of `python -m bench reproduce`, and the experiments that need no training: decided, and against references."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import bench.reproduce as reproduce
from algos.tabular import Iteration, uniform_policy
from bench.grid import plan
from bench.reproduce import gridworld
from bench.reproduce.grids import Grid
from reports import stats
from reports.reproduction import FAILS, HOLDS, OPEN, Claim, Findings, Verdict, above, alike, every, larger
from reports.words import number

# alpha -> updates, mean entropy, V(start); another implementation's numbers on the same grid.
EQ_20 = {0.1: (7, 1.3861, -0.796), 1: (23, 1.3699, -0.673), 3: (49, 1.2935, -0.328), 10: (49, 1.0636, 0.086),
         30: (25, 0.6441, 0.298), 100: (8, 0.4518, 0.3341), 1000: (4, 0.4485, 0.3344)}  # fmt: skip
SOFT_PI = {0.1: (4, 1.3861, -0.796), 1: (6, 1.3697, -0.689), 3: (6, 1.2694, -0.319), 10: (7, 0.9445, 0.149),
           30: (7, 0.5394, 0.313), 100: (7, 0.4115, 0.3342), 1000: (7, 0.4095, 0.3344)}  # fmt: skip


@pytest.mark.parametrize(("name", "reference"), [("Q-score matching", EQ_20), ("soft policy iteration", SOFT_PI)])
def test_the_gridworld_has_the_reference_values(name, reference):
    mdp = gridworld.grid()
    for alpha, (updates, entropy, value) in reference.items():
        found = gridworld.measure(mdp, gridworld.ITERATIONS[name](mdp, alpha))
        assert found["updates"] == updates
        assert found["entropy"] == pytest.approx(entropy, abs=6e-5)
        assert found["value"] == pytest.approx(value, abs=6e-4)


def test_how_much_the_start_matters_is_asked_of_the_starts(monkeypatch):
    """Of an iteration that stays where it begins it matters much. Fails where all begin alike, and nothing could differ."""
    monkeypatch.setattr(
        gridworld, "q_score_matching",
        lambda mdp, alpha, policy=None: Iteration(uniform_policy(mdp) if policy is None else policy, 1, 0.0),
    )  # fmt: skip
    assert gridworld.spread_of_ends(gridworld.grid(), 1.0, 3) > 0.1


def test_the_gridworld_page(command):
    done = command("reproduce", "gridworld")
    assert done.code == 0, done.err
    assert done.out.count("holds.") == 2
    page = json.loads(Path("runs/reproduction/gridworld/summary.json").read_text())
    assert [claim["outcome"] for claim in page["claims"]] == [HOLDS, HOLDS]
    assert page["optimal_value"] == pytest.approx(0.3344, abs=5e-5)
    text = Path("runs/reproduction/gridworld/report.md").read_text()
    assert all(claim.rule in text for claim in gridworld.STUDY.claims)
    assert "[gridworld](gridworld/report.md)" in Path("runs/reproduction/README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["gridwrold"], "did you mean gridworld"), ([], "needs a name"), (["gridworld", "--preset", "quik"], "quick, long, full"),
     (["gridworld", "steps=3"], "takes no settings"), (["gridworld", "--out", "file"], "is a file"),
     (["gridworld", "--engine", "cloud"], "unknown engine"), (["gridworld", "--jobs", "-3"], "--jobs -3: it takes a number"),
     (["gridworld", "--slurm", "nosuch=1"], "for --engine slurm"), (["gridworld", "--device", "cuda"], "sees no CUDA device")],
)  # fmt: skip
def test_bad_input_is_one_line(command, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (tmp_path / "file").touch()
    done = command("reproduce", *words)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_index_replaces_no_page_of_others(command):
    Path("docs").mkdir()
    Path("docs/README.md").write_text("# Ours\n")
    done = command("reproduce", "gridworld", "--out", "docs")
    assert (done.code, "has a README.md of its own" in done.err) == (2, True)
    assert [path.name for path in Path("docs").iterdir()] == ["README.md"]
    assert command("reproduce", "gridworld", "--out", "pages").code == 0
    assert command("reproduce", "gridworld", "--out", "pages").code == 0


def test_every_study_is_listed_with_claims_rules_and_all_presets(command):
    done = command("reproduce", "--list")
    assert done.code == 0
    for name in reproduce.names():
        study = reproduce.study(name)
        assert f"{name}: {study.title}" in done.out
        assert set(study.budgets) == set(reproduce.PRESETS)
        assert study.claims
        assert all(claim.rule and claim.text in done.out for claim in study.claims)


@pytest.mark.parametrize("name", reproduce.names())
def test_every_grid_of_every_preset_can_be_planned(name):
    """Settings, names and warm-ups are refused when a grid is planned, before anything runs."""
    for budget in reproduce.study(name).budgets.values():
        grid = getattr(budget, "grid", budget)
        if isinstance(grid, Grid):
            plan(grid.preset, grid.algos, grid.envs, str(grid.seeds), list(grid.settings))


def test_a_claim_without_a_verdict_is_no_page(monkeypatch, tmp_path):
    claims = (Claim("a", "A.", "rule"), Claim("b", "B.", "rule"))
    study = dataclasses.replace(
        gridworld.STUDY, claims=claims, run=lambda budget, context: Findings({"a": Verdict(HOLDS, "")}, {})
    )
    monkeypatch.setattr(gridworld, "STUDY", study)
    with pytest.raises(ValueError, match="no verdict on b"):
        reproduce.reproduce("gridworld", "quick", tmp_path, tmp_path, Namespace())


def test_verdicts_from_seeds_need_an_interval_that_clears_the_threshold():
    assert above([0.8, 0.9, 0.85], 0.5, "x").outcome == HOLDS
    assert above([0.1, 0.2, 0.15], 0.5, "x").outcome == FAILS
    assert above([0.9, 0.95], 0.5, "x").outcome == OPEN
    open_ = above([0.2, 0.9, 0.6], 0.5, "x")
    assert open_.outcome == OPEN
    assert "seeds would decide" in open_.why
    x, y = np.array([3.0, 3.1, 2.9]), np.array([1.0, 1.1, 0.9])
    found = [larger([x], [y], "x"), larger([y], [x], "x"), larger([x], [y], "x", least=3), larger([x], [y[:0]], "x")]
    assert [verdict.outcome for verdict in found] == [HOLDS, FAILS, FAILS, OPEN]
    beside = [alike([x], [x + gap], "x", within=0.5).outcome for gap in (0.0, 0.4, 1.0, -1.0)]
    assert beside == [HOLDS, OPEN, FAILS, FAILS]
    assert "about" in alike([x], [x - 0.4], "x", within=0.5).why
    assert alike([x[:2]], [x[:2]], "x", within=0.5).outcome == OPEN
    assert [every(found).outcome, every(found[::3]).outcome, every(found[:1]).outcome] == [FAILS, OPEN, HOLDS]


@pytest.mark.parametrize("gap", [0.4, -0.4])
def test_an_open_difference_names_the_seeds_of_its_own_test_and_the_margin_it_is_nearer_to(gap):
    """Fails where the number is that of another test, or of the margin on the other side."""
    x = np.array([3.0, 3.1, 2.9])
    edge = 0.5 if gap > 0 else -0.5
    needed = stats.seeds_to_separate([x + gap], [x + edge])
    assert needed > 10
    said = f"on both sides of {number(edge)}; with this mean and spread about {needed} seeds would decide."
    assert alike([x + gap], [x], "x", within=0.5).why.endswith(said)
    assert larger([x + gap], [x], "x", least=edge).why.endswith(said)


def test_the_number_of_seeds_that_would_decide_has_the_power_it_names():
    """Simulated: that many seeds separate the mean from the threshold in 80 of 100 studies, two fewer do not."""
    values = np.array([0.0, 1.0, 2.0])  # mean 1, spread 1
    needed = stats.seeds_to_exceed(values, 0.4)
    generator = np.random.default_rng(0)

    def power(n: int) -> float:
        _, low, _ = stats.mean_interval(generator.normal(1, 1, size=(n, 20_000)))
        return float((low > 0.4).mean())

    assert power(needed) == pytest.approx(0.8, abs=0.02)
    assert power(needed - 2) < 0.8
    assert stats.seeds_to_exceed(values[:2], 0.4) is None
    assert stats.seeds_to_exceed(values, 1.0) is None


def test_a_rule_that_was_changed_after_a_result_is_marked_on_the_page_and_in_the_index(monkeypatch, tmp_path):
    claims = (Claim("a", "A.", "rule", revised="It failed at first."), Claim("b", "B.", "rule"))
    verdicts = {"a": Verdict(HOLDS, ""), "b": Verdict(HOLDS, "")}
    study = dataclasses.replace(gridworld.STUDY, claims=claims, run=lambda budget, context: Findings(verdicts, {}))
    monkeypatch.setattr(gridworld, "STUDY", study)
    reproduce.reproduce("gridworld", "quick", tmp_path, tmp_path, Namespace())
    assert "It failed at first." in (tmp_path / "gridworld" / "report.md").read_text()
    index = (tmp_path / "README.md").read_text()
    assert "A. | **holds** (changed after a result)" in index
    assert "B. | **holds** |" in index
