"""dm_control through our adapter is dm_control: the oracle is the suite itself."""

import math

import numpy as np
import pytest

import envs
from envs.render import no_opengl
from envs.vector import episode_seed

with no_opengl():
    from dm_control import suite
    from dm_control.rl.control import flatten_observation


def raw(name, seed, copy=0, episode=0):
    domain, task = name.split("-")
    return suite.load(domain, task, task_kwargs={"random": episode_seed(seed, copy, episode)})


def flat(timestep):
    return flatten_observation(timestep.observation)["observations"].astype(np.float32)


def raw_decision(env, action, repeat):
    total = 0.0
    for _ in range(repeat):
        timestep = env.step(action)
        total += timestep.reward
        if timestep.last():
            break
    return timestep, total


@pytest.mark.parametrize("repeat", [1, 4])
@pytest.mark.parametrize("name", ["cartpole-swingup", "cheetah-run", "walker-walk", "manipulator-bring_ball"])
def test_equals_the_suite_step_by_step(name, repeat):
    env, spec = envs.make(f"dmc/{name}", 3, action_repeat=repeat)
    oracle = raw(name, 3)
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 1, spec.act_dim)).astype(np.float32)
    assert np.array_equal(env.reset()[0][0], flat(oracle.reset()))
    for action in actions:
        observations, rewards, terminated, truncated, _ = env.step(action)
        timestep, total = raw_decision(oracle, action[0], repeat)
        assert np.array_equal(observations[0], flat(timestep))
        assert rewards[0] == total
        assert not any([terminated[0], truncated[0], timestep.last()])
    assert observations.dtype == np.float32
    assert observations.shape == (1, spec.obs_dim)


def test_the_time_limit_truncates_after_horizon_decisions():
    repeat = 7  # does not divide 1000: the last decision is cut short
    env, spec = envs.make("dmc/cartpole-balance", 0, action_repeat=repeat)
    oracle = raw("cartpole-balance", 0)
    env.reset(), oracle.reset()
    action = np.full((1, 1), 0.1)
    for decision in range(1, spec.horizon + 1):
        _, rewards, terminated, truncated, infos = env.step(action)
        timestep, total = raw_decision(oracle, action[0], repeat)
        assert rewards[0] == total
        assert truncated[0] == timestep.last() == (decision == spec.horizon)
        assert not terminated[0]
    assert spec.horizon == math.ceil(1000 / repeat)
    assert np.array_equal(infos["final_obs"][0], flat(timestep))


def test_a_discount_of_zero_terminates(monkeypatch):
    env, _ = envs.make("dmc/cartpole-balance", 0)
    env.reset()
    monkeypatch.setattr(env._copies[0]._env.task, "get_termination", lambda physics: 0.0)
    _, _, terminated, truncated, _ = env.step(np.zeros((1, 1)))
    assert (terminated[0], truncated[0]) == (True, False)


# Tasks that change their model at reset are where a used environment could remember. quadruped-escape, left to itself,
# opens an OpenGL context at reset, and fails where there is none.
@pytest.mark.parametrize("name", ["cheetah-run", "reacher-easy", "finger-turn_hard", "point_mass-hard", "quadruped-escape"])
def test_an_episode_comes_again_bit_for_bit_on_a_used_environment(name):
    env, spec = envs.make(f"dmc/{name}", (4, 1), num_envs=2)
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 2, spec.act_dim))

    def play(env):
        observations, _ = env.start([6, 9])
        steps = [env.step(action)[:2] for action in actions]
        return observations, steps

    env.reset()
    for action in actions[:7]:
        env.step(-action)
    used, again = play(env), play(env)
    fresh = play(envs.make(f"dmc/{name}", (4, 1), num_envs=2)[0])
    for other in (again, fresh):
        assert np.array_equal(used[0], other[0])
        assert all(np.array_equal(a, b) for s, o in zip(used[1], other[1], strict=True) for a, b in zip(s, o, strict=True))


def test_seeds_copies_and_episodes_start_differently():
    env, _ = envs.make("dmc/reacher-easy", 0, num_envs=2)
    starts = [*env.reset()[0], *env.start([1, 1])[0], *envs.make("dmc/reacher-easy", 1, num_envs=2)[0].reset()[0]]
    assert len({start.tobytes() for start in starts}) == len(starts)


def test_asymmetric_bounds_reach_the_actuators():
    env, spec = envs.make("dmc/quadruped-walk", 0)
    env.reset()
    physics = env._copies[0]._env.physics
    native = env._copies[0]._env.action_spec()
    assert (native.minimum.min(), native.maximum.max()) == (-1.0, 1.1)
    for end, bound in ((-1.0, native.minimum), (1.0, native.maximum)):
        env.step(np.full((1, spec.act_dim), end))
        np.testing.assert_allclose(physics.data.ctrl, bound, atol=1e-12)


def test_a_frame_or_what_to_install(monkeypatch):
    env, _ = envs.make("dmc/cartpole-swingup", 0, num_envs=2)
    env.reset()

    def no_library(*args):
        raise OSError("no such library")

    with monkeypatch.context() as patch:
        patch.setattr("mujoco.Renderer", no_library)
        with pytest.raises(RuntimeError, match=r"no such library.*install libegl1 .*libosmesa6"):
            env.render()
    try:
        frames = env.render()
    except RuntimeError as error:
        pytest.skip(str(error))
    assert [(frame.shape, frame.dtype) for frame in frames] == [((240, 320, 3), np.uint8)] * 2
    assert not np.array_equal(*frames), "two copies start differently, and the frames show it"
    env.close()
