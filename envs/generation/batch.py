"""All copies of a generation environment, stepped as one array operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from envs.generation.estimator import RatioEstimator
from envs.spec import Dynamics


class Generation:
    """Samples y on their way from the prior N(0, sigma2(T) I) to data; a `vector.Batch`.

    An episode is one sample and has `dynamics.steps` steps. Its noise and its places in the data are drawn when it begins,
    so they depend on its seed alone. The observation is (time left, y). A step pays -g^2 |s - a|^2 dt, s being the ratio
    estimate of the score at the observation, or -g^2 (s1 - a).(s2 - a) dt of two independent ones, and the last adds
    beta h(y). Infos: `score` [n, d], the estimate (the mean of two); `terminal_reward` [n], beta h(y) at the last step, else 0.

    scores: what final y [n, d] are worth, given the first `kept` copies' y and actions at every step, [steps, kept, 2, d].
    """

    def __init__(
        self,
        copies: int,
        dynamics: Dynamics,
        estimator: RatioEstimator,
        dim: int,
        *,
        estimates: int,
        beta: float,
        reward: Callable[[np.ndarray], np.ndarray],
        scores: Callable[[np.ndarray, np.ndarray], dict[str, list[float]]],
        kept: int,
    ):
        self._dynamics, self._estimator, self._reward, self._scores = dynamics, estimator, reward, scores
        self._estimates, self._beta = estimates, beta
        scale = dynamics.action_scale
        self.bounds = None if scale is None else (np.full(dim, -scale), np.full(dim, scale))
        self._noise = np.zeros((copies, dynamics.steps + 1, dim), np.float32)
        self._places = np.zeros((copies, dynamics.steps, estimates), np.int64)
        self._step = np.zeros(copies, np.int64)
        self._y = np.zeros((copies, dim))
        self._path = np.zeros((dynamics.steps, min(kept, copies), 2, dim), np.float32)

    def __len__(self) -> int:
        return len(self._y)

    def reset(self, rows: np.ndarray, seeds: Sequence[int]) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            generator = np.random.default_rng(seed)
            generator.standard_normal(out=self._noise[row], dtype=np.float32)
            self._places[row] = generator.integers(self._estimator.places, size=self._places.shape[1:])
        self._y[rows] = np.sqrt(self._dynamics.sigma2(self._dynamics.time)) * self._noise[rows, 0]
        self._step[rows] = 0

    def step(
        self, actions: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        y, step = self._y[rows], self._step[rows]
        t, first = self._time_left(step), rows < self._path.shape[1]
        self._path[step[first], rows[first]] = np.stack([y[first], actions[first]], axis=1)
        scores = [self._estimator(t, y, self._places[rows, step, j]) for j in range(self._estimates)]
        rewards = -self._dynamics.g2(t) * self._dynamics.dt * ((scores[0] - actions) * (scores[-1] - actions)).sum(axis=1)
        self._y[rows] = move(self._dynamics, t[:, None], y, actions, self._noise[rows, step + 1])
        self._step[rows] += 1
        ended = self._step[rows] == self._dynamics.steps
        terminal = np.zeros(len(rows))
        if ended.any() and self._beta:
            terminal[ended] = self._beta * self._reward(self._y[rows[ended]])
        infos = {"score": np.mean(scores, axis=0), "terminal_reward": terminal}
        return rewards + terminal, ended, np.zeros(len(rows), bool), infos

    def _time_left(self, step: np.ndarray) -> np.ndarray:
        return self._dynamics.time * (self._dynamics.steps - step) / self._dynamics.steps

    def observations(self) -> np.ndarray:
        return np.concatenate([self._time_left(self._step)[:, None], self._y], axis=1).astype(np.float32)

    def scores(self, final: np.ndarray) -> dict[str, list[float]]:
        return self._scores(final[:, 1:].astype(np.float64), self._path.astype(np.float64))

    def render(self) -> tuple[np.ndarray, ...]:
        raise RuntimeError("generation tasks have no picture of a state; plot their final observations instead")


def move(d: Dynamics, t: np.ndarray | float, y: np.ndarray, action: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """y [N, d] after a step of the sampler from time t, [N, 1] or one for all, under actions and noise [N, d]."""
    if d.sampler == "ddim":
        alpha, sigma2, after = d.alpha(t), d.sigma2(t), t - d.dt
        after = np.where(after < d.dt / 2, 0.0, after)
        return d.alpha(after) * (y + sigma2 * action) / alpha - np.sqrt(d.sigma2(after) * sigma2) * action
    g2 = d.g2(t)
    if d.sampler == "ode":
        return y + (d.f(t) * y + g2 * action / 2) * d.dt
    return y + (d.f(t) * y + g2 * action) * d.dt + np.sqrt(g2 * d.dt) * noise
