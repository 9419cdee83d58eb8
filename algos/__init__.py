"""The registry of algorithms. A new one is a file here, a YAML in conf/algo/ and a line below."""

from __future__ import annotations

import difflib
import importlib
import os
from typing import Any

AGENTS = {
    "qsm": "algos.qsm:QSM",
    "dql": "algos.dql:DiffusionQL",
    "pg": "algos.pg:DiffusionPG",
    "sac": "algos.sac:SAC",
    "td3": "algos.td3:TD3",
    "ctq": "algos.ctq:ContinuousQ",
    "dpok": "algos.dpok:DPOK",
}


def agent_class(name: str) -> Any:
    """The Agent class for a registry name or a "module:Class" path. Raises ValueError if there is none."""
    if name not in AGENTS and ":" not in name:
        raise ValueError(f"unknown agent {name!r}; known are {', '.join(AGENTS)}, or module:Class{nearest(name, AGENTS)}")
    module_name, _, attribute = AGENTS.get(name, name).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"agent {name!r}: cannot import {module_name!r} ({error}); looked in {os.getcwd()} too") from error
    except Exception as error:  # a plug-in may raise anything while it is imported
        if name in AGENTS:
            raise
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"agent {name!r}: importing {module_name!r} raised {what}") from error
    if not hasattr(module, attribute):
        raise ValueError(f"agent {name!r}: {module_name} has no {attribute!r}")
    return getattr(module, attribute)


def nearest(found: str, known) -> str:
    """'; did you mean a or b?' for the closest known names, or ''."""
    close = difflib.get_close_matches(found, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
