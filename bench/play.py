"""A policy on film: episodes of a run's environment, played by its newest policy, as an mp4 or gif."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.policy import load_policy
from bench.rundir import RunDir
from bench.typed import UsageError

FPS = 25  # frames, one for each decision, a second
PLAY_STREAM = 3  # second word of the environment seed: other episodes than in training, evaluation and probes


def play(path: Path, out: Path | None = None, episodes: int = 1, seed: int = 0) -> tuple[Path, list[float]]:
    """Play and film; returns the file and the return of each episode. Raises UsageError where there is no policy, no way
    to render, or nothing that writes such a file; an older film is replaced only by a whole one."""
    import envs

    stored = RunDir(path).stored()
    if stored is None or not (path / "policy.pt").exists():
        raise UsageError(f"{path} is no run with a policy; a run is <root>/<name>/<environment>/<label>/seed_<k>")
    if episodes < 1:
        raise UsageError(f"--episodes {episodes}: it takes a number from 1")
    out = out or path / ("play.mp4" if has_ffmpeg() else "play.gif")
    writers = {".mp4": write_mp4, ".gif": write_gif}
    if out.suffix not in writers:
        raise UsageError(f"--out {out}: it ends in .mp4 or .gif")
    if out.suffix == ".mp4" and not has_ffmpeg():
        raise UsageError("an mp4 needs imageio-ffmpeg: pip install 'diffusion-policy-bench[video]'; a .gif needs nothing")
    config = stored[0]
    env, _ = envs.make(config.env["id"], (seed, PLAY_STREAM), 1, "rgb_array", **config.env_settings)
    policy, returns = load_policy(path, config.eval.action, seed, config.eval.candidates), []
    part = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        writers[out.suffix](part, frames(env, policy, episodes, returns))
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
        env.close()
    return out, returns


def frames(env, policy, episodes: int, returns: list[float]) -> Iterator[np.ndarray]:
    """A frame [height, width, 3] uint8 before each decision; the return of each episode is appended as it ends."""
    obs, _ = env.reset()
    total = 0.0
    while len(returns) < episodes:
        try:
            picture = env.render()[0]
        except RuntimeError as error:  # it says what to install
            raise UsageError(str(error)) from error
        yield picture
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total += float(reward[0])
        if terminated[0] or truncated[0]:
            returns.append(total)
            total = 0.0


def has_ffmpeg() -> bool:
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        return False
    return True


def write_gif(path: Path, film: Iterator[np.ndarray]) -> None:
    from PIL import Image

    images = map(Image.fromarray, film)
    first = next(images)
    first.save(path, save_all=True, append_images=images, duration=1000 // FPS, loop=0)


def write_mp4(path: Path, film: Iterator[np.ndarray]) -> None:
    import imageio_ffmpeg

    first = next(film)
    height, width = first.shape[:2]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=FPS, macro_block_size=2)
    writer.send(None)
    try:
        writer.send(np.ascontiguousarray(first))
        for frame in film:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()
