"""From a command line to a finished run directory. `python -m bench --help` lists the commands."""

from __future__ import annotations

__all__ = ["load_policy"]


def __getattr__(name: str):
    # Nothing heavy is imported before it is needed: `python -m bench --help` must be instant.
    if name == "load_policy":
        from bench.policy import load_policy

        return load_policy
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
