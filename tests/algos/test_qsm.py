"""Q-score matching with critics whose gradient is known, and each of its options."""

from __future__ import annotations

import pytest
import torch

CENTRES = torch.tensor([[0.6, 0.3], [-0.6, -0.3]])


def linear(obs, action):
    return (action * obs[:, :2]).sum(-1)


def quadratic(obs, action):
    off = action - 0.5 * obs[:, :2]
    return -(off[:, 0] ** 2 + 0.5 * off[:, 1] ** 2 + 0.6 * off[:, 0] * off[:, 1])


def mixture(obs, action):
    """Log-density of two Gaussians of width 0.5 and different weight."""
    square = (action[:, None] - CENTRES).square().sum(-1)
    return torch.logsumexp(-square / 0.5 + torch.tensor([0.5, 0.0]), dim=-1)


class Analytic:
    """Stands for the critics in an actor's update."""

    def __init__(self, q):
        self.q = q

    def action_gradient(self, obs, action, reduce):
        with torch.enable_grad():
            action = action.detach().requires_grad_()
            return torch.autograd.grad(self.q(obs, action).sum(), action)[0]


@pytest.mark.parametrize(
    ("q", "settings"),
    [(linear, {"target_scale": "sigma"}), (quadratic, {}), (mixture, {}), (quadratic, {"gradient_at": "clean"})],
    ids=["linear-sigma", "quadratic", "mixture", "quadratic-clean"],
)
def test_the_noise_predictor_becomes_the_scaled_score(make_agent, make_batch, draw, q, settings):
    """R^2 >= 0.99 of eps_theta(s, a_t, t) against -M_q grad Q at every t on fresh data, and the logged alignment near 1.
    Fails on the sign, a missing M_q, the wrong place of the gradient, or noise and prediction at different steps."""
    steps, m_q = 1200, 3.0
    wide = {"actor_hidden": (64, 64), "time_hidden": (16, 16), "time_features": 16}
    agent = make_agent("qsm", m_q=m_q, actor_lr=5e-3, actor_decay_updates=steps, **wide, **settings)
    agent.critics = Analytic(q)
    n = 256
    for step in range(steps):
        agent.updates = step
        agent.schedule()
        info = agent.actor(make_batch(n, seed=step), draw(agent, "actor", n, seed=step))
    clean = settings.get("gradient_at") == "clean"
    alignment = agent.diagnose(info)["alignment"]
    assert alignment > (0.5 if clean else 0.98)  # at the clean action the target is a random number given a_t

    batch, eps = make_batch(4000, seed=-1), draw(agent, "actor", 4000, seed=-1)["eps"]
    for t in range(5):
        bar = agent.chain.alpha_bar[t]
        noised = bar**0.5 * batch.action + (1 - bar) ** 0.5 * eps
        if clean:  # the regression's optimum is E[-M_q grad Q(a_0) | a_t]; for a quadratic Q that is at E[a_0 | a_t]
            at = posterior_mean(noised, bar)
        else:
            at = noised
        wanted = -m_q * Analytic(q).action_gradient(batch.obs, at, "mean")
        wanted = wanted * (1 - bar) ** 0.5 if settings.get("target_scale") == "sigma" else wanted
        with torch.no_grad():
            found = agent.predictor(batch.obs, noised, torch.full((4000,), t))
        r2 = 1 - (found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
        assert r2 >= 0.99, f"R^2 {r2:.4f} at t={t}"


def posterior_mean(noised, bar):
    """E[a_0 | a_t] for a_0 uniform on [-1, 1], dimension by dimension."""
    grid = torch.linspace(-1, 1, 401)
    log_weight = -((noised[..., None] - bar**0.5 * grid) ** 2) / (2 * (1 - bar))
    return (log_weight.softmax(-1) * grid).sum(-1)


def test_the_target_of_the_regression(make_agent, make_batch, draw):
    """Every option by hand. Fails on the sign, on the wrong action, on another critic's gradient, or on sigma^2."""
    batch = make_batch(64)
    for reduce in ("mean", "min"):
        for at in ("noised", "clean"):
            for scale in ("none", "sigma"):
                agent = make_agent("qsm", critic_reduce=reduce, gradient_at=at, target_scale=scale, m_q=7.0)
                noise = draw(agent, "actor", 64)
                bar = torch.tensor(agent.chain.alpha_bar)[noise["t"]][:, None]
                noised = bar.sqrt() * batch.action + (1 - bar).sqrt() * noise["eps"]
                action = (noised if at == "noised" else batch.action).clone().requires_grad_()
                q = agent.critics(batch.obs, action)
                value = q.mean(0) if reduce == "mean" else q.min(0).values
                gradient = torch.autograd.grad(value.sum(), action)[0]
                wanted = -7.0 * gradient * ((1 - bar).sqrt() if scale == "sigma" else 1)
                found, x, _ = agent.score_target(batch, noise)
                torch.testing.assert_close(x, noised)
                torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_the_target_s_action_has_noise_of_its_own(make_agent, make_batch, draw):
    """Fails on the behaviour's noise in its place."""
    agent, batch = make_agent("qsm", target_noise=0.3, explore_noise=0.0), make_batch(16)
    noise = draw(agent, "critic", 16)
    _, action = agent.target_q(batch, noise)
    plain = agent.chain.sample(agent.predictor, batch.next_obs, noise).detach()
    torch.testing.assert_close(action, (plain + 0.3 * noise["action"]).clamp(-1, 1))


def test_behaviour_stops_early_and_evaluation_does_not(make_agent, make_batch, draw):
    """explore_stop ends the behaviour's chain two steps early. Fails if it changes evaluation, or stops at another step."""
    agent, obs = make_agent("qsm", explore_stop=2, explore_noise=0.2), make_batch(64).obs
    noise = draw(agent, "explore", 64)
    x, chain = noise["x_T"], agent.chain
    with torch.no_grad():
        for row, t in enumerate((4, 3, 2)):
            eps = agent.predictor(obs, x, torch.full((64,), t))
            x = (chain.mean(x, eps, t) + chain.sigma(t) * noise["z"][row]).clamp(-1, 1)
        wanted = (x + 0.2 * noise["action"]).clamp(-1, 1)
    torch.testing.assert_close(agent.act(obs, noise, "explore"), wanted)
    full = make_agent("qsm")
    for mode in ("own", "sample"):
        assert torch.equal(agent.act(obs, noise, mode), full.act(obs, noise, mode))


def test_the_actor_learning_rate_decays_along_a_cosine(make_agent, make_batch, update):
    """Fails on a decay that starts late, goes the wrong way or never ends; 0 keeps the rate."""
    agent, batch, rates = make_agent("qsm", actor_decay_updates=4, actor_lr=1.0), make_batch(4), []
    for seed in range(6):
        update(agent, batch, seed)
        rates.append(agent.actor_optimizer.lr)
    assert rates == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0, 0.0])
    constant = make_agent("qsm", actor_lr=1.0)
    update(constant, batch)
    update(constant, batch)
    assert constant.actor_optimizer.lr == 1.0
