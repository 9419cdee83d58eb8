"""Gymnasium tasks: equal to gymnasium's own wrappers, ends as gymnasium says, and what is refused."""

import os
import sys
from types import ModuleType

import gymnasium
import numpy as np
import pytest

import envs
from envs.vector import episode_seed


class Odd(gymnasium.Env):
    """An environment whose spaces are given at registration."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


def box(high, *shape):
    return gymnasium.spaces.Box(-high, high, shape, np.float32)


@pytest.fixture
def register():
    ids = []

    def add(id, observation_space, action_space, limit=10):
        kwargs = {"observation_space": observation_space, "action_space": action_space}
        gymnasium.register(id, entry_point=Odd, kwargs=kwargs, max_episode_steps=limit)
        ids.append(id)

    yield add
    for id in ids:
        del gymnasium.registry[id]


BROKEN = """
import gymnasium


class Broken(gymnasium.Env):
    def __init__(self):
        raise FileNotFoundError("model.xml")


gymnasium.register("Broken-v0", entry_point=Broken, max_episode_steps=10)
"""


@pytest.mark.parametrize(("code", "says"), [(BROKEN, "FileNotFoundError: model.xml"), ("1 / 0", "ZeroDivisionError")])
def test_what_a_users_environment_raises_is_said_with_its_name(tmp_path, monkeypatch, code, says):
    module = f"module_that_raises_{says.partition('Error')[0].lower()}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=rf"^cannot build 'gym/{module}:Broken-v0': {says}"):
        envs.check(f"gym/{module}:Broken-v0", {})


@pytest.mark.parametrize("id", ["HalfCheetah-v5", "Pendulum-v1"])
def test_equals_gymnasium_step_by_step(id):
    env, spec = envs.make(f"gym/{id}", 2)
    oracle = gymnasium.wrappers.RescaleAction(gymnasium.make(id), np.float32(-1), np.float32(1))
    assert np.array_equal(env.reset()[0][0], oracle.reset(seed=episode_seed(2, 0, 0))[0].astype(np.float32))
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 1, spec.act_dim)).astype(np.float32):
        observations, rewards, *_ = env.step(action)
        observation, reward, *_ = oracle.step(action[0])
        np.testing.assert_allclose(observations[0], observation, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(rewards[0], reward, rtol=1e-5)
    assert (spec.action_low, spec.action_high) == ((-1.0,) * spec.act_dim, (1.0,) * spec.act_dim)


def test_the_time_limit_truncates():
    env, spec = envs.make("gym/Pendulum-v1", 0, action_repeat=3)
    env.reset()
    ends = [env.step(np.zeros((1, 1)))[2:4] for _ in range(spec.horizon)]
    assert spec.horizon == 67  # 200 / 3, rounded up
    assert [bool(truncated[0]) for _, truncated in ends] == [False] * 66 + [True]
    assert not any(terminated[0] for terminated, _ in ends)


def test_a_fall_terminates_and_the_next_episode_begins_as_if_started():
    env, spec = envs.make("gym/Hopper-v5", 0)
    env.reset()
    terminated = truncated = np.array([False])
    while not (terminated[0] or truncated[0]):
        observations, _, terminated, truncated, infos = env.step(np.ones((1, spec.act_dim)))
    assert (terminated[0], truncated[0]) == (True, False)
    assert np.array_equal(observations, envs.make("gym/Hopper-v5", 0)[0].start([1])[0])
    # Height and angle of the last observation are what ended it.
    assert infos["final_obs"][0, 0] < 0.7 or abs(infos["final_obs"][0, 1]) > 0.2


def test_unbounded_and_shaped_spaces(register):
    register("Shaped-v0", box(1.0, 2, 3), box(np.inf, 2, 2))
    envs.check("gym/Shaped-v0")
    env, spec = envs.make("gym/Shaped-v0", 0)
    assert (spec.obs_dim, spec.act_dim, spec.action_low, spec.action_high) == (6, 4, None, None)
    assert (spec.score.low, spec.score.high) == (None, None)
    env.reset()
    assert env.step(np.full((1, 4), 5.0))[1].tolist() == [20.0]


def test_only_who_wants_frames_makes_a_task_that_renders(register, monkeypatch):
    """Training does not need what rendering does: a context for each copy, or a task that takes the mode at all."""
    monkeypatch.setattr(Odd, "metadata", {"render_modes": ["rgb_array"]}, raising=False)
    register("Shown-v0", box(1.0, 2), box(1.0, 1))
    envs.make("gym/Shown-v0", 0)[0].close()
    with pytest.raises(ValueError, match="render_mode"):
        envs.make("gym/Shown-v0", 0, render_mode="rgb_array")


def test_what_cannot_be_used_is_named(register):
    register("DictObs-v0", gymnasium.spaces.Dict(a=box(1.0, 2)), box(1.0, 1))
    register("NoLimit-v0", box(1.0, 2), box(1.0, 1), limit=None)
    register("Whole-v0", box(1.0, 2), gymnasium.spaces.Box(-2, 2, (1,), np.int64))
    register("None-v0", box(1.0, 2), box(1.0, 0))
    for id, complaint in {
        "gym/Whole-v0": "int64.* actions; this benchmark needs one or more, of a floating type",
        "gym/None-v0": "actions; this benchmark needs one or more, of a floating type",
        "gym/CartPole-v1": r"Discrete\(2\) actions; this benchmark needs continuous",
        "gym/DictObs-v0": "Dict observations; this benchmark needs one array",
        "gym/NoLimit-v0": "no time limit",
        "gym/Hoper-v5": "did you mean gym/Hopper-v5",
        "gym/no_such_module:Env-v0": "No module named 'no_such_module'",
    }.items():
        with pytest.raises(ValueError, match=complaint) as error:
            envs.check(id)
        assert "\n" not in str(error.value)


def test_the_sources_of_the_high_scores():
    scores = {id: envs.make(f"gym/{id}", 0)[1].score for id in ("Pendulum-v1", "MountainCarContinuous-v0")}
    assert {id: score.high for id, score in scores.items()} == {"Pendulum-v1": -150.0, "MountainCarContinuous-v0": 90.0}
    assert "gymnasium's reward threshold" in scores["MountainCarContinuous-v0"].source


@pytest.mark.parametrize(("chosen", "seen"), [("egl", "egl"), (None, "disable")])
def test_an_environment_of_the_users_draws_by_the_library_that_was_chosen(monkeypatch, chosen, seen):
    """It may render its own observations. Where none was chosen, none is loaded by it either."""
    found = []

    class Draws(Odd):
        def __init__(self):
            super().__init__(box(1, 2), box(1, 1))
            found.append(os.environ["MUJOCO_GL"])

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if chosen:
        monkeypatch.setenv("MUJOCO_GL", chosen)
    monkeypatch.setitem(sys.modules, "drawing", ModuleType("drawing"))
    spec = gymnasium.envs.registration.EnvSpec("Draws-v0", Draws, max_episode_steps=5)
    monkeypatch.setitem(gymnasium.registry, "Draws-v0", spec)
    envs.make("gym/drawing:Draws-v0", 0)[0].close()
    assert set(found) == {seen}
    assert os.environ.get("MUJOCO_GL") == chosen
