"""What a uniformly random policy gets: measured once by `python -m envs.measure`, kept in scores.yaml.

Of an environment from outside ("gym/module:id") it is kept in ./conf/scores.yaml, beside the user's other settings.
"""

import functools
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("scores.yaml")
OWN = Path("conf/scores.yaml")  # from the directory in which the command is given


def read(file: Path = FILE) -> list[dict[str, Any]]:
    """The measurements: id, action_repeat, episodes, seed, and the mean and standard deviation of the returns."""
    return (yaml.safe_load(file.read_text()) if file.exists() else None) or []


@functools.cache
def _measured() -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["id"], row["action_repeat"]): row for row in [*read(), *_own()]}


def _own() -> list[dict[str, Any]]:
    """The user's measurements. Raises ValueError, in one line, for a file that is none."""
    try:
        rows = read(OWN)
    except yaml.YAMLError as error:
        raise ValueError(f"{OWN} is no YAML: {' '.join(str(error).split())}") from error
    needed = {"id": str, "action_repeat": int, "episodes": int, "mean": int | float}
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, dict) or any(not isinstance(row.get(key), kind) for key, kind in needed.items()):
            wanted = f"with {', '.join(needed)}, as `python -m envs.measure` writes them"
            raise ValueError(f"{OWN}: {row!r} is no measurement {wanted}")
        if ":" not in row["id"]:
            raise ValueError(f"{OWN}: {row['id']!r} is one of the benchmark's own, whose measurements are its own too")
    return rows


def random_policy(id: str, action_repeat: int) -> tuple[float | None, str]:
    """(mean return, where it comes from), of action repeat 1 when `action_repeat` was not measured.

    Held actions move a body more than actions drawn anew at each step, so the two are not the same number; the words
    say which one it is. (None, ...) when neither was measured.
    """
    for repeat in dict.fromkeys((action_repeat, 1)):
        row = _measured().get((id, repeat))
        if row:
            other = "" if repeat == action_repeat else f" (not measured at {action_repeat})"
            return row["mean"], f"random policy, {row['episodes']} episodes at action repeat {repeat}{other}"
    return None, f"not measured (python -m envs.measure {id})"
