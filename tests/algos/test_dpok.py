"""DPOK on the denoising chain: densities of the sampler's own steps, the penalty is twice their divergence, its phases."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import envs
from algos.agent import Trajectories, sample
from algos.dpok import DPOK, Config
from bench.synthetic import random_data

SPEC = envs.make("generation/gmm1d", 0)[1]


def make(**settings) -> DPOK:
    agent = DPOK(SPEC, Config(**{"envs": 4} | settings), torch.Generator().manual_seed(0))
    other = DPOK(SPEC, Config(**{"envs": 4} | settings), torch.Generator().manual_seed(1))
    agent.actor.load_state_dict(other.actor.state_dict())  # away from the pretrained one
    return agent


def steps_of(agent, obs, score):
    """The sampler's transition at obs [B, 2] under score [B, 1], written out."""
    t, y = obs[:, :1], obs[:, 1:]
    d = agent.dynamics
    return Normal(y + (d.f(t) * y + d.g2(t) * score) * d.dt, (d.g2(t) * d.dt).sqrt())


def test_the_ratio_is_that_of_the_samplers_densities():
    """Fails for a drift without f, a variance of g^2, or dt left out."""
    agent = make()
    batch = random_data(agent, torch.Generator().manual_seed(2))
    batch = batch._replace(obs=batch.obs.abs() + 0.05, next_obs=batch.obs.abs() + 0.1)
    obs, after = batch.obs.flatten(0, 1), batch.next_obs.flatten(0, 1)[:, 1:]
    with torch.no_grad():
        score = agent.actor(obs)
        now, then = steps_of(agent, obs, score), steps_of(agent, obs, batch.action.flatten(0, 1))
        wanted = (now.log_prob(after) - then.log_prob(after)).sum(dim=1)
        torch.testing.assert_close(agent.log_ratio(batch, score), wanted, atol=1e-3, rtol=1e-3)


def test_the_penalty_is_twice_the_divergence_of_a_step():
    agent = make()
    obs = torch.rand(6, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    with torch.no_grad():
        score, anchor = agent.actor(obs), agent.pretrained(obs)
        wanted = 2 * kl_divergence(steps_of(agent, obs, score), steps_of(agent, obs, anchor)).sum(dim=1)
        torch.testing.assert_close(agent.penalty(obs, score), wanted, atol=1e-5, rtol=1e-4)


def test_pretraining_leads_and_then_stays_behind():
    """While it lasts the model that acts is the pretrained one; afterwards the pretrained one never moves."""
    agent, generator = make(pretrain=2, epochs=1), torch.Generator().manual_seed(3)
    for update in range(4):
        before = [p.clone() for p in agent.pretrained.parameters()]
        noise = {phase.name: sample(agent.draws(phase.name, agent.data.batch_size), generator) for phase in agent.due()}
        agent.update(random_data(agent, generator), noise)
        moved = any(not torch.equal(a, b) for a, b in zip(before, agent.pretrained.parameters(), strict=True))
        pairs = zip(agent.actor.parameters(), agent.pretrained.parameters(), strict=True)
        assert moved == (update < 2)
        assert all(torch.equal(a, b) for a, b in pairs) == (update < 2)


def rolled_out(agent, n: int, h, generator):
    """(the objective E R - w E sum of penalties, differentiable through the chain; the same trajectories as a batch)."""
    d, rows, kept, penalties = agent.dynamics, [], [], 0.0
    y = torch.randn(n, 1, generator=generator)
    for i in range(d.steps):
        obs = torch.cat([torch.full((n, 1), d.time * (d.steps - i) / d.steps), y], dim=1)
        score, t = agent.actor(obs), obs[:, :1]
        kept.append(agent.explore(obs.detach(), {})[1]["penalty"])
        penalties = penalties + d.g2(t)[:, 0] * (score - agent.pretrained(obs)).square().sum(dim=1) * d.dt
        y = y + (d.f(t) * y + d.g2(t) * score) * d.dt + (d.g2(t) * d.dt).sqrt() * torch.randn(n, 1, generator=generator)
        rows.append((obs, score, torch.zeros(n), torch.ones(n), torch.cat([t - d.dt, y], dim=1), torch.zeros(n)))
    batch = Trajectories(*(torch.stack(part).detach() for part in zip(*rows, strict=True)), kept={})
    terminal = torch.zeros(d.steps, n)
    terminal[-1] = h(y.detach())
    batch = batch._replace(kept={"terminal_reward": terminal, "penalty": torch.stack(kept)})
    return (h(y) - agent.config.kl_weight * penalties).mean(), batch


def test_what_follows_a_step_is_the_reward_less_the_penalties_of_later_steps():
    """By hand, of three steps of two trajectories. Fails where a step's own penalty, which its loss has, counts again."""
    penalty = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
    kept = {"terminal_reward": torch.tensor([[0.0, 0.0], [0.0, 0.0], [10.0, 20.0]]), "penalty": penalty}
    batch = Trajectories(*[torch.zeros(3, 2)] * 6, kept=kept)
    found = make(envs=2, kl_weight=0.5).to_go(batch).view(3, 2)  # 0 0 | 2 4 | 10 20, less the mean of each row
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [-1.0, 1.0], [-5.0, 5.0]]))


def test_of_several_actions_the_one_nearest_to_the_anchor_is_worth_most():
    agent, obs = make(kl_weight=3.0), torch.rand(6, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    with torch.no_grad():
        anchor = agent.pretrained(obs)
    loss = agent.value(obs, anchor) - agent.value(obs, anchor + 0.5)
    torch.testing.assert_close(loss, 3.0 * agent.dynamics.g2(obs[:, 0]) * agent.dynamics.dt * 0.25, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"f_start": 0.2, "f_end": 3.0, "time": 1.6}])
def test_the_policys_gradient_is_that_of_the_objective(settings):
    """Against derivatives through the chain itself; DPOK's, without the penalties to come, is another."""
    spec, off = envs.make("generation/gmm1d", 0, steps=4, **settings)[1], {}
    for to_go in (True, False):
        config = Config((8,), (8,), kl_weight=4.0, penalty_to_go=to_go)
        agent = DPOK(spec, config, torch.Generator().manual_seed(0))
        agent.actor.load_state_dict(DPOK(spec, config, torch.Generator().manual_seed(3)).actor.state_dict())
        objective, batch = rolled_out(agent, 100_000, lambda y: -0.2 * (y[:, 0] - 1) ** 2, torch.Generator().manual_seed(1))
        exact = torch.cat([g.flatten() for g in torch.autograd.grad(objective, list(agent.actor.parameters()))])
        agent.policy(batch, {})
        found = -spec.horizon * torch.cat([g.flatten() for g in agent.actor_optimizer.grads])  # a mean over steps, minimised
        off[to_go] = float((found - exact).norm() / exact.norm())
    assert off[True] < 0.005
    assert off[False] > 0.03


def test_a_constant_in_the_reward_changes_nothing():
    """The mean of R is no matter of the baseline's network, however far it lies from 0."""
    ends = []
    for constant in (0.0, -400.0):
        agent, generator = make(pretrain=0), torch.Generator().manual_seed(4)
        for _ in range(3):
            batch = random_data(agent, generator)
            batch.kept["terminal_reward"][:-1] = 0.0
            batch.kept["terminal_reward"][-1] += constant
            agent.update(batch, {phase.name: {} for phase in agent.due()})
        ends.append([*agent.actor.parameters(), *agent.baseline.parameters()][:-1])  # V's constant is free
    for first, second in zip(*ends, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


def test_a_chain_without_noise_is_refused():
    spec = dataclasses.replace(SPEC, dynamics=dataclasses.replace(SPEC.dynamics, sampler="ode"))
    with pytest.raises(ValueError, match=r"env\.sampler='ode' is out of range: it takes sde for DPOK"):
        DPOK(spec, Config(), torch.Generator())
    for name, value in (("ppo_clip", 0.0), ("kl_weight", -1.0), ("epochs", 0), ("pretrain", -1), ("pretrain", 12)):
        with pytest.raises(ValueError, match=f"{name}={value!r} is out of range"):
            Config(**{name: value})


@pytest.mark.slow
def test_a_good_model_is_the_data_and_is_then_tilted(generated):
    """40 rollouts of pretraining reach the data, two do not; the tilt comes close to the best law, 2.2 from the data."""
    _, good, _ = generated(DPOK, Config(), beta=2.0, rollouts=40)
    _, bad, _ = generated(DPOK, Config(pretrain=10, actor_lr=0.0), beta=2.0, rollouts=40)
    assert good < 0.15
    assert bad > 3 * good
    best, data, reward = generated(DPOK, Config(), beta=2.0, rollouts=120)
    assert best < 0.15 < data  # 0.08; without the penalties to come 0.28
    assert reward > -0.6


def test_the_averaged_score_follows_by_one_minus_ema():
    agent = make(envs=4, ema=0.8)
    for parameter in agent.averaged.parameters():
        parameter.data.fill_(1.0)
    agent.average(None, {})
    for kept, parameter in zip(agent.averaged.parameters(), agent.actor.parameters(), strict=True):
        torch.testing.assert_close(kept, 0.8 * torch.ones_like(kept) + 0.2 * parameter)
