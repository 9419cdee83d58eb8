"""Variants x environments x seeds: from what the user typed to a list of cells, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import envs
from algos import agent_class
from bench.compose import (
    Override,
    algo_values,
    check_overrides,
    composed,
    grid_defaults,
    known_name,
    parse_override,
    run_config,
    set_key,
)
from bench.config import ALGO_META, OPERATION, RunConfig, dotted_keys, to_plain
from bench.contract import check_agents
from bench.rundir import cell_dir
from bench.typed import UsageError

MOST_SEEDS = 10_000
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Variant:
    """A column of the comparison: `label=algo(key=value,...)`, algo a name of conf/algo or a plug-in module:Class."""

    label: str
    algo: str
    settings: tuple[tuple[str, Any], ...]
    text: str


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    config: RunConfig
    command: str  # makes just this cell

    def entry(self) -> dict[str, Any]:
        """The cell as experiment.json lists it."""
        c = self.config
        place = {"env": c.env["id"], "label": c.label, "seed": c.seed, "dir": cell_dir(c.env["id"], c.label, c.seed)}
        return place | {"config": to_plain(c), "command": self.command}


def split_top(text: str) -> list[str]:
    """Split at commas outside parentheses and brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    if depth:
        raise UsageError(f"--algos {text!r}: parentheses do not match")
    return [part.strip() for part in [*parts, current]]


def parse_variants(text: str) -> list[Variant]:
    """`qsm,hot=qsm(m_q=120),mine=my_pkg.agents:MyAgent`. Raises UsageError for what it cannot read and for equal labels."""
    variants = []
    for part in split_top(text):
        match = re.fullmatch(r"(?:([^=(]+)=)?([\w.:-]+)(?:\((.*)\))?", part, re.DOTALL)
        if not match:
            raise UsageError(f"cannot read {part!r} in --algos; it takes name, label=name(key=value,...) or label=module:Class")
        label, algo, inside = match.groups()
        if ":" not in algo:
            known_name("algo", algo)
        label = (label or algo.rpartition(":")[2]).strip()
        if not LABEL.fullmatch(label):
            raise UsageError(f"label {label!r} is no directory name: letters, digits and _ . + - only")
        settings = [parse_override(s) for s in split_top(inside)] if inside else []
        if meta := [s.key for s in settings if s.key in ALGO_META]:
            raise UsageError(f"{part!r}: {meta[0]} is no setting; the algorithm is what stands before the parenthesis")
        variants.append(Variant(label, algo, tuple((s.key, s.value) for s in settings), part))
    labels = [v.label for v in variants]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UsageError(f"--algos names {', '.join(twice)} twice; give labels: a=qsm(m_q=50),b=qsm(m_q=120)")
    return variants


def parse_seeds(text: str) -> list[int]:
    """`5` is 0..4, `0-4` a range, `0,3,7` a list. Raises UsageError for anything else, and for no seed at all."""
    if re.fullmatch(r"\d+", text):
        if int(text) < 1:
            raise UsageError("--seeds 0 asks for no run; it takes a number from 1, a range (0-4) or a list (0,3,7)")
        if int(text) > MOST_SEEDS:
            raise UsageError(f"--seeds {text}: it takes at most {MOST_SEEDS} of them")
        return list(range(int(text)))
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise UsageError(f"--seeds {text!r} is neither a number, a range (0-4) nor a list (0,3,7)")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise UsageError(f"--seeds {part}: the range is empty; did you mean {high}-{low}?")
        if high - low >= MOST_SEEDS:
            raise UsageError(f"--seeds {part}: it takes at most {MOST_SEEDS} of them")
        seeds += range(low, high + 1)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r} names a seed twice")
    return seeds


def parse_envs(text: str) -> list[str]:
    ids = [part.strip() for part in text.split(",")]
    if len(set(ids)) < len(ids):
        raise UsageError(f"--envs {text!r} names an environment twice")
    return ids


def asked(
    preset: str, algos: str | None, env_ids: str | None, overrides: list[str]
) -> tuple[list[Variant], list[str], list[Override]]:
    """What the command line asks for, or else the preset: algorithms, environments and settings. Raises UsageError for what is
    not known, and for settings that reach no algorithm."""
    known_name("preset", preset)
    defaults = grid_defaults(preset)
    variants = parse_variants(algos if algos is not None else ",".join(defaults.algos))
    ids = parse_envs(env_ids) if env_ids is not None else list(defaults.envs)
    parsed = [parse_override(text) for text in overrides]
    for env_id in ids:
        envs.check_id(env_id)
    families = sorted({env_id.partition("/")[0] for env_id in ids})
    check_overrides(parsed, [available_keys(preset, v.algo, family) for v in variants for family in families])
    refuse_idle(parsed, variants, {v.label: available_keys(preset, v.algo, families[0])["algo"] for v in variants})
    return variants, ids, parsed


def plan(
    preset: str, algos: str | None, env_ids: str | None, seeds: str | None, overrides: list[str]
) -> tuple[list[Cell], str]:
    """The cells and the default experiment name. Raises UsageError (or ValueError from envs and algos) for bad input;
    nothing has been touched by then."""
    variants, ids, parsed = asked(preset, algos, env_ids, overrides)
    seed_list = parse_seeds(seeds) if seeds is not None else list(range(grid_defaults(preset).seeds))
    configs = [
        run_config(preset, v.label, v.algo, dict(v.settings), env_id, seed, parsed)
        for env_id in ids for v in variants for seed in seed_list
    ]  # fmt: skip
    refuse_unbounded(configs)
    check_agents(configs)
    refuse_unlike_budgets(configs)
    by_label = {v.label: v for v in variants}
    cells = [Cell(c, cell_command(preset, by_label[c.label], c, overrides)) for c in configs]
    refuse_one_place(cells)
    return cells, default_name(preset, parsed)


def refuse_one_place(cells: list[Cell]) -> None:
    """Refuse environments whose names give one directory."""
    first: dict[str, str] = {}
    for cell in cells:
        env_id, label, seed = cell.config.env["id"], cell.config.label, cell.config.seed
        place = cell_dir(env_id, label, seed)
        other = first.setdefault(place, env_id)
        if other != env_id:
            raise UsageError(f"{other} and {env_id} would share the directory {place}; give each its own --name")


def refuse_idle(overrides: list[Override], variants: list[Variant], settings: dict[str, dict[str, Any]]) -> None:
    """Refuse an algo.key=value that no algorithm takes, since each that has the key sets it in its own parenthesis."""
    for override in overrides:
        key = override.key.removeprefix("algo.")
        having = [v for v in variants if override.key != key and key in settings[v.label]]
        if having and all(key in dict(v.settings) for v in having):
            labels = ", ".join(v.label for v in having)
            raise UsageError(f"{override.text!r} reaches no algorithm: {key} is set in the parenthesis of {labels}")


def refuse_unbounded(configs: list[RunConfig]) -> None:
    """Check each environment with its settings; refuse agents that declare bounded actions where there are no bounds, bounds
    asked for where an agent does not keep to them, and a law to be judged by one sample."""
    checked: dict[str, bool] = {}
    for config in configs:
        env_id, settings = config.env["id"], config.env_settings
        key = json.dumps([env_id, settings])
        if key not in checked:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                checked[key] = envs.check(env_id, settings)
                check_episodes(env_id, config.eval.episodes)
            for warning in caught:
                print(f"warning: {warning.message}", file=sys.stderr)
        bounded = agent_class(config.algo["agent"]).bounded_actions
        if bounded and not checked[key]:
            raise UsageError(f"{env_id} has unbounded actions, and {config.label} declares actions in [-1, 1]")
        if config.env.get("bounded") and not bounded:
            raise UsageError(
                f"env.bounded=true would clip the actions of {config.label}, which learns from them as they were before; "
                "leave env.bounded=null, which bounds those of agents that need it"
            )


def check_episodes(env_id: str, episodes: int) -> None:
    """Warn of an evaluation with fewer samples of a law than its family needs. Raises UsageError for a single one."""
    least = envs.least_episodes(env_id)
    if least > 1 and episodes < 2:
        raise UsageError(f"eval.episodes={episodes}: {env_id} is scored by the law of its samples; give {least} or more")
    if episodes < least:
        warnings.warn(
            f"{env_id} is scored by the law of its samples, which takes {least}; eval.episodes={episodes} adds an error of "
            "its own to every score but the mean reward",
            stacklevel=2,
        )


def refuse_unlike_budgets(configs: list[RunConfig]) -> None:
    """A preset gives agents that learn from rollouts budgets of their own; side by side all have one."""
    first: dict[str, RunConfig] = {}
    for config in configs:
        other = first.setdefault(config.env["id"], config)
        if config.steps != other.steps:
            raise UsageError(
                f"on {config.env['id']} the preset gives {other.label} steps={other.steps} and {config.label} "
                f"steps={config.steps}; set steps=... for both"
            )


def refuse_incomparable(present: list[dict[str, Any]], asked: list[dict[str, Any]]) -> None:
    """Refuse cells on an environment that runs of the experiment have under another evaluation rule or other settings, which
    no report would compare. present, asked: cells as in experiment.json. Copies and the kind of action are the agent's own."""

    def settings(cell: dict[str, Any]) -> dict[str, Any]:
        groups = {name: cell["config"][name] for name in ("env", "eval")}
        flat = {f"{name}.{key}": value for name, group in groups.items() for key, value in group.items()}
        own = ["env.id", "env.num_envs", "env.bounded"]
        if flat["eval.candidates"] > 1:  # of samples, whatever a single action would be
            own.append("eval.action")
        return {key: value for key, value in flat.items() if key not in own}

    places = {cell["dir"] for cell in asked}
    first = {cell["env"]: cell for cell in reversed(present) if cell["dir"] not in places}
    for cell in asked:
        if cell["env"] not in first:
            continue
        here, there = settings(cell), settings(first[cell["env"]])
        if differ := [key for key in here if key in there and here[key] != there[key]]:
            pairs = ", ".join(f"{key}: {there[key]} there, {here[key]} asked for" for key in differ)
            raise UsageError(
                f"the experiment has runs on {cell['env']} with other settings ({pairs}; {first[cell['env']]['dir']}), and a "
                "report would not compare them; choose another --name"
            )


def available_keys(preset: str, algo: str, family: str) -> dict[str, Any]:
    """The values a cell would have, for checking the keys of overrides."""
    values = composed(preset, None if ":" in algo else algo, family)
    values.pop("grid")
    return values | {"algo": algo_values(algo, preset, family)}


def cell_command(preset: str, variant: Variant, config: RunConfig, overrides: list[str]) -> str:
    """The command line that makes just this cell: without the overrides that do not reach it, which would be refused."""
    words = ["python", "-m", "bench", "run", "--preset", preset, "--algos", variant.text, "--envs", config.env["id"]]
    seeds = f"{config.seed}-{config.seed}"
    fixed = {f"algo.{key}" for key, _ in variant.settings}
    keys = {*dotted_keys(available_keys(preset, variant.algo, config.env["id"].partition("/")[0]))} - fixed
    own = [text for text in overrides if any(f"{key}.".startswith(f"{text.partition('=')[0]}.") for key in keys)]
    return shlex.join([*words, "--seeds", seeds, *own])


def default_name(preset: str, overrides: list[Override]) -> str:
    """The preset and a short hash of the identity settings other than algorithm, environment, seed and steps: as the preset and
    the user give them, before an environment raises a number or an algorithm needs another."""
    values = composed(preset, None, "dmc")
    for override in overrides:
        set_key(values, override.key, override.value)
    for key in ("algo", "env", "grid", "seed", "steps", *OPERATION):
        values.pop(key, None)
    return f"{preset}-{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]}"
