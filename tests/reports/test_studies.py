"""The studies of `reproduce` on made-up runs: every verdict rule both ways, and every page from runs done and failed."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import synthetic
from PIL import Image

from bench.reproduce import (
    Context,
    alignment,
    boltzmann,
    ctq_digits,
    ctq_gmm,
    ctq_ode,
    ctq_swissroll,
    fig3,
    fig4,
    fig5,
    fig8,
    fig9,
    gridworld,
)
from bench.reproduce.grids import Grid, Results
from bench.rundir import Experiment
from reports import html, plots
from reports.reproduction import FAILS, HOLDS, OPEN, above, write_page

ENV = "dmc/cartpole-swingup"
HIGH, LOW, NOTHING = 900.0, 400.0, 20.0


@pytest.fixture
def unpainted(monkeypatch):
    """Learning curves are not drawn: they have tests of their own. The studies' own figures are."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "png")
    blank = lambda name, caption, alt, paint, how="": html.Figure(name, buffer.getvalue(), "<svg/>", caption, alt)  # noqa: E731
    monkeypatch.setattr(plots, "draw", blank)


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """grid(final returns by label): Grid.train gives made-up runs with these returns at their ends, three seeds each."""

    def make(envs: tuple[str, ...] = (ENV,), **finals: float) -> Results:
        root = tmp_path / "grid"
        shutil.rmtree(root, ignore_errors=True)
        for label, final in finals.items():
            for env in envs:
                for seed in range(3):
                    height = np.linspace(0, final + seed, 17)
                    returns = np.repeat(height[:, None], 10, axis=1)
                    synthetic.run(root, env, label, seed, returns=returns)
        cells = [
            {"env": env, "label": label, "seed": seed, "dir": f"{env.replace('/', '_')}/{label}/seed_{seed}"}
            for env in envs for label in finals for seed in range(3)
        ]  # fmt: skip
        content = {"name": "grid", "preset": "quick", "command": [], "created": "2026-01-01T00:00:00"}
        synthetic.write_json(root / "experiment.json", {**content, "cells": cells, "sweep": None})
        asked = Experiment(tmp_path, "grid"), "quick", set(finals), set(envs), 3
        monkeypatch.setattr(Grid, "train", lambda budget, context: Results(*asked))
        return Results(*asked)

    return make


# of studies whose exact part would take seconds
SMALLER = {
    alignment: {"perturbed": 20, "radii": (0.1,)},
    boltzmann: {"langevin_alphas": (1,), "scales": (5,), "steps": (5,), "chains": 500, "samples": 500, "trained_scales": (1,),
                "trained_steps": (5,), "updates": 3},
}  # fmt: skip


def verdicts(module, tmp_path: Path) -> dict[str, str]:
    """Outcomes of a study at its quick budget, whose page is written too."""
    study, name = module.STUDY, module.__name__.rpartition(".")[2]
    budget = study.budgets["quick"]
    budget = dataclasses.replace(budget, **SMALLER[module]) if module in SMALLER else budget
    findings = study.run(budget, Context(name, "quick", tmp_path, SimpleNamespace()))
    write_page(
        tmp_path / name, name, study.title, source=study.source, setup=study.setup, claims=study.claims, findings=findings,
        budget="", preset="quick", made={"date": "", "revision": "", "cpu": ""},
    )  # fmt: skip
    return {key: verdict.outcome for key, verdict in findings.verdicts.items()}


@pytest.mark.parametrize(
    ("module", "key", "better", "worse"),
    [(fig3, "return", {"qsm"}, {"sac", "td3"}), (fig9, "depth", {"T50"}, {"T5", "T10", "T20"})],
)
def test_a_claim_on_returns_holds_fails_or_is_open_as_the_returns_are(module, key, better, worse, grid, tmp_path, unpainted):
    others = {"dql": LOW, "pg": LOW} if module is fig3 else {}
    for high, low, outcome in ((HIGH, LOW, HOLDS), (LOW, HIGH, FAILS), (NOTHING, NOTHING, OPEN)):
        grid(**dict.fromkeys(better, high), **dict.fromkeys(worse, low), **others)
        assert verdicts(module, tmp_path)[key] == outcome


@pytest.mark.parametrize(("module", "other"), [(fig3, "sac"), (fig8, "dql")])
def test_a_little_less_is_as_good_and_more_than_the_margin_is_not(module, other, grid, tmp_path, unpainted):
    for gap, outcome in ((0.02, HOLDS), (0.10, FAILS)):  # of the range, on both sides of 0.05
        results = grid(**dict.fromkeys(("sac", "td3", "dql", "pg"), HIGH), qsm=HIGH - gap * 975)
        if module is fig3:
            found = verdicts(fig3, tmp_path)["return"]
        else:
            found = fig8.judge(results, {5: np.ones((4, 3))}, {}, (5, 20))["return"].outcome
        assert found == outcome, gap


def put_actions(tmp_path: Path, env: str, label: str, first: np.ndarray, last: np.ndarray, turned: int = 0) -> None:
    """The three seeds of a label draw these actions [P, M, A] at their first and at their last evaluation; seed k, at its
    first `turned` * k states, the other way round."""
    for seed in range(3):
        path = synthetic.run_dir(tmp_path / "grid", env, label, seed) / "probes.npz"
        begin, end = (np.concatenate([b[: turned * seed], a[turned * seed :]]) for a, b in ((first, last), (last, first)))
        np.savez(path, obs=np.zeros((3, 5)), env_step=[0, 64000], actions=np.stack([begin, end]).astype(np.float32))


def test_fig4_judges_the_actions_at_the_end_and_none_before(grid, tmp_path, unpainted, monkeypatch):
    monkeypatch.setattr(fig4, "draw", plots.draw)
    both, one = np.repeat([-0.95, 0.95], 32).reshape(1, 64, 1).repeat(20, axis=0), np.zeros((20, 64, 1))
    for first, last, outcome in ((one, both, HOLDS), (both, one, FAILS)):
        grid(qsm=HIGH, dql=HIGH, sac=HIGH, td3=HIGH)
        put_actions(tmp_path, ENV, "qsm", first, last, turned=1)
        assert verdicts(fig4, tmp_path) == {"modes": outcome, "extremes": outcome}
        found = json.loads((tmp_path / "fig4" / "summary.json").read_text())
        assert found["untrained"]["extremes"] == pytest.approx(float(first is both), abs=0.1)  # one state of the 20 is turned


def test_fig5_judges_who_is_more_diverse_once_both_have_learned(grid, tmp_path, unpainted, monkeypatch):
    monkeypatch.setattr(fig5, "draw", plots.draw)
    monkeypatch.setitem(sys.modules, "umap", None)
    env, rng = "dmc/reacher-easy", np.random.default_rng(0)
    wide, point = rng.uniform(-1, 1, (3, 64, 2)), 0.01 * rng.normal(size=(3, 64, 2))
    for qsm, dql, level, outcome in ((wide, point, HIGH, HOLDS), (point, wide, HIGH, FAILS), (wide, point, NOTHING, OPEN)):
        grid(envs=(env,), qsm=HIGH, dql=level)
        put_actions(tmp_path, env, "qsm", point, qsm)
        put_actions(tmp_path, env, "dql", point, dql)
        assert verdicts(fig5, tmp_path) == {"diversity": outcome}
        found = json.loads((tmp_path / "fig5" / "summary.json").read_text())
        assert all(row["spread"] < 0.1 for label in ("qsm", "dql") for row in found["untrained"][label])


def test_a_closed_gate_names_a_larger_budget_and_no_seeds(grid, tmp_path, unpainted):
    grid(qsm=NOTHING, sac=NOTHING, td3=NOTHING, dql=NOTHING, pg=NOTHING)
    context = Context("fig3", "quick", tmp_path, SimpleNamespace())
    why = fig3.STUDY.run(fig3.STUDY.budgets["quick"], context).verdicts["return"].why
    assert "Runs of more frames come first (--preset long or full)" in why
    assert "would decide" not in why


def test_the_page_of_the_boltzmann_study_is_written(tmp_path):
    assert set(verdicts(boltzmann, tmp_path)) == {"langevin", "sampler", "denoiser"}


@pytest.mark.parametrize("module", [fig3, fig4, fig5, fig9, alignment])
def test_a_page_is_written_from_runs_that_are_done_and_from_none(module, grid, tmp_path, unpainted, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)  # takes a minute to compile where it is installed
    labels = [f"T{depth}" for depth in fig9.DEPTHS] if module is fig9 else ["qsm", "dql", "sac", "td3", "pg"]
    grid(envs=("dmc/reacher-easy",) if module is fig5 else (ENV,), **dict.fromkeys(labels, HIGH))
    verdicts(module, tmp_path)
    for done in (tmp_path / "grid").rglob("DONE"):
        synthetic.unfinish(done.parent, state="failed")
    found = verdicts(module, tmp_path)
    trained = set(found) - {"collinear", "improves"}
    assert {found[key] for key in trained} == {OPEN}


def test_times_of_several_set_ups_are_not_compared(grid, tmp_path):
    """A run of T50 went on on another machine: its times are left out; one that ran there wholly leaves no comparison."""
    grid(T5=HIGH, T50=HIGH)
    first = synthetic.run_dir(tmp_path / "grid", ENV, "T50", 0) / "provenance.json"
    here, there = synthetic.SESSION, synthetic.SESSION | {"cpu": "Another CPU"}
    counts = {}
    for name, sessions in {"one": [here], "continued": [here, there], "moved": [there]}.items():
        synthetic.write_json(first, {"sessions": sessions})
        results = Results(Experiment(tmp_path, "grid"), "quick", {"T5", "T50"}, {ENV}, 3)
        counts[name] = [len(times) for times in results.times("ms_per_update", "T5", "T50")]
    assert counts == {"one": [3, 3], "continued": [3, 2], "moved": [0, 0]}


def test_what_lies_there_of_a_former_grid_is_left_out(grid, tmp_path):
    """A preset may have asked for other labels, tasks or more seeds under the same name."""
    grid(envs=(ENV, "dmc/walker-walk"), qsm=HIGH, sac=LOW)
    results = Results(Experiment(tmp_path, "grid"), "quick", {"qsm"}, {ENV}, 2)
    assert [(run.env, run.label, run.seed) for run in results.done] == [(ENV, "qsm", 0), (ENV, "qsm", 1)]
    assert (results.summary["envs"], len(results.rows)) == ([ENV], 2)


# -- rules on numbers ----------------------------------------------------------------------------------------------------


def test_alignment_along_training_is_judged_by_its_correlation_over_seeds():
    exact = {"smallest_cosine_at_the_optimum": 1.0, "median_cosine_of_the_turned_flow": 0.6, "improved": {"0.1": 1.0},
             "smallest_improvement": {"0.1": 1e-5}, "smallest_improvement_by_matching": [0.0, 1e-12],
             "distance_to_optimum": [1.0, 1e-15]}  # fmt: skip

    def outcomes(correlations, **changed) -> tuple[str, ...]:
        keyed = {(ENV, seed): value for seed, value in enumerate(correlations)}
        return tuple(v.outcome for v in alignment.judge(exact | changed, {0.1: np.ones(3)}, 0.1, keyed, [ENV]).values())

    assert outcomes([0.7, 0.8, 0.9]) == (HOLDS, HOLDS, HOLDS)
    assert outcomes([-0.7, -0.8, -0.9], smallest_cosine_at_the_optimum=0.99) == (FAILS, HOLDS, FAILS)
    assert outcomes([-0.7, 0.8, 0.1], smallest_improvement_by_matching=[0.0, -1e-3]) == (HOLDS, FAILS, OPEN)
    assert outcomes([0.8] * 3, improved={"0.1": 0.99})[1] == FAILS


def test_alignment_along_training_is_the_rank_correlation_of_evaluations_after_the_first_update():
    curve = lambda step, value: SimpleNamespace(step=np.array(step), value=np.array(value, float))  # noqa: E731
    evals = SimpleNamespace(step=np.arange(5) * 10, update=np.array([0, 0, 10, 20, 30]), value=np.array([9.0, 8, 1, 2, 3]))
    run = SimpleNamespace(evals=evals, metrics={"alignment": curve([20, 30, 40], [0.1, 0.2, 0.3])})
    assert alignment.correlation(run) == pytest.approx(1)
    run.metrics = {"alignment": curve([20, 30, 40], [0.3, 0.2, 0.1])}
    assert alignment.correlation(run) == pytest.approx(-1)


def test_the_boltzmann_rules_ask_each_sampler_at_its_place():
    def outcomes(langevin=0.001, qsm=1.0, short=1.0, long=0.05) -> tuple[str, ...]:
        rows = [{"critic": "linear", "m_q": 1, "T": steps, "sampler": sampler, "kl": kl}
                for sampler, steps, kl in (("QSM", 5, qsm), ("QSM", 200, qsm), ("exact denoiser", 5, short),
                                           ("exact denoiser", 200, long), ("exact denoiser, x0 clipped", 200, 1))]  # fmt: skip
        return tuple(v.outcome for v in boltzmann.judge([{"kl": 0.0}, {"kl": langevin}], rows, 200).values())

    assert outcomes() == (HOLDS, FAILS, HOLDS)
    assert outcomes(langevin=0.02, qsm=0.1, long=0.2) == (FAILS, HOLDS, FAILS)


def test_fig8_judges_time_return_and_noise_each_by_its_own(grid):
    def outcomes(qsm=1.0, dql=3.0, bare=(1e2, 1e3), own=1.0, finals=(HIGH, LOW)) -> tuple[str, ...]:
        results = grid(qsm=finals[0], dql=finals[1], pg=LOW)
        times = {5: np.array([[qsm, dql * turn, 9.0] for turn in (1.0, 1.1, 1.2, 1.0)])}
        noise = {(ENV, seed): {"qsm": [own * (1 + seed / 10), 2.0], "dql": [1.0, 1.0], "pg": [1.0, 1.0],
                               fig8.BARE: [value * (1 + seed / 20) for value in bare]} for seed in range(3)}  # fmt: skip
        return tuple(verdict.outcome for verdict in fig8.judge(results, times, noise, (5, 20)).values())

    assert outcomes() == (HOLDS, HOLDS, HOLDS)
    assert outcomes(qsm=3.0, dql=1.0, bare=(1e3, 1e2), finals=(LOW, HIGH)) == (FAILS, FAILS, FAILS)
    assert outcomes(own=1e4)[2] == FAILS
    assert outcomes(bare=(1e2, float("nan")))[2] == OPEN  # a mean gradient that was not told from 0 decides nothing


def three(mean: float) -> np.ndarray:
    """Seeds whose interval is 0.025 wide; of the difference of two such means, 0.023."""
    return mean + np.array([-0.005, 0.0, 0.005])


def outcomes_of(found: dict) -> dict[str, str]:
    return {key: verdict.outcome for key, verdict in found.items()}


@pytest.mark.parametrize(
    ("good", "bad", "outcomes"),
    [(1.08, 1.2, (HOLDS, HOLDS)), (0.92, 0.8, (HOLDS, FAILS)), (1.12, 1.2, (FAILS, HOLDS)), (0.88, 0.8, (FAILS, FAILS)),
     (1.1, 1.0, (OPEN, OPEN))],
)  # fmt: skip
def test_a_good_model_is_to_be_within_a_tenth_of_a_nat_of_q_learning_and_a_bad_one_behind(good, bad, outcomes):
    found = ctq_swissroll.judge({"ctq": three(1.0), "good": three(good), "bad": three(bad)}, 2.0, three(0.1), "")
    assert outcomes_of(found) == {"good": outcomes[0], "bad": outcomes[1]}


def test_digits_are_to_have_more_reward_with_beta_and_to_lie_near_the_data():
    for reward, near, small, close in ((-1.4, 0.33, HOLDS, HOLDS), (-1.6, 0.37, FAILS, FAILS), (-1.5, 0.35, OPEN, OPEN)):
        found = ctq_digits.judge({0.0: three(-1.5), 100.0: three(reward)}, three(near), 100.0)
        assert outcomes_of(found) == {"small": small, "close": close}


def test_the_mixture_is_judged_at_each_beta_and_its_estimator_along_m_and_t():
    def outcomes(kls=(0.05, 0.1, 0.13), rewards=(-2.0, -1.5, -1.2), single=0.1, **mse: float) -> dict[str, str]:
        errors = {m: {t: {"mse": mse.get(f"m{m}_t{t:g}", 1 / m / t)} for t in ctq_gmm.TIMES} for m in ctq_gmm.POINTS}
        by_beta = dict(zip((0, 1, 2), map(three, kls), strict=True))
        return outcomes_of(ctq_gmm.judge(by_beta, [three(reward) for reward in rewards], errors, three(single)))

    held = dict.fromkeys(("data", "tilt", "estimator", "single"), HOLDS)
    assert outcomes() == held
    assert outcomes(kls=(0.17, 0.1, 0.13)) == held | {"data": FAILS, "tilt": FAILS}
    assert outcomes(kls=(0.05, 0.1, 0.17)) == held | {"tilt": FAILS}
    assert outcomes(kls=(0.05, 0.15, 0.13)) == held | {"tilt": OPEN}
    assert outcomes(rewards=(-2.0, -1.2, -1.5)) == held | {"tilt": FAILS}
    assert outcomes(rewards=(-2.0, -1.5, -1.499)) == held | {"tilt": OPEN}
    assert outcomes(single=0.17) == held | {"single": FAILS}
    assert outcomes(m10_t1=0.3) == held | {"estimator": FAILS}  # t = 0.5: 0.2; m = 1: 1
    assert outcomes(m300_t1=0.006, m300_t2=0.0055) == held | {"estimator": FAILS}  # m = 100: 0.01, 0.005


def test_the_gridworld_is_judged_by_each_part_of_its_rules():
    def outcomes(entropies=(1.38, 1.0, 0.4), value=0.3339, change=1e-11, ends=5e-7) -> dict[str, str]:
        rows = [{"entropy": entropy, "value": -1.0, "change": 0.0, "updates": 9} for entropy in entropies]
        rows[-1]["value"], rows[1]["change"] = value, change
        return outcomes_of(gridworld.judge((0.1, 10, 1000), rows, [0.0, ends, 0.0], 0.3344))

    assert outcomes() == {"entropy": HOLDS, "converges": HOLDS}
    for changed in ({"entropies": (1.37, 1.0, 0.4)}, {"entropies": (1.38, 0.4, 0.4)}, {"value": 0.3333}):
        assert outcomes(**changed) == {"entropy": FAILS, "converges": HOLDS}
    for changed in ({"change": 2e-10}, {"ends": 2e-6}):
        assert outcomes(**changed) == {"entropy": HOLDS, "converges": FAILS}


def test_the_swiss_roll_is_open_where_no_model_is_good_and_nothing_was_learned():
    near, far = np.array([0.20, 0.21, 0.22]), np.array([3.0, 3.1, 3.2])
    judged = lambda kl, good: {  # noqa: E731
        key: verdict.outcome for key, verdict in ctq_swissroll.judge(kl, 0.43, np.array(good), "").items()
    }
    kl = {"ctq": near, "good": near + 0.01, "bad": far}
    assert judged(kl, [0.1, 0.2, 0.3]) == {"bad": HOLDS, "good": HOLDS}
    assert judged(kl, [2.9, 3.0, 3.1]) == {"bad": HOLDS, "good": OPEN}, "the good model is none"
    assert judged(kl | {"good": far}, [0.1, 0.2, 0.3]) == {"bad": HOLDS, "good": FAILS}
    assert judged({"ctq": far, "good": far, "bad": far + 9}, [0.1, 0.2, 0.3]) == {"bad": OPEN, "good": OPEN}
    assert judged({"ctq": far, "good": near, "bad": near}, [0.1, 0.2, 0.3])["bad"] == FAILS
    assert 0.40 < ctq_swissroll.data_divergence() < 0.46


def test_samplers_are_judged_by_what_each_loses_and_by_returns():
    """Fails if the levels at few steps are compared, or the reward without the penalty."""
    level = lambda few, many: {5: np.array([few, few + 0.1, few + 0.2]), 10: np.zeros(3), 50: np.full(3, many)}  # noqa: E731
    returns = {"sde": np.array([2.0, 2.1, 2.2]), "ode": np.array([1.0, 1.1, 1.2])}

    def judged(**few) -> str:
        return ctq_ode.judge({"ddim": level(1.0, 1.0), **few}, returns)["few"].outcome

    spread = {5: np.array([3.0, 3.3, 3.1]), 50: np.ones(3)}
    assert judged(sde=spread, ode=level(2.0, 1.5)) == HOLDS
    assert judged(sde=spread, ode=level(4.5, 1.0)) == FAILS
    assert judged(sde={5: spread[5], 50: np.full(3, 2.9)}, ode=level(2.0, 1.9)) == OPEN, "it began as far off"
    assert ctq_ode.judge({name: level(2.0, 1.0) for name in ctq_ode.SAMPLERS}, returns)["many"].outcome == HOLDS


def test_a_few_seeds_that_all_agree_decide_nothing():
    """Shares of states may be 0 or 1 for all seeds; the t interval of such has no width."""
    assert above([1.0] * 3, 0.5, "share").outcome == OPEN
    assert "6 would" in above([0.0] * 5, 0.5, "share").why
    assert above([1.0] * 6, 0.5, "share").outcome == HOLDS
