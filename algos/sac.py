"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905): tanh-Gaussian policy, twin critics, automatic temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from algos.agent import Agent, Batch, Phase, ReplayConfig, normal, require, require_choice
from algos.networks import GaussianPolicy, TwinCritic
from algos.optimizer import Adam, polyak


@dataclass(frozen=True)
class Config(ReplayConfig):
    temperature_lr: float = 3e-4  # Adam on log alpha
    initial_temperature: float = 1.0  # alpha at the start
    target_entropy_scale: float = 1.0  # target entropy = -scale * A (1: the paper; 0.5: official QSM's SAC baseline)
    critic_reduce: str = "min"  # of the critics in the actor's loss: min (paper) | mean (official QSM's baseline)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature_lr >= 0, "temperature_lr", self.temperature_lr, "0 (fixed temperature) or more")
        require(self.initial_temperature > 0, "initial_temperature", self.initial_temperature, "a positive number")
        least = -math.log(2)  # a uniform action has the entropy A log 2, and none has more
        scale = self.target_entropy_scale
        require(scale > least, "target_entropy_scale", scale, f"more than {least:.3f}, the scale of a uniform action")
        require_choice("critic_reduce", self.critic_reduce, ("min", "mean"))


class Temperature(nn.Module):
    """log alpha, a scalar parameter."""

    def __init__(self, initial: float):
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial)))


def tanh_gaussian(mean: Tensor, log_std: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """action = tanh(mean + std eps) [B, A] and its log-density [B].

    log(1 - tanh(u)^2) is taken as 2 (log 2 - u - softplus(-2u)), which is exact and stable where the usual
    log(1 - action^2 + 1e-6) is neither; they differ by 1e-4 at an absolute u of 3, 0.005 at 5 and more than a nat beyond 8.
    """
    u = torch.addcmul(mean, log_std.exp(), eps)
    normal_part = -0.5 * eps.square() - log_std - 0.5 * math.log(2 * math.pi)
    correction = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), (normal_part - correction).sum(dim=-1)


class SAC(Agent):
    Config = Config
    phases = (Phase("critic"), Phase("actor"), Phase("target"))

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c = config
        self.data, self.target_entropy = self.replay_need(), -c.target_entropy_scale * spec.act_dim
        twin = (spec.obs_dim, spec.act_dim, c.critic_hidden, c.critic_activation)
        policy = (spec.obs_dim, spec.act_dim, c.actor_hidden, c.actor_activation)
        self.policy = GaussianPolicy(*policy, generator, c.init).to(self.device)
        self.critics = TwinCritic(*twin, generator, c.init).to(self.device)
        self.target_critics = TwinCritic(*twin, generator, c.init).to(self.device).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.temperature = Temperature(c.initial_temperature).to(self.device)
        self.actor_optimizer = Adam(self.policy, c.actor_lr, c.grad_clip)
        self.critic_optimizer = Adam(self.critics, c.critic_lr, c.grad_clip)
        self.temperature_optimizer = Adam(self.temperature, c.temperature_lr)

    def draws(self, phase, n):
        eps = {"eps": normal(n, self.spec.act_dim)}
        return {"critic": eps, "actor": eps, "target": {}, "explore": eps, "own": {}, "sample": eps}[phase]

    # -- losses ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def target_q(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """y = r + gamma (min_i Q'_i(s', a') - alpha log pi(a'|s')). With n-step returns the entropy terms of the steps
        between are left out (a deviation from the soft return)."""
        action, log_prob = tanh_gaussian(*self.policy(batch.next_obs), noise["eps"])
        soft = self.target_critics(batch.next_obs, action).amin(dim=0) - self.temperature.log_alpha.exp() * log_prob
        return batch.reward + batch.discount * soft, action

    def critic_loss(self, batch: Batch, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.critics(batch.obs, batch.action)
        return F.mse_loss(q, y.expand_as(q)), q  # half the sum of the two mean squared errors

    def actor_loss(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """alpha log pi(a|s) - min Q(s, a) [] (arXiv 1812.05905, eq. 7), its actions [B, A] and their log-densities [B]."""
        action, log_prob = tanh_gaussian(*self.policy(batch.obs), noise["eps"])
        q = self.critics.frozen(batch.obs, action)
        q = q.amin(dim=0) if self.config.critic_reduce == "min" else q.mean(dim=0)
        return (self.temperature.log_alpha.detach().exp() * log_prob - q).mean(), action, log_prob

    def temperature_loss(self, log_prob: Tensor) -> Tensor:
        """-log alpha (log pi + target entropy) [], as implementations have it; the paper has -alpha (eq. 18). log_prob [B]."""
        return -self.temperature.log_alpha * (log_prob.detach() + self.target_entropy).mean()

    # -- phases ------------------------------------------------------------------------------------------------------
    def critic(self, batch, noise):
        y, next_actions = self.target_q(batch, noise)
        loss, q = self.critic_loss(batch, y)
        self.critic_optimizer.minimise(loss)
        return {"critic_loss": loss.detach(), "q": q.detach(), "target_q": y, "next_actions": next_actions}

    def actor(self, batch, noise):
        loss, actions, log_prob = self.actor_loss(batch, noise)
        self.actor_optimizer.minimise(loss)
        temperature_loss = self.temperature_loss(log_prob)
        alpha = self.temperature.log_alpha.detach().exp()
        self.temperature_optimizer.minimise(temperature_loss)
        return {
            "actor_loss": loss.detach(),
            "temperature_loss": temperature_loss.detach(),
            "temperature": alpha,
            "actions": actions.detach(),
            "entropy": -log_prob.detach(),
        }

    def target(self, batch, noise):
        polyak(self.target_critics, self.critics, self.config.tau)
        return {}

    # -- acting ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(self, obs, noise, mode):
        mean, log_std = self.policy(obs)
        return torch.tanh(mean if mode == "own" else torch.addcmul(mean, log_std.exp(), noise["eps"]))

    @torch.no_grad()
    def value(self, obs, action):
        return self.target_critics(obs, action).amin(dim=0)
