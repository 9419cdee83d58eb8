"""TD3 (Fujimoto, van Hoof & Meger 2018, arXiv 1802.09477): target policy smoothing, delayed actor, clipped double Q."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.agent import Agent, Batch, Phase, ReplayConfig, normal, require
from algos.networks import DeterministicPolicy, TwinCritic
from algos.optimizer import Adam, polyak


@dataclass(frozen=True)
class Config(ReplayConfig):
    delay: int = 2  # critic updates per actor and target update (paper 2)
    target_noise: float = 0.2  # std of the target policy's smoothing noise (paper 0.2)
    target_noise_clip: float = 0.5  # its bound (paper 0.5)
    explore_noise: float = 0.1  # std of the noise added to behaviour actions, clipped (paper 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.delay >= 1, "delay", self.delay, "1 or more")
        for name in ("target_noise", "target_noise_clip", "explore_noise"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


class TD3(Agent):
    Config = Config

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c = config
        delayed = {"every": c.delay, "start": c.delay - 1}
        self.phases = (Phase("critic"), Phase("actor", **delayed), Phase("target", **delayed))
        self.data = self.replay_need()
        twin = (spec.obs_dim, spec.act_dim, c.critic_hidden, c.critic_activation)
        policy = (spec.obs_dim, spec.act_dim, c.actor_hidden, c.actor_activation)
        self.policy = DeterministicPolicy(*policy, generator, c.init).to(self.device)
        self.target_policy = DeterministicPolicy(*policy, generator, c.init).to(self.device).requires_grad_(False)
        self.target_policy.load_state_dict(self.policy.state_dict())
        self.critics = TwinCritic(*twin, generator, c.init).to(self.device)
        self.target_critics = TwinCritic(*twin, generator, c.init).to(self.device).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.actor_optimizer = Adam(self.policy, c.actor_lr, c.grad_clip)
        self.critic_optimizer = Adam(self.critics, c.critic_lr, c.grad_clip)

    def draws(self, phase, n):
        action = {"action": normal(n, self.spec.act_dim)}
        return {"critic": action, "actor": {}, "target": {}, "explore": action, "own": {}, "sample": action}[phase]

    # -- losses ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def target_q(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """y = r + gamma min_i Q'_i(s', clip(mu'(s') + clip(0.2 xi, -0.5, 0.5))) (paper, Alg. 1)."""
        limit = self.config.target_noise_clip
        smoothing = (self.config.target_noise * noise["action"]).clamp_(-limit, limit)
        action = (self.target_policy(batch.next_obs) + smoothing).clamp_(-1, 1)
        return batch.reward + batch.discount * self.target_critics(batch.next_obs, action).amin(dim=0), action

    def critic_loss(self, batch: Batch, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.critics(batch.obs, batch.action)
        return 2 * F.mse_loss(q, y.expand_as(q)), q  # the sum of the two mean squared errors

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        action = self.policy(batch.obs)
        return -self.critics.one(0, batch.obs, action).mean(), action

    # -- phases ------------------------------------------------------------------------------------------------------
    def critic(self, batch, noise):
        y, next_actions = self.target_q(batch, noise)
        loss, q = self.critic_loss(batch, y)
        self.critic_optimizer.minimise(loss)
        return {"critic_loss": loss.detach(), "q": q.detach(), "target_q": y, "next_actions": next_actions}

    def actor(self, batch, noise):
        loss, actions = self.actor_loss(batch)
        self.actor_optimizer.minimise(loss)
        return {"actor_loss": loss.detach(), "actions": actions.detach()}

    def target(self, batch, noise):
        polyak(self.target_critics, self.critics, self.config.tau)
        polyak(self.target_policy, self.policy, self.config.tau)
        return {}

    # -- acting ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(self, obs, noise, mode):
        """mode `sample` is the behaviour distribution: the policy plus its exploration noise."""
        action = self.policy(obs)
        if mode == "own":
            return action
        return torch.add(action, noise["action"], alpha=self.config.explore_noise).clamp_(-1, 1)

    @torch.no_grad()
    def value(self, obs, action):
        return self.target_critics(obs, action).amin(dim=0)
