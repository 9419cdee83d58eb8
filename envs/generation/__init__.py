"""Generation as control (Gao, Zha, Zhou 2024, arXiv 2409.04832): `generation/<name>`.

A sampler that reverses a diffusion is the environment, the unknown score is the action. The objective is
beta E h(y_T) - E int g^2 |score - a|^2 dt: earn the reward h and stay close to the data. The best generated law is
p*(y) proportional to p_0(y) exp(beta h(y) / 2); `envs.generation.truth` has it where p_0 is known.

`gmm1d` and `swissroll2d` have known laws, and are scored by the KL divergence from p*. `digits` are scikit-learn's 8 x 8
images, `cifar10` is read from its archive and `images` from a folder; they are scored by their return, beside the reward, the
distance to the nearest image of the data, and a Frechet distance.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable

import numpy as np

from envs.generation import data, rewards
from envs.generation.batch import Generation
from envs.generation.estimator import RatioEstimator
from envs.spec import Dynamics, EnvSpec, Score

REWARDS = ("quadratic", "indicator", "jpeg")
SAMPLERS = ("sde", "ode", "ddim")
JUDGED = 256  # episodes of an evaluation whose every action is compared with the best one
DISCOUNT = 1.0  # the objective has none
CLIPPED = 2e-4, 8e-4  # shares of the best policy's actions beyond the bound, where actions are bounded: on p*_t, as played
GAP = 0.01  # nats from p* that the prior may cost the best policy without a warning


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
    bounded: bool | None = None  # actions in [-1, 1], times a scale that few optimal ones exceed; null: where an agent needs it
    path: str | None = None  # cifar10: its archive; images: a folder
    features: str | None = None  # images: a TorchScript module from images to features, for the Frechet distance; null: PCA

    def __post_init__(self):
        for name in ("steps", "m"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _require(value is None or (whole and value >= 1), name, value, "a whole number >= 1")
        for name in ("beta", "eps", "f_start", "f_end", "variance", "time"):
            value, zero = getattr(self, name), name in ("beta", "eps")
            fits = value is None or (math.isfinite(value) and (value >= 0 if zero else value > 0))
            _require(fits, name, value, "0 or more" if zero else "a number > 0")
        _require(self.sampler in SAMPLERS, "sampler", self.sampler, f"one of {', '.join(SAMPLERS)}")
        _require(self.reward in (None, *REWARDS), "reward", self.reward, f"one of {', '.join(REWARDS)}")
        _require(self.estimates in (1, 2), "estimates", self.estimates, "1 or 2")
        _require(self.interval_low < self.interval_high, "interval_low", self.interval_low, "less than interval_high")


def _require(condition: bool, name: str, found: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{name}={found!r} is out of range: it takes {wanted}")


# Values of what is null in Config. The paper's m is 300 (mixture), 120 (Swiss roll) and 1 (CIFAR-10); it does not state eps nor
# f and g, which are ours: constant f = 1, g^2 = 2 for the mixture, VP for the others, so that the last steps are small. In many
# dimensions every kernel density lies below any eps, so there is none.
KNOWN = ("gmm1d", "swissroll2d")
_VP = {"f_start": 0.2, "f_end": 3.0, "time": 1.6}
TASKS = {
    "gmm1d": {"m": 300, "eps": 1e-8, "f_start": 1.0, "f_end": 1.0, "time": 2.5, "reward": "quadratic"},
    "swissroll2d": {"m": 120, "eps": 1e-8, "reward": "indicator", **_VP},
    "digits": {"m": 300, "eps": 0.0, "reward": "jpeg", **_VP},
    "cifar10": {"m": 1, "eps": 0.0, "reward": "jpeg", **_VP},
    "images": {"m": 1, "eps": 0.0, "reward": "jpeg", **_VP},
}


def names() -> list[str]:
    return list(TASKS)


def least_episodes(name: str) -> int:
    """Samples by which a law is judged: a histogram needs them where it is known, a Frechet distance elsewhere."""
    return 2048 if name in KNOWN else 256


def filled(name: str, config: Config) -> Config:
    """`config` with the task's values where it has null."""
    given = {key: value for key, value in TASKS[name].items() if getattr(config, key) is None}
    return dataclasses.replace(config, **given, bounded=bool(config.bounded))


def check(name: str, config: Config) -> bool:
    """Raises ValueError for settings that this task cannot have and for data that is not there; returns whether the actions
    are bounded. Warns, with the number, where the score's estimates next to the data are mostly error, and where the time is
    too short for p* to be the best law."""
    c = filled(name, config)
    if c.reward == "jpeg" and name in KNOWN:
        raise ValueError(f"reward='jpeg' is for images; generation/{name} takes quadratic or indicator")
    if c.path is not None and name not in ("cifar10", "images"):
        raise ValueError(f"path belongs to generation/cifar10 and generation/images; found {c.path!r} for 'generation/{name}'")
    if c.features is not None:
        if name in KNOWN:
            raise ValueError(f"features belongs to tasks of images; found {c.features!r} for 'generation/{name}'")
        from envs.generation.images import network_features

        pixels, shape = data.images(name, c.path)
        network_features(c.features, shape)(pixels[:2])
    if c.bounded and name not in KNOWN:
        raise ValueError(f"generation/{name} has unbounded actions; bounded ones are for {' and '.join(KNOWN)}")
    if name in KNOWN:
        gap = ground_truth(name, c).prior_gap()  # which refuses a law that it cannot judge
        if gap > GAP:
            warnings.warn(
                f"generation/{name}: at time={c.time:g} so much of the data is left that from a prior of noise the best policy "
                f"generates a law {gap:.2g} nats from the p* of the scores; raise time, f_start or f_end until it is {GAP:g}",
                stacklevel=2,
            )
    error = _error(name, c.path, c.m, c.eps, _process(c))
    if error > 1:
        warnings.warn(
            f"generation/{name}: at the last step, {c.time / c.steps:g} from the data, an estimate of the score from m={c.m} "
            f"points has a squared error of {error:.3g} times the variance of a single kernel's score; raise m or f_start, or "
            "lower steps",
            stacklevel=2,
        )
    return c.bounded


def points(name: str, path: str | None = None) -> np.ndarray:
    """The data set [n, d] of a task."""
    return data.synthetic(name)[1] if name in KNOWN else data.images(name, path)[0]


def reward(name: str, config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """h of a task: y [N, d] -> [N]."""
    c = filled(name, config)
    if c.reward == "quadratic":
        return lambda y: rewards.quadratic(y, c.center)
    if c.reward == "indicator":
        return lambda y: rewards.indicator(y, c.interval_low, c.interval_high)
    shape = data.images(name, c.path)[1]
    return lambda y: rewards.jpeg(y, shape)


@functools.lru_cache(maxsize=8)
def ground_truth(name: str, config: Config):
    """The `truth.Truth` of gmm1d or swissroll2d."""
    from envs.generation.truth import Truth

    c = filled(name, config)
    return Truth(data.synthetic(name)[0], reward(name, c), c.beta, _process(c))


def build(name: str, config: Config, num_envs: int, render_mode: str | None = None) -> tuple[Generation, EnvSpec]:
    """The copies and what they are. `name` is one of `names()`; raises ValueError as `check` does."""
    check(name, config)
    c, dim = filled(name, config), points(name, config.path).shape[1]
    process = _process(c)
    if c.bounded:
        process = dataclasses.replace(process, action_scale=_action_scale(name, c))
    scores, score = _known_scores(name, c) if name in KNOWN else _image_scores(name, c)
    estimator, h = _estimator(name, c.path, c.m, c.eps, _process(c)), reward(name, c)
    batch = Generation(
        num_envs, process, estimator, dim, estimates=c.estimates, beta=c.beta, reward=h, scores=scores,
        kept=JUDGED if name in KNOWN else 0,
    )  # fmt: skip
    spec = EnvSpec(
        id=f"generation/{name}",
        obs_dim=1 + dim,
        act_dim=dim,
        action_low=(-1.0,) * dim if c.bounded else None,
        action_high=(1.0,) * dim if c.bounded else None,
        horizon=c.steps,
        action_repeat=1,
        discount=DISCOUNT,
        score=score,
        dynamics=process,
    )
    return batch, spec


def _process(c: Config) -> Dynamics:
    return Dynamics(c.f_start, c.f_end, c.variance, c.time, c.steps, c.sampler)


@functools.lru_cache(maxsize=16)
def _action_scale(name: str, c: Config) -> float:
    return float(f"{ground_truth(name, c).action_bound(*CLIPPED):.3g}")


@functools.lru_cache(maxsize=16)
def _error(name: str, path: str | None, m: int, eps: float, process: Dynamics) -> float:
    return _estimator(name, path, m, eps, process).error(points(name, path))


@functools.lru_cache(maxsize=4)  # a run has three environments, and the points of a large data set should lie in memory once
def _estimator(name: str, path: str | None, m: int, eps: float, process: Dynamics) -> RatioEstimator:
    return RatioEstimator(points(name, path), m, eps, process)


def _known_scores(name: str, c: Config) -> tuple[Callable, Score]:
    known = ground_truth(name, c)

    def scores(y: np.ndarray, path: np.ndarray) -> dict[str, list[float]]:
        found = {"KL": known.kl(y, known.best), "KL to the data": known.kl(y, known.data), "reward": float(known.h(y).mean())}
        if c.sampler == "sde" or not c.beta:  # else the best actions are not known
            found["score error"] = known.score_error(path)
        return {key: [value] for key, value in found.items()}

    floor = known.kl_floor(least_episodes(name), known.best)
    source = (
        "KL divergence of the generated law from p_0 exp(beta h / 2), between histograms; low: the prior itself; high: 0, of "
        f"which {least_episodes(name)} samples of that law show {floor:.2g}; its mean reward is {known.mean_reward():.4g}"
    )
    if c.sampler != "sde" and c.beta:
        source += f". That is the best law of the SDE; of the flow (sampler={c.sampler}) another is, which is not known here"
    return scores, Score("KL", "min", known.prior_kl(), 0.0, source)


@functools.lru_cache(maxsize=2)
def _reference(name: str, path: str | None, features: str | None):
    from envs.generation.images import Reference, network_features

    pixels, shape = data.images(name, path)
    return Reference(pixels, network_features(features, shape) if features else None)


def _image_scores(name: str, c: Config) -> tuple[Callable, Score]:
    compared, h = _reference(name, c.path, c.features), reward(name, c)

    def scores(y: np.ndarray, path: np.ndarray) -> dict[str, list[float]]:
        pixels = np.clip(y, -1.0, 1.0)  # for the distances alone: what is paid is h of y itself
        distances = {"nearest image": [float(compared.nearest(pixels).mean())], "Fréchet distance": [compared.frechet(pixels)]}
        return {"reward": [float(h(y).mean())], **distances}

    return scores, Score("return", "max", None, None, "beta times the reward, less the noisy penalty; no range is known")
