"""The closed forms of the toy tasks against search and sampling."""

import numpy as np
import pytest

import envs
from envs import toy


def grid(act_dim, n):
    axis = np.linspace(-1, 1, n)
    return np.stack(np.meshgrid(*[axis] * act_dim), axis=-1).reshape(-1, act_dim)


@pytest.mark.parametrize("name", toy.BANDITS)
def test_the_optimum_is_what_a_grid_search_finds(name):
    modes, value = toy.optimum(name)
    actions = grid(modes.shape[1], 401)
    rewards = toy.reward(name, actions)
    best = actions[rewards >= rewards.max() - 1e-3]
    distance = np.linalg.norm(best[:, None] - modes, axis=-1)
    assert rewards.max() <= value + 1e-9
    assert rewards.max() == pytest.approx(value, abs=1e-4)
    assert distance.min(axis=1).max() < 0.05, "the grid's best actions are all near a mode"
    assert distance.min(axis=0).max() < 0.01, "every mode is found"
    np.testing.assert_allclose(toy.reward(name, modes), value, rtol=1e-12)
    inside = np.abs(modes).max(axis=1) < 1
    for direction in np.eye(modes.shape[1]):
        ahead, behind = (toy.reward(name, modes[inside] + step * direction) for step in (1e-4, -1e-4))
        np.testing.assert_allclose(ahead - behind, 0, atol=1e-11, err_msg="the gradient at a mode inside the box")


@pytest.mark.parametrize("name", toy.BANDITS)
def test_the_low_score_is_the_mean_reward_of_uniform_actions(name):
    _, spec = envs.make(f"toy/{name}", 0)
    # The midpoint rule on 1001 (squared) cells is exact to 1e-6 for these functions.
    cells = grid(spec.act_dim, 1001) * 1000 / 1001
    assert spec.score.low == pytest.approx(toy.reward(name, cells).mean(), abs=2e-6)
    assert spec.score.high == toy.optimum(name)[1]


def test_curvature_is_the_second_derivative():
    best = toy.optimum("interior")[0][0]
    offset = np.array([0.1, 0.0])
    for k in (0.5, 4.0):
        left, middle, right = (toy.reward("interior", best + s * offset, curvature=k) for s in (-1, 0, 1))
        assert (left - 2 * middle + right) / 0.01 == pytest.approx(-k)
    env, spec = envs.make("toy/interior", 0, curvature=4.0)
    env.reset()
    assert env.step(best[None] + offset)[1][0] == pytest.approx(1 - 0.02)
    assert spec.score.low == pytest.approx(1 - 2 * (2 / 3 + 0.25))
    with pytest.raises(ValueError, match="toy/interior alone"):
        envs.check("toy/corner", {"curvature": 4.0})


def test_a_bandit_has_one_decision():
    env, spec = envs.make("toy/four-modes", 0, num_envs=2)
    assert (spec.horizon, spec.obs_dim, spec.act_dim) == (1, 1, 2)
    assert env.reset()[0].tolist() == [[1.0], [1.0]]
    actions = np.array([[0.6, 0.0], [0.1, -0.2]])
    _, rewards, terminated, truncated, _ = env.step(actions)
    np.testing.assert_allclose(rewards, toy.reward("four-modes", actions))
    assert terminated.all()
    assert not truncated.any()


def test_multigoal_rewards_the_straight_way_and_cuts_the_wanderer():
    env, spec = envs.make("toy/multigoal", 0, num_envs=2)
    env.reset()
    returns = np.zeros(2)
    for step in range(spec.horizon):
        _, rewards, terminated, truncated, _ = env.step(np.array([[0.0, -1.0], [0.0, 0.0]]))
        returns += rewards * (env.episodes[0] <= (step == 3))
        if step == 3:
            assert terminated.tolist() == [True, False]
            assert returns[0] == pytest.approx(spec.score.high, abs=0.1)
    assert truncated[1]
    assert not terminated[1]


def test_no_constant_speed_beats_the_stated_optimum_of_multigoal():
    goal = toy.MultiGoal()
    for speed in np.linspace(0.1, 1.0, 91):
        goal.reset(0)
        goal._position = np.zeros(2)
        total, ended = 0.0, False
        while not ended:
            reward, terminated, truncated = goal.step(np.array([speed, 0.0]))
            total, ended = total + reward, terminated or truncated
        assert total <= toy.MultiGoal.best + 1e-9
    assert total == pytest.approx(toy.MultiGoal.best)
