"""Diffusion-QL: the gradient through the chain, the target's actor, and the choice among candidates."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from algos.diffusion import overshoot


def as_double(noise):
    return {name: x.double() if x.is_floating_point() else x for name, x in noise.items()}


@pytest.mark.parametrize("kernel", ["ddpm", "posterior"])
@pytest.mark.parametrize("coin", [0.2, 0.9])
def test_the_gradient_through_the_chain(make_agent, make_batch, draw, kernel, coin):
    """Against central differences in float64. Fails on a detached step, a coin that picks the same critic for both parts,
    a normalisation that is differentiated, or a clip that passes a gradient."""
    agent = make_agent("dql", kernel=kernel)
    agent.predictor.double(), agent.critics.double()
    batch = type(make_batch())(*(x.double() for x in make_batch(64)))
    noise = as_double(draw(agent, "actor", 64)) | {"coin": torch.tensor([coin], dtype=torch.float64)}
    parameters, g = list(agent.predictor.parameters()), torch.Generator().manual_seed(0)

    def parts():
        end = agent.last_draw(batch, noise)
        loss, action = agent.q_loss(batch, noise, end)
        first, second = agent.critics(batch.obs, action)
        maximised, other = (first, second) if coin > 0.5 else (second, first)
        return loss, maximised.mean().detach(), other.abs().mean().detach(), overshoot(end).mean()

    loss, value, scale, beyond = parts()
    assert loss.item() == pytest.approx(-(value / scale).item())
    grads = [torch.autograd.grad(x, parameters, retain_graph=True) for x in (loss, beyond)]
    for _ in range(5):
        direction = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in parameters]
        ends = []
        for step in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=step)
                ends.append(parts())
        plus, minus = ends[0], ends[1]
        slopes = [sum((a * d).sum() for a, d in zip(grad, direction, strict=True)).item() for grad in grads]
        assert slopes[0] == pytest.approx(-((plus[1] - minus[1]) / 2e-6 / scale).item(), rel=1e-4, abs=1e-6)
        assert slopes[1] == pytest.approx(((plus[3] - minus[3]) / 2e-6).item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kernel", ["ddpm", "posterior"])
@pytest.mark.parametrize("name", ["dql", "pg"])
def test_a_saturated_policy_can_come_back(make_agent, make_batch, update, name, kernel):
    """With every draw far outside the box nothing but the penalty has a gradient there. Fails if it is left out."""

    def actions_after(**settings):
        agent, batch = make_agent(name, actor_lr=1e-2, critic_lr=0.0, kernel=kernel, **settings), make_batch(64)
        with torch.no_grad():
            agent.predictor.body.biases[-1].fill_(-20.0)
        for seed in range(300):
            info = update(agent, batch, seed)
            inside = (info["actions"].abs() < 1).float().mean()
            if inside > 0.1:
                break
        return inside

    assert actions_after() > 0.1
    assert actions_after(bound_penalty=0.0) == 0


def test_the_target_acts_with_the_averaged_actor_and_backs_up_the_largest_value(make_agent, make_batch, draw):
    """Fails on the online actor in the target, on min before max, or on actions grouped with the wrong state."""
    agent, batch = make_agent("dql", max_q_actions=3), make_batch(32)
    agent.averaged.load_state_dict(make_agent("dql", seed=5).predictor.state_dict())
    agent.target_critics.load_state_dict(make_agent("dql", seed=6).critics.state_dict())
    with torch.no_grad():
        agent.target_critics.biases[-1].copy_(-agent.target_critics(batch.obs, batch.action).mean(1)[:, None, None])
    noise, wanted, wrong = draw(agent, "critic", 32), [], []
    for i in range(32):
        rows = slice(3 * i, 3 * i + 3)
        obs, own = batch.next_obs[i].expand(3, -1), {"x_T": noise["x_T"][rows], "z": noise["z"][:, rows]}
        q = agent.target_critics(obs, agent.chain.sample(agent.averaged, obs, own))
        wanted.append(batch.reward[i] + 0.99 * q.max(dim=1).values.min())
        wrong.append(batch.reward[i] + 0.99 * q.min(dim=0).values.max())
    wanted, wrong = torch.stack(wanted).detach(), torch.stack(wrong).detach()
    assert (wanted - wrong).abs().max() > 1e-2
    torch.testing.assert_close(agent.target_q(batch, noise)[0], wanted)


def test_the_actor_s_rate_decays_and_its_average_begins_late_and_moves_seldom(make_agent, make_batch, update):
    agent = make_agent("dql", actor_decay_updates=4, actor_lr=1.0, ema_start=1, ema_every=3)
    rates, averaged = [], []
    for seed in range(5):
        before = [p.clone() for p in agent.averaged.parameters()]
        update(agent, make_batch(4), seed)
        rates.append(agent.actor_optimizer.lr)
        averaged.append(not all(map(torch.equal, before, agent.averaged.parameters())))
    assert rates == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0])
    assert averaged == [False, True, False, False, True]


def test_candidates_are_picked_by_softmax_of_q(make_agent, draw):
    """Frequencies against exp(Q)/sum exp(Q) of each state. Fails on an argmax, a temperature, or candidates of other states."""
    n, k = 30_000, 3
    agent = make_agent("dql", obs_dim=1, act_dim=1, candidates=k)
    obs = torch.tensor([0.0, 100.0]).repeat(n // 2)[:, None]
    offsets, values = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, -1.0, 1.5])
    agent.chain = SimpleNamespace(sample=lambda predictor, states, noise: states + offsets.repeat(n)[:, None])
    agent.value = lambda states, action: values[(action - states).long().squeeze(-1)] * (states.squeeze(-1) / 100)
    noise = {"pick": torch.rand(n, k, generator=torch.Generator().manual_seed(0))}
    chosen = agent.pick(obs, noise) - obs
    for state, probability in ((0.0, torch.full((k,), 1 / 3)), (100.0, values.softmax(0))):
        picks = chosen[obs == state].long()
        found = picks.bincount(minlength=k) / len(picks)
        assert ((found - probability).abs() < 4 * (probability * (1 - probability) / len(picks)).sqrt()).all()


def test_the_cloning_loss_is_the_denoising_loss_of_replay_actions(make_agent, make_batch, draw):
    """Fails if it is taken at the actor's own actions, with the wrong step, or left out of the actor's loss."""
    agent, batch = make_agent("dql", bc=2.0, eta=0.5), make_batch(16)
    noise = draw(agent, "actor", 16)
    bar = torch.tensor(agent.chain.alpha_bar)[noise["bc_t"]][:, None]
    noised = bar.sqrt() * batch.action + (1 - bar).sqrt() * noise["bc_eps"]
    wanted = (agent.predictor(batch.obs, noised, noise["bc_t"]) - noise["bc_eps"]).square().mean()
    info = agent.actor(batch, noise)
    assert info["bc_loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    total = 0.5 * info["q_loss"] + 2.0 * info["bc_loss"] + 0.1 * info["bound_loss"]
    assert info["actor_loss"].item() == pytest.approx(total.item(), rel=1e-5)
