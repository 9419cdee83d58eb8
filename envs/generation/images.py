"""How near generated images are to the data, without a network whose weights would have to be downloaded."""

from __future__ import annotations

import numpy as np

FEATURES = 32  # leading principal components of the data
ROWS = 64  # of generated images compared with all data at a time


class Reference:
    """The data that generated images are compared with: points [n, d]."""

    def __init__(self, points: np.ndarray):
        self._points = points.astype(np.float32)
        self._square = np.square(self._points).sum(axis=1)
        self._center = self._points.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(self._points, rowvar=False).astype(np.float64))
        self._components = vectors[:, np.argsort(values)[::-1][:FEATURES]]
        self._data = self.features(self._points)

    def features(self, y: np.ndarray) -> np.ndarray:
        """Coordinates [N, F] of y [N, d] on the leading principal components of the data."""
        return (y - self._center) @ self._components

    def nearest(self, y: np.ndarray) -> np.ndarray:
        """Root mean square difference, over pixels, to the nearest image of the data: y [N, d] -> [N]."""
        parts = []
        for part in np.array_split(y.astype(np.float32), -(-len(y) // ROWS)):
            square = np.square(part).sum(axis=1)[:, None] - 2 * part @ self._points.T + self._square
            parts.append(np.sqrt(np.maximum(square.min(axis=1), 0.0) / y.shape[1]))
        return np.concatenate(parts)

    def frechet(self, y: np.ndarray) -> float:
        """`frechet` of the features of y [N, d] and of the data."""
        return frechet(self.features(y), self._data)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of Gaussians fitted to features [n, F] and [k, F] (Heusel et al. 2017, of any features):
    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2))."""
    cov_a, cov_b = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0.0)).sum()
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
