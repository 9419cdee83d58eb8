"""The experiments that train, end to end on tiny budgets, and what they measure against closed forms."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from algos import agent_class
from algos.agent import Batch, Phase, normal
from bench import carry
from bench.reproduce import fig4, fig5, fig8
from bench.reproduce.grids import Grid, Results, over_tasks
from bench.rundir import Experiment
from bench.typed import UsageError
from envs import EnvSpec, Score
from reports import plots
from reports.html import Figure
from reports.reproduction import OPEN, plane

TINY = ("steps=160", "warmup=33", "eval_every=80", "log_every=40", "eval.episodes=2",
        "algo.actor_hidden=[16,16]", "algo.critic_hidden=[16,16]", "algo.batch_size=16")  # fmt: skip


@pytest.fixture
def undrawn(monkeypatch):
    """undrawn(module, ...): figures of these modules are not drawn from here on."""

    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "png")

    def draw(name, caption, alt, paint, how=""):
        return Figure(name, buffer.getvalue(), "<svg/>", caption, alt)

    def stub(*modules) -> None:
        for module in modules:
            monkeypatch.setattr(module, "draw", draw)

    return stub


@pytest.fixture
def tiny(monkeypatch, here, undrawn):
    """tiny(module, algos, env): the study's quick budget becomes a grid of seconds on a toy task."""

    monkeypatch.setitem(sys.modules, "umap", None)  # takes a minute to compile where it is installed
    undrawn(plots)  # learning curves have tests of their own

    def replace(module, algos: str, env: str, **changes) -> None:
        grid = Grid(algos, env, 1, TINY)
        budget = module.STUDY.budgets["quick"]
        small = grid if isinstance(budget, Grid) else dataclasses.replace(budget, grid=grid, **changes)
        monkeypatch.setattr(module, "STUDY", dataclasses.replace(module.STUDY, budgets={"quick": small}))

    return replace


def page(name: str) -> dict:
    return json.loads(Path(f"pages/{name}/summary.json").read_text())


@pytest.mark.parametrize(
    ("name", "algos", "env", "figures"),
    [("fig4", "qsm,sac", "toy/two-modes", {"fig4-actions", "fig4-measures"}),
     ("fig5", "qsm,dql", "toy/multigoal", {"fig5-actions"}),
     ("fig8", "qsm,dql,pg", "toy/multigoal,toy/two-modes", {"fig8-time", "fig8-variance"})],
)  # fmt: skip
def test_a_study_runs_is_taken_up_again_and_one_seed_decides_nothing(command, tiny, undrawn, name, algos, env, figures):
    module = {"fig4": fig4, "fig5": fig5, "fig8": fig8}[name]
    measured = {"depths": (1, 5), "timings": 2, "gradients": 3, "bare_gradients": 3}
    tiny(module, algos, env, **(measured if name == "fig8" else {}))
    words = ("reproduce", name, "--out", "pages", "--jobs", "1")
    done = command(*words)
    assert done.code == 0, done.err
    first = page(name)
    assert figures <= set(first["figures"])
    assert {claim["outcome"] for claim in first["claims"] if claim["key"] != "time"} == {OPEN}
    runs = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("DONE")}
    assert len(runs) == len(algos.split(",")) * len(env.split(","))
    undrawn(module)
    again = command(*words)
    assert f"{len(runs)} already ended" in again.out
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("DONE")} == runs
    if name != "fig8":  # which measures times
        assert page(name) == first


def test_a_run_that_failed_is_missing_on_the_page(command, tiny, undrawn):
    undrawn(fig4)
    tiny(fig4, "qsm,sac", "toy/two-modes")
    command("reproduce", "fig4", "--out", "pages", "--jobs", "1")
    experiment = Experiment(Path("runs"), "reproduce-fig4-quick")
    failed = experiment.run_dir(experiment.cells()[0]).path
    (failed / "DONE").rename(failed / "FAILED.json")
    (failed / "checkpoint.pt").unlink()
    done = command("reproduce", "fig4", "--out", "pages", "--jobs", "1")
    assert done.code == 0, done.err
    assert "--retry-failed" in done.out
    assert "toy/two-modes/qsm/seed\\_0 (failed)" in Path("pages/fig4/report.md").read_text()
    assert {claim["outcome"] for claim in page("fig4")["claims"]} == {OPEN}
    assert command("reproduce", "fig4", "--out", "pages", "--jobs", "1", "--retry-failed").code == 0
    assert (failed / "DONE").exists()


def test_a_study_of_which_no_run_began_is_refused_in_a_line(command, monkeypatch):
    monkeypatch.setattr(carry, "run_grid", lambda *asked, **how: 1)
    Path("runs/reproduce-fig4-quick").mkdir(parents=True)
    done = command("reproduce", "fig4")
    assert done.code == 2
    assert done.err.startswith("error: no runs below runs/reproduce-fig4-quick")


def test_an_interrupted_study_writes_no_page_and_exits_with_3(command, monkeypatch):
    """Also where the signal came when the runs of one of its grids were over."""
    for end in (lambda *asked, **how: 3, lambda *asked, **how: signal.raise_signal(signal.SIGTERM) or 0):
        monkeypatch.setattr(carry, "run_grid", end)
        done = command("reproduce", "fig9")
        assert done.code == 3
        assert "repeat the command" in done.out
        assert not Path("runs/reproduction").exists()


def test_what_there_is_under_other_settings_is_told_with_an_option_that_there_is(command, monkeypatch):
    def refuse(*asked, **how):
        raise UsageError("runs/reproduce-fig9-quick holds a run with other settings; choose another --name")

    monkeypatch.setattr(carry, "run_grid", refuse)
    done = command("reproduce", "fig9")
    assert done.code == 2
    assert "choose another --root" in done.err
    assert "--name" not in done.err


def test_a_task_counts_once_for_a_seed():
    """Two tasks of two seeds are two values; a seed that a task lacks is none, nor is any where a task has no seed."""
    found = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 1): 4.0, ("b", 0): 5.0, ("b", 2): 9.0}
    assert over_tasks(found, ["a", "b"]).tolist() == [3.0, 3.0]
    assert over_tasks(found, ["a", "b", "c"]).tolist() == []


def test_a_gate_of_each_asks_the_one_that_learned_least():
    scores = {"qsm": [np.array([-0.1])], "dql": [np.array([0.5])]}
    results = Results.__new__(Results)
    results.tasks, results.preset = scores.__getitem__, "quick"
    assert results.learned(0.2, "qsm", "dql") is None
    why = results.learned(0.2, "qsm", "dql", each=True).why
    assert "the lowest mean final score of qsm and dql is −0.100 of the normalised range (qsm)" in why


# -- what is measured ----------------------------------------------------------------------------------------------------


def test_modes_and_extremes_of_known_samples():
    split, one = np.repeat([-0.7, 0.95], 32), np.full(64, 0.95)
    found = fig4.measure(np.stack([np.stack([split, split]), np.stack([split, one])])[..., None])
    np.testing.assert_allclose(found["both sides"], [1, 0.5])
    np.testing.assert_allclose(found["extremes"], [0.5, 0.75])
    wide = fig4.measure(np.linspace(-1, 1, 64).reshape(1, 1, 64, 1))  # both sides, but no two modes
    np.testing.assert_allclose(wide["both sides"], [0])


def test_diversity_of_a_point_of_corners_and_of_uniform_samples():
    point = fig5.diversity(np.full((1, 64, 3), 0.1))
    assert (point["coverage"], point["entropy"], point["spread"]) == (pytest.approx(0.1), pytest.approx(0), pytest.approx(0))
    corners = fig5.diversity(np.random.default_rng(0).choice([-1.0, 1.0], size=(1, 4000, 2)))
    assert corners["coverage"] == pytest.approx(0.2)
    assert corners["entropy"] == pytest.approx(math.log(2) / math.log(10), abs=1e-3)
    even = fig5.diversity(np.random.default_rng(0).uniform(-1, 1, size=(1, 2000, 12)))
    assert even["coverage"] == 1
    assert even["entropy"] > 0.99
    assert even["spread"] == pytest.approx(1, abs=0.03)


class KnownNoise:
    """An agent whose gradient is a constant plus normal noise of standard deviation 2 in each of 50 dimensions."""

    phases = (Phase("actor"),)

    def __init__(self, mean: float = 3.0):
        self.actor_optimizer, self.mean = self, mean

    def draws(self, phase, n):
        return {"g": normal(50)}

    def actor(self, batch, noise):
        self.grads = [self.mean + 2 * noise["g"][:20], self.mean + 2 * noise["g"][20:].view(5, 6)]


@pytest.mark.slow  # umap takes a minute to compile
def test_clusters_of_actions_stay_apart_in_the_plane_and_where_they_were():
    generator = np.random.default_rng(0)
    groups = [center + 0.05 * generator.normal(size=(60, 6)) for center in np.eye(6)[:3]]
    points, how = plane(groups)
    assert how == "UMAP"
    assert [group.shape for group in points] == [(60, 2)] * 3
    centers = np.stack([group.mean(axis=0) for group in points])
    radius = max(np.linalg.norm(group - center, axis=1).max() for group, center in zip(points, centers, strict=True))
    apart = min(np.linalg.norm(centers[i] - centers[j]) for i in range(3) for j in range(i))
    assert apart > 2 * radius
    assert all(np.array_equal(a, b) for a, b in zip(points, plane(groups)[0], strict=True))


def test_noise_to_signal_is_without_bias():
    """tr Cov / |E g|^2 = 4 / 9; the square of an average of 10 draws would be too large by (4 / 10) / 9 without correction."""
    batch = Batch(*[torch.zeros(1)] * 5)
    assert fig8.noise_to_signal(KnownNoise(), batch, 2000) == pytest.approx(4 / 9, rel=0.02)
    assert fig8.noise_to_signal(KnownNoise(), batch, 10) == pytest.approx(4 / 9, rel=0.12)
    assert fig8.noise_to_signal(KnownNoise(0.2), batch, 2004) == pytest.approx(100, rel=0.4)
    assert math.isnan(fig8.noise_to_signal(KnownNoise(0.0), batch, 100))  # no signal, and none is made up


@pytest.mark.parametrize("method", fig8.METHODS)
def test_measuring_a_gradient_moves_nothing(method):
    cls, spec = agent_class(method), EnvSpec("x", 3, 2, (-1.0,) * 2, (1.0,) * 2, 1, 1, None, Score("return", "max", 0, 1, ""))
    config = cls.Config(actor_hidden=(8, 8), critic_hidden=(8, 8), batch_size=16)
    agent = cls(spec, config, torch.Generator().manual_seed(0))
    before = [p.clone() for p in agent.predictor.parameters()]
    fig8.noise_to_signal(agent, fig8.random_batch(agent), 5)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.predictor.parameters(), strict=True))


def one_run(method: str) -> SimpleNamespace:
    """What `built` reads of a run: its settings, T = 5 among them, and its task."""
    spec = EnvSpec("toy/multigoal", 2, 2, (-1.0,) * 2, (1.0,) * 2, 30, 1, None, Score("return", "max", 0, 1, ""))
    hidden = {"actor_hidden": (8, 8), "critic_hidden": (8, 8), "batch_size": 16, "T": 5}
    config = {"algo": {"name": method, "agent": method, **hidden}, "spec": spec.to_dict()}
    return SimpleNamespace(path=method, env=spec.id, seed=3, config=config, env_settings={})


def test_gradients_are_measured_at_each_depth_under_the_trained_critic_on_visited_states(monkeypatch):
    """Each method's own, and the bare equation. Fails where an agent keeps its own new critic, the runs' depth or settings, or
    is given other states than those of the trained policy."""
    runs = {method: one_run(method) for method in fig8.METHODS}
    results = SimpleNamespace(runs=lambda method, env: [runs[method]], summary={"envs": [runs["qsm"].env]})
    trained = fig8.built(results, "qsm", runs["qsm"].env)
    with torch.no_grad():
        next(trained.critics.parameters()).fill_(0.5)
    critic, seen, states, measured = trained.critics.state_dict(), object(), [], []
    monkeypatch.setattr(fig8, "load_policy", {"qsm": SimpleNamespace(agent=trained)}.__getitem__)
    monkeypatch.setattr(fig8, "visited", lambda run, n: states.append((run, n)) or seen)

    def measure(agent, batch, draws):
        assert batch is seen
        assert all(torch.equal(value, critic[key]) for key, value in agent.critics.state_dict().items())
        own = (getattr(agent.config, key, None) for key in ("chains", "baseline", "bound_penalty"))
        measured.append((type(agent).__name__, agent.config.T, draws, *own))
        return float(len(measured))

    monkeypatch.setattr(fig8, "noise_to_signal", measure)
    budget = fig8.Budget(None, depths=(5, 20), gradients=7, bare_gradients=9)
    found = fig8.gradient_noise(results, runs["qsm"], budget)
    assert states == [(runs["qsm"], 16)]
    assert found == {"qsm": [1.0, 2.0], "dql": [3.0, 4.0], "pg": [5.0, 6.0], fig8.BARE: [7.0, 8.0]}
    kinds = [("QSM", 7, None, None, None), ("DiffusionQL", 7, None, None, 0.1), ("DiffusionPG", 7, 4, True, 0.1),
             ("DiffusionPG", 9, 1, False, 0.0)]  # fmt: skip
    assert measured == [(name, depth, *rest) for name, *rest in kinds for depth in (5, 20)]
    timed = []
    monkeypatch.setattr(fig8, "paired_seconds", lambda functions, repeats: timed.append((len(functions), repeats)))
    batch = Batch(*[torch.zeros(16, 2)] * 5)
    monkeypatch.setattr(fig8, "random_batch", lambda agent: measured.append((type(agent).__name__, agent.config.T)) or batch)
    fig8.update_times(results, 20, 11)
    assert timed == [(3, 11)]
    assert measured[-3:] == [("QSM", 20), ("DiffusionQL", 20), ("DiffusionPG", 20)]


def test_visited_states_are_those_that_the_policys_actions_lead_to(monkeypatch):
    """A constant pull to the left: the n-th state lies n steps of 0.1 from the start."""
    pull = np.array([-0.5, 0.0], np.float32)
    monkeypatch.setattr(fig8, "load_policy", lambda path, mode: lambda obs: np.repeat(pull[None], len(obs), axis=0))
    batch = fig8.visited(one_run("qsm"), 1000)
    assert len(batch.obs) == 4 * 30  # of four copies, each once
    assert torch.equal(batch.action, torch.from_numpy(pull).expand(120, 2))
    steps = (batch.obs[:, 0] / -0.1).round()
    assert steps.min() == 0
    assert steps.max() == 7  # at 0.8 the goal is reached, and another episode begins
    assert all((steps == k).sum() >= 12 for k in range(6))
