"""The noise schedules and the reverse chain, against recorded numbers and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from algos.diffusion import KERNELS, LEAST_LINEAR, MOST_BETA, SCHEDULES, Chain, betas, log_density, overshoot

# The official QSM chain at T = 5, from its formulas in float64; t = 0..4.
BETA = [0.19587, 0.45882, 0.63578, 0.75488, 0.83503]
ALPHA_BAR = [0.80413, 0.43518, 0.15850, 0.03885, 0.00641]
EPS_FACTOR = [0.4935, 0.8299, 1.1484, 1.5552, 2.0625]
X_FACTOR = [1.1152, 1.3593, 1.6570, 2.0198, 2.4621]
SIGMA = [0.0, 0.6774, 0.7974, 0.8688, 0.9138]


class Linear(nn.Module):
    """eps = x W + s + b_t, by hand."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = torch.tensor([[0.3, -0.2], [0.1, 0.4]]), torch.linspace(-1, 1, 10).view(5, 2)

    def state_part(self, obs):
        return obs

    def time_part(self):
        return self.bias

    def predict(self, x, shared):
        return x @ self.weight + shared


def noise(n, act_dim, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {"x_T": torch.randn(n, act_dim, generator=g), "z": torch.randn(steps, n, act_dim, generator=g)}


def test_vp_schedule():
    """Fails on (2t+1) for (2t-1), t counted from 0, or a product of betas."""
    chain = Chain("vp", 5)
    np.testing.assert_allclose(chain.beta, BETA, atol=5.1e-6)
    np.testing.assert_allclose(chain.alpha_bar, ALPHA_BAR, atol=5.1e-6)


def test_reverse_chain():
    """Fails on steps in the wrong order, noise at the last step, posterior variance, or a clip left out or put elsewhere."""
    predictor, draws = Linear(), noise(500, 2, 4)
    obs = torch.linspace(-1, 1, 1000).view(500, 2)
    x, clipped = draws["x_T"].numpy(), 0
    for row, t in enumerate((4, 3, 2, 1, 0)):
        eps = x @ predictor.weight.numpy() + obs.numpy() + predictor.bias[t].numpy()
        x = X_FACTOR[t] * x - EPS_FACTOR[t] * eps + (SIGMA[t] * draws["z"][row].numpy() if t else 0)
        clipped += (np.abs(x) > 1).mean() / 5
        x = np.clip(x, -1, 1)
    found = Chain("vp", 5).sample(predictor, obs, draws).numpy()
    assert 0.1 < clipped < 0.9
    np.testing.assert_allclose(found, x, atol=2e-3)  # four digits a coefficient


CHAINS = [(*chain, steps) for chain in itertools.product(SCHEDULES, KERNELS) for steps in (1, 5, LEAST_LINEAR)
          if chain[0] != "linear" or steps == LEAST_LINEAR]  # fmt: skip


def test_the_linear_schedule_is_not_cut_but_at_its_end():
    """Fails if a chain is taken whose first draws would be next to nothing but noise times a thousand."""
    assert [beta == MOST_BETA for beta in betas("linear", LEAST_LINEAR)] == [*[False] * (LEAST_LINEAR - 1), True]
    assert betas("linear", LEAST_LINEAR - 1)[-2:] == [MOST_BETA] * 2
    with pytest.raises(ValueError, match="T=5 is out of range: it takes 19 or more with schedule=linear"):
        Chain("linear", 5)


@pytest.mark.parametrize(("schedule", "kernel", "steps"), CHAINS)
def test_one_reverse_step_undoes_one_forward_step(schedule, kernel, steps):
    """With the true noise, the kernel takes q(x_t | x_0) to q(x_t-1 | x_0): sqrt(bar') x_0 exactly in the mean, 1 - bar' in
    the variance (ddpm's sigma is sqrt(beta), larger on purpose). Fails on a wrong coefficient or an index off by one."""
    chain = Chain(schedule, steps, kernel)
    for t in range(steps):
        bar, before = chain.alpha_bar[t], chain.alpha_bar[t - 1] if t else 1.0
        one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        x0 = 0.9 * one
        mean = chain.mean(bar**0.5 * x0, none, t)
        assert mean.item() == pytest.approx(before**0.5 * 0.9, abs=1e-9)
        of_noise = chain.mean((1 - bar) ** 0.5 * one, one, t).item()  # x_0 = 0, eps = 1
        if kernel == "posterior":
            assert of_noise**2 + chain.sigma(t) ** 2 == pytest.approx(1 - before, abs=1e-9)
        else:
            assert chain.sigma(t) == pytest.approx(chain.beta[t] ** 0.5 if t else 0.0)
        limited = chain.mean(none, 100 * one, t)
        if kernel == "posterior":
            clipped = limited.abs() <= before**0.5 + 1e-9
            assert clipped == (t > 0), "the x0-prediction is clipped, but for the last step's, which its draw's clip limits"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_forward_noising_moments(schedule):
    """Mean and variance are those of T single steps x <- sqrt(1-beta) x + sqrt(beta) z. Fails on alpha_bar without its
    root, an index off by one, or a clip of the noised action."""
    chain, action, n = Chain(schedule, LEAST_LINEAR), 0.7, 100_000
    mean, variance = action, 0.0
    for t in range(LEAST_LINEAR):
        mean, variance = mean * (1 - chain.beta[t]) ** 0.5, variance * (1 - chain.beta[t]) + chain.beta[t]
        eps = torch.randn(n, 1, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        x, sigma = chain.noised(torch.full_like(eps, action), eps, torch.full((n,), t))
        assert abs(x.mean() - mean) < 4 * (variance / n) ** 0.5
        assert abs(x.var() / variance - 1) < 4 * (2 / n) ** 0.5
        assert sigma[0].item() == pytest.approx(variance**0.5, rel=1e-6)


def test_a_zero_noise_predictor_lies_on_the_bound_two_times_in_three():
    """67 % of each dimension at T = 5. Fails on a missing clip after each step, on sigma, or on the factor of x."""
    predictor, n = Linear(), 100_000
    predictor.weight, predictor.bias = torch.zeros(2, 2), torch.zeros(5, 2)
    action = Chain("vp", 5).sample(predictor, torch.zeros(n, 2), noise(n, 2, 4))
    np.testing.assert_allclose((action.abs() == 1).float().mean(0), 0.67, atol=0.01)
    assert action.mean(0).abs().max() < 0.02


def test_the_floor_on_sigma_adds_noise_to_the_last_step():
    """Fails if the floor is missing from the draws, from the step at t = 0, or lowers a larger sigma."""
    chain = Chain("vp", 5, "ddpm", 0.2, sigma_min=0.15)
    assert [round(chain.sigma(t), 4) for t in range(5)] == [0.15] * 2 + [round(0.2 * SIGMA[t], 4) for t in (2, 3, 4)]
    assert chain.draws(7, 2)["z"].shape == (5, 7, 2)
    assert Chain("vp", 5).draws(7, 2)["z"].shape == (4, 7, 2)


def test_log_density():
    """Against torch's normal distribution. Fails on a mean over dimensions, or a missing log sigma."""
    draw, mean = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.distributions.Normal(mean, 0.3).log_prob(draw).sum(-1)
    torch.testing.assert_close(log_density(draw, mean, 0.3), wanted)


def test_overshoot():
    """Fails if a draw inside the box costs anything, or if the distance is not the Euclidean one."""
    draw = torch.tensor([[0.5, -1.0], [1.5, -3.0], [1.1, 0.0]])
    torch.testing.assert_close(overshoot(draw), torch.tensor([0.0, 4.25, 0.01]))
