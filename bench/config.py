"""The settings of a run: what each key means, what it takes, and which of them decide its numbers.

A setting is either identity (it decides the numbers) or operation (how the work is done): `OPERATION` lists the latter.
Where the values come from is told in `bench.compose`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bench.typed import UsageError, check, plain, typed

OPERATION = ("checkpoint_every", "keep_replay", "logger")  # may differ between two sessions of one run
ALGO_META = ("name", "agent", "tuned")  # keys of `algo` beside the agent's own settings
AUTO = ("warmup", "eval_every", "log_every")  # derived from `steps` where the user gives none; a continued run keeps its own
CHOICES = {
    "device": ("cpu", "cuda"),
    "matmul": ("auto", "highest"),
    "logger": ("none", "tensorboard", "wandb"),
    "speed": ("eager", "compile", "cudagraph"),
}


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


def dotted_keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        keys += dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def check_feasible(config: RunConfig, agent: Any) -> None:
    """Refuse a run in which no update would happen, or whose first batch would be larger than what was collected."""
    per = config.frames_per_decision
    if hasattr(agent, "envs"):
        return  # rollouts have no warm-up; how long one is depends on the environment, and the run itself checks it
    warm, copies = -(-config.warmup // per) * config.env["num_envs"], config.env["num_envs"]
    decisions = -(-config.steps // per) * copies
    batch, first = getattr(agent, "batch_size", 1), config.first_batch
    longer, where = f"set steps above {first}", f"{config.label} on {config.env['id']}"
    if warm >= decisions:
        way = longer if first >= config.steps else "lower warmup"
        raise UsageError(f"{where}: no update would happen: warmup={config.warmup} frames of steps={config.steps}; {way}")
    if hasattr(agent, "capacity") and warm < batch:
        way = f"set warmup={first} or more" if first < config.steps else longer
        raise UsageError(
            f"{where}: the batch of {batch} is larger than the warm-up of {warm} decisions "
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
