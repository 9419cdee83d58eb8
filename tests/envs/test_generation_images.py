"""Images as data: what is read, what is refused, the size of a JPEG file, and distances with known values."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import envs
from envs.generation import data, rewards
from envs.generation.images import Reference, frechet, principal_components


def save(folder, *pictures):
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")


def grey(height, width, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width), dtype=np.uint8)


def test_a_folder_is_read_to_the_pixel(tmp_path):
    pictures = [grey(3, 5, seed) for seed in range(4)]
    save(tmp_path, *pictures)
    points, shape = data.folder(tmp_path)
    assert shape == (1, 3, 5)
    assert np.array_equal(rewards.to_pixels(points, shape)[..., 0], pictures)
    colour = np.stack([grey(3, 5, 9)] * 2 + [grey(3, 5, 8)], axis=2)
    Image.fromarray(colour).save(tmp_path / "9.png")
    points, shape = data.folder(tmp_path)
    assert shape == (3, 3, 5)
    assert np.array_equal(rewards.to_pixels(points, shape)[-1], colour)


def test_mixed_sizes_and_broken_files_are_refused(tmp_path):
    save(tmp_path, grey(4, 4))
    with pytest.raises(ValueError, match=r"there is one image alone in .*, 0.png; a law takes at least 2"):
        envs.check("generation/images", {"path": str(tmp_path)})
    save(tmp_path, grey(4, 4), grey(4, 6))
    with pytest.raises(ValueError, match=r"must have one size, found 4 x 4 \(0.png\) and 6 x 4 \(1.png\)"):
        envs.check("generation/images", {"path": str(tmp_path)})
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1.png cannot be read as an image"):
        data.folder(tmp_path)
    deep = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000)
    deep.save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1.png is of mode I(;16)?; expected 8 bits a channel: 1, L"):
        data.folder(tmp_path)
    Image.fromarray(grey(64, 64)).save(tmp_path / "1.png")
    whole = bytearray((tmp_path / "1.png").read_bytes())
    whole[33:37] = (20).to_bytes(4, "big")  # the length of the chunk with the pixels
    (tmp_path / "1.png").write_bytes(whole)
    with pytest.raises(ValueError, match=r"1.png cannot be read as an image \(broken PNG file"):
        data.folder(tmp_path)


@pytest.mark.filterwarnings("ignore:Palette images")  # Pillow's
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_images_are_refused_and_opaque_ones_with_alpha_are_not(mode, tmp_path):
    picture = np.stack([grey(4, 4)] * 3 + [np.full((4, 4), 255, np.uint8)], axis=2)
    for number, alpha in ((0, 255), (1, 255), (1, 254)):
        picture[2, 1, 3] = alpha
        image = Image.fromarray(picture)
        image = image.quantize(method=Image.Quantize.FASTOCTREE) if mode == "P" else image.convert(mode)
        image.save(tmp_path / f"{number}.png")
        if alpha == 255:
            continue
        with pytest.raises(ValueError, match=r"1.png is transparent in parts; expected opaque images") as error:
            data.folder(tmp_path)
        assert "\n" not in str(error.value)


def cifar_archive(path, images, labels):
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1).astype(np.uint8)
    with tarfile.open(path, "w:gz") as tar:
        for name, part in (("data_batch_2", records[2:]), ("data_batch_1", records[:2]), ("test_batch", records)):
            content = part.tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_cifar_archive_is_read_and_its_checksum_held(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(5, 3, 32, 32))
    cifar_archive(tmp_path / "cifar.tar.gz", images, np.arange(5))
    points, shape = data.read_cifar10(tmp_path / "cifar.tar.gz")
    assert np.array_equal(rewards.to_pixels(points, shape), images.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match=r"has the md5 checksum \w{32}, not c32a1d4ab5d03f1284b67883e8d87530"):
        envs.check("generation/cifar10", {"path": str(tmp_path / "cifar.tar.gz")})


def test_the_reward_is_the_size_of_the_file(tmp_path):
    flat, noisy = np.full((8, 8), 90, np.uint8), grey(8, 8)
    y = np.stack([flat, noisy]).reshape(2, 64) / 127.5 - 1
    found = rewards.jpeg(y, (1, 8, 8))
    sizes = []
    for number, picture in enumerate((flat, noisy)):
        Image.fromarray(picture).save(tmp_path / f"{number}.jpg", quality=75)
        sizes.append((tmp_path / f"{number}.jpg").stat().st_size)
    assert (-100 * found).tolist() == sizes
    assert found[0] > found[1]
    assert np.array_equal(rewards.jpeg(np.full((1, 64), np.nan), (1, 8, 8)), rewards.jpeg(np.zeros((1, 64)), (1, 8, 8)))


def test_distances_are_those_of_gaussians_and_neighbours():
    generator = np.random.default_rng(0)
    a = generator.standard_normal((200000, 2))
    b = 3 * generator.standard_normal((200000, 2)) + [1.0, 2.0]
    assert frechet(a, b) == pytest.approx(5 + 2 * (3 - 1) ** 2, rel=0.02)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    points = generator.uniform(-1, 1, (300, 48))
    reference = Reference(points)
    shifted = points[:70] + 0.01
    np.testing.assert_allclose(reference.nearest(shifted), 0.01, rtol=1e-2)
    assert reference.frechet(points) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(60, 12), (12, 60), (2, 30)])
def test_components_are_those_of_the_singular_value_decomposition(n, d):
    """From either matrix, without the directions that n images do not span."""
    points = np.random.default_rng(0).standard_normal((n, d)) * np.linspace(1, 3, d)
    found = principal_components(points, 5)
    wanted = np.linalg.svd(points - points.mean(axis=0))[2][: min(5, n - 1)].T
    assert found.shape == wanted.shape
    np.testing.assert_allclose(np.abs((found * wanted).sum(axis=0)), 1, atol=1e-4)


class Moments(torch.nn.Module):
    """A stand-in for Inception: mean and mean square of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.square().mean(dim=(2, 3))], dim=1)


class Pair(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.mean(dim=(2, 3)), images


def test_a_networks_features_take_the_place_of_components(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    save(folder, *(grey(4, 4, seed) for seed in range(40)))
    torch.jit.script(Moments()).save(tmp_path / "moments.pt")
    settings = {"path": str(folder), "m": 40, "steps": 3, "f_start": 1.0}
    env, _ = envs.make("generation/images", 0, 100, features=str(tmp_path / "moments.pt"), **settings)
    y, pixels = np.random.default_rng(1).uniform(-1, 1, (100, 16)), data.images("images", str(folder))[0]
    moments = [np.stack([x.mean(axis=1), np.square(x).mean(axis=1)], axis=1) for x in (y, pixels)]
    found = env.scores(np.concatenate([np.zeros((100, 1)), y], axis=1))["Fréchet distance"][0]
    assert found == pytest.approx(frechet(*moments), rel=1e-4)
    (tmp_path / "no.pt").write_bytes(b"no module")
    torch.jit.script(torch.nn.Identity()).save(tmp_path / "flat.pt")
    torch.jit.script(torch.nn.Conv2d(3, 4, 2)).save(tmp_path / "colour.pt")
    torch.jit.script(Pair()).save(tmp_path / "pair.pt")
    for name, complaint in (("absent.pt", r"there is no file .*absent.pt; features=\.\.\. takes a TorchScript module"),
                            ("no.pt", "no.pt is not a TorchScript module"),
                            ("colour.pt", r"colour.pt must map images \[N, 1, 4, 4\] to .*3 channels, but got 1 channels"),
                            ("pair.pt", r"pair.pt must map images \[N, 1, 4, 4\] to features \[N, F\] \(.* but got tuple\)"),
                            ("flat.pt", r"must give finite features \[N, F\], found shape \(2, 1, 4, 4\)")):  # fmt: skip
        with pytest.raises(ValueError, match=complaint) as error:
            envs.check("generation/images", settings | {"features": str(tmp_path / name)})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("reward", ["jpeg", "indicator", "quadratic"])
def test_a_folder_is_an_environment_with_its_scores(reward, tmp_path):
    save(tmp_path, *(grey(4, 4, seed) for seed in range(40)))
    settings = {"steps": 3, "m": 40, "beta": 10.0, "f_start": 1.0, "reward": reward, "interval_high": 1.0}
    env, spec = envs.make("generation/images", 0, 8, path=str(tmp_path), **settings)
    assert (spec.obs_dim, spec.act_dim, spec.score.name) == (17, 16, "return")
    obs, _ = env.reset()
    for _ in range(3):
        obs, _, _, _, info = env.step(-obs[:, 1:])
    scores = env.scores(info["final_obs"])
    assert set(scores) == {"reward", "nearest image", "Fréchet distance"}
    # What is paid, of y beyond the pixels' range too; the last observation is float32.
    assert np.abs(info["final_obs"][:, 1:]).max() > 1
    assert scores["reward"][0] == pytest.approx(info["terminal_reward"].mean() / 10, abs=0.02)


def test_digits_are_scikit_learns():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    points, shape = data.images("digits", None)
    assert (points.shape, shape, points.min(), points.max()) == ((1797, 64), (1, 8, 8), -1.0, 1.0)
    assert sorted(map(tuple, points)) == sorted(map(tuple, load_digits().data / 8 - 1))


@pytest.mark.parametrize("name", ["digits", "images"])
def test_consecutive_images_are_a_random_sample(name, tmp_path):
    """Means of 20 in a row vary as a sample's do. Digits come writer by writer, and files here from dark to bright."""
    if name == "digits":
        pytest.importorskip("sklearn")
    save(tmp_path, *(np.full((2, 2), level, np.uint8) for level in range(256)))
    points, _ = data.images(name, str(tmp_path) if name == "images" else None)
    means = points[: len(points) // 20 * 20].reshape(-1, 20, points.shape[1]).mean(axis=1)
    assert means.var(axis=0).sum() == pytest.approx(points.var(axis=0).sum() / 20, rel=0.4 if name == "images" else 0.15)
    data.images.cache_clear()
    again, _ = data.images(name, str(tmp_path) if name == "images" else None)
    assert np.array_equal(points, again)
