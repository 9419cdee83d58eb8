"""What every agent must hold to, as tests that ship with the package.

The author of an agent runs them on it from any directory with one line, the agent named as in `--algos`:

    BENCH_AGENT=my_pkg.agents:MyAgent python -m pytest --pyargs bench.conformance

Several are separated by commas. Without BENCH_AGENT the registry is tested, and the other algorithms of conf/algo as slow
tests. Networks and batches are made small where the Config has the benchmark's usual keys (`harness.SMALL`): a test takes
milliseconds. Others it gives in its class attribute `small`.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import algos
from algos.agent import MODES, Rollout, sample
from bench import contract, grid, run
from bench.compose import algo_values, available
from bench.harness import (
    NoHostSync,
    alike,
    assert_same,
    build,
    memory,
    noise_of,
    reads,
    scheduled,
    small_values,
    spec_for,
    state,
    targets,
    train,
)  # fmt: skip
from bench.synthetic import latest_start, period


def under_test() -> list[Any]:
    """The agents under test: those of BENCH_AGENT, or every algorithm of conf/algo."""
    if given := [name.strip() for name in os.environ.get("BENCH_AGENT", "").split(",") if name.strip()]:
        return given
    others = [pytest.param(name, marks=pytest.mark.slow) for name in available("algo") if name not in algos.AGENTS]
    return [*algos.AGENTS, *others]


@pytest.fixture(params=under_test())
def algo(request: pytest.FixtureRequest) -> str:
    return request.param


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


def test_phases_read_no_value_on_the_host(algo):
    agent = build(algo)
    train(agent, period(agent))  # optimizers make their state in the first updates
    with NoHostSync(), pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu", "__array__"):  # of a CPU tensor these pass by the dispatcher
            patch.setattr(Tensor, name, reads)
        train(agent, period(agent))


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
    train(first, period(first) + 1, seed=1, explore=True)  # off the beat of a delayed phase
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = build(algo, seed=5)
    # as a checkpoint is read: tensors and plain values only
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert second.updates == first.updates, "the update counter is part of the state"
    assert_same(first.state_dict(), second.state_dict(), "the loaded state")
    more = 2 * period(first) + 1
    found = [train(agent, more, seed=2, explore=True) for agent in (first, second)]
    kept = "modules and optimizers are kept of themselves; what else an update or explore changes belongs into state_dict; "
    changed = {name for name, value in memory(first).items() if not alike(value, initial.get(name))}
    remembered = ({name: value for name, value in memory(agent).items() if name in changed} for agent in (first, second))
    assert_same(*remembered, f"{kept}after loading and training on, self")
    assert_same(*found, f"{kept}what update returned after loading")
    assert_same(first.state_dict(), second.state_dict(), "the state after training on")


# -- acting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("mode", MODES)
def test_actions_have_the_shape_and_the_bounds(algo, mode, n):
    agent, generator = build(algo), torch.Generator().manual_seed(3)
    train(agent, period(agent))
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
    assert not contract.LOGGED & record.keys(), f"{sorted(contract.LOGGED)} are names of the log's own"
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
