"""What an agent declares (algos.agent), judged before anything is run: its author's slip is one line then, no failed run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import random
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import envs
from algos import agent_class
from algos.agent import MODES, Agent, Batch, Draw, Phase, Replay, ReplayConfig, Rollout, Trajectories, sample
from algos.optimizer import Adam
from bench.clock import LOOP, OVERHEAD
from bench.compose import agent_config
from bench.config import RunConfig, check_rollout
from bench.provenance import INSTALLED
from bench.rundir import EPISODES
from bench.synthetic import random_data
from bench.typed import UsageError, told, user_error
from envs.vector import VectorEnv

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
METHODS = {"draws": "(phase, n)", "act": "(obs, noise, mode)", "value": "(obs, action)"}
BOUND = 1 + 1e-6  # of an action in [-1, 1], rounded
LOGGED = {"env_step", "update", EPISODES}  # names of the log's own
TAKEN = {*LOOP, *OVERHEAD, *MODES}  # parts of the clock, and what draws are asked for beside phases


def check_agents(configs: list[RunConfig]) -> None:
    """Build each agent once on each of its environments, for what it declares may depend on both. Raises UsageError where it
    cannot be made, breaks the contract, or would not be trained in so many steps."""
    seen: set[str] = set()
    for config in configs:
        key = json.dumps([config.algo, config.env])
        if key not in seen:
            seen.add(key)
            spec, obs = _first(config.env["id"], json.dumps(config.env_settings))
            agent = build(config, spec)
            try:
                check_seeded(agent, build(config, spec))
                check(agent, obs)
                if ":" in config.algo["agent"]:  # those of the registry are held to it by the conformance tests
                    check_update(agent, _seen(config.env["id"], json.dumps(config.env_settings)))
            except UsageError as error:
                raise UsageError(f"{config.label} on {config.env['id']}: {error}") from error
            check_rollout(config, agent.data)
            check_length(config, agent)


def build(config: RunConfig, spec: envs.EnvSpec) -> Agent:
    """The agent of a run, on the CPU. Raises UsageError for whatever its own code raises."""
    cls = agent_class(config.algo["agent"])
    try:
        return cls(spec, agent_config(config.algo), torch.Generator().manual_seed(0))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{config.label} cannot be made for {config.env['id']}: {told(error)}") from error


@functools.lru_cache(maxsize=64)
def _first(env_id: str, settings: str) -> tuple[envs.EnvSpec, Tensor]:
    """An environment's specification, and a first observation of it [1, S]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of was said when its settings were looked at
        make = functools.partial(envs.make, env_id, 0, 1, **json.loads(settings))
        env, spec = user_error(make)
        with contextlib.closing(env):
            if ":" in env_id:
                check_replayed(env_id, env, user_error(make)[0], spec)
            obs, _ = env.reset()
    return spec, torch.from_numpy(obs.copy())


@functools.lru_cache(maxsize=64)
def _seen(env_id: str, settings: str) -> Tensor:
    """Observations [n, S] of an episode's first decisions, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env, spec = user_error(functools.partial(envs.make, env_id, 0, 1, **json.loads(settings)))
        with contextlib.closing(env):
            first, *rest = opening(env, spec, 0, decisions=64)
    return torch.from_numpy(np.concatenate([first, *rest[::3]]))


def check_replayed(env_id: str, env: VectorEnv, again: VectorEnv, spec: envs.EnvSpec) -> None:
    """Raises UsageError for an environment from outside that cannot be stepped, or whose episode 0 is another one after an
    episode 1, or in another object: a resume, and an evaluation that is made again, would not be the same."""
    try:
        first, _, later = (opening(env, spec, episode) for episode in (0, 1, 0))
        other = opening(again, spec, 0)
    except Exception as error:
        raise UsageError(f"{env_id} cannot be stepped: {told(error)}") from error
    finally:
        again.close()
    for found, when in ((later, "after an episode 1"), (other, "in a second object")):
        if not all(map(functools.partial(np.array_equal, equal_nan=True), first, found)):
            raise UsageError(
                f"{env_id}: its episode 0 is another one {when}. Its random numbers come from self.np_random, which "
                "super().reset(seed=seed) seeds, and nothing else outlives a reset"
            )


def opening(env: VectorEnv, spec: envs.EnvSpec, episode: int, decisions: int = 20) -> list[np.ndarray]:
    """Observations, rewards and ends of an episode's first decisions, under actions that are the same for all episodes."""
    actions, (obs, _) = np.random.default_rng(0), env.start([episode])
    seen = [obs.copy()]
    for _ in range(decisions):
        obs, reward, terminated, truncated, _ = env.step(actions.uniform(-1, 1, (1, spec.act_dim)).astype(np.float32))
        seen += [obs.copy(), reward.copy(), terminated | truncated]
        if (terminated | truncated).any():
            break
    return seen


def check_length(config: RunConfig, agent: Agent) -> None:
    """Refuse a run that ends before each of the agent's phases has begun."""
    per, need = config.frames_per_decision, agent.data
    decisions = -(-config.steps // per)
    if isinstance(need, Rollout):
        updates = decisions // need.length * need.epochs
    else:
        warm = -(-config.resolved().warmup // per)
        updates = (decisions - warm) * config.env["num_envs"]
    if late := [phase for phase in agent.phases if phase.start >= updates]:
        last = max(phase.start for phase in late)
        if isinstance(need, Rollout):
            least = (last // need.epochs + 1) * need.length * per
        else:
            least = (warm + last // config.env["num_envs"] + 1) * per
        raise UsageError(
            f"{config.label} would never come to {', '.join(phase.name for phase in late)}: steps={config.steps} frames give "
            f"{updates} updates, and {last} come before; set steps={least} or more"
        )


def check_seeded(agent: Agent, again: Agent) -> None:
    """Raises UsageError unless an agent built again from the same seed has the same weights: those of torch's own layers come
    from its global generator, which is the same at the start of every run, whatever its seed."""
    for (name, network), other in zip(agent.networks().items(), again.networks().values(), strict=True):
        for (key, value), same in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
            if isinstance(value, Tensor) and not torch.equal(value.nan_to_num(), same.nan_to_num()):
                raise UsageError(
                    f"{type(agent).__name__} has weights that do not come from its `generator` ({name}.{key}): before torch's "
                    "own layers are made, torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))"
                )


class GlobalDraws:
    """Watches the global generators of Python, of NumPy and of torch on the CPU. No checkpoint keeps them, no seed of a run
    sets them, and evaluation would share them with training: a run that draws from them, or seeds them, is not the same after
    a stop."""

    def __init__(self):
        self.look()

    def look(self) -> None:
        self.states = self._states()

    def check(self, env_step: int) -> None:
        """Raises ValueError where one has changed since the last `look`."""
        for name, state in self._states().items():
            if state != self.states[name]:
                raise ValueError(
                    f"{name}'s global generator was drawn from or seeded before frame {env_step}: a resumed run would differ. "
                    "An agent's random numbers are those that its `draws` declare, an environment's come from its own np_random"
                )

    @staticmethod
    def _states() -> dict[str, tuple]:
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002
        torchs = torch.get_rng_state().numpy().tobytes()
        return {"torch": (torchs,), "NumPy": (kind, keys.tobytes(), *rest), "Python": random.getstate()}


def check(agent: Agent, obs: Tensor) -> None:
    """Raises UsageError, in one line, for what the contract asks of every agent and this one does not give. obs [N, S]: some
    that its environment may give."""
    parts = (_config, _methods, _data, _phases, _draws, lambda agent: _acting(agent, obs), lambda agent: _valuing(agent, obs))
    for part in (*parts, _state):
        if wrong := part(agent):
            raise UsageError(f"{type(agent).__name__} {wrong}")


def check_update(agent: Agent, obs: Tensor) -> None:
    """Raises UsageError, in one line, for what an update does that no run could bear or would show too late. obs [n, S]: some
    that its environment gives in a row, which the data show. The agent is used up by it."""
    generator, name = torch.Generator(agent.device).manual_seed(0), type(agent).__name__

    def tried(phase: Phase, batch: Batch | Trajectories, noise: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        before = _versions(batch)
        try:
            found = agent.run_phase(phase, batch, noise)
        except Exception as error:
            raise UsageError(f"{name}'s phase {phase.name!r} fails on data at random: {_placed(error)}") from error
        if _versions(batch) != before:
            raise UsageError(f"{name}'s phase {phase.name!r} changes its batch in place: .clone() what it changes")
        for key, value in found.items() if isinstance(found, Mapping) else ():
            if not isinstance(value, Tensor) or value.requires_grad:
                what = "with a graph behind it" if isinstance(value, Tensor) else f"as a {type(value).__name__}"
                raise UsageError(f"{name}'s phase {phase.name!r} returns {key!r} {what}: a detached tensor is wanted")
        return found

    latest: dict[str, Tensor] = {}
    try:
        data = random_data(agent, generator, obs)
        for start in sorted({phase.start for phase in agent.phases}):  # so that each is tried
            agent.updates = start
            due = agent.due()
            noise = {phase.name: sample(agent.draws(phase.name, agent.data.batch_size), generator) for phase in due}
            latest |= agent.update(data, noise, tried)
        metrics = agent.diagnose(latest)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name}: {_placed(error)}") from error
    scalars = isinstance(metrics, Mapping) and all(isinstance(value, Tensor) and not value.dim() for value in metrics.values())
    if not scalars:
        raise UsageError(f"{name} has a diagnose that gives something else than {{name: scalar tensor}}")
    if taken := LOGGED & metrics.keys():
        raise UsageError(f"{name} returns {min(taken)!r}, a name of the log's own ({', '.join(sorted(LOGGED))}); take another")


def _versions(data: Batch | Trajectories) -> list[int]:
    """How often each tensor was written to."""
    return [part._version for part in tree_leaves(data)]


def _placed(error: Exception) -> str:
    """An error with the last place in code that is no library's, if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not INSTALLED & {*Path(frame.filename).parts}]
    last, text = (own or frames)[-1], str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"


def _config(agent: Agent) -> str:
    cls = type(agent.config)
    typed, fields = vars(cls).get("__annotations__", {}), {field.name for field in dataclasses.fields(cls)}
    if bare := [name for name, kind in typed.items() if name not in fields and "ClassVar" not in str(kind)]:
        return f"has a Config whose {bare[0]!r} is no setting: @dataclass(frozen=True) before the class makes it one"
    for name, value in vars(cls).items():
        if not name.startswith("_") and name not in typed and isinstance(value, bool | int | float | str | tuple):
            said = f"{name}: {type(value).__name__} = {value!r}"
            return f"has a Config.{name} without a type, which makes it no setting: {said} (or ClassVar, where it is none)"
    return ""


def _methods(agent: Agent) -> str:
    for name, arguments in METHODS.items():
        if getattr(type(agent), name) is getattr(Agent, name):
            return f"has no {name}{arguments}: every agent gives it (algos/agent.py)"
    return ""


def _data(agent: Agent) -> str:
    need = getattr(agent, "data", None)
    if not isinstance(need, Replay | Rollout):
        return f"has data = {need!r}: it is an algos.agent.Replay or Rollout"
    if isinstance(need, Rollout) and getattr(agent.config, "envs", None) != need.envs:
        found = getattr(agent.config, "envs", None)
        return f"has rollouts of {need.envs} copies and Config.envs = {found}: that setting is the number of copies"
    if isinstance(need, Rollout) and isinstance(agent.config, ReplayConfig):
        return "learns from rollouts and has the settings of a replay: its Config extends NetworkConfig or ChainConfig"
    if isinstance(need, Replay) and hasattr(agent.config, "envs"):
        return "has a replay and a field Config.envs: that name is a rollout's number of copies; give the setting another one"
    if not isinstance(need.gamma, int | float) or not 0 <= need.gamma <= 1:
        return f"has data with gamma={need.gamma!r}: it is a discount in [0, 1] (self.gamma, if its Config has a field gamma)"
    if (stated := agent.spec.discount) is not None and need.gamma != stated:
        return f"discounts by {need.gamma:g}, and {agent.spec.id} states {stated:g}: give its data self.gamma, which knows both"
    return ""


def _phases(agent: Agent) -> str:
    phases = agent.phases
    if not isinstance(phases, tuple | list) or not phases or not all(isinstance(phase, Phase) for phase in phases):
        return f'has phases = {phases!r}: it is one or more algos.agent.Phase, as (Phase("critic"), Phase("actor"))'
    names = [phase.name for phase in phases]
    if twice := {name for name in names if names.count(name) > 1}:
        return f"has two phases {min(twice)!r}: phases have different names"
    if clash := [name for name in names if name in TAKEN]:
        return f"has a phase {clash[0]!r}: {', '.join(sorted(TAKEN))} are the bench's own names; name it otherwise"
    if missing := [name for name in names if not callable(getattr(agent, name, None))]:
        return f"has a phase {missing[0]!r} and no method of that name"
    return ""


def _draws(agent: Agent) -> str:
    sizes = dict.fromkeys((phase.name for phase in agent.phases), agent.data.batch_size) | dict.fromkeys(MODES, 2)
    for what, n in sizes.items():
        try:
            found = agent.draws(what, n)
        except Exception as error:
            raised = f"draws({what!r}, {n}) raises {type(error).__name__}: {error}"
            return f"says nothing of the random numbers of {what!r} ({raised}); it is {{}} where there are none"
        values = found.values() if isinstance(found, Mapping) else [None]
        if wrong := [type(found if draw is None else draw).__name__ for draw in values if not isinstance(draw, Draw)]:
            return f"has a {wrong[0]} in draws({what!r}, {n}): it is {{name: algos.agent.normal(n, ...), uniform or integers}}"
        more = agent.draws(what, n + 1) if what in MODES else {}
        if shared := [name for name, draw in more.items() if name in found and draw.shape == found[name].shape]:
            return f"has {shared[0]!r} of one shape in draws({what!r}, n) for every n: each observation has numbers of its own"
    return ""


def _acting(agent: Agent, obs: Tensor) -> str:
    """What it does on these observations, with what the bench would draw."""
    generator = torch.Generator(agent.device).manual_seed(0)
    n, wanted = len(obs), (len(obs), agent.spec.act_dim)
    for mode in MODES:
        noise = sample(agent.draws(mode, n), generator, agent.device)
        try:
            given = agent.explore(obs, noise) if mode == "explore" else (agent.act(obs, noise, mode), {})
        except Exception as error:
            return f"cannot act in mode {mode!r}: {told(error)}"
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], Mapping):
            return f"has an explore that returns {type(given).__name__}: it is (actions, {{name: what a rollout keeps}})"
        action, kept = given
        if not isinstance(action, Tensor) or action.shape != wanted or action.dtype != torch.float32:
            found = f"{action.dtype} of shape {tuple(action.shape)}" if isinstance(action, Tensor) else type(action).__name__
            return f"gives {found} as actions of mode {mode!r}: here they are a float32 tensor {list(wanted)}"
        if action.requires_grad:
            return f"gives actions of mode {mode!r} with a graph behind them: decorate act with @torch.no_grad()"
        if agent.bounded_actions and action.abs().max() > BOUND:
            return f"gives actions beyond [-1, 1] in mode {mode!r}: clamp them, or set bounded_actions = False"
        for name, value in kept.items():
            if not isinstance(value, Tensor) or value.shape[:1] != (n,):
                return f"has an explore that keeps {name!r} without a row for each observation: it is a tensor [N, ...]"
            if value.requires_grad:
                return f"has an explore that keeps {name!r} with a graph behind it: decorate explore with @torch.no_grad()"
    return ""


def _valuing(agent: Agent, obs: Tensor) -> str:
    rows = obs[:1].repeat(3, 1)
    try:
        value = agent.value(rows, torch.zeros(3, agent.spec.act_dim, device=agent.device))
    except Exception as error:
        return f"has a value that fails: {told(error)}"
    if not isinstance(value, Tensor) or value.shape != (3,):
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        return f"has a value that gives {found} for 3 observations: it is one number for each, [N]"
    return ""


def _state(agent: Agent) -> str:
    """What a checkpoint would not keep. An agent with a state_dict of its own answers for itself."""
    own = type(agent)
    if any(getattr(own, name) is not getattr(Agent, name) for name in ("state_dict", "networks", "optimizers")):
        return ""
    kept = {id(part) for network in agent.networks().values() for part in (*network.modules(), *network.parameters())}
    kept |= set(map(id, agent.optimizers().values()))
    trainer: dict[int, str] = {}
    for name, tensors in agent.trained().items():
        if any(id(tensor) not in kept for tensor in tensors):
            return f"trains in {name} a tensor of no module, which no checkpoint keeps: put it into one (nn.ParameterList)"
        if twice := [trainer[id(tensor)] for tensor in tensors if id(tensor) in trainer]:
            return f"trains a parameter both in {twice[0]} and in {name}: each is moved by one optimizer"
        trainer |= {id(tensor): name for tensor in tensors}
    for name, value in vars(agent).items():
        parts = [part for part in _inside(value) if id(part) not in kept]
        if any(isinstance(part, GENERATORS) for part in (value, *parts)):
            return f"has a random generator in {name}, which no checkpoint keeps: its numbers are those that `draws` declares"
        if isinstance(value, torch.optim.Optimizer):
            return f"has a torch optimizer in {name}, which no checkpoint keeps: use algos.optimizer.Adam"
        if isinstance(value, nn.Parameter) and id(value) not in kept:
            return f"has a bare parameter in {name}, which no checkpoint keeps: put it into a module (nn.ParameterList)"
        parts = [part for part in parts if not isinstance(part, nn.Module) or part.state_dict()]
        if any(isinstance(part, nn.Module | nn.Parameter | Adam | torch.optim.Optimizer) for part in parts):
            return (
                f"has modules, parameters or optimizers in the {type(value).__name__} {name}, which no checkpoint keeps: use "
                "nn.ModuleList, or an attribute for each"
            )
    return ""


def _inside(value: object) -> list[object]:
    """What a container, or an object of no kind that is known here, holds."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    known = nn.Module | Tensor | Adam | torch.optim.Optimizer | type | ModuleType
    return [] if isinstance(value, known) or dataclasses.is_dataclass(value) else list(getattr(value, "__dict__", {}).values())
