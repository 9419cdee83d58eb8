"""Data laws p_0 to generate from: two synthetic ones with known densities, and points read from files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import tarfile
from pathlib import Path

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


@functools.lru_cache(maxsize=2)
def images(name: str, path: str | None) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(pixels in [-1, 1] [n, C H W], (C, H, W)) of `digits`, of `cifar10` (its archive at `path`) or of the `images` in the
    folder `path`, in one random order: consecutive ones are a sample, while files often lie in order of class or writer.

    Raises ValueError, in one line, for what is absent or is not what it should be. Nothing is downloaded.
    """
    if name != "digits" and path is None:
        wanted = f"the archive of {CIFAR10_URL}" if name == "cifar10" else "a folder of PNG or JPEG images"
        raise ValueError(f"generation/{name} needs path=..., {wanted}")
    pixels, shape = digits() if name == "digits" else cifar10(Path(path)) if name == "cifar10" else folder(Path(path))
    np.random.default_rng(0).shuffle(pixels)  # in place: they may fill half the memory
    return pixels, shape


def digits() -> tuple[np.ndarray, tuple[int, int, int]]:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("generation/digits needs scikit-learn: pip install 'diffusion-policy-bench[generation]'") from error
    return load_digits().data / 8.0 - 1.0, (1, 8, 8)


def cifar10(archive: Path) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The 50,000 training images of CIFAR-10 from its published binary archive, as float32."""
    if not archive.is_file():
        raise ValueError(f"there is no file {archive}; get {CIFAR10_URL} (md5 {CIFAR10_MD5}) and give its place as path=...")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != CIFAR10_MD5:
        raise ValueError(f"{archive} has the md5 checksum {found}, not {CIFAR10_MD5} of {CIFAR10_URL}")
    return read_cifar10(archive)


def read_cifar10(archive: Path) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The training batches of a CIFAR-10 binary archive: records of a label and 3,072 bytes, channels first."""
    size = math.prod(CIFAR10_SHAPE)
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if Path(name).name.startswith("data_batch_"))
        records = [np.frombuffer(tar.extractfile(name).read(), np.uint8).reshape(-1, 1 + size)[:, 1:] for name in names]
    return np.concatenate(records).astype(np.float32) / 127.5 - 1, CIFAR10_SHAPE


EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes that convert() keeps as they look, if opaque


def folder(path: Path) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The two or more PNG and JPEG images directly in a folder, all of one size; grey where all of them are."""
    from PIL import Image

    files = sorted(file for file in path.glob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not files:
        raise ValueError(f"there is no PNG or JPEG image in {path}")
    if len(files) < 2:
        raise ValueError(f"there is one image alone in {path}, {files[0].name}; a law takes at least 2")
    pictures = []
    for file in files:
        try:
            with Image.open(file) as opened:
                opened.load()
                if opened.mode not in EIGHT_BIT:
                    raise ValueError(f"{file} is of mode {opened.mode}; expected 8 bits a channel: {', '.join(EIGHT_BIT)}")
                if opened.has_transparency_data and opened.convert("RGBA").getextrema()[3][0] < 255:
                    raise ValueError(f"{file} is transparent in parts; expected opaque images, without alpha or 255 throughout")
                pictures.append(opened.convert("L" if opened.mode in ("1", "L") else "RGB"))
        except (OSError, SyntaxError) as error:  # SyntaxError: Pillow's, of a damaged PNG
            raise ValueError(f"{file} cannot be read as an image ({error})") from error
    for file, picture in zip(files, pictures, strict=True):
        if picture.size != pictures[0].size:
            sizes = [f"{item.width} x {item.height} ({name.name})" for name, item in ((files[0], pictures[0]), (file, picture))]
            raise ValueError(f"the images in {path} must have one size, found {' and '.join(sizes)}")
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    pixels = np.stack([np.asarray(picture.convert(mode)) for picture in pictures])
    pixels = pixels[..., None].transpose(0, 3, 1, 2) if mode == "L" else pixels.transpose(0, 3, 1, 2)
    return pixels.reshape(len(pixels), -1) / 127.5 - 1, pixels.shape[1:]
