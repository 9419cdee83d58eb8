"""The ratio estimator: noisy observations of an unknown score from a few data points (Gao, Zha, Zhou 2024, eq. 19)."""

from __future__ import annotations

import math

import numpy as np

from envs.spec import Dynamics


class RatioEstimator:
    """s(t, y) = (alpha sum_i w_i x_i / max(sum_i w_i, m eps) - y) / sigma^2 with w_i = N(y; alpha x_i, sigma^2 I), over m data
    points x_i.

    The points are m consecutive ones, from a place that the caller draws, of data that lie in random order (as those of
    `envs.generation.data` do): any m of them are a sample, and a place is one number to draw instead of m. eps = 0 is plain
    self-normalised importance sampling.
    """

    def __init__(self, points: np.ndarray, m: int, eps: float, dynamics: Dynamics):
        """points [n, d]. Raises ValueError for points that are not finite, and for m outside 1 ... n."""
        if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
            raise ValueError(f"data must be finite points [n, d], found shape {points.shape}, {_broken(points)}")
        if not 1 <= m <= len(points):
            raise ValueError(f"m must be between 1 and the {len(points)} points of the data, found {m}")
        self.places = len(points)
        self.m, self.eps, self.dynamics = m, eps, dynamics
        around = np.concatenate([points, points[: m - 1]]).T.astype(np.float32)
        self._windows = np.lib.stride_tricks.sliding_window_view(np.ascontiguousarray(around), m, axis=1)  # [d, n, m]

    def __call__(self, t: np.ndarray, y: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Estimates [N, d] at times t [N] and y [N, d], each from the m points that begin at `places` [N] (integers < n)."""
        alpha, sigma2 = (value.astype(np.float32)[:, None] for value in (self.dynamics.alpha(t), self.dynamics.sigma2(t)))
        y = y.astype(np.float32)
        x = self._windows[:, places]  # [d, N, m]
        square = np.square(y.T[:, :, None] - alpha * x).sum(axis=0)
        nearest = square.min(axis=1, keepdims=True)
        weights = np.exp((nearest - square) / (2 * sigma2))
        total = weights.sum(axis=1, keepdims=True)
        mean = np.einsum("nm,dnm->nd", weights, x) / total
        if self.eps:
            log_sum = np.log(total) - nearest / (2 * sigma2) - y.shape[1] / 2 * np.log(2 * math.pi * sigma2)
            mean *= np.exp(np.minimum(log_sum - math.log(self.m * self.eps), 0.0))
        return (alpha * mean - y) / sigma2

    def error(self, points: np.ndarray) -> float:
        """Squared error of an estimate at the last step, at least, in units of that of the score of one kernel, d / sigma^2.

        It is the distance from the score of the kernel about the very point that y comes from, whose mean given y is the score
        (denoising score matching), less that one's variance: so an error that all estimates share, such as the floor's, counts.
        """
        generator, n, t = np.random.default_rng(0), 256, self.dynamics.dt
        x = points[generator.integers(len(points), size=n)]
        sigma, xi = math.sqrt(self.dynamics.sigma2(t)), generator.standard_normal(x.shape)
        found = self(np.full(n, t), self.dynamics.alpha(t) * x + sigma * xi, generator.integers(self.places, size=n))
        return float(np.square(sigma * found + xi).mean() - 1)


def _broken(points: np.ndarray) -> str:
    return f"{np.size(points) - int(np.isfinite(points).sum())} numbers not finite"
