"""The diffusion policy gradient: REINFORCE over the denoising chain with a learned critic (eq. 9 of arXiv 2312.11752).

    grad J = E_s E_chain [ sum_k grad log p_theta(a^{k-1} | a^k, s) Q(s, a^0) ]

Chains are drawn afresh from the current policy at replay states and treated as data; only the density is differentiated.
The kernel whose density is taken is exactly the one that was sampled: its mean sees the clipped previous state (the clip
is part of the mean), the draw itself is not clipped in the density, and sigma has the same floor in both. Only the
environment and the critic see clip(a^0).

Bias: states come from the replay buffer, that is from a mixture of past policies, and not from the discounted occupancy of
the current one; and Q is learned. So this is the off-policy gradient of Degris et al. (2012), not that of the return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.agent import Agent, Batch, Phase, normal, require, require_choice
from algos.diffusion import DiffusionConfig, log_density, overshoot
from algos.networks import TwinCritic
from algos.optimizer import Adam, polyak


@dataclass(frozen=True)
class Config(DiffusionConfig):
    sigma_min: float = 0.1  # floor on every sigma_t, in sampling and in the density (DPPO 0.1); the last step has no other
    chains: int = 4  # chains drawn per state
    baseline: bool = True  # subtract the mean Q of the state's other chains (unbiased); false: Q itself, as eq. 9
    critic_reduce: str = "min"  # of the two critics: min | mean
    bound_penalty: float = 0.1  # weight of the last draw's squared overshoot beyond [-1, 1], taken off its Q (ours); 0: eq. 9
    epochs: int = 1  # actor steps per batch of chains (DDPO, DPPO: several, with ppo_clip)
    # clip of the per-step density ratio (DDPO 1e-4, DPPO 0.01-0.1, of densities averaged over dimensions; ours are summed);
    # 0: no clip
    ppo_clip: float = 0.0
    denoising_discount: float = 1.0  # weight^t of step t: earlier (noisier) steps count less (DPPO 0.99); 1: eq. 9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.sigma_min > 0, "sigma_min", self.sigma_min, "a positive floor (without noise there is no density)")
        require(self.chains >= (2 if self.baseline else 1), "chains", self.chains, "1 or more, 2 or more with a baseline")
        require_choice("critic_reduce", self.critic_reduce, ("mean", "min"))
        require(self.bound_penalty >= 0, "bound_penalty", self.bound_penalty, "0 (off) or more")
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.epochs == 1 or self.ppo_clip > 0, "epochs", self.epochs, "1 unless ppo_clip is positive")
        require(self.ppo_clip >= 0, "ppo_clip", self.ppo_clip, "0 (off) or more")
        require(0 < self.denoising_discount <= 1, "denoising_discount", self.denoising_discount, "a value in (0, 1]")


class Chains(NamedTuple):
    """Sampled chains, row r at t = T-1-r. state, draw [T, n, A] (detached); log_prob [T, n] (differentiable)."""

    state: Tensor
    draw: Tensor
    log_prob: Tensor

    @property
    def action(self) -> Tensor:
        return self.draw[-1].clamp(-1, 1)


class DiffusionPG(Agent):
    Config = Config
    phases = (Phase("critic"), Phase("actor"), Phase("target"))

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c = config
        self.data, self.chain = self.replay_need(), c.chain(c.sigma_min)
        twin = (spec.obs_dim, spec.act_dim, c.critic_hidden, c.critic_activation)
        self.predictor = c.predictor(spec, generator).to(self.device)
        self.critics = TwinCritic(*twin, generator, c.init).to(self.device)
        self.target_critics = TwinCritic(*twin, generator, c.init).to(self.device).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.actor_optimizer = Adam(self.predictor, c.actor_lr, c.grad_clip)
        self.critic_optimizer = Adam(self.critics, c.critic_lr, c.grad_clip)

    def draws(self, phase, n):
        a = self.spec.act_dim
        chain = self.chain.draws(n, a)
        return {
            "critic": chain,
            "actor": self.chain.draws(n * self.config.chains, a),
            "target": {},
            "explore": chain | {"action": normal(n, a)},
            "own": chain,
            "sample": chain,
        }[phase]

    # -- losses ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def target_q(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """y = r + gamma min_i Q'_i(s', a'), a' a chain of the current policy."""
        action = self.chain.sample(self.predictor, batch.next_obs, noise)
        return batch.reward + batch.discount * self.target_critics(batch.next_obs, action).amin(dim=0), action

    def critic_loss(self, batch: Batch, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.critics(batch.obs, batch.action)
        return 2 * F.mse_loss(q, y.expand_as(q)), q  # the sum of the two mean squared errors

    def sample_chains(self, obs: Tensor, noise: Mapping[str, Tensor]) -> Chains:
        """Chains for obs [n, S], with their log-densities from the same forward passes."""
        states, draws, log_probs = [], [], []
        for t, x, mean, draw in self.chain.walk(self.predictor, obs, noise, detach=True):
            states.append(x)
            draws.append(draw)
            log_probs.append(log_density(draw, mean, self.chain.sigma(t)))
        return Chains(torch.stack(states), torch.stack(draws), torch.stack(log_probs))

    def log_prob(self, obs: Tensor, chains: Chains) -> Tensor:
        """log p_theta(a^{k-1} | a^k, s) [T, n] of given chains under the current parameters, as one batch."""
        steps = list(range(self.chain.steps - 1, -1, -1))
        shared = self.predictor.state_part(obs)[None] + self.predictor.time_part().flip(0)[:, None]
        eps = self.predictor.predict(chains.state.flatten(0, 1), shared.flatten(0, 1)).view_as(chains.state)
        means = [self.chain.mean(x, e, t) for x, e, t in zip(chains.state, eps, steps, strict=True)]
        densities = zip(chains.draw, means, steps, strict=True)
        return torch.stack([log_density(draw, mean, self.chain.sigma(t)) for draw, mean, t in densities])

    @torch.no_grad()
    def advantage(self, obs: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Q(s, clip(a^0)) less the penalty on what a^0 = draw [n, A] overshoots, and less the mean of that over the state's
        other chains if a baseline is asked for [n]; and Q itself."""
        q = self.critics(obs, draw.clamp(-1, 1))
        q = q.amin(dim=0) if self.config.critic_reduce == "min" else q.mean(dim=0)
        gain, m = q - self.config.bound_penalty * overshoot(draw), self.config.chains
        if not self.config.baseline:
            return gain, q
        per_state = gain.view(-1, m)
        return ((per_state - per_state.mean(dim=1, keepdim=True)) * (m / (m - 1))).flatten(), q

    def actor_loss(self, log_prob: Tensor, old: Tensor | None, advantage: Tensor) -> Tensor:
        """-sum_k weight_k log p_k A, whose gradient is eq. 9; or PPO's clipped per-step ratio against `old` densities."""
        c = self.config
        if old is None:
            gain = log_prob * advantage
        else:
            ratio = (log_prob - old).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(1 - c.ppo_clip, 1 + c.ppo_clip) * advantage)
        if c.denoising_discount < 1:
            weight = [c.denoising_discount**t for t in range(self.chain.steps - 1, -1, -1)]
            gain = torch.stack([g * w for g, w in zip(gain, weight, strict=True)])
        return -gain.sum(dim=0).mean()

    # -- phases ------------------------------------------------------------------------------------------------------
    def critic(self, batch, noise):
        y, next_actions = self.target_q(batch, noise)
        loss, q = self.critic_loss(batch, y)
        self.critic_optimizer.minimise(loss)
        return {"critic_loss": loss.detach(), "q": q.detach(), "target_q": y, "next_actions": next_actions}

    def actor(self, batch, noise):
        c = self.config
        obs = batch.obs.repeat_interleave(c.chains, dim=0)
        chains = self.sample_chains(obs, noise)
        advantage, q = self.advantage(obs, chains.draw[-1])
        old = chains.log_prob.detach() if c.ppo_clip else None
        loss = first = self.actor_loss(chains.log_prob, old, advantage)
        self.actor_optimizer.minimise(loss)
        for _ in range(c.epochs - 1):
            loss = self.actor_loss(self.log_prob(obs, chains), old, advantage)
            self.actor_optimizer.minimise(loss)
        return {
            "actor_loss": first.detach(),
            "actions": chains.action,
            "policy_q": q,
            "log_density": chains.log_prob.detach(),
        }

    def target(self, batch, noise):
        polyak(self.target_critics, self.critics, self.config.tau)
        return {}

    # -- acting ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(self, obs, noise, mode):
        action = self.chain.sample(self.predictor, obs, noise)
        if mode == "explore":
            action = torch.add(action, noise["action"], alpha=self.config.explore_noise).clamp_(-1, 1)
        return action

    @torch.no_grad()
    def value(self, obs, action):
        return self.target_critics(obs, action).amin(dim=0)
