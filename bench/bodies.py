"""What is timed, defined once: whole updates, each phase, acting, sampling. Every command that times runs these bodies.

`python -m bench compare` runs this file as one revision has it against the code of another, so a change here that the
older code does not bear shows as `definitions changed`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import algos as registry
import envs
from algos.agent import Agent, Replay, sample
from algos.replay import ReplayBuffer
from bench.compose import agent_config, algo_values, changed_from_defaults
from bench.config import CHOICES
from bench.cost import OperationCounter
from bench.grid import parse_variants
from bench.speed import keep_freed_memory, phase_runner, set_matmul
from bench.synthetic import latest_start, period, random_batch, random_data
from bench.typed import UsageError
from envs import EnvSpec, Score

SPEC = EnvSpec(  # the sizes of dmc/cheetah-run
    id="timing/cheetah-sizes", obs_dim=17, act_dim=6, action_low=(-1.0,) * 6, action_high=(1.0,) * 6, horizon=1000,
    action_repeat=1, discount=None, score=Score("return", "max", 0.0, 1.0, "none"),
)  # fmt: skip
STORED = 100_000  # transitions in the replay buffer that is sampled
MOST = 64  # updates in one call of a body
PRODUCT = 256  # rows, columns and depth of the calibrating product: the hidden layers' own


@dataclasses.dataclass
class Body:
    """`run()` does the work `per_call` times over; `about` says what it is, as a row of timing.json does."""

    run: Callable[[], object]
    per_call: int
    about: dict[str, Any]


def benchmarks(
    algos: str | None = None, T: list[int] | None = None, batch: list[int] | None = None, width: list[int] | None = None,
    device: str = "cpu", mode: str = "eager",
) -> dict[str, Body]:  # fmt: skip
    """The bodies by name: `<algorithm>/<what>`, with the settings that were asked for in brackets.

    algos: as `--algos` (None: the registry). T, batch, width: denoising steps, batch sizes and widths of the hidden layers
    to go through; None leaves each algorithm its own. What is timed:

    * update: the noise is drawn and every due phase run, on data that is at hand; the mean over a full period
      (of one longer than MOST over so many, without what is due more rarely)
    * train: the same with the batch sampled from a replay buffer of 100,000 transitions, where the agent has one
    * <phase>: that phase alone, its batch and noise at hand
    * act: noise and one action for one observation, exploring
    * sample: a batch from that buffer

    Raises UsageError for an unknown algorithm, device, mode or setting.
    """
    if mode not in CHOICES["speed"]:
        raise UsageError(f"unknown mode {mode!r}; known are {', '.join(CHOICES['speed'])}")
    if device not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {device!r}; known are cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch finds no CUDA device here; use cpu")
    torch.set_num_threads(1)
    keep_freed_memory()
    set_matmul("auto", device)
    if mode == "compile":  # variants share their code, and beyond 8 of them the rest would be eager, unnoticed
        torch._dynamo.config.recompile_limit = 256
    out = {}
    for label, values in variants(algos, T, batch, width):
        hidden = values.get("actor_hidden") or []
        cls, config = registry.agent_class(values["agent"]), agent_config(values)
        agent = cls(spec_of(cls), config, torch.Generator().manual_seed(0), device)
        about = {
            "algo": label.partition("[")[0], "batch": agent.data.batch_size, "width": hidden[0] if hidden else None,
            "depth": len(hidden) or None, "T": values.get("T"), "device": device, "mode": mode,
            "changed": {key: value for key, (_, value) in changed_from_defaults(values).items()},
        }  # fmt: skip
        for what, kind, run, per_call in bodies(agent, phase_runner(agent, mode)):
            out[f"{label}/{what}"] = Body(synchronised(run, device), per_call, {**about, "name": what, "kind": kind})
    return out


def spec_of(cls: type[Agent]) -> EnvSpec:
    """The environment of an agent's bodies: SPEC, unless its class names a home of another kind."""
    return SPEC if cls.home == Agent.home else envs.make(cls.home, 0)[1]


def variants(algos: str | None, T, batch, width) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, values of the algorithm) for every combination asked for, which the label names in brackets.

    An algorithm without a setting (SAC has no T) comes once, with its own values.
    """
    for variant in parse_variants(algos or ",".join(registry.AGENTS)):
        values = algo_values(variant.algo)
        for key, value in variant.settings:
            if key not in values:
                raise UsageError(f"{variant.label}: {variant.algo} has no setting {key!r}{registry.nearest(key, values)}")
            values[key] = value
        wanted = {"T": ("T",), "batch": ("batch_size",), "width": ("actor_hidden", "critic_hidden")}
        axes = {
            name: given
            for name, given in (("T", T), ("batch", batch), ("width", width))
            if given and all(key in values for key in wanted[name])
        }
        for chosen in itertools.product(*axes.values()):
            own, asked = dict(values), [f"{name}={value}" for name, value in zip(axes, chosen, strict=True)]
            for name, value in zip(axes, chosen, strict=True):
                for key in wanted[name]:
                    own[key] = [value] * len(own[key]) if name == "width" else value
            yield variant.label + (f"[{','.join(asked)}]" if asked else ""), own


def bodies(agent: Agent, run_phase: Callable) -> Iterator[tuple[str, str, Callable[[], object], int]]:
    """(what, kind, function, work units per call) of one agent; run_phase(phase, batch, noise) runs its phases."""
    generator, n = torch.Generator(agent.device).manual_seed(0), agent.data.batch_size
    agent.updates = latest_start(agent)
    batch = random_data(agent, torch.Generator().manual_seed(0))
    obs = batch.obs.flatten(0, -2)[:1]

    def noise(what: str, rows: int = n):
        return sample(agent.draws(what, rows), generator, agent.device)

    def stored() -> ReplayBuffer:
        return replay(agent.data, agent.spec.obs_dim, agent.spec.act_dim, agent.device)

    # of a longer period no more, so that what is due more rarely is as good as left out of the figure
    updates = min(period(agent), MOST)

    def update(sampled: bool) -> None:
        for _ in range(updates):
            given = stored().sample(generator) if sampled else batch
            agent.update(given, {phase.name: noise(phase.name) for phase in agent.due()}, run_phase)

    yield "update", "update", lambda: update(sampled=False), updates
    for phase in agent.phases:
        drawn = noise(phase.name)
        yield phase.name, "phase", lambda phase=phase, drawn=drawn: run_phase(phase, batch, drawn), 1
    yield "act", "act", lambda: agent.explore(obs, noise("explore", 1)), 1
    if isinstance(agent.data, Replay):
        yield "train", "train", lambda: update(sampled=True), updates
        yield "sample", "sample", lambda: stored().sample(generator), 1


@functools.lru_cache(maxsize=16)
def replay(need: Replay, obs_dim: int, act_dim: int, device: torch.device) -> ReplayBuffer:
    """A buffer filled with random transitions, made when it is first sampled; algorithms with one data need share it."""
    rows = max(STORED, need.batch_size)
    buffer = ReplayBuffer(dataclasses.replace(need, capacity=rows), obs_dim, act_dim, 1, device)
    spec = dataclasses.replace(SPEC, obs_dim=obs_dim, act_dim=act_dim)
    batch = random_batch(spec, rows, torch.Generator().manual_seed(0))
    no = torch.zeros(rows, 1, dtype=torch.bool)
    parts = {"obs": batch.obs[:, None], "action": batch.action[:, None], "next_obs": batch.next_obs[:, None]}
    buffer.put_rows(0, parts | {"reward": batch.reward[:, None], "terminated": no, "ended": no})
    return buffer


def synchronised(run: Callable[[], object], device: str) -> Callable[[], object]:
    """A call that returns when the device has done the work."""
    if device != "cuda":
        return run

    def waited() -> None:
        run()
        torch.cuda.synchronize()

    return waited


def work(body: Body) -> dict[str, float]:
    """Operations, FLOPs of matrix products and bytes of the other operations in one unit of a body's work; {} where they
    cannot be counted (not on a CPU)."""
    if body.about["device"] != "cpu":
        return {}
    with OperationCounter() as counter:
        body.run()
    return {name: getattr(counter, name) / body.per_call for name in ("operations", "flops", "bytes")}


def calibrate(device: str = "cpu") -> dict[str, Any]:
    """What this machine does in this moment: GFLOP/s of an fp32 product of 256 x 256 x 256 in the precision that runs use,
    GB/s of copying a matrix of 256 x 256 (reads and writes), microseconds of an operation on one number (the price of
    dispatch); and the names of that precision and a GPU."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, PRODUCT, PRODUCT, generator=generator).to(device)
    out, one = torch.empty_like(a), torch.zeros(1, device=device)
    products, copies = (500, 500) if device == "cuda" else (1, 10)  # a GPU's last less than to wait for it
    product = fastest(synchronised(lambda: [torch.mm(a, b, out=out) for _ in range(products)], device), 30) / products
    copy = fastest(synchronised(lambda: [out.copy_(a) for _ in range(copies)], device), 30) / copies
    small = fastest(synchronised(lambda: [one.add_(1) for _ in range(100)], device), 30) / 100
    named = {"device_name": torch.cuda.get_device_name()} if device == "cuda" else {}
    rates = {"fp32_gflops": 2 * PRODUCT**3 / product / 1e9, "copy_gbs": 8 * PRODUCT**2 / copy / 1e9, "small_op_us": small * 1e6}
    return rates | named | {"matmul_precision": torch.get_float32_matmul_precision()}


def fastest(run: Callable[[], object], calls: int) -> float:
    """Seconds of the fastest of several calls: a limit, so what disturbs it is left out."""
    laps = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        laps.append(time.perf_counter() - start)
    return min(laps)
