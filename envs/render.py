"""MuJoCo without OpenGL until a frame is asked for."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from ctypes.util import find_library

import numpy as np

BACKENDS = ("egl", "osmesa", "glfw")
INSTALL = (
    "install libegl1 with a GPU driver or Mesa and set MUJOCO_GL=egl, or install libosmesa6 and set MUJOCO_GL=osmesa, "
    "and start Python again"
)


@contextlib.contextmanager
def no_opengl() -> Iterator[None]:
    """MuJoCo and dm_control imported inside load no OpenGL library, not the one that MUJOCO_GL names either: that is for a
    `Camera`, when a frame is due.

    Both choose a library at import, and a machine without a display may have none, or warn about GLFW.
    """
    chosen = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        if chosen is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = chosen


class Camera:
    """Frames of a MuJoCo model; the OpenGL context is made at the first one."""

    def __init__(self, model, height: int = 240, width: int = 320):
        self._model = model
        self._size = (height, width)
        self._renderer = None

    def frame(self, data) -> np.ndarray:
        """[height, width, 3] uint8, seen by the model's first camera. Raises RuntimeError when OpenGL cannot start."""
        if self._renderer is None:
            self._renderer = _renderer(self._model, *self._size)
        self._renderer.update_scene(data, camera=0 if self._model.ncam else -1)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _default_backend() -> str:
    """On Linux the first whose library is there: EGL, which uses a GPU where one is, or OSMesa."""
    if sys.platform != "linux":
        return "glfw"
    return "osmesa" if find_library("OSMesa") and not find_library("EGL") else "egl"


def _renderer(model, height: int, width: int):
    import mujoco
    from mujoco.rendering.classic import gl_context

    chosen = os.environ.get("MUJOCO_GL", "").lower()
    backend = chosen if chosen in BACKENDS else _default_backend()
    try:
        if not hasattr(gl_context, "GLContext"):
            # MuJoCo picks its context class at import, where `no_opengl` has made it pick none.
            gl_context.GLContext = importlib.import_module(f"mujoco.{backend}").GLContext
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # PyOpenGL raises whatever it met: AttributeError, OSError, its own kinds
        raise RuntimeError(
            f"cannot render with MUJOCO_GL={backend} ({type(error).__name__}: {error}); {INSTALL}"
        ) from error
