"""The composition of a run's settings from conf/, a preset and what the user typed.

conf/ holds the values, Hydra composes them, and `bench.config` says what they may be.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import algos
import envs
from algos import nearest
from bench.config import ALGO_META, EvalConfig, RunConfig, check_feasible, dotted_keys
from bench.typed import UsageError, check, convert, plain, typed

CONF = Path(__file__).resolve().parent.parent / "conf"  # package data, found from here and never from the cwd


@dataclass(frozen=True)
class Override:
    """A `key=value` of the command line."""

    key: str
    value: Any
    text: str


def parse_override(text: str) -> Override:
    """Raises UsageError where Hydra's grammar does not accept the text, or where it is more than key=value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UsageError(f"cannot parse {text!r} as key=value ({str(error).splitlines()[0]})") from error
    if parsed.is_add() or parsed.is_delete() or parsed.is_force_add():
        raise UsageError(f"{text!r}: keys cannot be added or removed, only set: key=value")
    if parsed.is_sweep_override():
        raise UsageError(f"{text!r} gives several values; one run takes one (variants: --algos a=qsm(m_q=50),b=qsm(m_q=120))")
    if parsed.package is not None:
        raise UsageError(f"{text!r}: a key has no package here: {parsed.key_or_group}=value")
    value = parsed.value()
    if not all(isinstance(key, str) for key in mapping_keys(value)):
        raise UsageError(f"{text!r}: the keys of a mapping are names")
    return Override(parsed.key_or_group, value, text)


def mapping_keys(value: Any) -> list[Any]:
    """All keys of a mapping and of those in it."""
    return [key for own, part in value.items() for key in (own, *mapping_keys(part))] if isinstance(value, dict) else []


def available(group: str) -> list[str]:
    """Names in a group of conf/, a user's ./conf included."""
    return sorted({path.stem for root in search_path() for path in (root / group).glob("*.yaml")})


def search_path() -> list[Path]:
    user = Path.cwd() / "conf"
    return [CONF] + ([user] if user.is_dir() and user.resolve() != CONF else [])


def known_name(group: str, name: str) -> str:
    """`name` if conf/`group` has it; a UsageError naming the nearest otherwise, and where a user's own file has the name of
    one of ours, which Hydra would find first."""
    names = available(group)
    if name not in names:
        module, dot, last = name.rpartition(".")
        other = f"; did you mean {module}:{last}?" if group == "algo" and dot else nearest(name, names)
        raise UsageError(f"unknown {group} {name!r}; known are {', '.join(names)}{other}")
    ours, *theirs = (root / group / f"{name}.yaml" for root in search_path())
    for file in theirs:
        if ours.exists() and file.exists() and file.read_bytes() != ours.read_bytes():
            raise UsageError(f"{file} has the name of a {group} that this benchmark brings; give it another name")
    return name


@functools.lru_cache(maxsize=256)
def compose(preset: str, algo: str | None, family: str, cwd: str) -> dict[str, Any]:
    """The plain values of one (preset, algo, env family). algo None leaves that group out (a plug-in brings its own)."""
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = [f"preset={preset}", f"env={family}", "~algo" if algo is None else f"algo={algo}"]
    extra = [quoted(f"file://{p}") for p in search_path()[1:]]
    try:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
            found = hydra_compose("config", overrides=[*groups, f"hydra.searchpath=[{','.join(extra)}]"])
        values = OmegaConf.to_container(found, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"conf/ with {' '.join(groups)} cannot be composed: {said}") from error
    for key in ("algo", "env", "eval", "grid"):
        if key in values and not isinstance(values[key], dict):
            raise UsageError(f"conf/ with {' '.join(groups)}: {key}={values[key]!r} is no mapping of keys to values")
    if algo is not None and not isinstance(values.get("algo", {}).get("agent"), str):
        raise UsageError(f"conf/algo/{algo}.yaml says no `agent`: a name (python -m bench list algos), or module:Class")
    return values


def quoted(text: str) -> str:
    """As Hydra's grammar reads it back, whatever is in it."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return f"'{escaped}'"


def composed(preset: str, algo: str | None, family: str) -> dict[str, Any]:
    known_name("preset", preset)
    known_name("env", family)
    if algo is not None:
        known_name("algo", algo)
    return copy.deepcopy(compose(preset, algo, family, str(Path.cwd())))


@dataclass(frozen=True)
class GridConfig:
    """What a preset runs where the command line names none."""

    algos: tuple[str, ...] = ("qsm", "dql", "sac")
    envs: tuple[str, ...] = ("dmc/cartpole-swingup",)
    seeds: int = 2
    env_settings: dict = field(default_factory=dict)  # pattern of environment ids -> settings of the family
    rollout_settings: dict = field(default_factory=dict)  # pattern -> settings of a run, for agents that learn from rollouts

    def __post_init__(self) -> None:
        for key in ("algos", "envs"):
            check(len(getattr(self, key)) >= 1, f"grid.{key}", list(getattr(self, key)), "a list of one or more")
        check(self.seeds >= 1, "grid.seeds", self.seeds, "1 or more")
        for key in ("env_settings", "rollout_settings"):
            for pattern, settings in getattr(self, key).items():
                check(isinstance(settings, dict), f"grid.{key}.{pattern}", settings, "a mapping of keys to values")


def grid_defaults(preset: str) -> GridConfig:
    """The preset's algorithms, environments, seeds and settings per environment."""
    return typed(GridConfig, composed(preset, None, "dmc")["grid"], "grid.")


def algo_values(name: str, preset: str = "quick", family: str = "dmc") -> dict[str, Any]:
    """Every value of an algorithm: of conf/algo/<name>.yaml, or the Config of a plug-in "module:Class"."""
    if ":" not in name:
        values = composed(preset, name, family)["algo"]
    else:
        cls = algos.agent_class(name)
        from algos.agent import Agent

        agent = isinstance(cls, type) and issubclass(cls, Agent)
        if not agent or not dataclasses.is_dataclass(getattr(cls, "Config", None)):
            raise UsageError(f"plug-in {name!r} is no agent: it derives from algos.agent.Agent and has a Config dataclass")
        if clash := [f.name for f in dataclasses.fields(cls.Config) if f.name in ALGO_META]:
            raise UsageError(f"plug-in {name!r}: no setting can be called {clash[0]!r} ({', '.join(ALGO_META)} are taken)")
        bare = [f.name for f in dataclasses.fields(cls.Config) if f.default is f.default_factory is dataclasses.MISSING]
        if bare:
            raise UsageError(f"plug-in {name!r}: every setting of its Config needs a default, and {', '.join(bare)} has none")
        values = {"agent": name} | dataclasses.asdict(typed(cls.Config, {}, f"plug-in {name!r}: "))
    return {"name": name} | values


def agent_config(values: dict[str, Any]) -> Any:
    """The agent's own Config instance from the `algo` values of a run."""
    settings = {key: value for key, value in values.items() if key not in ALGO_META}
    return typed(algos.agent_class(values["agent"]).Config, settings, "algo.")


def changed_from_defaults(values: dict[str, Any]) -> dict[str, list]:
    """Settings that differ from the benchmark defaults of the same agent: key -> [default, value]."""
    defaults, mine = algos.agent_class(values["agent"]).Config(), agent_config(values)
    pairs = {f.name: [getattr(defaults, f.name), getattr(mine, f.name)] for f in dataclasses.fields(defaults)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def run_config(
    preset: str, label: str, algo: str, settings: dict[str, Any], env_id: str, seed: int, overrides: list[Override]
) -> RunConfig:
    """The validated configuration of one cell. Keys in `overrides` that this cell does not have are passed over:
    `check_overrides` has made sure that some cell has them."""
    family = env_id.partition("/")[0]
    plugin = ":" in algo
    values = composed(preset, None if plugin else algo, family)
    values["algo"] = algo_values(algo, preset, family)
    grid = typed(GridConfig, values.pop("grid"), "grid.")
    values["env"]["id"] = env_id
    for pattern, env_settings in grid.env_settings.items():
        if fnmatch.fnmatchcase(env_id, pattern):
            values["env"] |= env_settings
    for pattern, rollout_settings in grid.rollout_settings.items():
        if "envs" in values["algo"] and fnmatch.fnmatchcase(env_id, pattern):
            for key, value in rollout_settings.items():
                check(set_key(values, key, value), f"grid.rollout_settings.{pattern}", key, "keys of a run")
    values["eval"]["episodes"] = max(typed(EvalConfig, values["eval"], "eval.").episodes, envs.least_episodes(env_id))
    for override in overrides:
        set_key(values, override.key, override.value)
    for key, value in settings.items():
        if not set_key(values["algo"], key, value):
            raise UsageError(f"{label}: {algo} has no setting {key!r}{nearest(key, values['algo'])}")
    stated = envs.discount(env_id)
    if stated is not None and ("gamma" in settings or any(override.key == "algo.gamma" for override in overrides)):
        raise UsageError(f"{label} on {env_id}: the task states a discount of {stated:g}, so leave gamma out")
    values["seed"] = seed
    if values["env"].get("bounded", False) is None:  # a family that has either kind of action gives what the agent needs
        values["env"]["bounded"] = algos.agent_class(values["algo"]["agent"]).bounded_actions
    config = typed(RunConfig, values | {"label": label})
    agent = agent_config(config.algo)
    algo_plain = {"name": algo, "agent": config.algo["agent"]} | plain(dataclasses.asdict(agent))
    if "tuned" in config.algo and agent == agent_config(algo_values(algo, preset, family)):  # with other settings it is not
        algo_plain["tuned"] = config.algo["tuned"]
    config = dataclasses.replace(config, algo=algo_plain, env=env_config(config.env, agent))
    check_feasible(config.resolved(), agent)
    return config


def env_config(values: dict[str, Any], agent: Any) -> dict[str, Any]:
    """The environment's settings, typed by the family's Config, with id and num_envs. Where num_envs is null it is 1, or
    the copies that the agent's rollouts have (`envs` of its Config)."""
    own = {k: v for k, v in values.items() if k not in ("id", "num_envs")}
    checked = typed(envs.config_class(values["id"].partition("/")[0]), own, "env.")
    wanted, given = getattr(agent, "envs", 1), values["num_envs"]
    num_envs = convert(int, wanted if given is None else given, "env.num_envs")
    if hasattr(agent, "envs") and num_envs != wanted:
        raise UsageError(f"env.num_envs={num_envs}: this agent's rollouts have {wanted} copies; set algo.envs instead")
    check(num_envs >= 1, "env.num_envs", num_envs, "1 or more")
    return {"id": values["id"], "num_envs": num_envs} | plain(dataclasses.asdict(checked))


def set_key(values: dict[str, Any], dotted: str, value: Any) -> bool:
    """Set an existing key, or the keys of a mapping one by one; False if there is none."""
    *path, last = dotted.split(".")
    for part in path:
        values = values.get(part) if isinstance(values, dict) else None
        if not isinstance(values, dict):
            return False
    if last not in values:
        return False
    if isinstance(values[last], dict) and isinstance(value, dict):
        return all(set_key(values[last], key, own) for key, own in value.items())
    values[last] = value
    return True


def check_overrides(overrides: list[Override], cells: list[dict[str, Any]]) -> None:
    """Raise UsageError for an override whose key no cell has. cells: composed values of every (algo, env family)."""
    for override in overrides:
        if re.match(r"(algo|env|preset|grid|seed|label)(\.(name|agent|id|tuned))?$", override.key):
            raise UsageError(f"{override.text!r} cannot be set this way: use --algos, --envs, --preset, --seeds")
        if not any(set_key(cell, override.key, override.value) for cell in cells):
            known = {key for cell in cells for key in dotted_keys(cell)}
            owner = "no listed algorithm has" if override.key.startswith("algo.") else "unknown key"
            inside = dotted_keys({override.key: override.value})  # of a mapping the key that is wrong, not the first one
            wrong = next((key for key in inside if key not in known), override.key)
            raise UsageError(f"{owner} {wrong!r}{nearest(wrong, known)}")
