"""What an update costs, counted exactly: operations, FLOPs, bytes, network forwards, tensors kept, parameters. CPU eager."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from algos.agent import MODES, Agent, Batch, Trajectories, sample
from algos.networks import MLP
from bench.synthetic import latest_start, period, random_data

WARM_UPDATES = 2  # optimizers make their state in the first


def tensor_bytes(values: Any) -> int:
    """Memory behind all tensors in a nest of values; an expanded tensor counts what it is expanded from."""
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors)


def bytes_touched(func: Any, args: tuple, out: Any) -> int:
    """Bytes that an operation reads and writes; 0 for a view."""
    returned = [r.alias_info for r in func._schema.returns]
    if any(alias is not None and not alias.is_write for alias in returned):
        return 0
    aliases = [argument.alias_info for argument in func._schema.arguments]
    written = [value for value, alias in zip(args, aliases, strict=False) if alias is not None and alias.is_write]
    fresh = out if all(alias is None for alias in returned) else None
    return tensor_bytes(args) + tensor_bytes(written) + tensor_bytes(fresh)


def flops_of(func: Any) -> Callable[..., int] | None:
    """The library's formula for the FLOPs of a matrix product, None for any other operation. It knows none of the products
    in place, which do what their namesakes do."""
    packet = func._overloadpacket
    if func.namespace == "aten" and packet.__name__.endswith("_"):
        packet = getattr(torch.ops.aten, packet.__name__.removesuffix("_"), packet)
    return flop_registry.get(packet)


class OperationCounter(TorchDispatchMode):
    """Counts every operation that reaches a kernel, the FLOPs of the matrix products by the library's formulas, and the
    bytes that all other operations read and write.

    The library's own FlopCounterMode hangs hooks on every module, which `autograd.grad` on a leaf does not bear.
    """

    def __init__(self):
        super().__init__()
        self.operations = self.flops = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        formula = flops_of(func)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        else:
            self.bytes += bytes_touched(func, args, out)
        return out


@contextlib.contextmanager
def count_forwards(agent: Agent):
    """Counts how often the layers of each network of `algos.networks.MLP`s are run, by the network's name in the agent."""
    owner = {id(m): name for name, net in agent.networks().items() for m in net.modules() if isinstance(m, MLP)}
    counts = dict.fromkeys(owner.values(), 0)
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


def count_work(agent: Agent, work: Callable[[], object]) -> dict[str, Any]:
    """Counts over one call of `work`, which trains `agent`: operations, FLOPs, bytes, forwards of each network."""
    with OperationCounter() as counter, count_forwards(agent) as forwards:
        work()
    return {"operations": counter.operations, "flops": counter.flops, "bytes": counter.bytes, "forwards": forwards}


def count_kept(work: Callable[[], object]) -> dict[str, int]:
    """How many tensors, of how many bytes, autograd keeps for backward passes over one call of `work`.

    What a lost no_grad changes first: a graph that no loss asks for costs memory and time, but no operation more.
    """
    kept = {"tensors_kept": 0, "bytes_kept": 0}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept["tensors_kept"] += 1
        kept["bytes_kept"] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return kept


def update_with_noise(agent: Agent, data: Batch | Trajectories, generator: torch.Generator) -> None:
    agent.update(data, {p.name: sample(agent.draws(p.name, agent.data.batch_size), generator) for p in agent.due()})


def period_of_updates(agent: Agent, start: int) -> Callable[[], None]:
    """A function that makes one full period of updates, each with its noise, on batches made here.

    The agent's update counter is set to `start`, and two warm-up updates are made.
    """
    generator = torch.Generator().manual_seed(0)
    agent.updates = start
    for _ in range(WARM_UPDATES):
        update_with_noise(agent, random_data(agent, generator), generator)
    batches = [random_data(agent, generator) for _ in range(period(agent))]

    def work() -> None:
        for batch in batches:
            update_with_noise(agent, batch, generator)

    return work


def count_parameters(agent: Agent) -> dict[str, int]:
    """Trained ones, and those of `actor_optimizer`, where there is one."""
    sizes = {name: sum(p.numel() for p in own) for name, own in agent.trained().items()}
    actor = {"actor_parameters": sizes["actor_optimizer"]} if "actor_optimizer" in sizes else {}
    return {"parameters": sum(sizes.values())} | actor


def count_period(agent: Agent) -> dict[str, Any]:
    """Everything counted, summed over one full period of the phases: whole numbers; the agent is used up by it.

    Where a phase stops for good (DPOK's pretraining), the same from its start on as `until_<stop>`.
    """

    def counts(start: int) -> dict[str, Any]:
        work = period_of_updates(agent, start)
        return {"updates": period(agent)} | count_work(agent, work) | count_kept(work)

    stops = {phase.stop: phase.start for phase in agent.phases if phase.stop is not None}
    early = {f"until_{stop}": counts(start) for stop, start in sorted(stops.items())}
    return counts(latest_start(agent)) | count_parameters(agent) | early


def count_acting(agent: Agent) -> dict[str, Any]:
    """What one action for one observation does in each mode, and `value` of one pair."""
    generator = torch.Generator().manual_seed(0)
    data = random_data(agent, generator)
    obs, action = (part.flatten(0, -2)[:1] for part in (data.obs, data.action))
    works = {mode: functools.partial(agent.act, obs, sample(agent.draws(mode, 1), generator), mode) for mode in MODES}
    found = {}
    for name, work in (works | {"value": functools.partial(agent.value, obs, action)}).items():
        work()  # tables are made in the first
        found[name] = count_work(agent, work)
    return found


def count(agent: Agent) -> dict[str, Any]:
    """Counts of a mean update over one full period of the phases, for a run's cost.json; the agent is used up by it. Of a
    period, which may be long, one update of each kind is made.

    On a device other than the CPU: the parameters alone.
    """
    result: dict[str, Any] = count_parameters(agent)
    if agent.device.type != "cpu":
        return result
    generator, updates = torch.Generator().manual_seed(0), period(agent)
    alike: dict[tuple[str, ...], list[int]] = {}  # updates of a period by the phases due in them, which decide what they cost
    for at in range(latest_start(agent), latest_start(agent) + updates):
        agent.updates = at
        alike.setdefault(tuple(phase.name for phase in agent.due()), []).append(at)
    total, forwards = Counter(), Counter()
    for same in alike.values():
        data = random_data(agent, generator)

        def work(at: int = same[0], data: Batch | Trajectories = data) -> None:
            agent.updates = at
            update_with_noise(agent, data, generator)

        work()  # optimizers make their state
        counts = count_work(agent, work)
        total.update({f"{name}_per_update": counts[name] * len(same) / updates for name in ("operations", "flops")})
        forwards.update({name: value * len(same) / updates for name, value in counts["forwards"].items()})
    return result | total | {"forwards_per_update": dict(forwards)}
