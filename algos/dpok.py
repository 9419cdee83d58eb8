"""Policy gradient on the denoising chain with a KL penalty to a pretrained model, after DPOK (Fan et al. 2023,
arXiv 2305.16381), for the samplers of Gao, Zha, Zhou (2024, arXiv 2409.04832).

The transition of the sampler is the policy: y' ~ N(y + (f y + g^2 s) dt, g^2 dt I), s(t, y) the fine-tuned score. With
R = beta h(y_T) and a pretrained score s_pre, the objective is

    E R - E sum_i g^2 |s - s_pre|^2 dt  =  E R - 2 E sum_i KL(p(. | y_i) || p_pre(. | y_i)),

DPOK's with alpha / beta_DPOK = beta / 2, whose optimum is p_pre exp(beta h / 2): the trade-off of `algos.ctq`, with s_pre in
the place of the score. Its gradient has two parts: that of a step's own penalty at the visited state, and the score function
of each transition times what follows it, R less the penalties of the steps to come. DPOK leaves the latter penalties out
(`penalty_to_go=false`), whose fixed point is s_pre + grad E[R | y] / 2, tilted too far, in place of s_pre + grad J* / 2. The
official code's value baseline is kept, and its ratio clip as PPO's minimum of both terms (official: the clipped one alone); its
buffer of old transitions is not.

The model is pretrained here, in the first updates, by regression on the environment's estimates of the score at the states
that its own chains visit. Few such updates make the bad pretrained model of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from algos.agent import Agent, Phase, Rollout, Trajectories, require, require_choice, require_widths, uniform
from algos.layers import ACTIVATIONS
from algos.optimizer import Adam, polyak
from algos.score import ScoreNetwork, ValueNetwork, dynamics_of, split


@dataclass(frozen=True)
class Config:
    actor_hidden: tuple[int, ...] = (64, 64)  # of both scores; as in ctq
    critic_hidden: tuple[int, ...] = (64, 64)  # of the baseline V(t, y)
    activation: str = "tanh"
    init: str = "xavier"
    envs: int = 256  # trajectories in an update (ours; DPOK's are 10 images a round)
    epochs: int = 5  # updates on the same trajectories (paper: 5)
    pretrain: int = 200  # updates of pretraining; few make a bad model
    pretrain_steps: int = 5  # Adam steps in each of them
    pretrain_lr: float = 3e-3
    actor_lr: float = 1e-3  # Adam (the paper's 1e-5 is that of a large model)
    critic_lr: float = 3e-3
    ppo_clip: float = 0.1  # of each step's density ratio (official 1e-4, for densities averaged over a large image)
    kl_weight: float = 1.0  # of g^2 |s - s_pre|^2 dt, beside R; 1: the trade-off of ctq
    penalty_to_go: bool = True  # take later steps' penalties off R, as the objective's gradient does (ours); DPOK: false
    ema: float = 0.99  # decay of the averaged score that evaluation plays, as in ctq; 0: the score itself

    def __post_init__(self) -> None:
        for name in ("actor_hidden", "critic_hidden"):
            require_widths(name, getattr(self, name))
        require_choice("activation", self.activation, ACTIVATIONS)
        require_choice("init", self.init, ("xavier", "torch"))
        require(self.envs >= 2, "envs", self.envs, "2 or more")
        for name in ("epochs", "pretrain_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("pretrain", "pretrain_lr", "actor_lr", "critic_lr", "kl_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        if self.pretrain % self.epochs:  # a rollout under the model before its last pretraining has another anchor
            require(False, "pretrain", self.pretrain, f"a multiple of epochs ({self.epochs})")
        require(self.ppo_clip > 0, "ppo_clip", self.ppo_clip, "a positive number")
        require(0 <= self.ema < 1, "ema", self.ema, "a decay in [0, 1)")


class DPOK(Agent):
    Config = Config
    bounded_actions = False
    home = "generation/gmm1d"

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c, self.dynamics = config, dynamics_of(spec, type(self).__name__)
        found = self.dynamics.sampler
        require(found == "sde", "env.sampler", found, "sde for DPOK: a chain without noise has no density")
        self.data = Rollout(spec.horizon, c.envs, c.epochs, gamma=1.0, infos=("score", "terminal_reward"))
        self.phases = (
            Phase("pretrain_model", stop=c.pretrain),
            Phase("critic", start=c.pretrain),
            Phase("policy", start=c.pretrain),
            Phase("average"),
        )
        score = (spec, c.actor_hidden, c.activation, generator, c.init)
        self.pretrained = ScoreNetwork(*score).to(self.device)
        self.actor = ScoreNetwork(*score).to(self.device)
        self.averaged = ScoreNetwork(*score).to(self.device).requires_grad_(False)
        for network in (self.actor, self.averaged):
            network.load_state_dict(self.pretrained.state_dict())
        self.baseline = ValueNetwork(spec, c.critic_hidden, c.activation, generator, c.init).to(self.device)
        self.pretrained_optimizer = Adam(self.pretrained, c.pretrain_lr)
        self.actor_optimizer = Adam(self.actor, c.actor_lr)
        self.critic_optimizer = Adam(self.baseline, c.critic_lr)

    def draws(self, phase, n):
        return {"pretrain_model": {"order": uniform(n)}}.get(phase, {})

    # -- losses ------------------------------------------------------------------------------------------------------
    def score_loss(self, obs: Tensor, estimate: Tensor) -> Tensor:
        """E sigma^2 |s_pre - estimate|^2: the weight of denoising score matching, under which all times count alike."""
        return (self.dynamics.sigma2(split(obs)[0]) * (self.pretrained(obs) - estimate).square()).sum(dim=1).mean()

    def log_ratio(self, batch: Trajectories, score: Tensor) -> Tensor:
        """log p(y' | y) under `score` [L N, d] less that under the score that was played, [L N]."""
        obs, next_obs = batch.obs.flatten(0, 1), batch.next_obs.flatten(0, 1)
        (t, y), dt = split(obs), self.dynamics.dt
        g2, moved = self.dynamics.g2(t), split(next_obs)[1] - y - self.dynamics.f(t) * y * dt
        played = batch.action.flatten(0, 1)
        squares = (moved - g2 * dt * played).square() - (moved - g2 * dt * score).square()
        return (squares / (2 * g2 * dt)).sum(dim=1)

    def penalty(self, obs: Tensor, score: Tensor) -> Tensor:
        """g^2 |s - s_pre|^2 dt [B], twice the KL divergence of a step."""
        with torch.no_grad():
            anchor = self.pretrained(obs)
        return self.dynamics.dt * self.dynamics.g2(split(obs)[0]).squeeze(1) * (score - anchor).square().sum(dim=1)

    def to_go(self, batch: Trajectories) -> Tensor:
        """What follows each transition, [L N]: R of its trajectory, less the weighted penalties of later steps as played; all
        that less its mean over the trajectories at each time, which the baseline then need not learn (ours)."""
        reward = batch.kept["terminal_reward"].float().sum(dim=0).expand_as(batch.reward)
        if self.config.penalty_to_go:
            penalty = batch.kept["penalty"]
            reward = reward - self.config.kl_weight * (penalty.sum(dim=0) - penalty.cumsum(dim=0))
        return (reward - reward.mean(dim=1, keepdim=True)).flatten()

    # -- phases ------------------------------------------------------------------------------------------------------
    def pretrain_model(self, batch, noise):
        obs, estimate = batch.obs.flatten(0, 1), batch.kept["score"].float().flatten(0, 1).view(-1, self.spec.act_dim)
        for part in noise["order"].argsort().chunk(self.config.pretrain_steps):
            loss = self.score_loss(obs[part], estimate[part])
            self.pretrained_optimizer.minimise(loss)
        polyak(self.actor, self.pretrained, 1.0)
        return {"score_loss": loss.detach()}

    def critic(self, batch, noise):
        target = self.to_go(batch)
        value = self.baseline(batch.obs.flatten(0, 1))
        loss = (value - target).square().mean()
        self.critic_optimizer.minimise(loss)
        return {"critic_loss": loss.detach(), "final_reward": batch.kept["terminal_reward"].float().sum(dim=0)}

    def policy(self, batch, noise):
        c, obs = self.config, batch.obs.flatten(0, 1)
        with torch.no_grad():
            advantage = self.to_go(batch) - self.baseline(obs)
        score = self.actor(obs)
        ratio = self.log_ratio(batch, score).exp()
        gain = torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - c.ppo_clip, 1 + c.ppo_clip))
        penalty = self.penalty(obs, score)
        loss = (c.kl_weight * penalty - gain).mean()
        self.actor_optimizer.minimise(loss)
        return {"actor_loss": loss.detach(), "penalty": penalty.detach(), "ratio": ratio.detach()}

    def average(self, batch, noise):
        polyak(self.averaged, self.actor, 1 - self.config.ema)
        return {}

    # -- acting ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(self, obs, noise: Mapping[str, Tensor], mode):
        """The score itself in every mode (the sampler adds the noise); `own` is the averaged one."""
        return (self.averaged if mode == "own" else self.actor)(obs)

    @torch.no_grad()
    def explore(self, obs, noise):
        """Keeps the step's penalty; after pretraining its anchor does not move, so that all epochs can use it."""
        action = self.act(obs, noise, "explore")
        return action, {"penalty": self.penalty(obs, action)}

    @torch.no_grad()
    def value(self, obs, action):
        """V(t, y), but for a function of time, less the step's weighted penalty."""
        return self.baseline(obs) - self.config.kl_weight * self.penalty(obs, action)
