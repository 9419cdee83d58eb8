"""What policies do: actions sampled at fixed first states (probes.npz), summed up for each run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ON_BOUND = 0.99  # of the range: actions at least this far out count as on the bound
MOST_BINS = 40


@dataclass(frozen=True)
class Probes:
    """Sampled actions of one run: the last ones [P, M, act_dim] in units of the bounds, spread and share on the bound [E]."""

    step: np.ndarray
    last: np.ndarray
    spread: np.ndarray
    on_bound: np.ndarray


def read_probes(path: Path, spec: dict[str, Any]) -> Probes | None:
    """Sums up a run's probes.npz, of an environment with the bounds that `spec` says; None where there is no readable one."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            step, actions = np.asarray(stored["env_step"], dtype=float), np.asarray(stored["actions"], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception as error:  # a torn zip file raises zipfile.BadZipFile
        if type(error).__name__ != "BadZipFile":
            raise
        return None
    if actions.ndim != 4 or not actions.size or len(step) != len(actions):
        return None
    actions = _in_bounds(spec, actions)
    return Probes(
        step,
        actions[-1],
        actions.std(axis=2).mean(axis=(1, 2)).astype(float),
        (np.abs(actions) >= ON_BOUND).mean(axis=(1, 2, 3)).astype(float),
    )


def _in_bounds(spec: dict[str, Any], actions: np.ndarray) -> np.ndarray:
    """Actions with the environment's bounds at -1 and 1; unbounded ones as they are."""
    low, high = spec.get("action_low"), spec.get("action_high")
    if low is None or high is None:
        return actions
    low, high = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).all()):
        return actions
    return 2 * (actions - low) / (high - low) - 1


def histogram(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the samples [M] in each of about 2 sqrt(M) equal bins of [-1, 1] (what lies beyond counts in the outer bins).

    Returns the bins' edges, one more than shares, and the shares.
    """
    edges = np.linspace(-1, 1, int(np.clip(2 * np.sqrt(len(actions)), 8, MOST_BINS)) + 1)
    counts, _ = np.histogram(np.clip(actions, -1, 1), edges)
    return edges, counts / max(1, len(actions))


def embed(groups: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Groups of samples [M, act_dim] in one plane: -> groups [M, 2] and the share of the variance on each axis.

    Two dimensions are shown as they are; more are projected on the first two principal components of all samples
    together, each component's sign such that its largest weight is positive.
    """
    pooled = np.concatenate(groups).astype(np.float64)
    if pooled.shape[1] == 2:
        return groups, np.ones(2)
    center = pooled.mean(0)
    _, size, axes = np.linalg.svd(pooled - center, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(1)])[:, None]
    total = (size**2).sum()
    return [(group - center) @ axes.T for group in groups], size[:2] ** 2 / total if total else np.zeros(2)
