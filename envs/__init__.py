"""Environments: `make(id, seed)` gives a vector environment and its EnvSpec.

An id is `<family>/<name>`. A family is one module and one line in FAMILIES; it holds `Config` (the settings, a frozen
dataclass), `names()`, `check(name, config) -> bool` and `build(name, config, num_envs, render_mode) -> (copies,
EnvSpec)`, where copies are a list of `vector.Copy`, or a `vector.Batch` of all of them. Importing this package imports no
physics engine.
"""

import dataclasses
import difflib
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from envs.spec import Dynamics, EnvSpec, Score

if TYPE_CHECKING:
    from envs.vector import VectorEnv

__all__ = ["FAMILIES", "Dynamics", "EnvSpec", "Score", "check", "check_id", "config_class", "least_episodes", "make", "names"]

FAMILIES = {
    "dmc": "envs.dmc",
    "generation": "envs.generation",
    "gym": "envs.gym",
    "toy": "envs.toy",
}

# Families whose names() is not the whole of what they accept.
OPEN_FAMILIES = frozenset({"gym"})


def make(
    id: str, seed: int | Sequence[int], num_envs: int = 1, render_mode: str | None = None, **settings: Any
) -> tuple["VectorEnv", EnvSpec]:
    """`num_envs` copies of an environment as one vector environment (see `envs.vector.VectorEnv`), and what it is.

    Episode e of copy i depends on (seed, i, e) and the actions alone. `settings` are fields of the family's Config.
    `render_mode="rgb_array"`, for who wants frames: a gymnasium task may be made otherwise then.
    Raises ValueError for what `check` refuses, for `num_envs` < 1 and for a seed that is not of whole numbers >= 0.
    """
    family, name, config = _resolve(id, settings)
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, found {num_envs}")
    from envs.vector import BatchEnv, VectorEnv, seed_words

    seed = seed_words(seed)
    copies, spec = family.build(name, config, num_envs, render_mode)
    if not isinstance(copies, list):
        return BatchEnv(copies, spec.obs_dim, spec.act_dim, seed), spec
    return VectorEnv(copies, spec.obs_dim, spec.act_dim, spec.action_repeat, seed), spec


def check(id: str, settings: dict[str, Any] | None = None) -> bool:
    """Raises ValueError, in one line, for an unknown id or setting or an environment that cannot be used here.

    Returns whether the actions are bounded. Builds no physics, except for a gymnasium environment, whose spaces are not
    known before.
    """
    family, name, config = _resolve(id, settings or {})
    return family.check(name, config)


def check_id(id: str) -> None:
    """Raises ValueError, in one line, for an id that is none of `names` nor of an open family; looks at nothing else."""
    _resolve(id, {})


def names(family: str | None = None) -> list[str]:
    """All listed ids, of one family or of all. The gym family also accepts ids that it does not list."""
    families = FAMILIES if family is None else [family]
    return [f"{family}/{name}" for family in families for name in _module(family).names()]


def least_episodes(id: str) -> int:
    """Episodes that an evaluation must have, at least: a family of which a law is judged, not single episodes, says so."""
    family, _, name = id.partition("/")
    return getattr(_module(family), "least_episodes", lambda name: 1)(name)


def discount(id: str) -> float | None:
    """The discount that a family's tasks state, whatever the agent's; None leaves it to the agent."""
    return getattr(_module(id.partition("/")[0]), "DISCOUNT", None)


def config_class(family: str) -> type:
    """The Config dataclass of a family."""
    return _module(family).Config


def _module(family: str) -> ModuleType:
    if family not in FAMILIES:
        raise ValueError(f"unknown environment family {family!r}; there are {', '.join(FAMILIES)}")
    return importlib.import_module(FAMILIES[family])


def _resolve(id: str, settings: dict[str, Any]) -> tuple[ModuleType, str, Any]:
    family, _, name = id.partition("/")
    if family not in FAMILIES:
        raise _unknown("environment", id, names())
    module = _module(family)
    if family not in OPEN_FAMILIES and name not in module.names():
        raise _unknown("environment", id, names(family))
    keys = [field.name for field in dataclasses.fields(module.Config)]
    for key in settings:
        if key not in keys:
            raise _unknown(f"setting of the {family} environments", key, keys)
    return module, name, module.Config(**settings)


def _unknown(what: str, found: str, choices: Sequence[str]) -> ValueError:
    near = difflib.get_close_matches(found, choices, n=3)
    if near:
        return ValueError(f"unknown {what} {found!r}; did you mean {' or '.join(near)}?")
    listed = ", ".join(choices) if len(choices) <= 6 else f"{len(choices)} choices, such as {choices[0]}"
    return ValueError(f"unknown {what} {found!r}; there are {listed}")
