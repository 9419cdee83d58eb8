"""Q-score matching (Psenka et al. 2024, arXiv 2312.11752, Algorithm 1).

The noise predictor of a diffusion policy is regressed on the action gradient of the critics, so the actor's update does
not depend on the number of denoising steps. Defaults are the benchmark's; conf/algo/qsm_official.yaml holds the official
code's values, and docs/algorithms.md every deviation from the paper and from that code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from algos.agent import Agent, Batch, Phase, integers, normal, require, require_choice
from algos.diffusion import DiffusionConfig
from algos.networks import TwinCritic
from algos.optimizer import Adam, cosine_decay, polyak


@dataclass(frozen=True)
class Config(DiffusionConfig):
    m_q: float = 50.0  # M_q, the alpha of Algorithm 1: scale of the action gradient (official 50; 120 for quadruped)
    critic_reduce: str = "mean"  # of the two critics' gradients: mean (official) | min
    gradient_at: str = "noised"  # action at which the gradient is taken: noised a_t (official) | clean (replay action)
    target_scale: str = "none"  # none (official) | sigma: target times sqrt(1 - alpha_bar_t), so -eps/sigma is the score
    target_noise: float = 0.1  # std of the noise on the target's actions (official 0.1)
    explore_stop: int = 0  # behaviour chains end this many steps early (the paper's other way to explore); 0: full chain
    actor_decay_updates: int = 0  # cosine decay of the actor's learning rate to 0 (official 2,000,000); 0: constant

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.m_q > 0, "m_q", self.m_q, "a positive number")
        require_choice("critic_reduce", self.critic_reduce, ("mean", "min"))
        require_choice("gradient_at", self.gradient_at, ("noised", "clean"))
        require_choice("target_scale", self.target_scale, ("none", "sigma"))
        require(self.target_noise >= 0, "target_noise", self.target_noise, "0 or more")
        require(0 <= self.explore_stop < self.T, "explore_stop", self.explore_stop, f"0 to T-1={self.T - 1}")
        require(self.actor_decay_updates >= 0, "actor_decay_updates", self.actor_decay_updates, "0 (constant) or more")


class QSM(Agent):
    Config = Config
    phases = (Phase("critic"), Phase("target"), Phase("actor"))

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c = config
        self.data, self.chain = self.replay_need(), c.chain()
        twin = (spec.obs_dim, spec.act_dim, c.critic_hidden, c.critic_activation)
        self.predictor = c.predictor(spec, generator).to(self.device)
        self.critics = TwinCritic(*twin, generator, c.init).to(self.device)
        self.target_critics = TwinCritic(*twin, generator, c.init).to(self.device).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.actor_optimizer = Adam(self.predictor, c.actor_lr, c.grad_clip)
        self.critic_optimizer = Adam(self.critics, c.critic_lr, c.grad_clip)

    def draws(self, phase, n):
        a, chain = self.spec.act_dim, self.chain.draws(n, self.spec.act_dim)
        return {
            "critic": chain | {"action": normal(n, a)},
            "target": {},
            "actor": {"t": integers(self.chain.steps, n), "eps": normal(n, a)},
            "explore": chain | {"action": normal(n, a)},
            "own": chain,
            "sample": chain,
        }[phase]

    # -- losses ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def target_q(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """y = r + gamma min_i Q'_i(s', a'), a' = clip(chain(s') + 0.1 xi); the chain is the current policy's."""
        sampled = self.chain.sample(self.predictor, batch.next_obs, noise)
        action = torch.add(sampled, noise["action"], alpha=self.config.target_noise).clamp_(-1, 1)
        y = batch.reward + batch.discount * self.target_critics(batch.next_obs, action).amin(dim=0)
        return y, action

    def critic_loss(self, batch: Batch, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.critics(batch.obs, batch.action)
        return 2 * F.mse_loss(q, y.expand_as(q)), q  # the sum of the two mean squared errors

    def score_target(self, batch: Batch, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What eps_theta(s, a_t, t) is regressed on: -M_q grad_a Q(s, a_t) (Alg. 1; after eq. 11, with the DDPM sign)."""
        noised, sigma = self.chain.noised(batch.action, noise["eps"], noise["t"])
        at = noised if self.config.gradient_at == "noised" else batch.action
        gradient = self.critics.action_gradient(batch.obs, at, self.config.critic_reduce)
        target = gradient * -self.config.m_q
        return (target * sigma if self.config.target_scale == "sigma" else target), noised, gradient

    def actor_loss(self, batch: Batch, noise: Mapping[str, Tensor], noised: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        eps = self.predictor(batch.obs, noised, noise["t"])
        return F.mse_loss(eps, target), eps

    # -- phases ------------------------------------------------------------------------------------------------------
    def schedule(self):
        self.actor_optimizer.lr = cosine_decay(self.config.actor_lr, self.updates, self.config.actor_decay_updates)

    def critic(self, batch, noise):
        y, next_actions = self.target_q(batch, noise)
        loss, q = self.critic_loss(batch, y)
        self.critic_optimizer.minimise(loss)
        return {"critic_loss": loss.detach(), "q": q.detach(), "target_q": y, "next_actions": next_actions}

    def target(self, batch, noise):
        polyak(self.target_critics, self.critics, self.config.tau)
        return {}

    def actor(self, batch, noise):
        target, noised, gradient = self.score_target(batch, noise)
        loss, eps = self.actor_loss(batch, noise, noised, target)
        self.actor_optimizer.minimise(loss)
        return {"actor_loss": loss.detach(), "eps": eps.detach(), "action_gradient": gradient}

    # -- acting ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(self, obs, noise, mode):
        if mode != "explore":
            return self.chain.sample(self.predictor, obs, noise)
        action = self.chain.sample(self.predictor, obs, noise, stop=self.config.explore_stop)
        return torch.add(action, noise["action"], alpha=self.config.explore_noise).clamp_(-1, 1)

    @torch.no_grad()
    def value(self, obs, action):
        return self.target_critics(obs, action).amin(dim=0)

    def diagnose(self, info):
        """Adds `alignment`, the cosine of -eps and grad_a Q (Thm 4.1: collinear at the optimum), and M_q |grad_a Q|."""
        info = dict(info)
        eps, gradient = info.pop("eps"), info.pop("action_gradient")
        return super().diagnose(info) | {
            "alignment": F.cosine_similarity(-eps, gradient, dim=-1).mean(),
            "scaled_gradient": self.config.m_q * gradient.norm(dim=-1).mean(),
        }
