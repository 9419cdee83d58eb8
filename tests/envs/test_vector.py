"""The vector environment's contract, on a copy whose every number is known."""

import gymnasium
import numpy as np
import pytest

from envs.vector import VectorEnv, episode_seed


class Counter:
    """Observation: (seed modulo 1000, steps so far); reward: the native action; terminated after `length` steps."""

    bounds = (np.array([-2.0]), np.array([4.0]))

    def __init__(self, length=3):
        self.length = length

    def reset(self, seed):
        self.state = [seed % 1000, 0]

    def step(self, action):
        self.state[1] += 1
        return float(action[0]), self.state[1] == self.length, False

    def observation(self):
        return np.array(self.state, np.float32)


def vector(*lengths, repeat=1, seed=7):
    return VectorEnv([Counter(length) for length in lengths], 2, 1, repeat, seed)


def first(seed, copy, episode):
    return [episode_seed(seed, copy, episode) % 1000, 0]


def test_an_ended_copy_shows_the_next_episode_and_keeps_the_last_observation():
    env = vector(2, 3)
    env.reset()
    env.step(np.zeros((2, 1)))
    observations, _, terminated, truncated, infos = env.step(np.zeros((2, 1)))
    assert terminated.tolist() == [True, False]
    assert not truncated.any()
    assert observations.tolist() == [first(7, 0, 1), [episode_seed(7, 1, 0) % 1000, 2]]
    assert infos["final_obs"][0].tolist() == [episode_seed(7, 0, 0) % 1000, 2]
    assert env.episodes == [1, 0]
    held = observations.copy()
    assert env.step(np.zeros((2, 1)))[4]["final_obs"][1].tolist() == [episode_seed(7, 1, 0) % 1000, 3]
    assert np.array_equal(observations, held), "a returned array was written to again"


def test_no_final_observation_without_an_end():
    env = vector(3)
    env.reset()
    assert env.step(np.zeros((1, 1)))[4] == {}


def test_start_is_where_natural_progression_comes():
    env = vector(2, 3)
    env.reset()
    for _ in range(6):
        observations = env.step(np.zeros((2, 1)))[0]
    assert env.episodes == [3, 2]
    assert observations.tolist() == vector(2, 3).start([3, 2])[0].tolist() == env.start([3, 2])[0].tolist()
    assert env.reset()[0].tolist() == [first(7, 0, 0), first(7, 1, 0)]


def test_episodes_differ_by_seed_copy_and_number_and_by_the_length_of_the_seed():
    # (5,) and (5, 0): SeedSequence alone pads with zeros and makes them one; likewise a train and an evaluation stream.
    keys = [(5, 0, 0), (5, 0, 1), (5, 1, 0), (6, 0, 0), ((5, 0), 0, 0), ((5, 1), 0, 0), ((5, 1, 0), 0, 0)]
    assert len({episode_seed(*key) for key in keys}) == len(keys)
    assert episode_seed(5, 1, 2) == episode_seed((5,), 1, 2) == episode_seed(np.int64(5), 1, 2)


def test_actions_are_rescaled_to_the_native_bounds_and_clipped():
    env = vector(9, 9, 9, 9)
    env.reset()
    assert env.step(np.array([[-1.0], [0.0], [1.0], [3.0]], np.float32))[1].tolist() == [-2.0, 1.0, 4.0, 4.0]


def test_a_rescaled_action_lies_within_the_native_bounds(monkeypatch):
    """-0.3 + 3.7 is 3.4000000000000004 in float64."""
    monkeypatch.setattr(Counter, "bounds", (np.array([-4.0]), np.array([3.4])))
    assert vector(9, 9)._native(np.array([[-1.0], [1.0]])).tolist() == [[-4.0], [3.4]]


def test_unbounded_actions_pass_unchanged(monkeypatch):
    monkeypatch.setattr(Counter, "bounds", None)
    env = vector(9)
    env.reset()
    assert env.step(np.array([[12.5]]))[1].tolist() == [12.5]
    assert np.isinf(env.single_action_space.high).all()


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    env = vector(3, repeat=2)
    env.reset()
    _, rewards, terminated, _, _ = env.step(np.ones((1, 1)))
    assert (rewards[0], terminated[0]) == (8.0, False)
    _, rewards, terminated, _, infos = env.step(np.ones((1, 1)))
    assert (rewards[0], terminated[0]) == (4.0, True)
    assert infos["final_obs"][0, 1] == 3


def test_misuse_is_named():
    env = vector(3, 3)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros((2, 1)))
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(2, 1\), found \(2,\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match="each of 2 copies"):
        env.start([1])
    for seed in (-1, (), (1, "eval"), "5", 0.5, None, True):
        with pytest.raises(ValueError, match="a seed must be a whole number"):
            vector(3, seed=seed)
