"""Exact policy evaluation and the two iterations, against recorded numbers, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from algos.tabular import MDP, entropy, evaluate, optimal_value, q_score_matching, soft_policy_iteration, state_value


@pytest.fixture
def random_mdp():
    generator = np.random.default_rng(3)
    return MDP(generator.dirichlet(np.ones(5), size=(5, 3)), generator.normal(size=(5, 3)), 0.9)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_linear_solve_is_the_fixed_point_of_the_bellman_equation(random_mdp, temperature):
    policy = np.random.default_rng(4).dirichlet(np.ones(3), size=5)
    q = np.zeros((5, 3))
    for _ in range(400):  # gamma^400 is 5e-19
        value = (policy * (q - temperature * np.log(policy))).sum(-1)
        q = random_mdp.reward + random_mdp.gamma * random_mdp.transition @ value
    np.testing.assert_allclose(evaluate(random_mdp, policy, temperature), q, atol=1e-12)


def test_soft_policy_iteration_ends_at_the_soft_optimum_and_q_score_matching_elsewhere(random_mdp):
    """The soft optimum is the fixed point of V = logsumexp(alpha Q) / alpha; eq. 20 leaves the entropy of the future out."""
    alpha, value = 2.0, np.zeros(5)
    for _ in range(400):
        q = random_mdp.reward + random_mdp.gamma * random_mdp.transition @ value
        value = logsumexp(alpha * q, axis=-1) / alpha
    best = np.exp(alpha * (q - value[:, None]))
    np.testing.assert_allclose(soft_policy_iteration(random_mdp, alpha).policy, best, atol=1e-9)
    assert np.abs(q_score_matching(random_mdp, alpha).policy - best).max() > 1e-2


def test_a_bandit_gives_the_boltzmann_distribution_at_once():
    bandit = MDP(np.full((1, 3, 1), 1.0), np.array([[0.0, 1.0, -1.0]]), 0.0)
    done = q_score_matching(bandit, 2.0)
    weights = np.exp([0.0, 2.0, -2.0])
    np.testing.assert_allclose(done.policy[0], weights / weights.sum(), atol=1e-12)
    assert done.updates == 2
    assert entropy(np.array([[0.0, 1.0]]))[0] == 0


def test_a_large_alpha_is_policy_iteration(random_mdp):
    done = q_score_matching(random_mdp, 1e4)
    np.testing.assert_allclose(state_value(random_mdp, done.policy), optimal_value(random_mdp), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"gamma": 1.0}, "gamma=1.0"), ({"transition": np.zeros((2, 2, 2))}, "sum to 1"), ({"reward": np.zeros((2, 3))}, "found")],
)
def test_what_is_no_mdp_is_refused(change, message):
    good = {"transition": np.full((2, 2, 2), 0.5), "reward": np.zeros((2, 2)), "gamma": 0.9}
    with pytest.raises(ValueError, match=message):
        MDP(**good | change)
