"""What an agent can be tried on without an environment: random data of its own sizes, and when its phases are due."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from algos.agent import Agent, Batch, Rollout, Trajectories, sample


def random_batch(
    spec: Any, n: int, generator: torch.Generator, device: torch.device | str = "cpu", copies: int = 1
) -> Batch:
    """A batch of standard-normal observations and rewards and uniform actions.

    Where an observation begins with the time left (`spec.dynamics`), it is that of `copies` environments stepped together.
    """
    obs, next_obs = torch.randn(2, n, spec.obs_dim, generator=generator)
    if spec.dynamics is not None:
        left = spec.horizon - torch.arange(n) // copies % spec.horizon
        obs[:, 0], next_obs[:, 0] = left * spec.dynamics.dt, (left - 1) * spec.dynamics.dt
    action = torch.rand(n, spec.act_dim, generator=generator) * 2 - 1
    parts = Batch(obs, action, torch.randn(n, generator=generator), torch.full((n,), 0.99), next_obs)
    return Batch(*(part.to(device) for part in parts))


def random_data(agent: Agent, generator: torch.Generator, obs: Tensor | None = None) -> Batch | Trajectories:
    """What one update of the agent is given, of its own size, at random: a batch, or a rollout whose episodes have the
    horizon's length, time-outs on the one half of the copies and terminations on the other.

    Entries of the environment's infos are standard normal, one number a decision. obs [n, S]: what is seen, decision by
    decision and over and over, in place of observations at random (but for those of a reversed diffusion, which are as they
    can be).
    """
    need, spec = agent.data, agent.spec
    copies = need.envs if isinstance(need, Rollout) else 1
    flat = random_batch(spec, need.batch_size, generator, agent.device, copies)
    if obs is not None and spec.dynamics is None:
        at = torch.arange(need.batch_size) // copies
        flat = flat._replace(obs=obs[at % len(obs)].to(agent.device), next_obs=obs[(at + 1) % len(obs)].to(agent.device))
    if not isinstance(need, Rollout):
        return flat
    shape = (need.length, need.envs)
    parts = Batch(*(part.view(*shape, *part.shape[1:]) for part in flat))
    ended = torch.zeros(shape, dtype=torch.bool, device=agent.device)
    ended[spec.horizon - 1 :: spec.horizon] = True
    discount = torch.full(shape, need.gamma, device=agent.device)
    discount[:, : need.envs // 2].masked_fill_(ended[:, : need.envs // 2], 0.0)
    kept = {name: torch.randn(shape, generator=generator).to(agent.device) for name in need.infos}
    drawn = [sample(agent.draws("explore", need.envs), generator) for _ in range(need.length)]  # on the generator's device
    noise = [{name: part.to(agent.device) for name, part in own.items()} for own in drawn]
    acted = [agent.explore(obs, own) for obs, own in zip(parts.obs, noise, strict=True)]
    kept |= {name: torch.stack([more[name] for _, more in acted]) for name in acted[0][1]}
    action = torch.stack([action for action, _ in acted])
    return Trajectories(parts.obs, action, parts.reward, discount, parts.next_obs, ended, kept)


def period(agent: Agent) -> int:
    """Updates after which the phases repeat."""
    return math.lcm(*(phase.every for phase in agent.phases))


def latest_start(agent: Agent) -> int:
    """The first update at which every phase may be due, but for those that have stopped."""
    return max(phase.start for phase in agent.phases)
