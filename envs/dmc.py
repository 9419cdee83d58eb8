"""The DeepMind Control Suite: `dmc/<domain>-<task>`, with the names of dm_control."""

import dataclasses
import math

import numpy as np

from envs import render, scores
from envs.spec import EnvSpec, Score, check_action_repeat

# lqr has no time limit and unbounded actions: an episode need not end, and its return has no scale.
EXCLUDED_DOMAINS = ("lqr",)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the family."""

    action_repeat: int = 1  # control steps per decision; published tables use 1, 2 or 8, and scores depend on it

    def __post_init__(self):
        check_action_repeat(self.action_repeat)


def _suite():
    with render.no_opengl():
        from dm_control import suite
    return suite


def names() -> list[str]:
    """All tasks of the suite that have a time limit."""
    return [f"{domain}-{task}" for domain, task in _suite().ALL_TASKS if domain not in EXCLUDED_DOMAINS]


def check(name: str, config: Config) -> bool:
    """Every listed task can be built, and all have bounded actions; nothing more to see without doing so."""
    return True


def build(name: str, config: Config, num_envs: int, render_mode: str | None = None) -> tuple[list["Copy"], EnvSpec]:
    """The copies and what they are. `name` is one of `names()`."""
    copies = [Copy(name) for _ in range(num_envs)]
    first = copies[0]
    act_dim = len(first.bounds[0])
    low, source = scores.random_policy(f"dmc/{name}", config.action_repeat)
    spec = EnvSpec(
        id=f"dmc/{name}",
        obs_dim=first.obs_dim,
        act_dim=act_dim,
        action_low=(-1.0,) * act_dim,
        action_high=(1.0,) * act_dim,
        horizon=math.ceil(first.step_limit / config.action_repeat),
        action_repeat=config.action_repeat,
        discount=None,
        score=Score("return", "max", low, 1000.0, f"low: {source}; high: 1000 steps with a reward of at most 1"),
    )
    return copies, spec


class Copy:
    """One dm_control task. The observation is the concatenation of its named parts in their order."""

    def __init__(self, name: str):
        self._env = _suite().load(*name.split("-"))
        action = self._env.action_spec()
        self.bounds = (action.minimum, action.maximum)
        self.step_limit = math.ceil(self._env._step_limit)
        self._parts = []
        self.obs_dim = 0
        for key, part in self._env.observation_spec().items():
            size = math.prod(part.shape)
            self._parts.append((key, slice(self.obs_dim, self.obs_dim + size)))
            self.obs_dim += size
        # quadruped-escape asks for an OpenGL context at each reset, to show its new terrain; None is an answer it takes.
        self._env.physics._make_rendering_contexts = lambda: None
        self._camera = render.Camera(self._env.physics.model.ptr)
        self._last = None

    def reset(self, seed: int) -> None:
        # The suite takes a seed at construction only; `_random` is what every task draws from.
        self._env.task._random = np.random.RandomState(seed)
        self._last = self._env.reset()
        if self._env.physics.model.nhfield:
            self._camera.close()  # it holds the terrain of the episode before

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        self._last = last = self._env.step(action)
        # dm_env's way to say it: an episode that ends with a discount above 0 was cut, and its value goes on.
        ended = last.last()
        return last.reward, ended and last.discount == 0.0, ended and last.discount > 0.0

    def observation(self) -> np.ndarray:
        observation = np.empty(self.obs_dim, np.float32)
        for key, place in self._parts:
            observation[place] = np.ravel(self._last.observation[key])
        return observation

    def render(self) -> np.ndarray:
        return self._camera.frame(self._env.physics.data.ptr)

    def close(self) -> None:
        self._camera.close()
        self._env.close()
