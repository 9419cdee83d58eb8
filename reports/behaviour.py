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
    """Sampled actions of one run: the last ones [P, M, act_dim] with the bounds at -1 and 1, their spread and the share on the
    bound [E]; unbounded ones in their own units, without such a share."""

    step: np.ndarray
    last: np.ndarray
    spread: np.ndarray
    on_bound: np.ndarray | None


def read_probes(path: Path, spec: dict[str, Any], notes: list[str]) -> Probes | None:
    """Sums up a run's probes.npz, of an environment with the bounds that `spec` says; None where there is no readable one.
    Recordings with an action that is not finite are left out and noted."""
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
    finite = np.isfinite(actions).all(axis=(1, 2, 3))
    if not finite.all():
        notes.append(f"{path.name}: {(~finite).sum()} of {len(finite)} recordings ignored, whose actions are not all finite")
        step, actions = step[finite], actions[finite]
    if not len(actions):
        return None
    bounds = _bounds(spec)
    if bounds:
        low, high = bounds
        actions = 2 * (actions - low) / (high - low) - 1
    on_bound = (np.abs(actions) >= ON_BOUND).mean(axis=(1, 2, 3)).astype(float) if bounds else None
    return Probes(step, actions[-1], actions.std(axis=2).mean(axis=(1, 2)).astype(float), on_bound)


def _bounds(spec: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds of the environment's actions; None where they are not bounded on both sides."""
    low, high = spec.get("action_low"), spec.get("action_high")
    if low is None or high is None:
        return None
    low, high = np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)
    return (low, high) if np.isfinite(low).all() and np.isfinite(high).all() and (high > low).all() else None


def histogram(actions: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Share of the samples [M] in each of about 2 sqrt(M) equal bins of [low, high]; what lies beyond counts in the outer ones.

    Returns the bins' edges, one more than shares, and the shares.
    """
    bins = int(np.clip(2 * np.sqrt(len(actions)), 8, MOST_BINS))
    edges = np.histogram_bin_edges(actions, bins, range=(low, high))
    counts, _ = np.histogram(np.clip(actions, low, high), edges)
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
