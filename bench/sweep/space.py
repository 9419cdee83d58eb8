"""Search spaces: a YAML file of ranges over an algorithm's settings, checked before anything starts."""

from __future__ import annotations

import itertools
import json
import math
import typing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from algos import agent_class, nearest
from bench.compose import search_path
from bench.typed import UsageError

PRUNERS = ("median", "hyperband", "none")
MOST_POINTS = 100_000  # of one parameter
RANGE = ("low", "high", "log", "step")
SCALARS = (bool, int, float, str, type(None))  # what Optuna stores as a choice; anything else is stored as its JSON


@dataclass(frozen=True)
class Parameter:
    """One axis of the search: `low` to `high` (int or float, `step` and `log` as in Optuna), or a list of `choices`.

    sets: the settings that take its value, one by default: `lr: {sets: [actor_lr, critic_lr], ...}` ties two.
    """

    name: str
    sets: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """What Optuna's trial proposes, as Optuna stores it."""
        if self.choices:
            return trial.suggest_categorical(self.name, [stored(choice) for choice in self.choices])
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def value(self, found: Any) -> Any:
        """The setting's value from what Optuna stored."""
        return next((choice for choice in self.choices if stored(choice) == found), found)

    def points(self) -> list[Any]:
        """Every value, for a grid. Raises UsageError for a range without a step."""
        if self.choices:
            return [stored(choice) for choice in self.choices]
        if self.log or (self.step is None and not isinstance(self.low, int)):
            raise UsageError(f"--sampler grid: {self.name} is a continuous range; give it choices, or a step without log")
        step = self.step or 1
        steps = math.floor((self.high - self.low) / step + 1e-9)
        return [on_grid(self.low + i * step, self.low, step) for i in range(steps + 1)]

    def holds(self, value: Any) -> bool:
        """Whether the range or the choices have this value, as Optuna stores it."""
        if self.choices:
            return value in self.points()
        if self.step:  # a default may be a rounded sum itself
            return any(abs(value - point) <= 1e-9 * self.step for point in self.points())
        return self.low <= value <= self.high

    def to_plain(self) -> dict[str, Any]:
        """As the file has it, for comparing one sweep with another."""
        found = {key: getattr(self, key) for key in RANGE}
        ends = {key: value for key, value in found.items() if value is not None and value is not False}  # 0 is neither
        return {"sets": list(self.sets)} | ({"choices": list(self.choices)} if self.choices else ends)


def stored(choice: Any) -> Any:
    return choice if isinstance(choice, SCALARS) else json.dumps(choice)


def on_grid(value: float, low: float, step: float) -> float:
    """The point low + i * step nearest to `value`, in the decimals that were written: 0.1 + 2 * 0.1 is 0.3, which the sum of
    the binary numbers is not."""
    first, width = Decimal(repr(low)), Decimal(repr(step))
    return type(low)(first + round((Decimal(repr(value)) - first) / width) * width)


@dataclass(frozen=True)
class Space:
    """What is searched, and how unpromising trials are ended."""

    parameters: tuple[Parameter, ...]
    pruner: str
    source: str

    def suggest(self, trial: Any) -> dict[str, Any]:
        return {p.name: p.suggest(trial) for p in self.parameters}

    def settings(self, params: dict[str, Any]) -> dict[str, Any]:
        """The algorithm's settings of a trial with these parameters."""
        return {key: p.value(params[p.name]) for p in self.parameters for key in p.sets}

    def defaults(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """The point at which the given settings of the algorithm lie; None where they lie outside."""
        params = {}
        for p in self.parameters:
            found = [stored(values[key]) for key in p.sets]
            if not p.holds(found[0]) or any(value != found[0] for value in found):
                return None
            params[p.name] = found[0]
        return params

    def grid(self) -> list[dict[str, Any]]:
        names = [p.name for p in self.parameters]
        return [dict(zip(names, point, strict=True)) for point in itertools.product(*(p.points() for p in self.parameters))]

    def to_plain(self) -> dict[str, Any]:
        return {p.name: p.to_plain() for p in self.parameters}


def find(agent: str, label: str) -> Path:
    """conf/sweep/<label>.yaml of the user's, or <agent>.yaml, the user's before ours. Raises UsageError where there is none."""
    ours, *theirs = (root / "sweep" for root in search_path())
    for path in (*(root / f"{name}.yaml" for root in theirs for name in (label, agent)), ours / f"{agent}.yaml"):
        if path.exists():
            return path
    name = label if ":" in agent else agent
    raise UsageError(f"there is no conf/sweep/{name}.yaml; make it, or give the search space with --sweep FILE")


def load(path: Path, values: dict[str, Any], fixed: set[str]) -> Space:
    """The search space in a file, for an algorithm with the settings `values` of which the command sets `fixed`.

    Raises UsageError for a file that cannot be read, an unknown setting, an empty or impossible range, or a setting that the
    command line has fixed.
    """
    from omegaconf import OmegaConf  # its loader reads 3e-4 as a number

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError as error:
        raise UsageError(f"--sweep {path}: there is no such file") from error
    except Exception as error:
        raise UsageError(f"--sweep {path} is no YAML file that can be read ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or not isinstance(content.get("space"), dict) or not content["space"]:
        raise UsageError(f"{path}: a search space has the key `space`: name -> {{low, high, log, step}} or {{choices}}")
    if unknown := sorted(map(str, content.keys() - {"space", "pruner"})):
        raise UsageError(f"{path}: unknown key {unknown[0]!r}; known are space, pruner")
    pruner = content.get("pruner", "median")
    check_pruner(pruner, str(path))
    parameters = tuple(parameter(str(name), given, values, path) for name, given in content["space"].items())
    owners: dict[str, str] = {}
    for p in parameters:
        for key in p.sets:
            if key in fixed:
                raise UsageError(f"{path}: {p.name} searches {key!r}, which the command line fixes; leave one of them out")
            if key in owners:
                raise UsageError(f"{path}: both {owners[key]} and {p.name} set {key!r}")
            owners[key] = p.name
    return Space(parameters, pruner, str(path))


def check_pruner(pruner: Any, where: str) -> None:
    if pruner not in PRUNERS:
        raise UsageError(f"{where}: unknown pruner {pruner!r}; known are {', '.join(PRUNERS)}")


def parameter(name: str, given: Any, values: dict[str, Any], path: Path) -> Parameter:
    """One entry of `space`. Raises UsageError as `load`."""
    where = f"{path}: {name}"
    if not isinstance(given, dict):
        raise UsageError(f"{where}={given!r}: it takes {{low, high, log, step}} or {{choices}}")
    if unknown := sorted(map(str, given.keys() - {*RANGE, "choices", "sets"})):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}{nearest(unknown[0], {*RANGE, 'choices', 'sets'})}")
    listed = given.get("sets", [name])
    if not isinstance(listed, list):
        raise UsageError(f"{where}: sets={listed!r}; it takes a list of settings")
    sets = tuple(str(key).removeprefix("algo.") for key in listed)
    known = {key for key in values if key not in ("name", "agent", "tuned")}
    for key in sets:
        if key not in known:
            raise UsageError(f"{path}: {values['name']} has no setting {key!r}{nearest(key, known)}")
    if not sets:
        raise UsageError(f"{where}: sets is empty; it lists settings of {values['name']}")
    if "choices" in given:
        return of_choices(name, sets, given, where)
    return of_range(name, sets, given, values, where)


def of_choices(name: str, sets: tuple[str, ...], given: dict[str, Any], where: str) -> Parameter:
    choices = given["choices"]
    if mixed := sorted(given.keys() & set(RANGE)):
        raise UsageError(f"{where}: choices and {mixed[0]} exclude each other")
    if not isinstance(choices, list) or not choices:
        raise UsageError(f"{where}: the range is empty; choices takes a list of values, found {choices!r}")
    if len({stored(choice) for choice in choices}) < len(choices):
        raise UsageError(f"{where}: choices names a value twice")
    return Parameter(name, sets, choices=tuple(choices))


def of_range(name: str, sets: tuple[str, ...], given: dict[str, Any], values: dict[str, Any], where: str) -> Parameter:
    low, high, step, log = given.get("low"), given.get("high"), given.get("step"), given.get("log", False)
    for key, number in (("low", low), ("high", high), *([("step", step)] if step is not None else [])):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise UsageError(f"{where}: {key}={number!r} is no number; a range takes low and high (or give choices)")
    if not isinstance(log, bool):
        raise UsageError(f"{where}: log={log!r}; it takes true or false")
    hints = typing.get_type_hints(agent_class(values["agent"]).Config)
    kinds = {hints[key] for key in sets}
    if not kinds <= {int, float}:
        raise UsageError(f"{where}: {sets[0]} is no number, so it takes choices and no range")
    if int in kinds:
        if any(isinstance(number, float) for number in (low, high, step)):
            raise UsageError(f"{where} takes whole numbers, found low={low}, high={high}" + (f", step={step}" if step else ""))
    else:
        low, high = float(low), float(high)
    if low >= high:
        raise UsageError(f"{where}: the range from low={low} to high={high} is empty; low has to be below high")
    if log and low <= 0:
        raise UsageError(f"{where}: a log range cannot include zero or less, found low={low}")
    if step is not None and (log or step <= 0):
        raise UsageError(f"{where}: step={step}; it takes a positive step, and none with log")
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-6:
        raise UsageError(f"{where}: step={step} does not lead from low={low} to high={high}")
    if step is not None and (high - low) / step > MOST_POINTS:
        raise UsageError(f"{where}: step={step} makes more than {MOST_POINTS} values; leave it out")
    return Parameter(name, sets, low, high, step, log)
