"""An on-policy agent from outside the package: it conforms, learns, continues exactly, and is refused where it cannot run."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import conformance
from bench.grid import plan
from bench.typed import UsageError

PPO = "onpolicy:PPO"
SMALL = "actor_hidden=[16,16],critic_hidden=[16,16],envs=4,length=9,epochs=2,minibatches=2"
SUITE = [
    (name, test, mode, n)
    for name, test in vars(conformance).items() if name.startswith("test_")
    for mode in (("explore", "own", "sample") if "mode" in inspect.signature(test).parameters else (None,))
    for n in ((1, 5) if "n" in inspect.signature(test).parameters else (None,))
]  # fmt: skip


@pytest.fixture(autouse=True)
def _the_agent_can_be_imported_and_has_one_thread(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "test", "mode", "n"), SUITE, ids=[f"{s[0]}-{s[2]}-{s[3]}" for s in SUITE])
def test_conforms(name, test, mode, n, tmp_path):
    given = {"algo": PPO, "mode": mode, "n": n, "tmp_path": tmp_path}
    test(**{key: given[key] for key in inspect.signature(test).parameters})


def config(*overrides: str, settings: str = SMALL, env: str = "toy/multigoal"):
    base = ["steps=300", "eval_every=100", "log_every=40", "checkpoint_every=59", "eval.episodes=2"]
    return plan("quick", f"ppo={PPO}({settings})", env, "1", [*base, *overrides])[0][0].config


def test_a_kill_within_a_rollout_or_an_episode_changes_nothing(train, results, tmp_path):
    """Checkpoints at 60, 120, 180, 240 frames of four copies: within rollouts of 36 frames and within episodes."""
    assert train(config(), tmp_path / "undisturbed") == "done"
    assert train(config(), tmp_path / "killed", [70, 130, 200]) == "done"
    assert results(tmp_path / "undisturbed") == results(tmp_path / "killed")


def test_updates_are_passes_over_rollouts(train, tmp_path):
    """300 frames of four copies are eight rollouts of 36 frames and a rest; two updates each, and no warm-up."""
    train(config("warmup=100"), tmp_path)
    assert json.loads((tmp_path / "DONE").read_text())["update"] == 16
    clock = json.loads((tmp_path / "clock.jsonl").read_text().splitlines()[-1])
    assert {"act", "env", "store", "sample", "both"} <= clock["wall"].keys()
    assert clock["updates_timed"] == 16


def test_it_learns_from_what_the_rollout_holds(train, tmp_path):
    """Mean return on toy/multigoal, where 30 steps at the origin are worth -30 and the best is -2.2. Fails if rows, ends,
    discounts or log-densities are mixed up."""
    made = config("steps=40000", "eval_every=40000", "log_every=10000", "checkpoint_every=40000", "eval.episodes=20",
                  settings="")  # fmt: skip
    train(made, tmp_path)
    before, after = (np.mean(json.loads(line)["returns"]) for line in (tmp_path / "evals.jsonl").read_text().splitlines())
    assert before < -15
    assert after > -4


def test_the_copies_are_those_of_the_rollouts():
    assert config().env["num_envs"] == 4
    assert plan("quick", "sac", "toy/multigoal", "1", ["steps=600", "warmup=300"])[0][0].config.env["num_envs"] == 1
    with pytest.raises(UsageError, match=r"env\.num_envs=3: this agent's rollouts have 4 copies; set algo\.envs instead"):
        config("env.num_envs=3")


def test_less_than_one_rollout_is_refused(train, tmp_path):
    with pytest.raises(UsageError, match=r"no update would happen: steps=30 frames .* 9 decisions of 4 copies; set steps=36"):
        train(config("steps=30"), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.jsonl"))


def test_a_run_that_ends_before_a_phase_begins_is_refused():
    """40 rollouts are DPOK's 200 updates of pretraining; with one more it is trained."""
    complaint = r"dpok would never come to critic, policy: steps=512000 frames give 200 updates, .* set steps=524800 or more"
    with pytest.raises(UsageError, match=complaint):
        plan("quick", "dpok", "generation/gmm1d", "1", ["steps=512000"])
    plan("quick", "dpok", "generation/gmm1d", "1", ["steps=524800"])
