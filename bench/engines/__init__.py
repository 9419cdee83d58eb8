"""Engines carry cells of an experiment to processes: `submit(experiment, indices, options) -> outcome per index`.

Nothing else differs between them: every worker runs `bench.worker.work`, and the run directory is the only result.
"""

from __future__ import annotations

import importlib
from typing import Any

ENGINES = {"local": "bench.engines.local"}


def engine(name: str) -> Any:
    """The engine's module, which has `submit(experiment, indices, options, watch)`."""
    return importlib.import_module(ENGINES[name])
