"""What the studies of generated laws share: their grids, one for each setting of the environment, samples, and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

import envs
from bench.policy import load_policy
from bench.reproduce import Context
from bench.reproduce.grids import Grid, Results
from envs.generation import Config, ground_truth
from envs.generation.truth import Truth
from reports.load import Run

CENTRED = (  # said where the claims are about its results
    "The agent: q-learning's first runs learned J's function of time and were slower or diverged; it is solved for now "
    "(`centered`)."
)
NUMBERS = "The paper's text gives the data and m; their numbers, the reward, beta, f, T and the networks are chosen here."
SAMPLES, STREAM = 4096, 5  # samples of a law; word of the environment seed, apart from training's and the evaluations'


def trained(grid: Grid, context: Context, name: str, *settings: str) -> Results:
    """The grid with more settings, as an experiment of its own."""
    own = dataclasses.replace(context, name=f"{context.name}-{name}")
    return dataclasses.replace(grid, settings=(*grid.settings, *settings)).train(own)


def samples(run: Run, n: int | None = None, **settings) -> np.ndarray:
    """Samples y [n, d] of a run's policy, SAMPLES by default. settings: of the environment, in place of the run's."""
    return play(load_policy(run.path), run.env, run.env_settings | settings, n, run.seed)


def play(policy, env: str, settings: dict, n: int | None = None, seed: int = 0) -> np.ndarray:
    """Final y [n, d] of n episodes under policy: obs [n, 1 + d] -> actions [n, d]."""
    vector, spec = envs.make(env, (seed, STREAM), n or SAMPLES, **settings)
    obs, _ = vector.reset()
    for _ in range(spec.horizon):
        obs, _, _, _, info = vector.step(policy(obs))
    vector.close()
    return info["final_obs"][:, 1:].astype(np.float64)


def truth(env: str, settings: dict) -> Truth:
    """The ground truth of gmm1d or swissroll2d under these settings."""
    return ground_truth(env.partition("/")[2], Config(**settings))


def last(results: Results, score: str, label: str) -> np.ndarray:
    """A score of the last evaluation, other than the one that ranks, for each finished seed of a label [n]."""
    return np.array([run.others[score].value[-1] for run in results.runs(label)])


def histogram(known: Truth, y: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Density of the first coordinate of samples y [n, d] in equal cells of the grid's range: (middles, heights)."""
    reach = -known.axis[0] + (known.axis[1] - known.axis[0]) / 2
    heights, edges = np.histogram(y[:, 0], cells, (-reach, reach))
    return (edges[1:] + edges[:-1]) / 2, heights / (len(y) * (edges[1] - edges[0]))


def counts(known: Truth, y: np.ndarray, cells: int) -> np.ndarray:
    """Shares of samples y [n, 2] in cells x cells, rows along y_2: what `heatmaps` draws."""
    reach = -known.axis[0] + (known.axis[1] - known.axis[0]) / 2
    found = np.histogram2d(y[:, 1], y[:, 0], cells, ((-reach, reach),) * 2)[0]
    return found / len(y)


def coarse(known: Truth, law: Sequence, cells: int) -> np.ndarray:
    """A law of the truth's nodes as shares of cells x cells, rows along y_2."""
    each = len(known.axis) // cells
    return np.asarray(law).reshape(cells, each, cells, each).sum(axis=(1, 3)).T
