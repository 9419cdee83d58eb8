"""What an agent declares (algos.agent), judged before anything is run: its author's slip is one line then, no failed run."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

import envs
from algos import agent_class
from algos.agent import MODES, Adam, Agent, Draw, Phase, Replay, Rollout, sample
from bench.clock import LOOP, OVERHEAD
from bench.config import RunConfig, UsageError, agent_config, check_rollout, told

METHODS = {"draws": "(phase, n)", "act": "(obs, noise, mode)", "value": "(obs, action)"}
TAKEN = {*LOOP, *OVERHEAD, *MODES}  # parts of the clock, and what draws are asked for beside phases


def check_agents(configs: list[RunConfig]) -> None:
    """Build each agent once on each of its environments, for what it declares may depend on both. Raises UsageError where it
    cannot be made, breaks the contract, or would not be trained in so many steps."""
    seen: set[str] = set()
    for config in configs:
        key = json.dumps([config.algo, config.env])
        if key not in seen:
            seen.add(key)
            agent = build(config)
            check(agent)
            check_rollout(config, agent.data)
            check_length(config, agent)


def build(config: RunConfig) -> Agent:
    """The agent of a run, on the CPU. Raises UsageError for whatever its own code raises."""
    cls, spec = agent_class(config.algo["agent"]), _spec(config.env["id"], json.dumps(config.env_settings))
    try:
        return cls(spec, agent_config(config.algo), torch.Generator().manual_seed(0))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{config.label} cannot be made for {config.env['id']}: {told(error)}") from error


@functools.lru_cache(maxsize=64)
def _spec(env_id: str, settings: str) -> envs.EnvSpec:
    env, spec = envs.make(env_id, 0, 1, **json.loads(settings))
    env.close()
    return spec


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


def check(agent: Agent) -> None:
    """Raises UsageError, in one line, for what the contract asks of every agent and this one does not give."""
    for part in (_methods, _data, _phases, _draws, _acting, _state):
        if wrong := part(agent):
            raise UsageError(f"{type(agent).__name__} {wrong}")


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
    for what in (*(phase.name for phase in agent.phases), *MODES):
        try:
            found = agent.draws(what, 2)
        except Exception as error:
            raised = f"draws({what!r}, 2) raises {type(error).__name__}: {error}"
            return f"says nothing of the random numbers of {what!r} ({raised}); it is {{}} where there are none"
        values = found.values() if isinstance(found, Mapping) else [found]
        if wrong := [type(draw).__name__ for draw in values if not isinstance(draw, Draw)]:
            return f"has a {wrong[0]} in draws({what!r}, 2): it is {{name: algos.agent.normal(n, ...), uniform or integers}}"
    return ""


def _acting(agent: Agent) -> str:
    """On two observations, with what the bench would draw."""
    generator = torch.Generator(agent.device).manual_seed(0)
    obs = torch.randn(2, agent.spec.obs_dim, generator=generator, device=agent.device)
    wanted = (2, agent.spec.act_dim)
    for mode in MODES:
        noise = sample(agent.draws(mode, 2), generator, agent.device)
        given = agent.explore(obs, noise) if mode == "explore" else (agent.act(obs, noise, mode), {})
        if not isinstance(given, tuple) or len(given) != 2:
            return f"has an explore that returns {type(given).__name__}: it is (actions, {{name: what a rollout keeps}})"
        action, kept = given
        if not isinstance(action, Tensor) or action.shape != wanted or action.dtype != torch.float32:
            found = f"{action.dtype} of shape {tuple(action.shape)}" if isinstance(action, Tensor) else type(action).__name__
            return f"gives {found} as actions of mode {mode!r}: they are a float32 tensor {list(wanted)} for two observations"
        if action.requires_grad:
            return f"gives actions of mode {mode!r} with a graph behind them: decorate act with @torch.no_grad()"
        if agent.bounded_actions and action.abs().max() > 1:
            return f"gives actions beyond [-1, 1] in mode {mode!r}: clamp them, or set bounded_actions = False"
        for name, value in kept.items():
            if not isinstance(value, Tensor) or value.shape[:1] != (2,):
                return f"has an explore that keeps {name!r} without a row for each observation: it is a tensor [N, ...]"
    return ""


def _state(agent: Agent) -> str:
    """What a checkpoint would not keep. An agent with a state_dict of its own answers for itself."""
    own = type(agent)
    if any(getattr(own, name) is not getattr(Agent, name) for name in ("state_dict", "networks", "optimizers")):
        return ""
    for name, value in vars(agent).items():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
        if isinstance(value, torch.optim.Optimizer):
            return f"has a torch optimizer in {name}, which no checkpoint keeps: use algos.agent.Adam"
        if isinstance(value, nn.Parameter):
            return f"has a bare parameter in {name}, which no checkpoint keeps: put it into a module (nn.ParameterList)"
        if any(isinstance(part, nn.Module | nn.Parameter | Adam | torch.optim.Optimizer) for part in parts):
            return (
                f"has modules, parameters or optimizers in the {type(value).__name__} {name}, which no checkpoint keeps: use "
                "nn.ModuleList, or an attribute for each"
            )
    return ""
