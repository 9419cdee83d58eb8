"""Rewards h of a generated sample, black boxes to the agent: y [N, d] -> [N]."""

from __future__ import annotations

import io

import numpy as np

JPEG_QUALITY = 75
JPEG_UNIT = 100.0  # bytes


def quadratic(y: np.ndarray, center: float) -> np.ndarray:
    """-|y - center|^2."""
    return -np.square(y - center).sum(axis=1)


def indicator(y: np.ndarray, low: float, high: float) -> np.ndarray:
    """1 where the first coordinate lies in [low, high], else 0."""
    return ((y[:, 0] >= low) & (y[:, 0] <= high)).astype(np.float64)


def jpeg(y: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """-(bytes as a JPEG file of quality 75) / 100, for pixels in [-1, 1] of the given (channels, height, width)."""
    return np.array([-jpeg_size(image) / JPEG_UNIT for image in to_pixels(y, shape)])


def jpeg_size(image: np.ndarray) -> int:
    """Bytes of an image [height, width, 1 or 3] uint8."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(axis=2) if image.shape[2] == 1 else image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.tell()


def to_pixels(y: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Samples [N, C H W], clipped to [-1, 1] -> images [N, H, W, C] uint8."""
    levels = np.nan_to_num(np.clip(y, -1.0, 1.0)).reshape(-1, *shape).transpose(0, 2, 3, 1)
    return np.rint((levels + 1.0) * 127.5).astype(np.uint8)
