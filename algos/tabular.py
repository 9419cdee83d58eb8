"""Q-score matching without function approximation (Psenka et al. 2024, arXiv 2312.11752, section 4.3), and soft policy
iteration (Haarnoja et al. 2018, arXiv 1801.01290) beside it, both with exact policy evaluation.

In a finite MDP the Boltzmann policy that a matched score stands for (eq. 19) can be set directly. The update of eq. 20 is

    pi'(a|s) = exp(alpha Q^pi(s, a)) / sum_b exp(alpha Q^pi(s, b))

with the ordinary Q^pi. Soft policy iteration at temperature 1/alpha has the same form with the soft Q^pi, which counts the
entropy of later decisions as reward. The first is therefore no maximum-entropy optimum, and no contraction is known for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax, xlogy


@dataclass(frozen=True)
class MDP:
    """A finite discounted MDP.

    transition [S, A, S]: probabilities; reward [S, A]: its mean; gamma in [0, 1). An absorbing state loops to itself with
    reward 0. Raises ValueError where these do not fit together.
    """

    transition: np.ndarray
    reward: np.ndarray
    gamma: float

    def __post_init__(self) -> None:
        states, actions = self.reward.shape
        if self.transition.shape != (states, actions, states):
            found = f"transition {self.transition.shape}, reward {self.reward.shape}"
            raise ValueError(f"an MDP has transition [S, A, S] and reward [S, A]; found {found}")
        if not np.allclose(self.transition.sum(-1), 1) or (self.transition < 0).any():
            raise ValueError("transition[s, a] must be probabilities that sum to 1")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma={self.gamma} is out of range: it takes a value in [0, 1)")


@dataclass(frozen=True)
class Iteration:
    """How an iteration ended: its policy [S, A], the number of updates, and the last largest change of a probability."""

    policy: np.ndarray
    updates: int
    change: float


def entropy(policy: np.ndarray) -> np.ndarray:
    """Entropy in nats of pi(.|s), [S, A] -> [S]."""
    return -xlogy(policy, policy).sum(-1)


def evaluate(mdp: MDP, policy: np.ndarray, temperature: float = 0.0) -> np.ndarray:
    """Q^pi [S, A] exactly, by one linear solve; with a temperature the soft Q^pi.

    V(s) = sum_a pi(a|s) (Q(s, a) - temperature log pi(a|s)); Q = r + gamma P V. Absorbing states earn entropy like all
    others, so that ending an episode neither gains nor costs any.
    """
    under = np.einsum("sa,sat->st", policy, mdp.transition)
    gain = (policy * mdp.reward).sum(-1) + temperature * entropy(policy)
    value = np.linalg.solve(np.eye(len(gain)) - mdp.gamma * under, gain)
    return mdp.reward + mdp.gamma * mdp.transition @ value


def state_value(mdp: MDP, policy: np.ndarray) -> np.ndarray:
    """V^pi [S] without an entropy bonus, whichever iteration made the policy."""
    return (policy * evaluate(mdp, policy)).sum(-1)


def uniform_policy(mdp: MDP) -> np.ndarray:
    return np.full(mdp.reward.shape, 1 / mdp.reward.shape[1])


def q_score_matching(mdp: MDP, alpha: float, policy: np.ndarray | None = None, **limits: float) -> Iteration:
    """Eq. 20 until no probability changes by more than `tolerance`; starts from the uniform policy unless given one."""
    return _iterate(mdp, lambda pi: softmax(alpha * evaluate(mdp, pi), axis=-1), policy, **limits)


def soft_policy_iteration(mdp: MDP, alpha: float, policy: np.ndarray | None = None, **limits: float) -> Iteration:
    """Soft policy iteration at temperature 1/alpha: pi' = softmax(alpha Q_soft^pi)."""
    return _iterate(mdp, lambda pi: softmax(alpha * evaluate(mdp, pi, 1 / alpha), axis=-1), policy, **limits)


def _iterate(mdp, improve, policy, tolerance: float = 1e-10, most: int = 10_000) -> Iteration:
    policy, change, updates = uniform_policy(mdp) if policy is None else policy, np.inf, 0
    while change > tolerance and updates < most:
        improved = improve(policy)
        change, policy, updates = float(np.abs(improved - policy).max()), improved, updates + 1
    return Iteration(policy, updates, change)


def optimal_value(mdp: MDP, tolerance: float = 1e-12) -> np.ndarray:
    """V* [S] by value iteration, to within `tolerance` of the fixed point in the largest norm."""
    value, change = np.zeros(len(mdp.reward)), np.inf
    while change > tolerance * (1 - mdp.gamma):
        improved = (mdp.reward + mdp.gamma * mdp.transition @ value).max(-1)
        change, value = np.abs(improved - value).max(), improved
    return value
