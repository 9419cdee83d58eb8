"""Plain values as instances of dataclasses: what a key takes is its annotation, and what it cannot take is one clear line."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import traceback
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from algos import nearest


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


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as YAML has them: tuples become lists, nested dataclasses dictionaries."""
    return {k: list(v) if isinstance(v, tuple) else plain(v) if isinstance(v, dict) else v for k, v in values.items()}
