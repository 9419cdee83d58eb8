"""Gymnasium environments with continuous actions: `gym/<gymnasium id>`."""

import contextlib
import dataclasses
import difflib
import logging
import math
import os
import sys

import gymnasium
import numpy as np

from envs import render, scores
from envs.spec import EnvSpec, Score, check_action_repeat

MUJOCO = (
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
)
CLASSIC = ("MountainCarContinuous-v0", "Pendulum-v1")

SAC_1M = "SAC after 1e6 steps on MuJoCo v4, mean of 10 seeds (SimbaV2, results/baseline/sac.csv)"
# What counts as solved, and who says so. Environments not named here have gymnasium's reward threshold, if any.
HIGH = {
    "Ant-v5": (5734.0, SAC_1M),
    "HalfCheetah-v5": (11321.0, SAC_1M),
    "Hopper-v5": (2787.0, SAC_1M),
    "Humanoid-v5": (4826.0, SAC_1M),
    "Walker2d-v5": (4537.0, SAC_1M),
    # SAC stays near 50, and gymnasium's threshold of 360 is out of reach without a discount near 1.
    "Swimmer-v5": (150.0, "the largest return by which FlowRL (arXiv 2603.27450) normalises; DACER reports 152"),
    # 0 would need every episode to start upright: the swing-up itself costs this much on average.
    "Pendulum-v1": (-150.0, "about the mean return of a policy that always swings up and balances"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the family."""

    action_repeat: int = 1  # environment steps per decision; the published tables of these tasks use 1

    def __post_init__(self):
        check_action_repeat(self.action_repeat)


def names() -> list[str]:
    """The tasks that results are published for; any other registered id is accepted too."""
    return [*CLASSIC, *MUJOCO]


def check(name: str, config: Config) -> bool:
    """Raises ValueError unless `name` is registered, has Box spaces and a time limit, and can be built here.

    Returns whether its actions are bounded.
    """
    env = Copy(_make(name))
    env.close()
    return env.bounds is not None


def build(name: str, config: Config, num_envs: int, render_mode: str | None = None) -> tuple[list["Copy"], EnvSpec]:
    """The copies and what they are. Raises ValueError as `check` does."""
    probe = _make(name)
    probe.close()
    mode = render_mode if render_mode in probe.metadata.get("render_modes", ()) else None
    copies = [Copy(_make(name, mode)) for _ in range(num_envs)]
    first = copies[0]
    bound = None if first.bounds is None else (1.0,) * first.act_dim
    spec = EnvSpec(
        id=f"gym/{name}",
        obs_dim=first.obs_dim,
        act_dim=first.act_dim,
        action_low=None if bound is None else (-1.0,) * first.act_dim,
        action_high=bound,
        horizon=math.ceil(probe.spec.max_episode_steps / config.action_repeat),
        action_repeat=config.action_repeat,
        discount=None,
        score=_score(name, config.action_repeat, probe.spec.reward_threshold),
    )
    return copies, spec


def _score(name: str, action_repeat: int, threshold: float | None) -> Score:
    low, low_source = scores.random_policy(f"gym/{name}", action_repeat)
    if name in HIGH:
        high, high_source = HIGH[name]
    elif threshold is not None:
        high, high_source = float(threshold), "gymnasium's reward threshold"
    else:
        high, high_source = None, "not stated"
    return Score("return", "max", low, high, f"low: {low_source}; high: {high_source}")


def _make(name: str, render_mode: str | None = None) -> gymnasium.Env:
    settings = {} if render_mode is None else {"render_mode": render_mode}
    try:
        # an environment of the user's may draw its own observations, by the library that MUJOCO_GL names
        with contextlib.nullcontext() if ":" in name and "MUJOCO_GL" in os.environ else render.no_opengl():
            env = gymnasium.make(name, disable_env_checker=True, **settings)
    except gymnasium.error.UnregisteredEnv as error:
        near = difflib.get_close_matches(name, names()) or difflib.get_close_matches(name, gymnasium.registry, n=1)
        hint = f"; did you mean {' or '.join(f'gym/{n}' for n in near)}?" if near else ""
        hint += "" if ":" in name else " (an environment of your own: gym/<module>:<id>)"
        raise ValueError(f"unknown environment 'gym/{name}'{hint}") from error
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"cannot build 'gym/{name}': {' '.join(str(error).split())}") from error
    except Exception as error:  # an environment of the user's may raise anything, as may the module that registers it
        if name in names():
            raise
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(f"cannot build 'gym/{name}': {what}") from error
    _log_mujoco_warnings()
    try:
        _check_built(name, env)
    except ValueError:
        env.close()
        raise
    return env


def _check_built(name: str, env: gymnasium.Env) -> None:
    module, colon, id = name.rpartition(":")
    if env.spec.id != id:  # without a version gymnasium takes the newest
        raise ValueError(f"'gym/{name}' names no version; did you mean gym/{module}{colon}{env.spec.id}?")
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        raise ValueError(f"'gym/{name}' has {env.action_space} actions; this benchmark needs continuous (Box) actions")
    if not np.issubdtype(env.action_space.dtype, np.floating) or not math.prod(env.action_space.shape):
        raise ValueError(f"'gym/{name}' has {env.action_space} actions; this benchmark needs one or more, of a floating type")
    if not isinstance(env.observation_space, gymnasium.spaces.Box):
        kind = type(env.observation_space).__name__
        raise ValueError(f"'gym/{name}' has {kind} observations; this benchmark needs one array (Box)")
    if env.spec.max_episode_steps is None:
        raise ValueError(f"'gym/{name}' has no time limit; register it with max_episode_steps")


def _log_mujoco_warnings() -> None:
    """Sends MuJoCo's warnings to `logging`; by itself it writes MUJOCO_LOG.TXT into the current directory."""
    mujoco = sys.modules.get("mujoco")  # of an environment that uses it
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(logging.getLogger("mujoco").warning)


class Copy:
    """One gymnasium environment, observations and actions flattened."""

    def __init__(self, env: gymnasium.Env):
        self._env = env
        space = env.action_space
        bounded = np.all(np.isfinite(space.low)) and np.all(np.isfinite(space.high))
        self.bounds = (space.low.ravel(), space.high.ravel()) if bounded else None
        self.act_dim = math.prod(space.shape)
        self.obs_dim = math.prod(env.observation_space.shape)
        self._observation = None
        self._camera = None

    def reset(self, seed: int) -> None:
        self._observation, _ = self._env.reset(seed=seed)
        found, said = np.shape(self._observation), self._env.observation_space.shape
        if found != said:
            raise ValueError(f"an episode begins with an observation of shape {found}, and the space says {said}")

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        space = self._env.action_space
        # In the space's own dtype: a reward that squares the action depends on it.
        action = action.reshape(space.shape).astype(space.dtype)
        self._observation, reward, terminated, truncated, _ = self._env.step(action)
        return float(reward), terminated, truncated

    def observation(self) -> np.ndarray:
        return np.asarray(self._observation, np.float32).ravel()

    def render(self) -> np.ndarray:
        body = self._env.unwrapped
        if any(kind.__module__.startswith("gymnasium.envs.mujoco") for kind in type(body).__mro__):
            # gymnasium tries GLFW first, which fails late on a machine without a display.
            self._camera = self._camera or render.Camera(body.model)
            return self._camera.frame(body.data)
        if self._env.render_mode != "rgb_array":
            how = "it was not made with render_mode='rgb_array', or has no such mode"
            raise RuntimeError(f"cannot render {self._env.spec.id}: {how}")
        try:
            return self._env.render()
        except Exception as error:  # a package that is missing, a display, whatever an environment of the user's raises
            what = str(error).partition("\n")[0]
            raise RuntimeError(f"cannot render {self._env.spec.id}: {type(error).__name__}: {what}") from error

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
        self._env.close()
