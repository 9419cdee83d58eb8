"""The diffusion policy gradient (eq. 9) against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

STATES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
OPTIMUM = torch.tensor([0.5, -0.3], dtype=torch.float64)
CURVATURE = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
# Scales at which no draw comes near the clip at +-1, so that the chain is linear and Gaussian.
GAUSSIAN = {"temperature": 0.08, "sigma_min": 0.05}


class LinearPredictor(nn.Module):
    """eps_t = x W + s U + b_t in float64; W near the value at which the first step forgets where the chain began."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)

        def random(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        self.weight = nn.Parameter(1.19 * torch.eye(2, dtype=torch.float64) + 0.02 * random(2, 2))
        self.state = nn.Parameter(0.07 * random(2, 2))
        self.bias = nn.Parameter(0.07 * random(5, 2))

    def state_part(self, obs):
        return obs @ self.state

    def time_part(self):
        return self.bias

    def predict(self, x, shared):
        return x @ self.weight + shared


def critics(obs, action):
    """Two equal quadratic critics [2, B]. With the constant E[Q] is about 0, so that eq. 9 without a baseline gets by with
    a million draws."""
    off = action - OPTIMUM
    return (0.15 - 0.5 * ((off @ CURVATURE) * off).sum(-1)).expand(2, -1)


def expected_q(chain, weights, states, biases):
    """E[Q(a^0)] over STATES, the chain's Gaussian mean and covariance carried from step to step. One weight, state matrix
    and bias for each step t, so that a gradient can be told apart by the step it came through."""
    mean = torch.zeros_like(STATES)
    covariance = torch.eye(2, dtype=torch.float64)
    for t in range(4, -1, -1):
        root, factor = (1 - chain.beta[t]) ** 0.5, chain.beta[t] / (1 - chain.alpha_bar[t]) ** 0.5
        slope = (torch.eye(2, dtype=torch.float64) - factor * weights[t]) / root  # x_next = x slope - shift
        mean = mean @ slope - factor / root * (STATES @ states[t] + biases[t])
        sigma = max(0.08 * chain.beta[t] ** 0.5 if t else 0.0, 0.05)
        covariance = slope.T @ covariance @ slope + sigma**2 * torch.eye(2, dtype=torch.float64)
    off = mean - OPTIMUM
    return (0.15 - 0.5 * ((off @ CURVATURE) * off).sum(-1) - 0.5 * torch.trace(CURVATURE @ covariance)).mean()


def exact_gradient(agent, discount=1.0):
    """sum_t discount^t dE[Q]/d(parameters of step t), in the order of `LinearPredictor.parameters()`."""
    p = agent.predictor
    weights, states = ([x.detach().clone().requires_grad_() for _ in range(5)] for x in (p.weight, p.state))
    biases = [b.detach().clone().requires_grad_() for b in p.bias]
    grads = torch.autograd.grad(expected_q(agent.chain, weights, states, biases), [*weights, *states, *biases])
    scaled = [g * discount ** (i % 5) for i, g in enumerate(grads)]
    return torch.cat([sum(scaled[:5]).flatten(), sum(scaled[5:10]).flatten(), torch.stack(scaled[10:]).flatten()])


def gaussian_agent(make_agent, **settings):
    agent = make_agent("pg", obs_dim=2, **GAUSSIAN | settings)
    agent.predictor, agent.critics = LinearPredictor(), critics
    return agent


def double_noise(agent, n, g):
    shapes = agent.chain.draws(n, agent.spec.act_dim)
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, (shape, _, _) in shapes.items()}


def blocks_agree(blocks, exact, relative=0.02):
    """Mean of the blocks within 4 standard errors of `exact` in every component, the error small against the gradient."""
    blocks = torch.stack(blocks)
    error = blocks.std(0) / len(blocks) ** 0.5
    assert error.norm() < relative * exact.norm(), f"standard error {error.norm() / exact.norm():.3f} of the gradient"
    z = ((blocks.mean(0) - exact) / error).abs()
    assert z.max() < 4, f"{z.max():.1f} standard errors off: {blocks.mean(0)} against {exact}"


@pytest.mark.parametrize(
    "settings",
    [
        {"chains": 1, "baseline": False},
        {"chains": 4, "baseline": True},
        {"chains": 2, "baseline": True, "denoising_discount": 0.7},
        {"chains": 2, "baseline": True, "ppo_clip": 0.1},
    ],
    ids=["eq9", "baseline", "discount", "ppo"],
)
def test_the_estimator_is_the_gradient_of_expected_q(make_agent, settings):
    """Fails on: the step's input in place of its mean; a mean over steps or dimensions; another sigma in the density than in
    the draw; draws that are not detached; a baseline with the sample's own Q and no m/(m-1); the discount's powers reversed."""
    agent, g = gaussian_agent(make_agent, **settings), torch.Generator().manual_seed(0)
    obs, blocks = STATES.repeat_interleave(8000, dim=0), []
    for _ in range(40):
        chains = agent.sample_chains(obs, double_noise(agent, len(obs), g))
        assert chains.draw.abs().max() < 1, "the clip is active: the closed form does not hold"
        advantage, _ = agent.advantage(obs, chains.draw[-1])
        old = chains.log_prob.detach() if agent.config.ppo_clip else None
        loss = agent.actor_loss(chains.log_prob, old, advantage)
        blocks.append(torch.cat([-x.flatten() for x in torch.autograd.grad(loss, list(agent.predictor.parameters()))]))
    blocks_agree(blocks, exact_gradient(agent, agent.config.denoising_discount))


def test_finite_differences_of_sampled_chains_agree(make_agent):
    """E[Q] of `chain.sample` itself, by central differences with common random numbers. Fails if what acts is not what
    the density describes (no floor at the last step, another temperature)."""
    agent, g = gaussian_agent(make_agent), torch.Generator().manual_seed(0)
    obs, parameters = STATES.repeat_interleave(2000, dim=0), list(agent.predictor.parameters())
    direction = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in parameters]
    exact = torch.cat([d.flatten() for d in direction]) @ exact_gradient(agent)
    blocks, values = [], []
    for _ in range(20):
        noise, ends = double_noise(agent, len(obs), g), []
        for step in (1e-4, -2e-4, 1e-4):  # forth, back, and where it was
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=step)
                ends.append(critics(obs, agent.chain.sample(agent.predictor, obs, noise))[0].mean())
        blocks.append(((ends[0] - ends[1]) / 2e-4)[None])
        values.append(ends[2][None])
    blocks_agree(blocks, exact[None])
    p = agent.predictor
    expected = expected_q(agent.chain, [p.weight] * 5, [p.state] * 5, list(p.bias)).detach()[None]
    blocks_agree([value + 1 for value in values], expected + 1)  # E[Q] is near 0 here


@pytest.mark.parametrize("kernel", ["ddpm", "posterior"])
def test_the_score_has_mean_zero_where_clips_are_active(make_agent, kernel):
    """E[grad log p] = 0 for any true density. Fails if the density is taken of the clipped draw, or at an unclipped state."""
    agent = make_agent("pg", kernel=kernel, chains=1, baseline=False, actor_hidden=(4,), time_hidden=(4,), time_features=4)
    agent.predictor.double()
    g, parameters, blocks = torch.Generator().manual_seed(0), list(agent.predictor.parameters()), []
    obs, clipped = torch.zeros(5000, 3, dtype=torch.float64), 0.0
    for _ in range(40):
        chains = agent.sample_chains(obs, double_noise(agent, len(obs), g))
        clipped += (chains.draw.abs() > 1).double().mean() / 40
        loss = agent.actor_loss(chains.log_prob, None, torch.ones(len(obs), dtype=torch.float64))
        blocks.append(torch.cat([x.flatten() for x in torch.autograd.grad(loss, parameters)]))
    assert clipped > 0.2
    blocks = torch.stack(blocks)
    error = blocks.std(0) / len(blocks) ** 0.5
    moved = error > 0  # a weight from the observation 0 has no gradient
    assert (blocks.mean(0)[moved] / error[moved]).abs().max() < 5


@pytest.mark.parametrize("kernel", ["ddpm", "posterior"])
def test_log_prob_of_chains_is_the_one_from_sampling(make_agent, make_batch, draw, kernel):
    """In value and gradient. Fails on steps paired with the wrong time, or on a state after its step instead of before."""
    agent, obs = make_agent("pg", kernel=kernel), make_batch(16).obs
    chains = agent.sample_chains(obs, draw(agent, "own", 16))
    again = agent.log_prob(obs, chains)
    torch.testing.assert_close(again, chains.log_prob, atol=1e-4, rtol=1e-4)
    weights, parameters = torch.linspace(0, 1, again.numel()).view_as(again), list(agent.predictor.parameters())
    grads = [torch.autograd.grad((p * weights).sum(), parameters) for p in (again, chains.log_prob)]
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second, atol=1e-3 * float(second.abs().max()), rtol=1e-3)


def test_the_first_ppo_epoch_is_reinforce_and_the_clip_acts_by_sign(make_agent, make_batch, draw):
    """Fails on a ratio against the wrong densities, a maximum for the minimum, or one ratio for the whole chain."""
    agent, obs = make_agent("pg", ppo_clip=0.2, chains=1, baseline=False), make_batch(16).obs
    chains = agent.sample_chains(obs, draw(agent, "own", 16))
    advantage, parameters = torch.linspace(-2, 3, 16), list(agent.predictor.parameters())
    losses = [agent.actor_loss(chains.log_prob, old, advantage) for old in (chains.log_prob.detach(), None)]
    for first, second in zip(*(torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6 + 1e-5 * float(second.abs().max()), rtol=1e-5)

    # Ratios 2, 1/2 and 1 of a two-step chain's single steps, for a positive and a negative advantage.
    log_prob = torch.tensor([[2.0, 0.5, 2.0, 0.5], [1.0, 1.0, 1.0, 1.0]]).log().requires_grad_()
    loss = agent.actor_loss(log_prob, torch.zeros(2, 4), torch.tensor([1.0, 1.0, -1.0, -1.0]))
    assert loss.item() == pytest.approx(-(1.2 + 0.5 - 2.0 - 0.8 + 1 + 1 - 1 - 1) / 4)
    (grad,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(4 * grad, torch.tensor([[0.0, -0.5, 2.0, 0.0], [-1.0, -1.0, 1.0, 1.0]]))


def test_later_epochs_use_the_same_chains_and_the_clip_stops_them(make_agent, make_batch, draw):
    """Fails if epochs are ignored, if chains or old densities are taken afresh, or if the clip lets a policy run away."""
    moved = {}
    for epochs, clip in ((1, 1e-6), (30, 1e-6), (30, 10.0)):
        agent, batch = make_agent("pg", epochs=epochs, ppo_clip=clip, actor_lr=1e-4), make_batch(16)
        obs, noise = batch.obs.repeat_interleave(4, dim=0), draw(agent, "actor", 16)
        chains = agent.sample_chains(obs, noise)
        gain = agent.advantage(obs, chains.draw[-1])[0]
        agent.actor(batch, noise)
        moved[epochs, clip] = ((agent.log_prob(obs, chains) - chains.log_prob).sum(0) * gain).mean().item()
    assert moved[1, 1e-6] > 0
    assert moved[30, 10.0] > 5 * moved[1, 1e-6]
    assert moved[30, 10.0] > 3 * moved[30, 1e-6], moved


def test_the_critic_sees_the_clipped_action_and_the_penalty_only_what_lies_beyond(make_agent):
    """Fails if Q is taken at the raw draw, if the penalty reaches inside the box, or if it escapes the baseline."""
    draws = torch.tensor([[0.2, 0.4], [1.5, -0.5], [-1.0, 1.0], [3.0, -3.0]], dtype=torch.float64)
    agent = gaussian_agent(make_agent, chains=2, baseline=True, bound_penalty=0.5)
    q = critics(None, draws.clamp(-1, 1))[0]
    gain = q - 0.5 * torch.tensor([0.0, 0.25, 0.0, 8.0], dtype=torch.float64)
    advantage, logged = agent.advantage(STATES[:1], draws)
    torch.testing.assert_close(logged, q)
    torch.testing.assert_close(advantage, gain - gain[[1, 0, 3, 2]])


def test_target(make_agent, make_batch, draw):
    """y = r + gamma^k min Q'(s', chain(s')). Fails on online critics, the larger one, or an added exploration noise."""
    agent, batch, other = make_agent("pg"), make_batch(32), make_agent("pg", seed=9)
    agent.target_critics.load_state_dict(other.critics.state_dict())
    noise = draw(agent, "critic", 32)
    action = agent.chain.sample(agent.predictor, batch.next_obs, noise)
    q = torch.stack([other.critics.one(i, batch.next_obs, action) for i in (0, 1)])
    wanted = batch.reward + batch.discount * q.min(dim=0).values
    torch.testing.assert_close(agent.target_q(batch, noise)[0], wanted.detach())
