"""How near generated images are to the data: by principal components, or by a network of which the user has the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

FEATURES = 32  # leading principal components of the data
FITTED = 2048  # images that these are computed from
ROWS = 64  # of generated images compared with all data, or given to a network, at a time


class Reference:
    """The data that generated images are compared with: points [n, d].

    features: of images [N, d] -> [N, F], in place of the coordinates on the leading principal components.
    """

    def __init__(self, points: np.ndarray, features: Callable[[np.ndarray], np.ndarray] | None = None):
        self._points = points.astype(np.float32, copy=False)
        self._square = np.square(self._points).sum(axis=1)
        if features is None:
            components = principal_components(self._points[:FITTED], FEATURES)
            offset = self._points.mean(axis=0) @ components
            features = lambda y: y @ components - offset  # noqa: E731
        self.features = features
        self._data = self.features(self._points)

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


def principal_components(points: np.ndarray, most: int) -> np.ndarray:
    """The leading principal components [d, F] of points [n, d], F <= most and no more than the rank.

    From the smaller of the covariance [d, d] and the Gram matrix [n, n], which have the same eigenvalues.
    """
    centred = (points - points.mean(axis=0)).astype(np.float32)
    wide = centred.shape[0] < centred.shape[1]
    values, vectors = np.linalg.eigh((centred @ centred.T if wide else centred.T @ centred).astype(np.float64))
    leading = np.argsort(values)[::-1][:most]
    leading = leading[values[leading] > 1e-5 * values.max()]
    components = centred.T @ vectors[:, leading] if wide else vectors[:, leading]
    return components / np.linalg.norm(components, axis=0)


def network_features(path: str, shape: tuple[int, int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """The features of a TorchScript module at `path`: float32 images [N, C, H, W] in [-1, 1] -> [N, F].

    With Inception's the distance of these is the FID of Heusel et al. (2017). Raises ValueError, in one line, where there is no
    such file, where it is no such module or takes no such images, and for what it returns if that is not finite and of two
    dimensions.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}; features=... takes a TorchScript module that maps images to features")
    import torch  # here alone in the package: only who has such a module needs it

    try:
        module = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"{path} is not a TorchScript module ({str(error).strip().splitlines()[0]})") from error

    wanted = f"[N, {', '.join(map(str, shape))}]"

    def features(y: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(y.astype(np.float32)).view(-1, *shape)
        try:
            with torch.no_grad():
                found = torch.cat([module(part) for part in images.split(ROWS)])
        except (RuntimeError, TypeError) as error:  # what TorchScript raises within it; what torch.cat does of no tensor
            said = str(error).strip().splitlines()[-1]
            raise ValueError(f"the module {path} must map images {wanted} to features [N, F] ({said})") from error
        if found.dim() != 2 or not found.isfinite().all():
            raise ValueError(f"the module {path} must give finite features [N, F], found shape {tuple(found.shape)}")
        return found.double().numpy()

    return features


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of Gaussians fitted to features [n, F] and [k, F] (Heusel et al. 2017, of any features):
    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2))."""
    cov_a, cov_b = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0.0)).sum()
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
