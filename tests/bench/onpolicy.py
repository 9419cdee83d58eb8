"""An agent on rollouts for the tests: proximal policy optimisation (arXiv 1707.06347), with minibatches and what it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from algos.agent import Agent, Phase, Rollout, normal, require, uniform
from algos.networks import MLP
from algos.optimizer import Adam


@dataclass(frozen=True)
class Config:
    actor_hidden: tuple[int, ...] = (32, 32)
    critic_hidden: tuple[int, ...] = (32, 32)
    envs: int = 16
    length: int = 32
    epochs: int = 4
    minibatches: int = 4
    gamma: float = 0.95
    gae_lambda: float = 0.95
    ppo_clip: float = 0.2
    lr: float = 3e-3

    def __post_init__(self) -> None:
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "a value in [0, 1]")


class PPO(Agent):
    Config = Config
    phases = (Phase("both"),)

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c = config
        self.data = Rollout(c.length, c.envs, c.epochs, self.gamma)
        self.actor = MLP([spec.obs_dim], [*c.actor_hidden, spec.act_dim], "tanh", generator)
        self.critic = MLP([spec.obs_dim], [*c.critic_hidden, 1], "tanh", generator)
        self.actor_optimizer, self.critic_optimizer = Adam(self.actor, c.lr), Adam(self.critic, c.lr)

    def draws(self, phase, n):
        eps = {"eps": normal(n, self.spec.act_dim)}
        return {"both": {"order": uniform(n)}, "explore": eps, "own": {}, "sample": eps}[phase]

    std = 0.3

    def log_prob(self, obs, draw):
        z = (draw - self.actor(obs)) / self.std
        return (-0.5 * z.square() - math.log(self.std) - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    @torch.no_grad()
    def advantage(self, batch):
        """Generalised advantage estimation (arXiv 1506.02438); a time limit bootstraps, and ends the trace."""
        value, after = (self.critic(obs.flatten(0, 1)).view(obs.shape[:2]) for obs in (batch.obs, batch.next_obs))
        delta = batch.reward + batch.discount * after - value
        advantage, trace = torch.empty_like(delta), torch.zeros_like(delta[0])
        for i in reversed(range(len(delta))):
            trace = delta[i] + batch.discount[i] * self.config.gae_lambda * trace.masked_fill(batch.ended[i], 0.0)
            advantage[i] = trace
        return advantage.flatten(), (advantage + value).flatten()

    def both(self, batch, noise):
        advantage, target = self.advantage(batch)
        scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        flat, c = {name: value.flatten(0, 1) for name, value in batch.kept.items()}, self.config
        obs = batch.obs.flatten(0, 1)
        for part in noise["order"].argsort().chunk(c.minibatches):
            ratio = (self.log_prob(obs[part], flat["draw"][part]) - flat["log_prob"][part]).exp()
            clipped = ratio.clamp(1 - c.ppo_clip, 1 + c.ppo_clip)
            actor_loss = -torch.minimum(ratio * scaled[part], clipped * scaled[part]).mean()
            self.actor_optimizer.minimise(actor_loss)
            critic_loss = (self.critic(obs[part]).squeeze(-1) - target[part]).square().mean()
            self.critic_optimizer.minimise(critic_loss)
        return {"actor_loss": actor_loss.detach(), "critic_loss": critic_loss.detach(), "ratio": ratio.detach()}

    @torch.no_grad()
    def explore(self, obs, noise):
        draw = self.actor(obs) + self.std * noise["eps"]
        return draw.clamp(-1, 1), {"draw": draw, "log_prob": self.log_prob(obs, draw)}

    def act(self, obs, noise, mode):
        if mode != "own":
            return self.explore(obs, noise)[0]
        with torch.no_grad():
            return self.actor(obs).clamp(-1, 1)

    @torch.no_grad()
    def value(self, obs, action):
        return self.critic(obs).squeeze(-1) + self.log_prob(obs, action)
