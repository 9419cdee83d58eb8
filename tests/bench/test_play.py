"""Films of real policies on real tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from ctypes.util import find_library

import numpy as np
import pytest

from bench.play import play
from bench.typed import UsageError

CARTPOLE = ("env.action_repeat=40", "steps=1200", "warmup=800", "eval_every=1200", "log_every=600", "eval.episodes=1")
DECISIONS = 25
renders = pytest.mark.skipif(
    not (find_library("EGL") or find_library("OSMesa")), reason="no OpenGL without a display: install libegl1 or libosmesa6"
)


@pytest.fixture
def trained(small, train, tmp_path):
    train(small("sac", *CARTPOLE, env="dmc/cartpole-swingup"), tmp_path / "run")
    return tmp_path / "run"


@renders
def test_a_film_of_a_control_task_has_a_frame_for_each_decision(trained, command, tmp_path):
    """Rendered by EGL or OSMesa; the same seed plays the same episode."""
    from PIL import Image

    done = command("play", str(trained), "--out", str(tmp_path / "x.gif"), "--seed", "3")
    assert (done.code, done.err) == (0, "")
    assert "return" in done.out
    with Image.open(tmp_path / "x.gif") as film:
        assert film.size == (320, 240)
        pictures = []
        milliseconds = 0
        for k in range(film.n_frames):
            film.seek(k)
            milliseconds += film.info["duration"]
            pictures.append(np.asarray(film.convert("RGB"), float))
    assert milliseconds == DECISIONS * 40  # equal neighbours share a picture
    assert np.std(pictures[0]) > 5  # not one colour
    assert max(np.abs(p - pictures[0]).max() for p in pictures[1:]) > 50  # something moves
    again, returns = play(trained, tmp_path / "y.gif", 1, 3)
    assert again.read_bytes() == (tmp_path / "x.gif").read_bytes()
    assert f"return {returns[0]:.1f}" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "is no run with a policy"),
        (["run", "--out", "x.avi"], "it ends in .mp4 or .gif"),
        (["run", "--episodes", "0"], "--episodes 0"),
        (["run", "--out", "x.mp4"], "needs imageio-ffmpeg: pip install 'diffusion-policy-bench[video]'"),
        (["run", "--out", "x.gif"], "toy tasks have no picture"),
    ],
)
def test_play_refuses_in_one_line(small, train, command, tmp_path, monkeypatch, arguments, says):
    train(small("sac", "steps=80", "eval_every=80"), tmp_path / "run")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    before = sorted(tmp_path.rglob("*"))
    done = command("play", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert says in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_film_shows_the_rule_that_the_run_was_evaluated_by(small, train, tmp_path, monkeypatch):
    train(small("sac", "steps=80", "eval_every=80", "eval.action=sample", "eval.candidates=3"), tmp_path / "run")
    asked = []
    monkeypatch.setattr("bench.play.load_policy", lambda path, *rule: asked.append(rule))
    with pytest.raises(UsageError, match="toy tasks have no picture"):
        play(tmp_path / "run", tmp_path / "x.gif", 1, 7)
    assert asked == [("sample", 7, 3)]


@pytest.mark.parametrize("chosen", [{}, {"MUJOCO_GL": "egl"}])
def test_a_machine_that_cannot_render_is_told_what_to_install(trained, tmp_path, chosen):
    """EGL that does not start, found out at the first frame or, where it was asked for, when MuJoCo is imported."""
    environment = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"} | {"PYOPENGL_PLATFORM": "none"} | chosen
    argv = [sys.executable, "-m", "bench", "play", str(trained), "--out", str(tmp_path / "x.gif")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "install libegl1" in done.stderr
    assert "libosmesa6" in done.stderr
    assert not list(tmp_path.glob("*.gif"))


@renders
@pytest.mark.slow
def test_an_mp4_has_the_frames_and_size_of_the_episodes(trained, tmp_path):
    import imageio_ffmpeg

    out, returns = play(trained, episodes=2)
    assert out == trained / "play.mp4"
    assert len(returns) == 2
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(out))
    assert (frames, seconds) == (2 * DECISIONS, pytest.approx(2, abs=0.1))
    assert next(imageio_ffmpeg.read_frames(str(out)))["size"] == (320, 240)
