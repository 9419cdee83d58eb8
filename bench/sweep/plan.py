"""From a sweep's command line to its studies, one for each algorithm, checked before the first trial."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envs
from bench.carry import check_name
from bench.compose import algo_values, parse_override, run_config
from bench.config import RunConfig, identity
from bench.contract import check_agents
from bench.engines import Carrier, carrier
from bench.grid import Cell, Variant, asked, cell_command, refuse_unbounded, refuse_unlike_budgets
from bench.rundir import read_sweep
from bench.sweep.space import Space, check_pruner, find, load
from bench.typed import UsageError

FIRST_TUNING_SEED = 10_000  # tuning runs count seeds from here, comparisons from 0 unless they are given others
SAMPLERS = ("tpe", "random", "cmaes", "grid")
SAMPLER_SEED = 0
MOST_TRIALS = 100_000
SUFFIX = "_tuned"  # of a winner's label
OWN = ("env.num_envs", "env.bounded")  # copies and the kind of action are the agent's own


@dataclass(frozen=True)
class Study:
    """One algorithm's sweep. A trial is its grid of environments x tuning seeds at one point of the space."""

    variant: Variant
    space: Space
    preset: str
    env_ids: tuple[str, ...]
    seeds: int
    overrides: tuple[str, ...]
    sampler: str
    trials: int

    @property
    def label(self) -> str:
        return self.variant.label

    @property
    def tuning_seeds(self) -> list[int]:
        return list(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + self.seeds))

    def cells(
        self, settings: dict[str, Any], seeds: list[int], label: str | None = None, tuned: dict[str, Any] | None = None
    ) -> list[Cell]:
        """The cells of one configuration. `tuned` is recorded in their run configuration. Raises UsageError where a
        combination of settings is impossible."""
        together = dict(self.variant.settings) | settings
        variant = spelled(label or self.label, self.variant.algo, together)
        cells = []
        for env_id in self.env_ids:
            for seed in seeds:
                config = self._config(env_id, seed, variant.label, together)
                if tuned is not None:
                    config.algo["tuned"] = tuned
                cells.append(Cell(config, cell_command(self.preset, variant, config, list(self.overrides))))
        return cells

    def _config(self, env_id: str, seed: int, label: str, settings: dict[str, Any]) -> RunConfig:
        parsed = [parse_override(text) for text in self.overrides]
        return run_config(self.preset, label, self.variant.algo, settings, env_id, seed, parsed)

    def base(self) -> list[RunConfig]:
        """The configuration that is tuned, with its defaults, on each environment."""
        return [self._config(env_id, FIRST_TUNING_SEED, self.label, dict(self.variant.settings)) for env_id in self.env_ids]

    def definition(self) -> dict[str, Any]:
        """What makes two sweeps the same study: a study goes on only under an equal definition."""
        searched = {f"algo.{key}" for p in self.space.parameters for key in p.sets} | {"label", "seed", "env.id"}
        runs = {}
        for config in self.base():
            resolved = config.resolved()
            settings = identity(resolved) | {"steps": resolved.steps}
            runs[config.env["id"]] = {key: value for key, value in settings.items() if key not in searched}
        return json.loads(json.dumps({
            "space": self.space.to_plain(), "sampler": self.sampler, "sampler_seed": SAMPLER_SEED, "pruner": self.space.pruner,
            "tuning seeds": self.tuning_seeds, "runs": runs,
        }))  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A sweep: its directory, and its studies in the order of the command line."""

    path: Path
    studies: tuple[Study, ...]
    preset: str
    confirm: int  # fresh seeds on which the best configuration and the defaults are run at the end
    storage: str | None
    engine: Carrier

    @property
    def cells_per_trial(self) -> int:
        return len(self.studies[0].env_ids) * self.studies[0].seeds


def spelled(label: str, algo: str, settings: dict[str, Any]) -> Variant:
    """The variant as one would type it."""
    inside = ",".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items())
    text = f"{label}={algo}" + (f"({inside})" if inside else "")
    return Variant(label, algo, tuple(settings.items()), text)


def plan(args: Any) -> Plan:
    """The sweep that the command line asks for. Raises UsageError for anything that could not be carried out."""
    check_numbers(args)
    variants, env_ids, parsed = asked(args.preset, args.algos, args.envs, args.overrides)
    refuse_winners_labels({v.label for v in variants})
    if args.sweep and len(variants) > 1:
        raise UsageError("--sweep is for one algorithm; several have conf/sweep/<label>.yaml or <agent>.yaml each")
    fixed = {override.key.removeprefix("algo.") for override in parsed if override.key.startswith("algo.")}
    studies = tuple(study(args, variant, tuple(env_ids), fixed) for variant in variants)
    if len({s.trials for s in studies}) > 1:
        sizes = ", ".join(f"{s.label} {s.trials}" for s in studies)
        raise UsageError(f"--sampler grid: the grids differ in size ({sizes}), which is no equal budget; sweep them apart")
    configs = [config for study in studies for config in study.base()]
    refuse_unlike_budgets(configs)
    path = args.root / check_name(args.name or default_name(args.preset, studies[0].base()))
    known = (read_sweep(path) or {"studies": {}})["studies"]
    refuse_winners_labels({*known, *(study.label for study in studies)})
    refuse_incomparable(path, known, studies)
    jobs = args.jobs and args.jobs * len(env_ids) * studies[0].seeds  # runs of the confirmation: as many as of the trials
    return Plan(path, studies, args.preset, args.confirm, args.storage, carrier(args, configs, jobs))


def refuse_winners_labels(labels: set[str]) -> None:
    """One directory of the confirmation cannot be for the winner of a study and the defaults of another."""
    if clash := sorted(labels & {f"{label}{SUFFIX}" for label in labels}):
        first = clash[0].removesuffix(SUFFIX)
        raise UsageError(
            f"--algos: {clash[0]} is what the winner of {first} is called; give it another label, or choose another --name"
        )


def refuse_incomparable(path: Path, known: dict[str, Any], asked: tuple[Study, ...]) -> None:
    """Refuse a study beside others of the sweep's directory that evaluate another way or have other settings of an environment:
    no report would compare their confirmations. Of one label `open_study` looks at all that makes it the same. known: the
    studies of sweep.json."""
    others = known.keys() - {study.label for study in asked}
    for study, other in itertools.product(asked, sorted(others)):
        here, there = comparable(study.definition()), comparable(known[other]["definition"])
        for env_id, key in sorted(here.keys() & there.keys()):
            found, wanted = there[env_id, key], here[env_id, key]
            if found != wanted:
                raise UsageError(
                    f"{path} has trials of {other} on {env_id} with other settings ({key}: {found} there, {wanted} asked for "
                    f"with {study.label}), and a report would not compare them; choose another --name"
                )


def comparable(definition: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """The rule of evaluation and the settings of each environment, but those that are the agent's own."""
    return {
        (env_id, name): value
        for env_id, settings in definition["runs"].items() for name, value in settings.items()
        if name.startswith(("eval.", "env.")) and name not in OWN
    }  # fmt: skip


def default_name(preset: str, configs: list[RunConfig]) -> str:
    """The preset and a short hash of what makes trials of different algorithms comparable: the environments with their
    settings, steps, and the identity settings other than algorithm and seed. configs: one for each environment."""
    own = ("label", "seed", *OWN)
    kept = [
        {k: v for k, v in (identity(c) | {"steps": c.steps}).items() if not k.startswith("algo.") and k not in own}
        for c in sorted(configs, key=lambda c: c.env["id"])
    ]
    return f"sweep-{preset}-{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:6]}"


def check_numbers(args: Any) -> None:
    if not args.seeds.isdecimal() or not 1 <= int(args.seeds) < FIRST_TUNING_SEED:
        raise UsageError(f"--seeds {args.seeds}: a sweep takes a number of tuning seeds (they count from {FIRST_TUNING_SEED})")
    if args.trials is not None and args.trials < 1:
        raise UsageError(f"--trials {args.trials}: it takes a number from 1")
    if args.trials is not None and args.trials > MOST_TRIALS:
        raise UsageError(f"--trials {args.trials}: it takes at most {MOST_TRIALS}")
    if not 0 <= args.confirm < FIRST_TUNING_SEED:
        raise UsageError(f"--confirm {args.confirm}: it takes 0 (off) to {FIRST_TUNING_SEED - 1} seeds")
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: it takes a number from 1")
    if args.sampler not in SAMPLERS:
        raise UsageError(f"unknown sampler {args.sampler!r}; known are {', '.join(SAMPLERS)}")
    if args.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise UsageError("--sampler cmaes needs the package cmaes; install this one with the extra `sweep`")


def study(args: Any, variant: Variant, env_ids: tuple[str, ...], fixed: set[str]) -> Study:
    """One algorithm's study. Raises UsageError as `plan`."""
    from dataclasses import replace

    values = algo_values(variant.algo, args.preset)
    path = Path(args.sweep) if args.sweep else find(values["agent"], variant.label)
    space = load(path, values, fixed | {key for key, _ in variant.settings})
    if args.pruner is not None:
        check_pruner(args.pruner, "--pruner")
        space = replace(space, pruner=args.pruner)
    size = len(space.grid()) if args.sampler == "grid" else None
    if size and args.trials not in (None, size):
        raise UsageError(f"--trials {args.trials}: the grid of {variant.label} has {size} points; leave --trials out")
    trials = size or args.trials or 50
    result = Study(variant, space, args.preset, env_ids, int(args.seeds), tuple(args.overrides), args.sampler, trials)
    configs = result.base()
    refuse_unbounded(configs)
    for config in configs:
        check_evaluations(config.resolved(), space.pruner)
        check_score(config)
    check_agents(configs)
    refuse_impossible(result)
    return result


def refuse_impossible(study: Study) -> None:
    """Refuse a choice, or an end of a range, with which no run could be made while the other settings have their defaults."""
    for p in study.space.parameters:
        for value in p.choices or (p.low, p.high):
            try:
                study.cells(dict.fromkeys(p.sets, value), [FIRST_TUNING_SEED])
            except UsageError as error:
                raise UsageError(f"{study.space.source}: {p.name}={value}: {error}") from error


def check_evaluations(config: RunConfig, pruner: str) -> None:
    evaluations = -(-config.steps // max(config.eval_every, config.frames_per_decision))
    if pruner != "none" and evaluations < 2:
        raise UsageError(
            f"the pruner {pruner} needs two evaluations per run or more, found {evaluations} (steps={config.steps}, "
            f"eval_every={config.eval_every}); lower eval_every, or take --pruner none"
        )


def check_score(config: RunConfig) -> None:
    """A trial's value is a normalised score, so every environment needs a range."""
    env, spec = envs.make(config.env["id"], 0, 1, **config.env_settings)
    env.close()
    score = spec.score
    if score.low is None or score.high is None:
        raise UsageError(
            f"{spec.id} has no score range to normalise by, so trials on it have no value; take others, or give it one "
            f"(`python -m envs.measure {spec.id}`, and a reward_threshold)"
        )
    if not (score.high > score.low if score.direction == "max" else score.high < score.low):
        raise UsageError(
            f"{spec.id} counts {score.high:g} as solved, which is no better than a random policy's {score.low:g}, so trials on "
            "it have no value; give it another reward_threshold"
        )
