"""Small tasks whose best actions and scores are known in closed form: `toy/<name>`.

`interior`, `corner`, `two-modes` and `four-modes` are bandits: one decision, the observation is 1, and the reward is the
function Q(a) itself, so a critic that has converged equals it and a policy can be compared with the one it should be.
`multigoal` is a point that may go to any of four goals, after the multi-goal task of soft Q-learning (arXiv 1702.08165),
with numbers of our own.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from envs import scores
from envs.spec import EnvSpec, Score, check_action_repeat


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the family."""

    action_repeat: int = 1  # steps per decision; of no effect in the bandits, whose episodes have one step
    curvature: float = 1.0  # k of toy/interior, Q(a) = 1 - k/2 |a - a*|^2; the others have none, and refuse another value

    def __post_init__(self):
        check_action_repeat(self.action_repeat)
        if isinstance(self.curvature, bool) or not isinstance(self.curvature, int | float) or not self.curvature > 0:
            raise ValueError(f"curvature must be a number > 0, found {self.curvature!r}")


class Interior:
    """Q(a) = 1 - k/2 |a - a*|^2 on [-1, 1]^2, with the optimum away from the edges and from the axes."""

    act_dim = 2
    best = np.array([0.3, -0.4])

    def __init__(self, curvature: float = 1.0):
        self.curvature = curvature

    def reward(self, actions: np.ndarray) -> np.ndarray:
        return 1.0 - self.curvature / 2 * np.sum((actions - self.best) ** 2, axis=-1)

    def optimum(self) -> tuple[np.ndarray, float]:
        return self.best[None].copy(), 1.0

    def uniform_mean(self) -> float:
        # E (a - c)^2 = 1/3 + c^2 for a uniform on [-1, 1].
        return 1.0 - self.curvature / 2 * float(np.sum(1 / 3 + self.best**2))


class Corner:
    """Q(a) = (a_1 - a_2) / 2 on [-1, 1]^2: linear, so the optimum is the corner (1, -1)."""

    act_dim = 2
    slope = np.array([0.5, -0.5])

    def reward(self, actions: np.ndarray) -> np.ndarray:
        return actions @ self.slope

    def optimum(self) -> tuple[np.ndarray, float]:
        return np.sign(self.slope)[None], float(np.abs(self.slope).sum())

    def uniform_mean(self) -> float:
        return 0.0


class Bumps:
    """Q(a) = sum_j exp(-|a - c_j|^2 / (2 w^2)) on [-1, 1]^A: equal heights, so every bump is as good as another."""

    width = 0.2

    def __init__(self, centres: Sequence[Sequence[float]]):
        self.centres = np.array(centres)
        self.act_dim = self.centres.shape[1]

    def _each(self, actions: np.ndarray) -> np.ndarray:
        offsets = actions[..., None, :] - self.centres
        return np.exp(-np.sum(offsets**2, axis=-1) / (2 * self.width**2))

    def reward(self, actions: np.ndarray) -> np.ndarray:
        return self._each(actions).sum(axis=-1)

    def optimum(self) -> tuple[np.ndarray, float]:
        modes = self.centres.copy()
        # grad Q = 0 is a = sum_j q_j c_j / sum_j q_j; the other bumps move a centre by 2e-4 or less, so this settles.
        for _ in range(20):
            each = self._each(modes)
            modes = each @ self.centres / each.sum(axis=-1, keepdims=True)
        return modes, float(self.reward(modes)[0])

    def uniform_mean(self) -> float:
        # Per dimension, half the integral of the bump over [-1, 1]; dimensions multiply, bumps add.
        scale = self.width * math.sqrt(2)
        integral = np.vectorize(lambda c: math.erf((1 - c) / scale) + math.erf((1 + c) / scale))(self.centres)
        return float(np.prod(self.width * math.sqrt(math.pi / 2) / 2 * integral, axis=1).sum())


TWO_MODES = ((-0.6,), (0.6,))
FOUR_MODES = ((0.6, 0.0), (-0.6, 0.0), (0.0, 0.6), (0.0, -0.6))
BANDITS = {
    "interior": Interior,
    "corner": Corner,
    "two-modes": lambda: Bumps(TWO_MODES),
    "four-modes": lambda: Bumps(FOUR_MODES),
}


def names() -> list[str]:
    return [*BANDITS, "multigoal"]


def _bandit(name: str, curvature: float):
    return Interior(curvature) if name == "interior" else BANDITS[name]()


def reward(name: str, actions: np.ndarray, curvature: float = 1.0) -> np.ndarray:
    """Q(a) of a bandit for actions [..., act_dim]: [...]. Raises KeyError for a name that is not in BANDITS."""
    return _bandit(name, curvature).reward(np.asarray(actions, np.float64))


def optimum(name: str) -> tuple[np.ndarray, float]:
    """(the best actions [modes, act_dim], their reward) of a bandit, for every curvature. Raises KeyError as `reward`."""
    return BANDITS[name]().optimum()


def check(name: str, config: Config) -> bool:
    """Raises ValueError for a curvature that the task does not have. The actions of all tasks are bounded."""
    if name != "interior" and config.curvature != Config.curvature:
        raise ValueError(f"curvature belongs to toy/interior alone; found {config.curvature} for 'toy/{name}'")
    return True


def build(name: str, config: Config, num_envs: int, render_mode: str | None = None) -> tuple[list, EnvSpec]:
    """The copies and what they are. `name` is one of `names()`; raises ValueError as `check` does."""
    check(name, config)
    if name == "multigoal":
        copies = [MultiGoal() for _ in range(num_envs)]
        low, source = scores.random_policy("toy/multigoal", config.action_repeat)
        score = Score("return", "max", low, MultiGoal.best, f"low: {source}; high: straight to a goal from the origin")
        horizon = math.ceil(MultiGoal.horizon / config.action_repeat)
    else:
        bandit = _bandit(name, config.curvature)
        copies = [BanditCopy(bandit) for _ in range(num_envs)]
        source = "low: exact mean reward of uniform actions; high: the largest reward"
        score = Score("return", "max", bandit.uniform_mean(), bandit.optimum()[1], source)
        horizon = 1
    act_dim = copies[0].act_dim
    spec = EnvSpec(
        id=f"toy/{name}",
        obs_dim=len(copies[0].observation()),
        act_dim=act_dim,
        action_low=(-1.0,) * act_dim,
        action_high=(1.0,) * act_dim,
        horizon=horizon,
        action_repeat=config.action_repeat,
        discount=None,
        score=score,
    )
    return copies, spec


class Toy:
    """What the toy tasks share: actions in [-1, 1]^act_dim, nothing to draw, nothing to close."""

    def __init__(self, act_dim: int):
        self.act_dim = act_dim
        self.bounds = (-np.ones(act_dim), np.ones(act_dim))

    def render(self) -> np.ndarray:
        raise RuntimeError("toy tasks have no picture; plot their actions instead")

    def close(self) -> None:
        pass


class BanditCopy(Toy):
    """One decision, rewarded by Q(a)."""

    def __init__(self, bandit: Interior | Corner | Bumps):
        super().__init__(bandit.act_dim)
        self._bandit = bandit

    def reset(self, seed: int) -> None:
        pass

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        return float(self._bandit.reward(action)), True, False

    def observation(self) -> np.ndarray:
        return np.ones(1, np.float32)


class MultiGoal(Toy):
    """A point near the origin of the plane, four goals at distance 1, a step of at most 0.2 per axis.

    The reward is -(distance to the nearest goal after the step) - 0.05 |a|^2; within 0.25 of a goal the episode
    terminates, after 30 steps it is truncated.
    """

    goals = np.array([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])
    reach = 0.25
    stride = 0.2
    start_width = 0.02
    wall = 1.5
    action_cost = 0.05
    horizon = 30
    # From the origin full speed along an axis arrives at the 4th step, and it is the best: slowing down saves at most
    # 0.1 per unit of action and costs at least 0.2. A start off the origin changes this by less than 0.1.
    best = -(0.8 + 0.6 + 0.4 + 0.2) - 4 * action_cost

    def __init__(self):
        super().__init__(act_dim=2)
        self._position = np.zeros(2)
        self._steps = 0

    def reset(self, seed: int) -> None:
        self._position = np.random.default_rng(seed).uniform(-self.start_width, self.start_width, 2)
        self._steps = 0

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        self._position = np.clip(self._position + self.stride * action, -self.wall, self.wall)
        self._steps += 1
        distance = float(np.min(np.linalg.norm(self.goals - self._position, axis=1)))
        arrived = distance <= self.reach
        return -distance - self.action_cost * float(action @ action), arrived, self._steps >= self.horizon and not arrived

    def observation(self) -> np.ndarray:
        return self._position.astype(np.float32)
