"""What every agent must hold to, as tests that ship with the package.

The author of an agent runs them on it from any directory with one line, the agent named as in `--algos`:

    BENCH_AGENT=my_pkg.agents:MyAgent python -m pytest --pyargs bench.conformance

Several are separated by commas. Without BENCH_AGENT the registry is tested, and the other algorithms of conf/algo as slow
tests. Networks and batches are made small where the Config has the benchmark's usual keys (`SMALL`): a test takes
milliseconds. Others it gives in its class attribute `small`.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import os
from collections import UserDict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import algos
import envs
from algos.agent import MODES, Agent, Batch, Rollout, Trajectories, sample
from bench import contract, grid, run
from bench.config import agent_config, algo_values, available
from bench.cost import latest_start, period, random_data
from envs import EnvSpec, Score

SMALL = {
    "actor_hidden": [16, 16], "critic_hidden": [16, 16], "time_hidden": [8, 8], "time_features": 8, "batch_size": 8, "envs": 4,
    "pretrain": 5, "ema_start": 2,
}  # fmt: skip
LONGEST = 100  # updates of a period
SPEC = EnvSpec(
    id="conformance/plane", obs_dim=3, act_dim=2, action_low=(-1.0, -1.0), action_high=(1.0, 1.0), horizon=10, action_repeat=1,
    discount=None, score=Score("return", "max", 0.0, 1.0, "none"),
)  # fmt: skip


def under_test() -> list[Any]:
    """The agents under test: those of BENCH_AGENT, or every algorithm of conf/algo."""
    if given := [name.strip() for name in os.environ.get("BENCH_AGENT", "").split(",") if name.strip()]:
        return given
    others = [pytest.param(name, marks=pytest.mark.slow) for name in available("algo") if name not in algos.AGENTS]
    return [*algos.AGENTS, *others]


@pytest.fixture(params=under_test())
def algo(request: pytest.FixtureRequest) -> str:
    return request.param


# -- what the tests are made of ----------------------------------------------------------------------------------------


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


def train(agent: Agent, updates: int, seed: int = 1, watch=None) -> list[dict[str, Tensor]]:
    """Updates on random batches; what each returned. `watch(agent, phase, batch, noise)` may stand between."""
    between = None if watch is None else lambda phase, batch, noise: watch(agent, phase, batch, noise)
    out = []
    for batch, generator in batches(agent, updates, seed):
        noise = {p.name: noise_of(agent, p.name, batch.reward.numel(), generator) for p in agent.due()}
        out.append(agent.update(batch, noise, between))
    return out


def state(agent: Agent) -> dict[str, Tensor]:
    """Every parameter and buffer of the agent, copied, by a dotted name."""
    named = {f"{name}.{key}": value for name, net in agent.networks().items() for key, value in net.state_dict().items()}
    return {name: value.detach().clone() for name, value in named.items()}


def memory(agent: Agent) -> dict[str, Any]:
    """The plain values that the agent keeps in attributes, copied, by name: nothing of them is in a state_dict of itself."""

    def leaf(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tobytes()
        return value.detach().clone() if isinstance(value, Tensor) else repr(value)

    plain = (bool, int, float, str, np.ndarray, Tensor)
    kept = {name: value for name, value in vars(agent).items() if isinstance(value, (*plain, list, tuple, dict, deque))}
    return {name: [leaf(part) for part in tree_leaves(value) if isinstance(part, plain)] for name, value in kept.items()}


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


# -- configuration -----------------------------------------------------------------------------------------------------


def test_config_is_a_frozen_dataclass_of_plain_values(algo):
    config = algos.agent_class(algo_values(algo)["agent"]).Config()
    assert dataclasses.is_dataclass(config), "Config is a dataclass"
    assert config.__dataclass_params__.frozen, "Config is frozen: @dataclass(frozen=True)"
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        parts = value if isinstance(value, tuple) else (value,)
        plain = all(part is None or isinstance(part, bool | int | float | str) for part in parts)
        assert plain, f"Config.{field.name}={value!r}: a setting is a number, a string, a truth value or a tuple of these"


def test_config_refuses_what_makes_no_sense(algo):
    cls = algos.agent_class(algo_values(algo)["agent"]).Config
    wrong: dict[str, Any] = dict.fromkeys(("batch_size", "capacity", "n_step"), 0) | {"gamma": 1.5, "tau": -1.0}
    wrong |= {field.name: "no such choice" for field in dataclasses.fields(cls) if isinstance(field.default, str)}
    for name, value in wrong.items():
        if name not in {field.name for field in dataclasses.fields(cls)}:
            continue
        said = ""
        try:
            cls(**{name: value})
        except ValueError as error:
            said = str(error)
        assert name in said, f"Config({name}={value!r}): __post_init__ raises a ValueError that names the setting, not {said!r}"


def test_unbounded_actions_are_refused_by_agents_that_need_bounds(algo):
    unbounded = dataclasses.replace(spec_for(algo), action_low=None, action_high=None)
    if algos.agent_class(algo_values(algo)["agent"]).bounded_actions:
        with pytest.raises(ValueError, match="unbounded"):
            build(algo, spec=unbounded)
    else:
        build(algo, spec=unbounded)


# -- phases ------------------------------------------------------------------------------------------------------------


def test_declarations_are_complete(algo):
    agent = build(algo)
    contract.check(agent, torch.randn(2, agent.spec.obs_dim, generator=torch.Generator().manual_seed(7)))
    owners: dict[int, str] = {}
    for name, parameters in agent.trained().items():
        for parameter in parameters:
            assert id(parameter) not in owners, f"one parameter is in both {owners[id(parameter)]} and {name}"
            owners[id(parameter)] = name
    assert owners, "at least one optimizer (algos.optimizer.Adam) is an attribute of the agent"


def test_phases_run_when_they_are_due(algo):
    agent = build(algo)
    agent.updates -= min(agent.updates, period(agent))  # the last updates before the latest start belong to it
    for _ in range(3 * period(agent)):
        update, ran = agent.updates, []

        def note(agent, phase, batch, noise, ran=ran):
            ran.append(phase.name)
            return agent.run_phase(phase, batch, noise)

        train(agent, 1, watch=note)
        running = [p for p in agent.phases if p.start <= update and (p.stop is None or update < p.stop)]
        due = [p.name for p in running if (update - p.start) % p.every == 0]
        assert ran == due, f"update {update} ran {ran}; due were {due}"
        assert agent.updates == update + 1, "every update counts as one"


def test_phases_use_the_draws_they_declare_and_no_others(algo):
    def checked(agent, phase, batch, noise):
        info = agent.run_phase(phase, batch, noise)
        noise.check_all_used()
        return info

    agent = build(algo)
    train(agent, period(agent), watch=checked)


def test_phases_return_finite_detached_tensors(algo):
    agent, returned = build(algo), set()
    for info in train(agent, 2 * period(agent)):
        for name, value in info.items():
            assert isinstance(value, Tensor), f"{name} is a {type(value).__name__}: phases return tensors, no .item()"
            assert not value.requires_grad, f"{name} is attached to the graph: return {name}.detach()"
            assert torch.isfinite(value).all(), f"{name} is not finite after a few updates on random data"
            assert not name.endswith("_loss") or value.dim() == 0, f"{name} is a loss: a scalar, found {tuple(value.shape)}"
        returned |= info.keys()
    assert any(name.endswith("_loss") for name in returned), f"no phase returns a *_loss; returned were {sorted(returned)}"


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


def test_phases_read_no_value_on_the_host(algo):
    agent = build(algo)
    train(agent, period(agent))  # optimizers make their state in the first updates
    with NoHostSync(), pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu", "__array__"):  # of a CPU tensor these pass by the dispatcher
            patch.setattr(Tensor, name, reads)
        train(agent, period(agent))


def scheduled(agent: Agent) -> set[str]:
    """Names of the agent's plain numbers that depend on the number of updates."""
    counted, seen = agent.updates, []
    for agent.updates in (0, 1, 1000, 1_000_000):
        agent.schedule()
        seen.append({name: value for name, value in vars(agent).items() if isinstance(value, bool | int | float)})
    agent.updates = counted
    agent.schedule()
    return {name for name in seen[-1] if len({found.get(name) for found in seen}) > 1}


def test_phases_leave_the_update_counter_to_the_schedule(algo):
    """And what they read of it are tensors or learning rates, which a captured phase sees change."""

    def hidden(agent, phase, batch, noise):
        kept = {name: vars(agent).pop(name) for name in names}
        try:
            return agent.run_phase(phase, batch, noise)
        except AttributeError as error:
            if error.name not in names:
                raise
            what = f"phase {phase.name!r} reads self.{error.name}, which a captured phase would freeze"
            raise AssertionError(f"{what}: do it in schedule(), and keep the result in a tensor (fill_)") from error
        finally:
            vars(agent).update(kept)

    agent = build(algo)
    names = scheduled(agent)
    train(agent, period(agent), watch=hidden)


def test_update_is_a_pure_function_of_parameters_batch_and_noise(algo):
    first, second = build(algo), build(algo)
    torch.manual_seed(1)
    infos = train(first, 2 * period(first))
    torch.manual_seed(2)  # a draw from the global generator would differ
    assert_same(infos, train(second, 2 * period(second)), "what update returned")
    assert_same(first.state_dict(), second.state_dict(), "parameters")


def test_update_leaves_the_batch_alone(algo):
    agent = build(algo)

    def checked(agent, phase, batch, noise):
        before = copy.deepcopy(batch)
        drawn = {name: value.clone() for name, value in noise.items()}
        info = agent.run_phase(phase, batch, noise)
        assert_same(before, batch, f"the batch after phase {phase.name!r}")
        assert_same(drawn, dict(noise), f"the noise after phase {phase.name!r}")
        return info

    train(agent, period(agent), watch=checked)


def test_what_is_bootstrapped_stops_at_terminations(algo):
    """batch.discount is 0 where an episode ended for good; who looks at batch.next_obs in spite of it has another task."""

    def trained(**changes: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        def watch(agent, phase, batch, noise):
            changed = {name: change(getattr(batch, name)) for name, change in changes.items()}
            return agent.run_phase(phase, batch._replace(**changed), noise)

        agent = build(algo)
        train(agent, period(agent), watch=watch)
        return state(agent)

    if isinstance(build(algo).data, Rollout):
        return  # its trajectories go on to the next observation by themselves
    plain = trained()
    if not alike(plain, trained(next_obs=lambda obs: obs.flip(0))):
        assert not alike(plain, trained(discount=lambda discount: discount.roll(1))), (
            "an update depends on batch.next_obs and not on batch.discount: bootstrap with it, "
            "reward + batch.discount * value(next_obs), for it is 0 after a termination and gamma^k else"
        )


# -- parameters --------------------------------------------------------------------------------------------------------


def test_same_seed_same_parameters_other_seed_others(algo):
    first, second = build(algo, seed=0), build(algo, seed=0)
    assert_same(state(first), state(second), "initial parameters of one seed")
    train(first, 3 * period(first))
    train(second, 3 * period(second))
    assert_same(first.state_dict(), second.state_dict(), "parameters after training with one seed")
    initial, other = state(build(algo, seed=0)), state(build(algo, seed=1))
    assert any(not torch.equal(initial[name], other[name]) for name in initial), (
        "two seeds start from the same weights: draw the initial weights from the `generator` given to __init__"
    )


def test_every_trained_parameter_moves_and_targets_follow(algo):
    agent = build(algo)
    trained = {id(parameter) for parameters in agent.trained().values() for parameter in parameters}
    start = {id(p): p.detach().clone() for net in agent.networks().values() for p in net.parameters()}
    followed = targets(agent)
    for name, network in agent.networks().items():
        for key, parameter in network.named_parameters():
            moved = not torch.equal(start[id(parameter)], parameter)
            if id(parameter) in trained:
                assert moved, f"{name}.{key} is in an optimizer and did not move in {period(agent)} updates"
            else:
                assert moved or name in followed, (
                    f"{name}.{key} never moves: put it into an optimizer, let it follow another network, or make it a buffer"
                )


def test_targets_begin_where_their_networks_do(algo):
    """Or are copies of them after the first update, as a snapshot of the policy is."""
    agent = build(algo)
    agent.updates, first = 0, state(agent)
    train(agent, 1)
    then = state(agent)
    for name, (other, keys) in targets(build(algo)).items():
        copies = [
            all(torch.equal(own[f"{name}.{key}"], its[f"{other}.{key}"]) for key in keys)
            for own, its in ((first, first), (then, first), (then, then))
        ]
        assert any(copies), (
            f"{name} follows {other} and begins elsewhere, as another random network: "
            f"self.{name}.load_state_dict(self.{other}.state_dict()) in __init__"
        )


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


def test_optimizers_hold_no_gradient_of_others(algo):
    agent = build(algo)
    train(agent, period(agent))
    trained = {id(parameter) for parameters in agent.trained().values() for parameter in parameters}
    for name, network in agent.networks().items():
        for key, parameter in network.named_parameters():
            assert id(parameter) in trained or parameter.grad is None, f"{name}.{key} is not trained and has a gradient"


def test_state_dict_continues_bit_for_bit(algo):
    first = build(algo, seed=0)
    initial = memory(first)
    train(first, period(first) + 1, seed=1)  # off the beat of a delayed phase
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = build(algo, seed=5)
    # as a checkpoint is read: tensors and plain values only
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.updates == first.updates, "the update counter is part of the state"
    assert_same(first.state_dict(), second.state_dict(), "the loaded state")
    more = 2 * period(first) + 1
    kept = "modules and optimizers are kept of themselves; what else an update changes belongs into state_dict; "
    assert_same(train(first, more, seed=2), train(second, more, seed=2), f"{kept}what update returned after loading")
    assert_same(first.state_dict(), second.state_dict(), "the state after training on")
    changed = {name for name, value in memory(first).items() if not alike(value, initial.get(name))}
    remembered = ({name: value for name, value in memory(agent).items() if name in changed} for agent in (first, second))
    assert_same(*remembered, f"{kept}after loading and training on, self")


# -- acting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("mode", MODES)
def test_actions_have_the_shape_and_the_bounds(algo, mode, n):
    agent, generator = build(algo), torch.Generator().manual_seed(3)
    for scale in (1.0, 100.0):  # far from what it has seen, too
        noise = noise_of(agent, mode, n, generator)
        action = agent.act(scale * torch.randn(n, agent.spec.obs_dim, generator=generator), noise, mode)
        noise.check_all_used()
        wanted = (n, agent.spec.act_dim)
        assert action.shape == wanted, f"act({mode!r}) gives {tuple(action.shape)}, not {wanted}"
        assert action.dtype == torch.float32, f"act({mode!r}) gives {action.dtype}, not float32"
        assert not action.requires_grad, f"act({mode!r}) is attached to the graph: use @torch.no_grad()"
        assert torch.isfinite(action).all(), f"act({mode!r}) is not finite"
        if agent.bounded_actions:
            assert action.abs().max() <= 1, f"act({mode!r}) leaves [-1, 1]: {float(action.abs().max()):.4f}"


@pytest.mark.parametrize("mode", MODES)
def test_act_is_a_pure_function_of_obs_and_noise(algo, mode):
    agent, generator = build(algo), torch.Generator().manual_seed(4)
    train(agent, 2)
    obs, noise = torch.randn(5, agent.spec.obs_dim, generator=generator), noise_of(agent, mode, 5, generator)
    kept = obs.clone(), {name: value.clone() for name, value in noise.items()}
    agent.act(obs, noise, mode)  # what is made once and kept, such as a table, may be made here
    before, counted, remembered = state(agent), agent.updates, memory(agent)
    torch.manual_seed(1)
    first = agent.act(obs, noise, mode).clone()
    torch.manual_seed(2)
    assert_same(first, agent.act(obs, noise, mode), f"act({mode!r}) of the same obs and noise, twice")
    assert_same(before, state(agent), f"parameters after act({mode!r})")
    assert agent.updates == counted, "act counts no update"
    assert_same(remembered, memory(agent), f"after act({mode!r}), which evaluation calls too, self")
    each, few = agent.draws(mode, 5), agent.draws(mode, 1)
    shared = [name for name, draw in each.items() if draw.shape == few[name].shape]
    assert not shared, f"draws({mode!r}, n) has {shared[0]!r} of one shape for every n: each row has numbers of its own"
    assert_same(list(kept), [obs, dict(noise)], f"obs and noise after act({mode!r})")


def test_exploring_takes_the_action_of_the_mode_explore(algo):
    agent, generator = build(algo), torch.Generator().manual_seed(6)
    train(agent, period(agent))
    obs = torch.randn(5, agent.spec.obs_dim, generator=generator)
    noise = noise_of(agent, "explore", 5, generator)
    action, wanted = agent.explore(obs, noise)[0], agent.act(obs, noise, "explore")
    assert torch.allclose(action, wanted, atol=1e-5, rtol=1e-4), (
        "explore plays another action than act('explore') of the same obs and noise, by up to "
        f"{float((action - wanted).abs().max()):.3g}; in addition it only says what a rollout keeps"
    )


def test_value_has_one_number_per_row(algo):
    agent, generator = build(algo), torch.Generator().manual_seed(5)
    obs = torch.randn(5, agent.spec.obs_dim, generator=generator)
    action = torch.rand(5, agent.spec.act_dim, generator=generator) * 2 - 1
    value = agent.value(obs, action)
    assert value.shape == (5,), f"value gives {tuple(value.shape)} for 5 rows, not (5,)"
    assert not value.requires_grad, "value is attached to the graph: use @torch.no_grad()"
    assert torch.isfinite(value).all(), "value is not finite"


# -- the bench ---------------------------------------------------------------------------------------------------------


def test_diagnose_gives_finite_scalars(algo):
    agent, latest = build(algo), {}
    for info in train(agent, period(agent)):
        latest |= info
    kept = {name: value.clone() for name, value in latest.items()}
    record = agent.diagnose(latest)
    assert_same(kept, latest, "what diagnose was given")
    for name, value in record.items():
        assert isinstance(value, Tensor), f"diagnose[{name!r}] is a {type(value).__name__}, not a tensor"
        assert value.dim() == 0, f"diagnose[{name!r}] is no scalar but {tuple(value.shape)}"
        assert torch.isfinite(value), f"diagnose[{name!r}] is not finite"


def test_a_run_ends_and_its_policy_loads(algo, tmp_path):
    from bench.policy import load_policy

    own, changed = algo_values(algo), small_values(algo)
    said = {key: "null" if value is None else value for key, value in changed.items() if value != own[key]}
    small = ",".join(f"{key}={value}".replace(" ", "") for key, value in said.items())
    agent = build(algo)
    need, home = agent.data, agent.home
    first = latest_start(agent)  # every phase is due before the end, of rollouts in two of them
    steps = (first // need.epochs + 2) * need.batch_size if isinstance(need, Rollout) else need.batch_size + first + 8
    overrides = [f"steps={steps}", f"warmup={need.batch_size}", "eval.episodes=2", "log_every=4"]
    cells, _ = grid.plan("quick", f"tested={algo}({small})" if small else f"tested={algo}", home, "1", overrides)
    runs: list[run.Run] = []
    outcome = run.run(cells[0].config, tmp_path, stopper=runs.append)
    failed = tmp_path / "FAILED.json"
    assert outcome == "done", f"a short run on {home}: {outcome}; {failed.read_text() if failed.exists() else ''}"
    trained, policy = runs[0].agent, load_policy(tmp_path)
    spec = trained.spec
    obs, generator = torch.randn(3, spec.obs_dim), torch.Generator().manual_seed(6)
    assert policy(obs.numpy()).shape == (3, spec.act_dim)
    noise = sample(trained.draws("own", 3), generator)
    told = "what act reads and an update changes belongs into state_dict; the actions of the loaded policy"
    assert_same(trained.act(obs, noise, "own"), policy.agent.act(obs, noise, "own"), told)
