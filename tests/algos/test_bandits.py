"""Every agent on bandits whose optimum is known, trained on uniformly random actions by the agents' own updates.

One setting for all: 64 x 64 networks, batches of 128, learning rate 1e-3. SAC has its paper's target entropy -A: with -A/2 no
policy of its kind reaches 90 % at a corner, see `test_sac_at_a_corner`. Nothing is tuned per bandit but M_q, which is printed.
"""

from __future__ import annotations

import pytest
import torch

import algos
from algos.agent import sample
from algos.diffusion import Chain
from algos.replay import ReplayBuffer
from envs import toy

SETTINGS = {"actor_hidden": (64, 64), "critic_hidden": (64, 64), "batch_size": 128, "actor_lr": 1e-3, "critic_lr": 1e-3}
OF_DIFFUSION = {"time_features": 16, "time_hidden": (16, 16)}
OF_SAC = {"temperature_lr": 1e-3, "initial_temperature": 0.1}
OWN = {"qsm": OF_DIFFUSION, "dql": OF_DIFFUSION, "pg": OF_DIFFUSION, "sac": OF_SAC, "td3": {}}
UPDATES = {"qsm": 1000, "dql": 400, "pg": 400, "sac": 1500, "td3": 500}
HELD, DRAWS = 4000, 2000  # transitions in the replay; evaluation actions


@pytest.fixture
def policy(make_agent):
    """policy(name, task, mode, **settings): DRAWS evaluation actions of an agent trained on the bandit [DRAWS, A]."""

    def train(name: str, task: str, mode: str = "own", **settings) -> torch.Tensor:
        act_dim = toy.optimum(task)[0].shape[1]
        agent = make_agent(name, obs_dim=1, act_dim=act_dim, **SETTINGS | OWN[name] | settings)
        g = torch.Generator().manual_seed(0)
        replay = ReplayBuffer(agent.replay_need(), 1, act_dim, copies=HELD)
        action, one = torch.rand(HELD, act_dim, generator=g) * 2 - 1, torch.ones(HELD, 1)
        ended = torch.ones(HELD, dtype=torch.bool)
        replay.add(one, action, torch.from_numpy(toy.reward(task, action.numpy())), ended, ~ended, one)
        for _ in range(UPDATES[name]):
            batch = replay.sample(g)
            agent.update(batch, {phase.name: sample(agent.draws(phase.name, 128), g) for phase in agent.due()})
        return agent.act(torch.ones(DRAWS, 1), sample(agent.draws(mode, DRAWS), g), mode)

    return train


def share(task: str, actions: torch.Tensor) -> float:
    """Mean reward over the largest reward."""
    return toy.reward(task, actions.numpy()).mean() / toy.optimum(task)[1]


@pytest.mark.parametrize("name", ["sac", "td3", "dql", "pg"])
def test_an_interior_optimum(policy, name):
    """90 % of the optimal reward (uniform actions get 54 %). Fails on a wrong sign of an actor's loss, and on a policy that
    is caught on the bound for good, where the clip of the action has no gradient."""
    assert share("interior", policy(name, "interior")) > 0.9


@pytest.mark.parametrize("name", list(OWN))
def test_a_corner_optimum(policy, name):
    """90 % of the optimal reward (uniform actions get 0). Fails on a penalty that keeps a policy off the bound."""
    if name == "qsm":
        print(f"M_q = {algos.agent_class('qsm').Config().m_q}")
    assert share("corner", policy(name, "corner")) > 0.9


def test_sac_at_a_corner(policy):
    """With a target entropy of -1/2 a dimension, samples earn what the best tanh-Gaussian of that entropy does:
    0.770, by numerical integration over mean and std. Fails on a temperature that settles at another entropy."""
    actions = policy("sac", "corner", mode="sample", target_entropy_scale=0.5)
    assert share("corner", actions) == pytest.approx(0.770, abs=0.02)


def exact_chain(gradient, m_q: float, act_dim: int) -> torch.Tensor:
    """Actions of a chain whose noise predictor is exactly -M_q grad Q."""
    chain, g = Chain("vp", 5), torch.Generator().manual_seed(7)
    x = torch.randn(50_000, act_dim, generator=g)
    for t in range(4, -1, -1):
        x = chain.mean(x, -m_q * gradient(x), t)
        x = (x + chain.sigma(t) * torch.randn(x.shape, generator=g)).clamp(-1, 1)
    return x


def test_qsm_on_an_interior_optimum_in_the_linear_regime(policy):
    """M_q k = 0.5: the last step contracts, the mean action is the optimum and the policy is that of the exact chain. Fails
    on a sign, a missing M_q, or a chain and a predictor that disagree about t."""
    m_q, best = 0.5, torch.tensor(toy.optimum("interior")[0][0], dtype=torch.float32)
    print(f"M_q = {m_q}")
    found, exact = policy("qsm", "interior", m_q=m_q), exact_chain(lambda a: best - a, m_q, 2)
    torch.testing.assert_close(found.mean(0), best, atol=0.1, rtol=0)
    torch.testing.assert_close(found.mean(0), exact.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(found.std(0), exact.std(0), atol=0.1, rtol=0)


def test_qsm_at_the_official_scale_saturates(policy):
    """M_q k = 50: each step overshoots, so that almost every action lies on the bound although the optimum is inside: what
    the exact chain does. Fails if M_q is dropped or normalised away."""
    print("M_q = 50")
    best = torch.tensor(toy.optimum("interior")[0][0], dtype=torch.float32)
    assert (exact_chain(lambda a: best - a, 50.0, 2).abs() == 1).float().mean() > 0.9
    assert (policy("qsm", "interior", m_q=50.0).abs() == 1).float().mean() > 0.9


def test_two_modes(policy):
    """QSM puts a fifth of its actions at least near each of the two optima; TD3 goes to one. Fails on a score policy that
    collapses, and on a deterministic one that ends between the modes."""
    m_q = 0.5
    print(f"M_q = {m_q}")
    actions, best = policy("qsm", "two-modes", m_q=m_q), toy.optimum("two-modes")[0][:, 0]
    near = [(actions - mode).abs().lt(0.3).float().mean().item() for mode in best]
    assert min(near) > 0.2, near
    single = policy("td3", "two-modes")
    assert share("two-modes", single) > 0.9
    assert sum((single - mode).abs().lt(0.15).all().item() for mode in best) == 1
