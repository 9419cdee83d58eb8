"""Engines carry cells of an experiment to processes: `submit(experiment, indices, options, watch) -> outcome per index`.

Nothing else differs between them: each starts the same `python -m bench worker` for a cell, and the run directory, on a
file system that all machines share, is the only result. `check(options)` refuses before anything is written.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from bench.config import RunConfig
from bench.engines.common import Options
from bench.rundir import Experiment
from bench.typed import UsageError

ENGINES = {"local": "bench.engines.local", "ray": "bench.engines.ray", "slurm": "bench.engines.slurm"}


@dataclasses.dataclass(frozen=True)
class Carrier:
    """An engine with its options, as the command line chose them."""

    name: str
    module: ModuleType
    options: Options

    def __str__(self) -> str:
        return f"{self.options.here()} at a time" if self.name == "local" else f"on {self.name}"

    def submit(
        self, experiment: Experiment, indices: list[int], watch: Callable[[], bool | None], jobs: int | None = None
    ) -> dict[int, str]:
        """See bench.engines.local.submit. jobs: runs at a time, in place of the options' own."""
        options = self.options if jobs is None else dataclasses.replace(self.options, jobs=jobs)
        return self.module.submit(experiment, indices, options, watch)


def slurm_setting(text: str) -> tuple[str, Any]:
    """`key=value` as Slurm's users write it: JSON where it is that (numbers, true, lists), else the text as it stands."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UsageError(f"--slurm {text!r}: it takes KEY=VALUE, such as partition=gpu")
    try:
        return key, json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return key, value


def carrier(args: Any, configs: Iterable[RunConfig], jobs: int | None = None) -> Carrier:
    """What the command line says about the engine; UsageError for what it cannot do, before anything is written.

    args: its options `engine`, `address`, `slurm`, `per_device`, `device`, `retry_failed`. configs: what it will carry, as far
    as is known. jobs: runs at a time; None: as many as there is room for.
    """
    from bench import mirror
    from bench.devices import here

    if args.engine not in ENGINES:
        raise UsageError(f"unknown engine {args.engine!r}; known are {', '.join(ENGINES)}")
    for name, number in (("jobs", jobs), ("per-device", args.per_device)):
        if number is not None and number < 1:
            raise UsageError(f"--{name} {number}: it takes a number from 1")
    if args.slurm and args.engine != "slurm":
        raise UsageError(f"--slurm {args.slurm[0]} is for --engine slurm")
    if args.address and args.engine != "ray":
        raise UsageError(f"--address {args.address} is for --engine ray")
    module, slurm = importlib.import_module(ENGINES[args.engine]), dict(map(slurm_setting, args.slurm))
    options = Options(jobs, per_device=args.per_device, address=args.address, slurm=slurm, retry_failed=args.retry_failed)
    one_machine = args.engine == "local" or (args.engine == "ray" and not module.cluster_address(options))
    configs = list(configs)
    if one_machine and "cuda" in (args.device, *(config.device for config in configs)):
        options = dataclasses.replace(options, devices=here())
    module.check(options)
    for logger in {config.logger for config in configs}:
        mirror.check(logger)
    return Carrier(args.engine, module, options)
