"""What the conformance tests work with: agents made small, draws that are watched, and what an agent's updates change."""

from __future__ import annotations

import random
from collections import UserDict, deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import algos
import envs
from algos.agent import Agent, Batch, Trajectories, sample
from algos.optimizer import Adam
from bench.compose import agent_config, algo_values
from bench.contract import GENERATORS
from bench.synthetic import latest_start, period, random_data
from envs import EnvSpec, Score

SMALL = {
    "actor_hidden": [16, 16], "critic_hidden": [16, 16], "time_hidden": [8, 8], "time_features": 8, "batch_size": 8, "envs": 4,
    "pretrain": 5, "ema_start": 2,
}  # fmt: skip
LONGEST = 100  # updates of a period
DEEPEST = 3  # levels of objects within objects that are looked into
SPEC = EnvSpec(
    id="conformance/plane", obs_dim=3, act_dim=2, action_low=(-1.0, -1.0), action_high=(1.0, 1.0), horizon=10, action_repeat=1,
    discount=None, score=Score("return", "max", 0.0, 1.0, "none"),
)  # fmt: skip


def small_values(name: str) -> dict[str, Any]:
    """The `algo` values of a run of this algorithm, with small networks and batches."""
    values = algo_values(name)
    cls = algos.agent_class(values["agent"])
    unknown = sorted(cls.small.keys() - values.keys())
    assert not unknown, f"{cls.__name__}.small names {unknown[0]!r}, which is no field of its Config"
    small = {key: list(value) if isinstance(value, tuple) else value for key, value in {**SMALL, **cls.small}.items()}
    return values | {key: value for key, value in small.items() if key in values}


def spec_for(name: str) -> EnvSpec:
    """The environment under which the algorithm is tested: SPEC, unless its class names a home of another kind."""
    home = algos.agent_class(algo_values(name)["agent"]).home
    return SPEC if home == Agent.home else envs.make(home, 0)[1]


def build(name: str, seed: int = 0, spec: EnvSpec | None = None) -> Agent:
    """An agent at the first update at which each of its phases may be due (or the last of them to begin)."""
    values, spec = small_values(name), spec or spec_for(name)
    agent = algos.agent_class(values["agent"])(spec, agent_config(values), torch.Generator().manual_seed(seed))
    agent.updates = latest_start(agent)
    assert period(agent) <= LONGEST, (
        f"the phases of {name} repeat after {period(agent)} updates, too many to test: give settings with a shorter period in "
        'the class attribute `small`, as in small = {"delay": 3}'
    )
    return agent


class Recorded(UserDict):
    """Draws that remember which of them were used, however they are read: a plain dict is copied past its own methods."""

    def __init__(self, values: Mapping[str, Tensor], where: str):
        super().__init__(values)
        self.where, self.used = where, set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return super().__getitem__(key)

    def __missing__(self, key: str) -> Tensor:
        raise AssertionError(f"{self.where} uses noise[{key!r}], which draws() does not declare (it has {sorted(self)})")

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return default
        return self[key]

    def __or__(self, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(self) | dict(other)

    def __ror__(self, other: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(other) | dict(self)

    def check_all_used(self) -> None:
        unused = sorted(set(self) - self.used)
        assert not unused, f"{self.where} declares {unused} in draws() and does not use it"


def batches(agent: Agent, count: int, seed: int = 1) -> Iterator[tuple[Batch | Trajectories, torch.Generator]]:
    """Batches in which one transition in four ends in a termination, or rollouts, each with a generator for its noise."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        batch = random_data(agent, generator)
        if isinstance(batch, Batch):
            batch.discount[::4] = 0.0
        yield batch, generator


def noise_of(agent: Agent, what: str, n: int, generator: torch.Generator) -> Recorded:
    return Recorded(sample(agent.draws(what, n), generator), f"{type(agent).__name__}: {what!r}")


def train(agent: Agent, updates: int, seed: int = 1, watch=None, explore: bool = False) -> list[dict[str, Tensor]]:
    """Updates on random batches; what each returned. `watch(agent, phase, batch, noise)` may stand between; explore: before
    each, as in a run, an exploring action."""
    between = None if watch is None else lambda phase, batch, noise: watch(agent, phase, batch, noise)
    out = []
    for batch, generator in batches(agent, updates, seed):
        if explore:
            obs = torch.randn(3, agent.spec.obs_dim, generator=generator)
            agent.explore(obs, noise_of(agent, "explore", 3, generator))
        noise = {p.name: noise_of(agent, p.name, batch.reward.numel(), generator) for p in agent.due()}
        out.append(agent.update(batch, noise, between))
    return out


def state(agent: Agent) -> dict[str, Tensor]:
    """Every parameter and buffer of the agent, copied, by a dotted name."""
    named = {f"{name}.{key}": value for name, net in agent.networks().items() for key, value in net.state_dict().items()}
    return {name: value.detach().clone() for name, value in named.items()}


def memory(agent: Agent) -> dict[str, Any]:
    """The plain values that the agent keeps in attributes, in objects of its own too, copied, by name: nothing of them is in a
    state_dict of itself."""

    def leaf(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tobytes()
        if isinstance(value, torch.Generator):
            return value.get_state()
        if isinstance(value, np.random.Generator):
            return repr(value.bit_generator.state)
        if isinstance(value, np.random.RandomState | random.Random):
            return repr(value.get_state() if isinstance(value, np.random.RandomState) else value.getstate())
        return value.detach().clone() if isinstance(value, Tensor) else repr(value)

    def parts(value: Any, depth: int = 0) -> list[Any]:
        if isinstance(value, plain):
            return [leaf(value)]
        if isinstance(value, nn.Module | Adam | type) or depth > DEEPEST:
            return []
        if isinstance(value, list | tuple | dict | deque):
            return [part for own in tree_leaves(value) for part in parts(own, depth + 1)]
        return [part for own in getattr(value, "__dict__", {}).values() for part in parts(own, depth + 1)]

    plain = (bool, int, float, str, np.ndarray, Tensor, *GENERATORS)
    return {name: parts(value) for name, value in vars(agent).items()}


def assert_same(first: Any, second: Any, what: str) -> None:
    """Bit-equal tensors, all through nested dictionaries and lists."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor), f"{what}: {type(second).__name__} in place of a tensor"
        assert torch.equal(first, second), f"{what}: differs by up to {float((first.float() - second.float()).abs().max()):.3g}"
    elif isinstance(first, Mapping):
        assert first.keys() == second.keys(), f"{what}: keys {sorted(map(str, first.keys() ^ second.keys()))} are not in both"
        for key in first:
            assert_same(first[key], second[key], f"{what}.{key}")
    elif isinstance(first, list | tuple):
        assert isinstance(second, list | tuple), f"{what}: {type(second).__name__} in place of a list"
        assert len(first) == len(second), f"{what}: length {len(first)} and {len(second)}"
        names = getattr(first, "_fields", range(len(first)))
        for name, *pair in zip(names, first, second, strict=True):
            assert_same(*pair, f"{what}.{name}" if isinstance(name, str) else f"{what}[{name}]")
    else:
        assert first == second, f"{what}: {first!r} and {second!r}"


def alike(first: Any, second: Any) -> bool:
    try:
        assert_same(first, second, "")
    except AssertionError:
        return False
    return True


READS = (
    "a phase reads a tensor's value (.item(), .tolist(), .cpu(), if tensor: ...), for which a GPU must wait; return the tensor"
)
COUNTS = "a phase takes as many values as a mask has (x[mask], nonzero), for which a GPU must wait; use torch.where"


class NoHostSync(TorchDispatchMode):
    """Fails where a tensor's value is read by Python, or a result's shape depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "is_nonzero"), READS
        assert name not in ("nonzero", "masked_select", "_unique", "_unique2"), COUNTS
        masked = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        assert not masked, COUNTS
        return func(*args, **(kwargs or {}))


def reads(*_, **__):
    pytest.fail(READS)


def scheduled(agent: Agent) -> set[str]:
    """Names of the agent's plain numbers that depend on the number of updates."""
    counted, seen = agent.updates, []
    for agent.updates in (0, 1, 1000, 1_000_000):
        agent.schedule()
        seen.append({name: value for name, value in vars(agent).items() if isinstance(value, bool | int | float)})
    agent.updates = counted
    agent.schedule()
    return {name for name in seen[-1] if len({found.get(name) for found in seen}) > 1}


def targets(agent: Agent) -> dict[str, tuple[str, list[str]]]:
    """The networks that move without an optimizer while the agent trains through all of its phases: the one that each
    follows, and the names of the parameters in question."""
    trained = {id(parameter) for parameters in agent.trained().values() for parameter in parameters}
    followed: dict[str, tuple[str, list[str]]] = {}

    def watched(agent, phase, batch, noise):
        before, steps = state(agent), {name: int(own.step) for name, own in agent.optimizers().items()}
        info = agent.run_phase(phase, batch, noise)
        after, once = state(agent), all(own.step <= steps[name] + 1 for name, own in agent.optimizers().items())
        for name, network in agent.networks().items():
            own = {key: p for key, p in network.named_parameters() if id(p) not in trained}
            if any(not torch.equal(before[f"{name}.{key}"], after[f"{name}.{key}"]) for key in own):
                followed[name] = leader(agent, name, list(own), before, after, once), list(own)
        return info

    for first in sorted({phase.start for phase in agent.phases}):  # a phase may stop before another starts
        agent.updates = first
        train(agent, period(agent), watch=watched)
    return followed


def leader(agent: Agent, name: str, keys: list[str], before: dict, after: dict, once: bool) -> str:
    """The network that `name`, which no optimizer moves, moved towards, by one rate in (0, 1] for all parameters; where the
    phase makes several steps of an optimizer (not `once`), and of the target between them, roughly towards."""
    moves = torch.cat([(after[f"{name}.{key}"] - before[f"{name}.{key}"]).flatten() for key in keys]).double()
    for other, network in agent.networks().items():
        shapes = {key: p.shape for key, p in network.named_parameters()}
        if other == name or any(shapes.get(key) != before[f"{name}.{key}"].shape for key in keys):
            continue
        for online in (before, after):  # a phase may move both
            gap = torch.cat([(online[f"{other}.{key}"] - before[f"{name}.{key}"]).flatten() for key in keys]).double()
            rate = float(moves @ gap / (gap @ gap).clamp(min=1e-30))
            if 0 < rate <= 1 + 1e-6 and (moves - rate * gap).abs().max() <= 1e-6:
                return other
            if not once and moves @ gap > 0.5 * moves.norm() * gap.norm() and moves.norm() < gap.norm():
                return other
    raise AssertionError(
        f"{name} is in no optimizer and moved, but not as target <- (1 - rate) target + rate online of any other network"
    )
