"""Data laws p_0 to generate from: two synthetic ones with known densities, and points read from files."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

POOL = 2**17  # points drawn once from a synthetic law; they are its data set
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_SHAPE = (3, 32, 32)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sum_k weights_k N(means_k, sd^2 I): weights [C], means [C, d]."""

    weights: np.ndarray
    means: np.ndarray
    sd: float

    def sample(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """Points [n, d]."""
        centres = self.means[generator.choice(len(self.weights), n, p=self.weights)]
        return centres + self.sd * generator.standard_normal(centres.shape)

    def log_density(self, x: np.ndarray, alpha: float = 1.0, sigma2: float = 0.0) -> np.ndarray:
        """log p_t at x [N, d], of x_t = alpha x_0 + sqrt(sigma2) noise: [N]."""
        return np.log(self._parts(x, alpha, sigma2)[0].sum(axis=1))

    def score(self, x: np.ndarray, alpha: float = 1.0, sigma2: float = 0.0) -> np.ndarray:
        """grad log p_t at x [N, d]: [N, d]."""
        parts, variance = self._parts(x, alpha, sigma2)
        posterior = parts / parts.sum(axis=1, keepdims=True)
        return (alpha * posterior @ self.means - x) / variance

    def _parts(self, x: np.ndarray, alpha: float, sigma2: float) -> tuple[np.ndarray, float]:
        """Each component's share of the density [N, C], and the variance of a component."""
        variance = (alpha * self.sd) ** 2 + sigma2
        square = np.square(x[:, None] - alpha * self.means).sum(axis=2)
        return self.weights * np.exp(-square / (2 * variance)) / (2 * math.pi * variance) ** (x.shape[1] / 2), variance


def gmm1d() -> Mixture:
    """Two equal Gaussians at -1.5 and 1.5 with standard deviation 0.5; the numbers are ours."""
    return Mixture(np.array([0.5, 0.5]), np.array([[-1.5], [1.5]]), 0.5)


def swissroll2d() -> Mixture:
    """scikit-learn's Swiss roll in the plane, (u cos u, u sin u) / 5 with u uniform on [1.5 pi, 4.5 pi], and noise 0.1.

    A mixture of 500 Gaussians at equal steps of u: they lie so close that the law along the roll is smooth to 1e-6.
    """
    u = 1.5 * math.pi + 3 * math.pi * (np.arange(500) + 0.5) / 500
    return Mixture(np.full(500, 1 / 500), np.stack([u * np.cos(u), u * np.sin(u)], axis=1) / 5, 0.1)


@functools.cache
def synthetic(name: str) -> tuple[Mixture, np.ndarray]:
    """(the law, its data set [POOL, d]) of gmm1d or swissroll2d."""
    law = {"gmm1d": gmm1d, "swissroll2d": swissroll2d}[name]()
    return law, law.sample(POOL, np.random.default_rng(0))
