"""Generation as control (Gao, Zha, Zhou 2024, arXiv 2409.04832): `generation/<name>`.

A sampler that reverses a diffusion is the environment, the unknown score is the action. The objective is
beta E h(y_T) - E int g^2 |score - a|^2 dt: earn the reward h and stay close to the data. The best generated law is
p*(y) proportional to p_0(y) exp(beta h(y) / 2); `envs.generation.truth` has it where p_0 is known.

`gmm1d` and `swissroll2d` have known laws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from envs.generation import data, rewards
from envs.generation.batch import Generation
from envs.generation.estimator import RatioEstimator
from envs.spec import Dynamics, EnvSpec, Score


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the family. What is null has a value of its own in each task (`TASKS`)."""

    beta: float = 2.0  # weight of the reward h; 0 asks for the data law itself
    steps: int = 50  # K, steps of the sampler: decisions in an episode
    sampler: str = "sde"  # sde: Euler-Maruyama | ode: Euler on the probability flow | ddim (envs.spec.Dynamics)
    m: int | None = None  # data points in one estimate of the score
    eps: float | None = None  # floor of the mean kernel density in the estimate; 0: none
    estimates: int = 1  # 2: two independent estimates of m points, whose product has no penalty on their variance
    f_start: float | None = None  # f of the forward process next to the data
    f_end: float | None = None  # and next to the noise, linear between; equal: constant coefficients
    variance: float = 1.0  # of the noise, g^2 / (2 f)
    time: float | None = None  # T of the forward process
    reward: str | None = None  # quadratic: -|y - center|^2 | indicator: of y_1 in the interval | jpeg: -bytes / 100
    center: float = 1.0
    interval_low: float = -1.0  # the paper's interval on its Swiss roll, [-5, 6], in the units of ours
    interval_high: float = 1.2

    def __post_init__(self):
        for name, low in (("steps", 1), ("m", 1)):
            _require(getattr(self, name) is None or getattr(self, name) >= low, name, getattr(self, name), f"{low} or more")
        for name in ("beta", "eps"):
            _require(getattr(self, name) is None or getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("f_start", "f_end", "variance", "time"):
            _require(getattr(self, name) is None or getattr(self, name) > 0, name, getattr(self, name), "a number > 0")
        for name, choices in (("sampler", ("sde", "ode", "ddim")), ("reward", (None, "quadratic", "indicator", "jpeg"))):
            _require(getattr(self, name) in choices, name, getattr(self, name), "one of " + ", ".join(filter(None, choices)))
        _require(self.estimates in (1, 2), "estimates", self.estimates, "1 or 2")
        _require(self.interval_low < self.interval_high, "interval_low", self.interval_low, "less than interval_high")


def _require(condition: bool, name: str, found: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{name}={found!r} is out of range: it takes {wanted}")


# Values of what is null in Config. gmm1d: f = 1, g^2 = 2; m of both are the paper's.
TASKS = {
    "gmm1d": {"m": 300, "eps": 1e-8, "f_start": 1.0, "f_end": 1.0, "time": 2.5, "reward": "quadratic"},
    "swissroll2d": {"m": 120, "eps": 1e-8, "f_start": 1.0, "f_end": 1.0, "time": 2.5, "reward": "indicator"},
}


def names() -> list[str]:
    return list(TASKS)


def filled(name: str, config: Config) -> Config:
    """`config` with the task's values where it has null."""
    return dataclasses.replace(config, **{key: value for key, value in TASKS[name].items() if getattr(config, key) is None})


def dynamics(name: str, config: Config) -> Dynamics:
    c = filled(name, config)
    return Dynamics(c.f_start, c.f_end, c.variance, c.time, c.steps, c.sampler)


def reward(name: str, config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """h: y [N, d] -> [N]."""
    c = filled(name, config)
    if c.reward == "quadratic":
        return lambda y: rewards.quadratic(y, c.center)
    return lambda y: rewards.indicator(y, c.interval_low, c.interval_high)


def check(name: str, config: Config) -> bool:
    """Whether the actions are bounded."""
    return False


def build(name: str, config: Config, num_envs: int) -> tuple[Generation, EnvSpec]:
    """The copies and what they are. `name` is one of `names()`."""
    c, process = filled(name, config), dynamics(name, config)
    _, points = data.synthetic(name)
    dim = points.shape[1]
    estimator = RatioEstimator(points, c.m, c.eps, process)
    h = reward(name, config)
    scores = lambda y: {"reward": h(y).tolist()}  # noqa: E731
    batch = Generation(num_envs, process, estimator, dim, estimates=c.estimates, beta=c.beta, reward=h, scores=scores)
    spec = EnvSpec(
        id=f"generation/{name}",
        obs_dim=1 + dim,
        act_dim=dim,
        action_low=None,
        action_high=None,
        horizon=c.steps,
        action_repeat=1,
        discount=1.0,
        score=Score("reward", "max", None, None, "not measured"),
        dynamics=process,
    )
    return batch, spec
