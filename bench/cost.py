"""What an update costs, counted exactly: operations dispatched, FLOPs, network forwards, parameters. CPU eager."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from algos.agent import Agent, Batch, sample
from algos.networks import MLP

WARM_UPDATES = 2  # optimizers make their state in the first


class OperationCounter(TorchDispatchMode):
    """Counts every operation that reaches a kernel, and the FLOPs of its matrix products by the library's formulas.

    The library's own FlopCounterMode hangs hooks on every module, which `autograd.grad` on a leaf does not bear.
    """

    def __init__(self):
        super().__init__()
        self.operations = self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


@contextlib.contextmanager
def count_forwards(agent: Agent):
    """Counts how often each network's layers are run, by the network's name in the agent."""
    owner = {id(m): name for name, net in agent.networks().items() for m in net.modules() if isinstance(m, MLP)}
    counts = dict.fromkeys(agent.networks(), 0)
    layers = MLP.layers

    def counted(self, *args):
        name = owner.get(id(self))
        # the embedding of the T times is no forward of the network over a batch
        if name is not None and self is not getattr(getattr(agent, name), "time_mlp", None):
            counts[name] += 1
        return layers(self, *args)

    MLP.layers = counted
    try:
        yield counts
    finally:
        MLP.layers = layers


def random_batch(spec: Any, n: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Batch:
    """A batch of standard-normal observations and rewards and uniform actions."""
    obs, next_obs = torch.randn(2, n, spec.obs_dim, generator=generator)
    action = torch.rand(n, spec.act_dim, generator=generator) * 2 - 1
    parts = Batch(obs, action, torch.randn(n, generator=generator), torch.full((n,), 0.99), next_obs)
    return Batch(*(part.to(device) for part in parts))


def period(agent: Agent) -> int:
    """Updates after which the phases repeat."""
    import math

    return math.lcm(*(phase.every for phase in agent.phases))


def count(agent: Agent, spec: Any) -> dict[str, Any]:
    """Counts over one full period of the phases after two warm-up updates, per update; the agent is used up by it."""
    generator = torch.Generator().manual_seed(0)
    agent.updates = max(phase.start for phase in agent.phases)
    n = agent.data.batch_size

    def update() -> None:
        noise = {phase.name: sample(agent.draws(phase.name, n), generator) for phase in agent.due()}
        agent.update(random_batch(spec, n, generator), noise)

    cpu = agent.device.type == "cpu"
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for own in agent.trained().values() for p in own),
        "actor_parameters": sum(p.numel() for p in agent.trained().get("actor_optimizer", [])),
    }
    if not cpu:
        return result
    for _ in range(WARM_UPDATES):
        update()
    updates = period(agent)
    batches = [random_batch(spec, n, generator) for _ in range(updates)]
    with OperationCounter() as counter, count_forwards(agent) as forwards:
        for batch in batches:
            noise = {phase.name: sample(agent.draws(phase.name, n), generator) for phase in agent.due()}
            agent.update(batch, noise)
    return result | {
        "operations_per_update": counter.operations / updates,
        "flops_per_update": counter.flops / updates,
        "forwards_per_update": {name: value / updates for name, value in forwards.items()},
    }
