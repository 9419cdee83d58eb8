"""Engines carry cells of an experiment to processes: `submit(experiment, indices, options, watch) -> outcome per index`.

Nothing else differs between them: each starts the same `python -m bench worker` for a cell, and the run directory, on a
file system that all machines share, is the only result. `check(options)` refuses before anything is written.
"""

from __future__ import annotations

import importlib
from typing import Any

ENGINES = {"local": "bench.engines.local", "ray": "bench.engines.ray", "slurm": "bench.engines.slurm"}


def engine(name: str) -> Any:
    """The engine's module, which has `Options`, `check(options)` and `submit(experiment, indices, options, watch)`."""
    return importlib.import_module(ENGINES[name])
