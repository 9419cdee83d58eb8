"""Diffusion-QL (Wang, Hunt & Zhou 2023, arXiv 2208.06193), online: the critic is maximised through the whole chain.

The actor's gradient is backpropagated through all T denoising steps, so its cost grows with T. Defaults are the
benchmark's; conf/algo/dql_official.yaml holds the official (offline) trainer's values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.agent import Agent, Batch, Phase, integers, normal, require, uniform
from algos.diffusion import DiffusionConfig, overshoot
from algos.networks import TwinCritic
from algos.optimizer import Adam, cosine_decay, polyak


@dataclass(frozen=True)
class Config(DiffusionConfig):
    bc: float = 0.0  # weight of the behaviour-cloning loss on replay actions (paper, offline: 1; online it ties to the past)
    eta: float = 1.0  # weight of the Q loss, after its normalisation by the other critic (paper: per task, gym 1)
    ema: float = 0.995  # decay of the averaged actor, which acts in the target (official 0.995)
    ema_every: int = 1  # updates between two averagings (official 5)
    ema_start: int = 0  # first update that averages (official 1000)
    bound_penalty: float = 0.1  # weight of the squared overshoot of the chain's last draw beyond [-1, 1] (ours); 0: official
    max_q_actions: int = 1  # actions per next state, the largest target value is used (official 10 on antmaze); 1: off
    candidates: int = 1  # actions drawn when acting, one picked by softmax of Q (official 50); 1: off
    actor_decay_updates: int = 0  # cosine decay of the actor's learning rate to 0; 0: constant

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.bc >= 0, "bc", self.bc, "0 or more")
        require(self.eta >= 0, "eta", self.eta, "0 or more")
        require(self.bound_penalty >= 0, "bound_penalty", self.bound_penalty, "0 (off) or more")
        require(0 <= self.ema < 1, "ema", self.ema, "a decay in [0, 1)")
        for name in ("ema_every", "max_q_actions", "candidates"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("ema_start", "actor_decay_updates"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


class DiffusionQL(Agent):
    Config = Config

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c = config
        self.phases = (Phase("critic"), Phase("actor"), Phase("average", c.ema_every, c.ema_start), Phase("target"))
        self.data, self.chain = self.replay_need(), c.chain()
        twin = (spec.obs_dim, spec.act_dim, c.critic_hidden, c.critic_activation)
        self.predictor = c.predictor(spec, generator).to(self.device)
        self.averaged = c.predictor(spec, generator).to(self.device).requires_grad_(False)
        self.averaged.load_state_dict(self.predictor.state_dict())
        self.critics = TwinCritic(*twin, generator, c.init).to(self.device)
        self.target_critics = TwinCritic(*twin, generator, c.init).to(self.device).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.actor_optimizer = Adam(self.predictor, c.actor_lr, c.grad_clip)
        self.critic_optimizer = Adam(self.critics, c.critic_lr, c.grad_clip)

    def draws(self, phase, n):
        a, c = self.spec.act_dim, self.config
        chain = self.chain.draws(n, a)
        cloning = {"bc_t": integers(self.chain.steps, n), "bc_eps": normal(n, a)} if c.bc else {}
        picked = self.chain.draws(n * c.candidates, a) | ({"pick": uniform(n, c.candidates)} if c.candidates > 1 else {})
        return {
            "critic": self.chain.draws(n * c.max_q_actions, a),
            "actor": chain | cloning | {"coin": uniform(1)},
            "average": {},
            "target": {},
            "explore": picked | {"action": normal(n, a)},
            "own": picked,
            "sample": chain,
        }[phase]

    # -- losses ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def target_q(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """y = r + gamma min_i Q'_i(s', a'), a' a chain of the averaged actor; with the max-Q backup each Q'_i is first
        maximised over several a' (the official code's option)."""
        k = self.config.max_q_actions
        obs = batch.next_obs if k == 1 else batch.next_obs.repeat_interleave(k, dim=0)
        action = self.chain.sample(self.averaged, obs, noise)
        q = self.target_critics(obs, action).view(2, -1, k).amax(dim=2).amin(dim=0)
        return batch.reward + batch.discount * q, action

    def critic_loss(self, batch: Batch, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.critics(batch.obs, batch.action)
        return 2 * F.mse_loss(q, y.expand_as(q)), q  # the sum of the two mean squared errors

    def bc_loss(self, batch: Batch, noise: Mapping[str, Tensor]) -> Tensor:
        """Denoising loss of the replay actions (paper, eq. 2)."""
        noised, _ = self.chain.noised(batch.action, noise["bc_eps"], noise["bc_t"])
        return F.mse_loss(self.predictor(batch.obs, noised, noise["bc_t"]), noise["bc_eps"])

    def last_draw(self, batch: Batch, noise: Mapping[str, Tensor]) -> Tensor:
        """The end of a chain before its clip, with the gradient of the whole chain."""
        *_, (_t, _x, _mean, draw) = self.chain.walk(self.predictor, batch.obs, noise)
        return draw

    def q_loss(self, batch: Batch, noise: Mapping[str, Tensor], draw: Tensor) -> tuple[Tensor, Tensor]:
        """-mean Q_i(s, a) / mean |Q_j(s, a)| with a coin for i, j the other critic, a through the chain (paper, eq. 3)."""
        action = draw.clamp(-1, 1)
        first = noise["coin"] > 0.5
        member = (~first).long()  # a device tensor: the coin costs neither a host sync nor a second backward pass
        with torch.no_grad():
            scale = self.critics.one(1 - member, batch.obs, action).abs().mean()
        return -self.critics.one(member, batch.obs, action).mean() / scale, action

    # -- phases ------------------------------------------------------------------------------------------------------
    def schedule(self):
        self.actor_optimizer.lr = cosine_decay(self.config.actor_lr, self.updates, self.config.actor_decay_updates)

    def critic(self, batch, noise):
        y, next_actions = self.target_q(batch, noise)
        loss, q = self.critic_loss(batch, y)
        self.critic_optimizer.minimise(loss)
        return {"critic_loss": loss.detach(), "q": q.detach(), "target_q": y, "next_actions": next_actions}

    def actor(self, batch, noise):
        c = self.config
        draw = self.last_draw(batch, noise)
        q_loss, actions = self.q_loss(batch, noise, draw)
        loss, info = c.eta * q_loss, {"q_loss": q_loss.detach(), "actions": actions.detach()}
        if c.bound_penalty:
            bound_loss = overshoot(draw).mean()
            loss, info["bound_loss"] = loss + c.bound_penalty * bound_loss, bound_loss.detach()
        if c.bc:
            bc_loss = self.bc_loss(batch, noise)
            loss, info["bc_loss"] = loss + c.bc * bc_loss, bc_loss.detach()
        self.actor_optimizer.minimise(loss)
        return info | {"actor_loss": loss.detach()}

    def average(self, batch, noise):
        polyak(self.averaged, self.predictor, 1 - self.config.ema)
        return {}

    def target(self, batch, noise):
        polyak(self.target_critics, self.critics, self.config.tau)
        return {}

    # -- acting ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(self, obs, noise, mode):
        if mode == "sample" or self.config.candidates == 1:
            action = self.chain.sample(self.predictor, obs, noise)
        else:
            action = self.pick(obs, noise)
        if mode == "explore":
            action = torch.add(action, noise["action"], alpha=self.config.explore_noise).clamp_(-1, 1)
        return action

    def pick(self, obs: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """One of several candidates with probability softmax of the smaller target value (official code), by the Gumbel
        trick, so that the choice is a function of the noise."""
        k = self.config.candidates
        repeated = obs.repeat_interleave(k, dim=0)
        candidates = self.chain.sample(self.predictor, repeated, noise)
        gumbel = -torch.log(-torch.log(noise["pick"].clamp(1e-20, 1 - 1e-7)))
        best = (self.value(repeated, candidates).view(-1, k) + gumbel).argmax(dim=1)
        return candidates.view(len(obs), k, -1)[torch.arange(len(obs), device=obs.device), best]

    @torch.no_grad()
    def value(self, obs, action):
        return self.target_critics(obs, action).amin(dim=0)
