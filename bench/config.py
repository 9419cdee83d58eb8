"""The schema of a run, and its composition from conf/, a preset and what the user typed.

conf/ holds the values, Hydra composes them, the frozen dataclasses below say what each key means and what it takes.
A setting is either identity (it decides the numbers) or operation (how the work is done): `OPERATION` lists the latter.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import fnmatch
import functools
import math
import re
import traceback
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import algos
import envs
from algos import nearest

CONF = Path(__file__).resolve().parent.parent / "conf"  # package data, found from here and never from the cwd
OPERATION = ("checkpoint_every", "keep_replay", "logger")  # may differ between two sessions of one run
ALGO_META = ("name", "agent", "tuned")  # keys of `algo` beside the agent's own settings
AUTO = ("warmup", "eval_every", "log_every")  # derived from `steps` where the user gives none; a continued run keeps its own


class UsageError(ValueError):
    """What the user asked for cannot be done; the message is one line that says why and what would be right."""


def user_error(function: Callable, *arguments: Any) -> Any:
    """Call it; a ValueError of the packages below (an unknown environment, a bad plug-in) is the user's to mend."""
    try:
        return function(*arguments)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation rule, one for every algorithm."""

    episodes: int = 10  # per evaluation; a preset's number is raised to what the environment's score needs, a user's is not
    action: str = "own"  # own: the method's evaluation action | sample: a stochastic sample for every method
    candidates: int = 1  # best of N draws by Agent.value; 1: off

    def __post_init__(self) -> None:
        check(self.episodes >= 1, "eval.episodes", self.episodes, "1 or more")
        check(self.action in ("own", "sample"), "eval.action", self.action, "own or sample")
        check(self.candidates >= 1, "eval.candidates", self.candidates, "1 or more")


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


@dataclass(frozen=True)
class RunConfig:
    """One run. Steps and intervals count environment frames: one decision is action_repeat frames."""

    label: str  # directory and legend name of the variant
    algo: dict  # name (of conf/algo or module:Class), agent, the fields of the agent's Config, and `tuned` after a sweep
    env: dict  # id, and every field of the family's Config
    seed: int = 0
    steps: int = 40_000  # frames of training; raising it continues a finished run
    warmup: int | None = None  # frames of uniform actions before the first update; null: `resolved`; rollouts: none
    eval_every: int | None = None  # frames between evaluations; null: steps/16
    log_every: int | None = None  # frames between lines of metrics.jsonl; null: steps/64
    checkpoint_every: int = 25_000  # frames between checkpoints
    eval: EvalConfig = field(default_factory=EvalConfig)
    device: str = "cpu"  # cpu | cuda
    threads: int = 1  # compute threads of a run's process; a product's last digits depend on them
    matmul: str = "auto"  # auto: the fast path where a probe shows it is exact to 1e-5 | highest: always plain fp32
    # Identity, not operation: a compiled or captured phase sums in another order, so the last bits differ from eager's,
    # and a run that changed over in the middle would be neither of the two.
    speed: str = "eager"  # how phases are run: eager | compile (torch.compile) | cudagraph (captured once, then replayed)
    keep_replay: bool = False  # keep the replay pieces of a finished run
    logger: str = "none"  # none | tensorboard | wandb: a mirror of the JSONL files, in the run's directory

    def __post_init__(self) -> None:
        check(self.seed >= 0, "seed", self.seed, "0 or more")
        check(self.steps >= 1, "steps", self.steps, "1 or more environment frames")
        for name in ("warmup", "eval_every", "log_every", "checkpoint_every"):
            value, low = getattr(self, name), 0 if name == "warmup" else 1
            check(value is None or value >= low, name, value, f"{low} or more environment frames")
        check(self.threads >= 1, "threads", self.threads, "1 or more")
        for name, choices in CHOICES.items():
            check(getattr(self, name) in choices, name, getattr(self, name), "one of " + ", ".join(choices))
        if self.speed == "cudagraph" and self.device != "cuda":
            raise UsageError(f"speed=cudagraph needs device=cuda, found device={self.device}; take speed=eager there")

    @property
    def frames_per_decision(self) -> int:
        """Frames by which one decision of all copies advances the run."""
        return self.env.get("action_repeat", 1) * self.env.get("num_envs", 1)

    @property
    def first_batch(self) -> int:
        """Frames until the replay holds a batch; 0 where there is no replay."""
        batch = self.algo.get("batch_size", 1) if "capacity" in self.algo else 0
        return -(-batch // self.env.get("num_envs", 1)) * self.frames_per_decision

    @property
    def env_settings(self) -> dict[str, Any]:
        """The settings of the environment, as `envs.make` takes them."""
        return {key: value for key, value in self.env.items() if key not in ("id", "num_envs")}

    def resolved(self, keep: dict[str, int] | None = None) -> RunConfig:
        """With the automatic values filled in; `keep` holds those of an earlier session of the same run."""
        auto = {
            "warmup": max(min(5000, self.steps // 10), self.first_batch),
            "eval_every": max(self.steps // 16, 1),
            "log_every": max(self.steps // 64, 1),
        } | (keep or {})
        missing = {name: auto[name] for name in AUTO if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)


CHOICES = {
    "device": ("cpu", "cuda"),
    "matmul": ("auto", "highest"),
    "logger": ("none", "tensorboard", "wandb"),
    "speed": ("eager", "compile", "cudagraph"),
}


def check(condition: bool, name: str, found: object, wanted: str) -> None:
    if not condition:
        raise UsageError(f"{name}={found} is out of range: it takes {wanted}")


def typed(cls: type, values: dict[str, Any], where: str = "") -> Any:
    """An instance of dataclass `cls` from plain values. Raises UsageError for unknown keys, wrong types and bad values."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise UsageError(f"unknown key {where}{key}{nearest(key, known)}")
    converted = {key: convert(hints[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except UsageError:
        raise
    except Exception as error:  # an author's Config may raise anything; a ValueError's words begin with the setting's name
        named = isinstance(error, ValueError) and str(error)
        raise UsageError(f"{where if named else f'{cls.__module__}.{cls.__qualname__}: '}{told(error)}") from error


def told(error: Exception) -> str:
    """An error of somebody else's code in one line: a ValueError's own words, of any other also what and where it was."""
    text = str(error).partition("\n")[0]
    if isinstance(error, ValueError) and text:
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"


def convert(hint: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type, or a UsageError that names both."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        *first, last = [kind for kind in args if kind is not type(None)]
        for kind in first:
            with contextlib.suppress(UsageError):
                return convert(kind, value, name)
        return convert(last, value, name)
    if dataclasses.is_dataclass(hint) and isinstance(value, hint | dict):
        return typed(hint, value, f"{name}.") if isinstance(value, dict) else value
    if origin is typing.Literal:
        check(value in args, name, repr(value), "one of " + ", ".join(map(str, args)))
        return value
    if origin in (list, dict) and isinstance(value, origin):
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        check(len(kinds) == len(value), name, list(value), f"{len(kinds)} values")
        return tuple(convert(kind, v, name) for kind, v in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # of a whole number
            number, value = math.inf, "an enormous number"
        check(math.isfinite(number), name, value, "a finite number")
        return number
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    plain_name = f"{name}.key" if dataclasses.is_dataclass(hint) else getattr(hint, "__name__", str(hint))
    wanted = {tuple: "a list", list: "a list", dict: "a mapping"}.get(origin) or plain_name
    raise UsageError(f"{name}={value!r} has the wrong type: {wanted} is wanted")


# -- composition -------------------------------------------------------------------------------------------------------


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


def check_feasible(config: RunConfig, agent: Any) -> None:
    """Refuse a run in which no update would happen, or whose first batch would be larger than what was collected."""
    per = config.frames_per_decision
    if hasattr(agent, "envs"):
        return  # rollouts have no warm-up; how long one is depends on the environment, and the run itself checks it
    warm, copies = -(-config.warmup // per) * config.env["num_envs"], config.env["num_envs"]
    decisions = -(-config.steps // per) * copies
    batch, first = getattr(agent, "batch_size", 1), config.first_batch
    longer = f"set steps above {first}"
    if warm >= decisions:
        way = longer if first >= config.steps else "lower warmup"
        raise UsageError(f"no update would happen: warmup={config.warmup} frames of steps={config.steps}; {way}")
    if hasattr(agent, "capacity") and warm < batch:
        way = f"set warmup={first} or more" if first < config.steps else longer
        raise UsageError(
            f"{config.label} on {config.env['id']}: the batch of {batch} is larger than the warm-up of {warm} decisions "
            f"(warmup={config.warmup} frames at {per} frames a decision); {way}"
        )


def check_rollout(config: RunConfig, need: Any) -> None:
    """Refuse copies that are not those of an agent's rollouts, and a run that ends before its first rollout does. need: the
    agent's `data`."""
    from algos.agent import Rollout

    if not isinstance(need, Rollout):
        return
    copies = config.env["num_envs"]
    if need.envs != copies:
        raise UsageError(
            f"{config.label} collects rollouts of {need.envs} copies, the run has {copies}: "
            "its Config has to say so in a field `envs`"
        )
    frames = need.length * config.frames_per_decision
    if config.steps < frames:
        raise UsageError(
            f"no update would happen: steps={config.steps} frames are less than one rollout of {config.label}, "
            f"{need.length} decisions of {need.envs} copies; set steps={frames} or more"
        )


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


def dotted_keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        keys += dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as YAML has them: tuples become lists, nested dataclasses dictionaries."""
    return {k: list(v) if isinstance(v, tuple) else plain(v) if isinstance(v, dict) else v for k, v in values.items()}


def to_plain(config: RunConfig) -> dict[str, Any]:
    return plain(dataclasses.asdict(config))


def from_plain(values: dict[str, Any]) -> RunConfig:
    return typed(RunConfig, values)


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings that decide a run's numbers, flat, without `steps` (raising it continues the run)."""
    values = to_plain(config)
    for key in (*OPERATION, "steps"):
        values.pop(key)
    for key in ("name", "tuned"):  # where the settings come from decides no number
        values["algo"].pop(key, None)
    out = {}
    for key in dotted_keys(values):
        node = values
        for part in key.split("."):
            node = node[part]
        out[key] = node
    return out
