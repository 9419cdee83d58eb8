"""The studies of generated laws: the estimator's errors against what is known of it, and each study end to end, small."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from bench.options import parser
from bench.reproduce import Context, ctq_digits, ctq_gmm, ctq_ode, ctq_swissroll, generated
from reports import plots
from reports.html import Figure
from reports.reproduction import HOLDS, OPEN

TINY = ("steps=320", "eval_every=320", "log_every=160", "checkpoint_every=320", "env.steps=5", "algo.envs=8",
        "algo.actor_hidden=[8,8]", "algo.critic_hidden=[8,8]")  # fmt: skip


def test_the_estimators_errors_add_up_and_shrink():
    """mse = bias^2 + variance; m = 1 has the variance of one kernel's score, alpha^2 var(x_0 | chosen) / sigma^4."""
    errors = ctq_gmm.estimator(dataclasses.replace(ctq_gmm.STUDY.budgets["quick"], states=400, repeats=40))
    for row in errors.values():
        for t, found in row.items():
            assert found["mse"] == pytest.approx(found["bias"] ** 2 + found["variance"], rel=0.01), t  # no bias below 0
    known = generated.truth(ctq_gmm.ENV, {"beta": 0.0})
    d = known.dynamics
    single = d.alpha(2.0) ** 2 * (1.5**2 + 0.5**2) / d.sigma2(2.0) ** 2  # far from the data every point is as likely
    assert errors[1][2.0]["variance"] == pytest.approx(single, rel=0.1)
    assert errors[300][2.0]["variance"] == pytest.approx(single / 300, rel=0.15)


def test_maps_lie_the_same_way_up():
    """Samples of the data fall where its law has its mass, so that rows and columns are not swapped."""
    known = generated.truth(ctq_swissroll.ENV, {})
    drawn = known.law.sample(200_000, np.random.default_rng(0))
    difference = generated.counts(known, drawn, 40) - generated.coarse(known, known.data, 40)
    assert np.abs(difference).sum() < 0.1


def test_the_score_played_step_by_step_generates_the_data():
    known = generated.truth(ctq_gmm.ENV, {"beta": 0.0, "steps": 200})
    y = generated.play(lambda obs: known.score(float(obs[0, 0]), obs[:, 1:]), ctq_gmm.ENV, {"beta": 0.0, "steps": 200})
    assert known.kl(y, known.data) < 0.04


def test_samples_are_of_the_policy_under_the_settings_that_are_asked_for(monkeypatch):
    """Fails where the run's own sampler or steps win: a loss in few steps would be that of the training's many."""
    run = SimpleNamespace(path="here", env=ctq_ode.ENV, seed=4, env_settings={"beta": 0.0, "sampler": "sde", "steps": 50})
    asked = []
    monkeypatch.setattr(generated, "load_policy", lambda path: f"policy of {path}")
    monkeypatch.setattr(generated, "play", lambda *words: asked.append(words) or np.zeros((8, 2)))
    generated.samples(run)
    results = SimpleNamespace(runs=lambda label: [run])
    for sampler in ctq_ode.SAMPLERS:
        assert ctq_ode.divergences(results, sampler, 5).shape == (1,)
    few = [("policy of here", run.env, {"beta": 0.0, "sampler": sampler, "steps": 5}, None, 4) for sampler in ctq_ode.SAMPLERS]
    assert asked == [("policy of here", run.env, run.env_settings, None, 4), *few]


def test_what_is_not_tuned_is_told_from_its_own_law(monkeypatch):
    """The data's divergence from p* is that of its samples; that of a pretrained model is from the data, not from p*."""
    known = generated.truth(ctq_swissroll.ENV, {"beta": ctq_swissroll.BETA})
    drawn = known.law.sample(200_000, np.random.default_rng(0))
    assert ctq_swissroll.data_divergence() == pytest.approx(known.kl(drawn, known.best), rel=0.05)
    run = SimpleNamespace(path="here", env=ctq_swissroll.ENV, seed=0, env_settings={"beta": ctq_swissroll.BETA})
    monkeypatch.setattr(ctq_swissroll, "load_policy", lambda path: SimpleNamespace(agent=None))
    monkeypatch.setattr(ctq_swissroll, "play", lambda *words, **more: drawn)
    assert ctq_swissroll.pretrained(run) < 0.05 < ctq_swissroll.data_divergence()


class Told(str):
    """Which column of which grid, in place of its values."""

    def tolist(self) -> list[str]:
        return [self]


def test_each_grid_of_a_study_is_of_the_setting_it_is_called_after_and_judged_as_that(monkeypatch):
    """Fails if two grids are of one setting, or if what is judged comes from another grid."""
    asked, judged = {}, []

    class Judged(Exception):
        pass

    def trained(grid, context, name, *settings):
        asked[name] = settings
        return SimpleNamespace(name=name, values=lambda column, label: Told(f"{column} of {name}"), numbers=dict)

    def judge(*found):
        judged[:] = found
        raise Judged

    for module in (ctq_gmm, ctq_ode, ctq_digits):
        monkeypatch.setattr(module, "trained", trained)
        monkeypatch.setattr(module, "judge", judge)
        monkeypatch.setattr(module, "last", lambda results, score, label: Told(f"{score} of {results.name}"))
    monkeypatch.setattr(ctq_gmm, "estimator", lambda budget: {})
    monkeypatch.setattr(ctq_ode, "divergences", lambda results, sampler, steps: Told(f"{sampler} in {steps} of {results.name}"))

    def run(module) -> list:
        asked.clear()
        with pytest.raises(Judged):
            module.run(module.STUDY.budgets["quick"], None)
        return judged

    names = {0: "beta0", 1: "beta1", 2: "beta2"}
    kls, rewards, _, single = run(ctq_gmm)
    assert (kls, single) == ({beta: f"final of {name}" for beta, name in names.items()}, "final of m1")
    assert rewards == [f"reward of {name}" for name in names.values()]
    assert asked == {name: (f"env.beta={beta}",) for beta, name in names.items()} | {"m1": ("env.beta=0", "env.m=1")}
    few, returns = run(ctq_ode)
    assert few == {s: {k: f"{s} in {k} of plain" for k in ctq_ode.STEPS} for s in ctq_ode.SAMPLERS}
    assert returns == {"sde": "return of sde", "ode": "return of ode"}
    assert asked == {"plain": ("env.beta=0",)} | {s: ("env.beta=4", f"env.sampler={s}") for s in ("sde", "ode")}
    assert run(ctq_digits) == [{0.0: "reward of beta0", 100.0: "reward of beta100"}, "nearest image of beta100", 100.0]
    assert asked == {"beta0": ("env.beta=0",), "beta100": ("env.beta=100",)}


@pytest.mark.parametrize("module", [ctq_gmm, ctq_swissroll, ctq_ode, ctq_digits])
def test_every_study_answers_each_of_its_claims(module, here, tmp_path, monkeypatch):
    """From the grid to the findings. One seed decides nothing that has a spread."""
    if module is ctq_digits:
        pytest.importorskip("sklearn")
    monkeypatch.setattr(generated, "SAMPLES", 64)
    for part in (module, plots):
        if hasattr(part, "draw"):
            monkeypatch.setattr(part, "draw", lambda name, caption, alt, paint, how="": Figure(name, b"", "", caption, alt))
    budget = module.STUDY.budgets["quick"]
    algos = budget.grid.algos.replace("pretrain=200", "pretrain=20")  # within so few rollouts
    grid = dataclasses.replace(budget.grid, algos=algos, seeds=1, settings=(*budget.grid.settings, *TINY))
    small = {"states": 50, "repeats": 5} if module is ctq_gmm else {}
    how = parser().parse_args(["reproduce", "tiny", "--jobs", "1"])
    findings = module.STUDY.run(dataclasses.replace(budget, grid=grid, **small), Context("tiny", "quick", tmp_path, how))
    assert findings.verdicts.keys() == {claim.key for claim in module.STUDY.claims}
    open_ = {key for key, verdict in findings.verdicts.items() if verdict.outcome == OPEN}
    assert open_ >= findings.verdicts.keys() - {"estimator", "tilt"}
    assert len(findings.sections) >= 1


def test_a_setting_without_a_finished_run_decides_nothing_and_is_named(monkeypatch):
    """Fails if the mean of nothing counts as one that does not rise."""

    class Made:
        def __init__(self, name: str, count: int):
            self.name = name
            self.rows = [{"env": "e", "label": "ctq", "seed": 0, "state": "done" if count else "failed"}]
            reward = SimpleNamespace(value=np.array([float(name[-1])]))
            self.seeds = [SimpleNamespace(others={"reward": reward, "KL to the data": reward})] * count

        def runs(self, label):
            return self.seeds

        def values(self, column, label):
            return np.linspace(0.01, 0.02, len(self.seeds))

        def numbers(self):
            return {}

    monkeypatch.setattr(ctq_gmm, "trained", lambda grid, context, name, *settings: Made(name, 0 if name == "beta2" else 3))
    monkeypatch.setattr(ctq_gmm, "samples", lambda run: np.zeros((8, 1)))
    monkeypatch.setattr(ctq_gmm, "draw", lambda name, caption, alt, paint, how="": Figure(name, b"", "", caption, alt))
    budget = dataclasses.replace(ctq_gmm.STUDY.budgets["quick"], states=50, repeats=5)
    findings = ctq_gmm.run(budget, None)
    assert findings.verdicts["tilt"].outcome == OPEN
    assert "Mean reward at beta 2, minus at 1: a task has no finished seed." in findings.verdicts["tilt"].why
    assert findings.verdicts["data"].outcome == HOLDS
    assert "beta2/e/ctq/seed_0 (failed)" in findings.sections[0].blocks[0].text
