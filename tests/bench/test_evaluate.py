"""The evaluation rule: whole episodes, the same for all, the best of N by the smaller target critic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import envs
from algos.agent import normal
from bench.evaluate import Evaluator, Probes, stream_seed


class Stub:
    """Acts with its noise; its value is largest for actions near `best`."""

    best = torch.tensor([0.3, -0.4])  # the optimum of toy/interior
    device = torch.device("cpu")

    def __init__(self):
        self.modes = []

    def draws(self, mode, n):
        return {"eps": normal(n, 2)}

    def act(self, obs, noise, mode):
        self.modes.append((mode, len(obs)))
        return noise["eps"].clamp(-1, 1)

    def value(self, obs, action):
        return -(action - self.best).norm(dim=1)


def test_best_of_n_plays_the_candidate_of_largest_value(small):
    evaluator = Evaluator(small("sac", "eval.candidates=7", env="toy/interior"), torch.device("cpu"))
    stub, obs = Stub(), torch.ones(3, 1)
    action = evaluator.act(stub, obs, torch.Generator().manual_seed(4))
    drawn = torch.randn(21, 2, generator=torch.Generator().manual_seed(4)).clamp(-1, 1).view(3, 7, 2)
    best = torch.stack([min(row, key=lambda a: float((a - Stub.best).norm())) for row in drawn])
    assert torch.equal(action, best)
    assert stub.modes == [("sample", 21)]  # candidates are draws from the behaviour distribution


@pytest.mark.parametrize("rule", ["own", "sample"])
def test_without_candidates_the_rule_names_the_mode(small, rule):
    evaluator, stub = Evaluator(small("sac", f"eval.action={rule}", env="toy/interior"), torch.device("cpu")), Stub()
    evaluator.play(stub, 0)
    assert stub.modes == [(rule, 2)]


def test_returns_are_those_of_whole_episodes_from_their_own_seeds(small):
    """Played again by hand, one episode at a time, with the actions that lock step gave each."""
    config, n = small("sac", "eval.episodes=16"), 16
    stub, evaluator = Stub(), Evaluator(config, torch.device("cpu"))
    evaluator.env.scores = lambda final: {"x": final[:, 0].tolist()}
    record = evaluator.play(stub, 3)
    generator = torch.Generator().manual_seed(stream_seed(0, 1, 3))
    actions = torch.stack([torch.randn(n, 2, generator=generator).clamp(-1, 1) for _ in stub.modes]).numpy()
    env, _ = envs.make("toy/multigoal", (0, 1), n)
    env.start([3] * n)
    returns, lengths, open_, last = np.zeros(n), np.zeros(n, int), np.ones(n, bool), [0.0] * n
    taken = [[] for _ in range(n)]
    for step in actions:
        _, reward, terminated, truncated, info = env.step(step)
        for i in np.flatnonzero(open_):
            returns[i] += reward[i]
            lengths[i] += 1
            taken[i] += step[i].tolist()
            open_[i] = not (terminated[i] or truncated[i])
            last[i] = last[i] if open_[i] else float(info["final_obs"][i, 0])
    assert not open_.any()
    assert (record["returns"], record["lengths"]) == (returns.tolist(), lengths.tolist())
    assert record["scores"] == {"x": last}
    assert record["on_bound"] == [round(np.mean(np.abs(own) >= 0.99), 4) for own in taken]
    assert 0.2 < min(record["on_bound"]) < max(record["on_bound"]) < 0.5, "a normal action is beyond in 32 %"
    assert max(record["lengths"]) <= 30
    assert max(env.episodes) > 4, "some copy ended twice before the last ended once"


def test_what_comes_after_a_copys_episode_is_not_of_it(small):
    """Copies whose episode is over go on to the next one while others play; what it gives does not count, NaN neither."""
    evaluator = Evaluator(small("sac", "eval.episodes=16"), torch.device("cpu"))
    stub, expected, step = Stub(), evaluator.play(Stub(), 3), evaluator.env.step

    def spoiled(action):
        obs, reward, terminated, truncated, info = step(action)
        later = np.array(evaluator.env.episodes) - (terminated | truncated) > 3
        return obs, np.where(later, np.nan, reward), terminated, truncated, info

    evaluator.env.step = spoiled
    assert evaluator.play(stub, 3) == expected


class Zero(Stub):
    def act(self, obs, noise, mode):
        return torch.zeros(len(obs), 1)


def test_scores_are_of_the_last_observations(small):
    """generation/gmm1d's, of whole samples; those of an episode that went on would be of noise."""
    config = small("ctq", "eval.episodes=50", "env.steps=6", env="generation/gmm1d")
    evaluator = Evaluator(config, torch.device("cpu"))
    record = evaluator.play(Zero(), 2)
    env, _ = envs.make("generation/gmm1d", (0, 1), 50, steps=6)
    env.start([2] * 50)
    for _ in range(6):
        info = env.step(np.zeros((50, 1)))[4]
    assert record["scores"] == env.scores(info["final_obs"])
    assert record["scores"]["reward"][0] == pytest.approx(info["terminal_reward"].mean() / 2, rel=1e-5)
    assert record["lengths"] == [6] * 50
    probes = Probes(config, torch.device("cpu"))
    probes.draw(Zero(), 0, 0)
    assert (set(probes.spread()), "on_bound" in record) == ({"probe_std"}, False)  # its actions have no bounds


def test_an_evaluation_depends_on_its_number_alone(small):
    config = small("sac")
    first, second = Evaluator(config, torch.device("cpu")), Evaluator(config, torch.device("cpu"))
    played = [first.play(Stub(), index) for index in (0, 1, 2)]
    assert second.play(Stub(), 2) == played[2]
    assert played[0] != played[1]


def test_the_noise_of_an_evaluation_follows_the_seed(small):
    """On a bandit, whose episodes differ by nothing else."""
    evaluators = [Evaluator(small("sac", env="toy/interior", seed=seed), torch.device("cpu")) for seed in (0, 1)]
    played = [tuple(evaluator.play(Stub(), index)["returns"]) for evaluator in evaluators for index in (0, 1)]
    assert len(set(played)) == 4


def test_the_noise_of_the_probes_follows_the_seed_and_the_evaluation(small):
    all_probes = [Probes(small("sac", env="toy/interior", seed=seed), torch.device("cpu")) for seed in (0, 1)]
    for probes in all_probes:
        for index in (0, 1):
            probes.draw(Stub(), index, 80 * index)
    assert len({actions.tobytes() for probes in all_probes for actions in probes.actions}) == 4


def test_the_spread_of_probes_is_within_a_state_and_not_between_states(small):
    probes = Probes(small("sac"), torch.device("cpu"))
    newest = np.arange(4.0)[:, None, None] + np.tile([-0.5, 0.5], 32)[None, :, None].repeat(2, axis=2)
    probes.actions = [np.zeros((4, 64, 2)), newest]
    assert probes.spread() == {"probe_std": pytest.approx(0.5), "probe_on_bound": pytest.approx(5 / 8)}
