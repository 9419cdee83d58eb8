"""Continuous-time q-learning of a reward-directed diffusion (Gao, Zha, Zhou 2024, arXiv 2409.04832).

The unknown score is the action: dy = (f y + g^2 a) dt + g dW, rewarded by -g^2 |score - a|^2 dt and, at the end, beta h(y).
The optimal policy is Gaussian with a known covariance (Proposition 1), pi = N(mu(t, y), theta / (2 g^2) I), so that

    q(t, y, a) = theta log pi(a | t, y) = -g^2 |a - mu|^2 - (theta d / 2) log(pi theta / g^2),

and (J, q) are optimal if and only if J(t, y_t) + int (r - q) dt is a martingale and J(T, .) = beta h (Proposition 2). With
the test functions dJ and dq = theta d log pi (eq. 34) the orthogonality conditions become, over whole trajectories of step dt,

    delta_i = J(t_{i+1}, y_{i+1}) - J(t_i, y_i) + r_i dt - q_i dt,    Theta += sum_i dJ_i delta_i,    psi += sum_i dq_i delta_i.

Under the deterministic flow (`ode`, `ddim`) the same reward gives the same covariance and the same q; only mu differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from algos.agent import Agent, Phase, Rollout, Trajectories, normal, require, require_choice, require_widths
from algos.layers import ACTIVATIONS
from algos.optimizer import Adam, cosine_decay, polyak
from algos.score import ScoreNetwork, ValueNetwork, dynamics_of, split


@dataclass(frozen=True)
class Config:
    actor_hidden: tuple[int, ...] = (64, 64)  # of mu; the paper's networks, rates and theta are not known to us
    critic_hidden: tuple[int, ...] = (64, 64)  # of J
    activation: str = "tanh"
    init: str = "xavier"
    theta: float = 4.0  # temperature: the policy's covariance is theta / (2 g^2); more is more signal, and a coarser step
    envs: int = 256  # trajectories in an update
    epochs: int = 1  # updates on the same trajectories (the martingale condition holds off policy too)
    actor_lr: float = 1e-2  # Adam
    critic_lr: float = 1e-2  # Adam
    decay_updates: int = 0  # cosine decay of both rates to 0; 0: constant
    control_variate: bool = True  # take dJ/dy g dW off delta (ours): its mean is 0, the dynamics known, the noise in psi's way
    weight: str = "sigma"  # w(t) in mu's test function w dq: sigma, the noise's standard deviation (ours) | one (paper)
    centered: bool = True  # take delta's median at each time off it (ours): of J only the dependence on y is then learned
    delta_clip: float = 20.0  # largest |delta|: an estimate of the score close to the data may be far off; 0: no clip (paper)
    ema: float = 0.95  # decay of the averaged mu that evaluation plays (ours); 0: mu itself

    def __post_init__(self) -> None:
        for name in ("actor_hidden", "critic_hidden"):
            require_widths(name, getattr(self, name))
        require_choice("activation", self.activation, ACTIVATIONS)
        require_choice("init", self.init, ("xavier", "torch"))
        require_choice("weight", self.weight, ("sigma", "one"))
        require(self.theta > 0, "theta", self.theta, "a positive temperature")
        for name in ("envs", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("actor_lr", "critic_lr", "delta_clip", "decay_updates"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.envs >= 2 or not self.centered, "envs", self.envs, "2 or more, or centered=false")
        require(0 <= self.ema < 1, "ema", self.ema, "a decay in [0, 1)")


class ContinuousQ(Agent):
    Config = Config
    phases = (Phase("martingale"), Phase("average"))
    bounded_actions = False
    home = "generation/gmm1d"

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        c, self.dynamics = config, dynamics_of(spec, type(self).__name__)
        self.data = Rollout(spec.horizon, c.envs, c.epochs, gamma=1.0)
        actor, critic = ((spec, hidden, c.activation, generator, c.init) for hidden in (c.actor_hidden, c.critic_hidden))
        self.actor = ScoreNetwork(*actor).to(self.device)
        self.critic = ValueNetwork(*critic).to(self.device)
        self.averaged = ScoreNetwork(*actor).to(self.device).requires_grad_(False)
        self.averaged.load_state_dict(self.actor.state_dict())
        self.actor_optimizer = Adam(self.actor, c.actor_lr)
        self.critic_optimizer = Adam(self.critic, c.critic_lr)

    def draws(self, phase, n):
        eps = {"eps": normal(n, self.spec.act_dim)}
        return {"martingale": {}, "average": {}, "explore": eps, "own": {}, "sample": eps}[phase]

    # -- losses ------------------------------------------------------------------------------------------------------
    def advantage(self, obs: Tensor, action: Tensor) -> Tensor:
        """-g^2 |a - mu|^2 [B] for obs [B, 1 + d], action [B, d]: q but for its normalisation, which is known."""
        g2 = self.dynamics.g2(split(obs)[0]).squeeze(1)
        return -g2 * (action - self.actor(obs)).square().sum(dim=1)

    def normalisation(self, obs: Tensor) -> Tensor:
        """(theta d / 2) log(pi theta / g^2) [B], theta log of what exp(advantage / theta) integrates to over actions."""
        theta = self.config.theta
        return (theta * self.spec.act_dim / 2) * torch.log(math.pi * theta / self.dynamics.g2(split(obs)[0]).squeeze(1))

    def deltas(self, batch: Trajectories) -> tuple[Tensor, Tensor, Tensor]:
        """(delta detached, J, q) of all decisions, [L N], J and q less the normalisation.

        Its share of J, the sum of normalisation dt over the steps to come, changes in a step by just what q dt has of it, so
        that delta needs neither, and the critic need not learn it. The last reward of a trajectory has beta h(y_T) in it, and
        its discount is 0, which is J(T, .) = beta h.
        """
        obs, action, next_obs = (part.flatten(0, 1) for part in (batch.obs, batch.action, batch.next_obs))
        obs = obs.detach().requires_grad_(self.config.control_variate)
        value, q = self.critic(obs), self.advantage(obs.detach(), action)
        with torch.no_grad():
            after = batch.reward.flatten() + batch.discount.flatten() * self.critic(next_obs)
            delta = after - value - q * self.dynamics.dt
        if self.config.control_variate:
            slope = split(torch.autograd.grad(value.sum(), obs, retain_graph=True)[0])[1]
            delta -= (slope * self.diffused(obs.detach(), action, next_obs)).sum(dim=1)
        return delta, value, q

    def diffused(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """g dW [B, d] of a step: what the known drift leaves; 0 under a deterministic sampler."""
        (t, y), d = split(obs), self.dynamics
        if d.sampler != "sde":
            return torch.zeros_like(y)
        return split(next_obs)[1] - y - (d.f(t) * y + d.g2(t) * action) * d.dt

    def losses(self, delta: Tensor, value: Tensor, q: Tensor, weight: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Losses whose gradients are -E sum_i dJ_i delta_i and -E sum_i w_i dq_i delta_i, over the number of steps."""
        c = self.config
        if c.delta_clip:
            delta = delta.clamp(-c.delta_clip, c.delta_clip)
        if c.centered:  # the mean that the clip leaves would set J adrift
            delta = self.by_time(delta).sub(self.by_time(delta).mean(dim=1, keepdim=True)).flatten()
        return -(delta * value).mean(), -(delta * weight * q).mean()

    def centred(self, delta: Tensor) -> Tensor:
        """delta [L N] less its median over the trajectories at each time.

        A function of time alone in J changes neither q nor mu. It is solved for here instead of learned: the means of the
        penalties and of beta h may lie far beyond the clip, where all trajectories would look alike. The median, since single
        estimates may be far off.
        """
        each = self.by_time(delta)
        return (each - each.sort(dim=1).values[:, self.config.envs // 2, None]).flatten()

    def by_time(self, delta: Tensor) -> Tensor:
        """[L N] -> [L, N]: the trajectories of a rollout are in step."""
        return delta.view(-1, self.config.envs)

    # -- phases ------------------------------------------------------------------------------------------------------
    def schedule(self):
        c = self.config
        self.critic_optimizer.lr = cosine_decay(c.critic_lr, self.updates, c.decay_updates)
        self.actor_optimizer.lr = cosine_decay(c.actor_lr, self.updates, c.decay_updates)

    @torch.compiler.disable  # its two losses share a graph, which a compiled backward pass frees after the first
    def martingale(self, batch, noise):
        c = self.config
        delta, value, q = self.deltas(batch)
        if c.centered:
            delta = self.centred(delta)
        t = split(batch.obs.flatten(0, 1))[0].squeeze(1)
        weight = self.dynamics.sigma2(t) ** 0.5 if c.weight == "sigma" else 1.0
        critic_loss, actor_loss = self.losses(delta, value, q, weight)
        self.critic_optimizer.minimise(critic_loss)
        self.actor_optimizer.minimise(actor_loss)
        return {
            "martingale_loss": 0.5 * delta.square().mean(),
            "value": value.detach(),
            "small_q": q.detach(),
            "episode_return": batch.reward.sum(dim=0),
        }

    def average(self, batch, noise):
        polyak(self.averaged, self.actor, 1 - self.config.ema)
        return {}

    # -- acting ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def act(self, obs, noise: Mapping[str, Tensor], mode):
        """`own` is the averaged mean; the others draw from the policy."""
        if mode == "own":
            return self.averaged(obs)
        spread = (self.config.theta / (2 * self.dynamics.g2(split(obs)[0]))) ** 0.5
        return self.actor(obs) + spread * noise["eps"]

    @torch.no_grad()
    def value(self, obs, action):
        return self.critic(obs) + self.advantage(obs, action) * self.dynamics.dt
