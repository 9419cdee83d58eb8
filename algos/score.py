"""What agents that generate by a reversed diffusion share: networks over (time left, y), scaled by the known dynamics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from algos.agent import EnvSpec
from algos.networks import MLP


def dynamics_of(spec: EnvSpec, agent: str) -> Any:
    """The known dynamics (`envs.spec.Dynamics`) of an environment that generates. Raises ValueError for any other, and where
    actions are clipped: the laws of both algorithms are those of the action that was drawn."""
    if getattr(spec, "dynamics", None) is None:
        raise ValueError(f"{agent} samples by a reversed diffusion, such as generation/gmm1d; {spec.id} is none")
    if spec.action_low is not None:
        raise ValueError(f"{agent} needs actions that are played as they are drawn: leave env.bounded=true out")
    return spec.dynamics


def split(obs: Tensor) -> tuple[Tensor, Tensor]:
    """(time left [B, 1], y [B, d]) of observations [B, 1 + d]."""
    return obs[:, :1], obs[:, 1:]


def features(obs: Tensor, dynamics: Any) -> Tensor:
    """(2 t / T - 1, alpha(t), y / sd of the prior) [B, 2 + d]: what the networks below see of obs [B, 1 + d]."""
    t, y = split(obs)
    return torch.cat([2 * t / dynamics.time - 1, dynamics.alpha(t), y / dynamics.variance**0.5], dim=1)


class ScoreNetwork(nn.Module):
    """A score s(t, y) [B, d] for obs [B, 1 + d]: that of the prior, and what the data add.

    s = -y / v + (alpha / sigma) F(t, y), F a perceptron and v the prior's variance. These are the preconditioned denoisers
    of Karras et al. (2022, arXiv 2206.00364, eq. 7) for data of variance v: F stays of order 1 from pure noise, where the
    score is the prior's, to the data, where it grows as 1 / sigma.
    """

    def __init__(self, spec: EnvSpec, hidden, activation: str, generator: torch.Generator, init: str):
        super().__init__()
        self.dynamics = spec.dynamics
        self.body = MLP([spec.obs_dim + 1], [*hidden, spec.act_dim], activation, generator, init=init)

    def forward(self, obs: Tensor) -> Tensor:
        t, y = split(obs)
        t = t.clamp(min=self.dynamics.dt / 2)  # every decision is taken at dt or more; sigma is 0 at 0
        gain = self.dynamics.alpha(t) * self.dynamics.sigma2(t) ** -0.5
        return gain * self.body(features(obs, self.dynamics)) - y / self.dynamics.variance


class ValueNetwork(nn.Module):
    """J(t, y) [B] for obs [B, 1 + d]."""

    def __init__(self, spec: EnvSpec, hidden, activation: str, generator: torch.Generator, init: str):
        super().__init__()
        self.dynamics = spec.dynamics
        self.body = MLP([spec.obs_dim + 1], [*hidden, 1], activation, generator, init=init)

    def forward(self, obs: Tensor) -> Tensor:
        return self.body(features(obs, self.dynamics)).squeeze(-1)
