"""SAC's density and temperature; TD3's delay and smoothing."""

from __future__ import annotations

import math

import pytest
import torch

from algos.sac import tanh_gaussian


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.5), (-2.0, 0.5), (4.0, 0.0)])
def test_the_density_of_an_action_integrates_to_one(mean, log_std):
    """Over actions, and over pairs of actions; the mean action by the density is that of samples. Fails on a wrong sign or
    factor of tanh's log-determinant, a density of u instead of a, or a mean over dimensions for the sum."""
    eps = torch.linspace(-9, 9, 40_001, dtype=torch.float64)[:, None]
    of = [torch.full_like(eps, value) for value in (mean, log_std)]
    action, log_prob = tanh_gaussian(*of, eps)
    density, a = log_prob.exp(), action.squeeze(1)
    assert torch.trapezoid(density, a).item() == pytest.approx(1, abs=1e-6)
    weight = torch.exp(-0.5 * eps.squeeze(1) ** 2) / math.sqrt(2 * math.pi)
    assert torch.trapezoid(density * a, a).item() == pytest.approx(torch.trapezoid(weight * a, eps.squeeze(1)).item(), abs=1e-6)
    pair = torch.cat([eps, 0.3 * eps], dim=1)
    _, joint = tanh_gaussian(of[0].expand(-1, 2), of[1].expand(-1, 2), pair)
    torch.testing.assert_close(joint, log_prob + tanh_gaussian(*of, 0.3 * eps)[1])


def test_the_density_is_exact_far_from_the_origin():
    """In float32 at |u| = 15, where 1 - tanh(u)^2 is 0. Fails on the log(1 - a^2 + 1e-6) form, which is off by 15 there."""
    for u in (15.0, -15.0):
        found = tanh_gaussian(torch.tensor([[u]]), torch.zeros(1, 1), torch.zeros(1, 1))[1]
        wanted = -0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 15)
        assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_sac_evaluates_by_the_tanh_of_its_mean(make_agent):
    """Fails on the mean clipped to the bounds, and on the mean of the squashed actions."""
    agent, obs = make_agent("sac"), torch.randn(8, 3, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        agent.policy.body.biases[-1][:, :2] = torch.tensor([0.7, -1.5])
        torch.testing.assert_close(agent.act(obs, {}, "own"), torch.tanh(agent.policy(obs)[0]))


@pytest.mark.parametrize(("scale", "direction"), [(0.0, 1), (20.0, -1)])
def test_the_temperature_follows_the_entropy(make_agent, make_batch, update, scale, direction):
    """It falls where the entropy is above its target and rises where it is below. Fails on the target's or the loss's sign."""
    agent = make_agent("sac", target_entropy_scale=scale, temperature_lr=1e-2)
    with torch.no_grad():
        agent.policy.body.biases[-1][:, 2:] = -2.0  # entropy about -1.2 for two dimensions: between -40 and 0
    info = update(agent, make_batch(64))
    assert -40 < info["entropy"].mean() < 0
    assert agent.temperature.log_alpha.item() == pytest.approx(direction * 1e-2, rel=1e-3)


def test_td3_delays_the_actor_and_all_targets(make_agent, make_batch, update):
    """Delay 3: they move at the third update and at the sixth, the critics at every one. Fails on targets that move at once,
    or a delay counted from the first update."""
    agent, batch = make_agent("td3", delay=3), make_batch()

    def state():
        return {name: [p.clone() for p in net.parameters()] for name, net in agent.networks().items()}

    for number in range(1, 7):
        before = state()
        update(agent, batch, number)
        moved = {name for name, now in state().items() if any(map(torch.ne, map(torch.sum, now), map(torch.sum, before[name])))}
        late = {"policy", "target_policy", "target_critics"} if number % 3 == 0 else set()
        assert moved == {"critics"} | late


def test_td3_smooths_its_target_within_bounds(make_agent, make_batch):
    """clip(mu' + clip(0.2 xi, +-0.5), +-1). Fails on an unclipped noise, an unclipped sum, or the online actor."""
    agent, batch = make_agent("td3"), make_batch(4)
    agent.target_policy.load_state_dict(make_agent("td3", seed=4).policy.state_dict())
    noise = torch.tensor([[1.0, -1.0], [2.4, -2.6], [30.0, -30.0], [0.0, 5.0]])
    _, action = agent.target_q(batch, {"action": noise})
    wanted = agent.target_policy(batch.next_obs) + torch.tensor([[0.2, -0.2], [0.48, -0.5], [0.5, -0.5], [0.0, 0.5]])
    torch.testing.assert_close(action, wanted.clamp(-1, 1).detach())
