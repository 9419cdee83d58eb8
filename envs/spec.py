"""What an environment says about itself: sizes, bounds, horizon and the scale of its score."""

import dataclasses
import math
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Score:
    """The scale on which episodes of one environment are compared: (value - low) / (high - low).

    `low` is what a uniformly random policy gets, `high` what counts as solved; None where nobody has stated it.
    `source` says in words where both come from.
    """

    name: str
    direction: Literal["max", "min"]
    low: float | None
    high: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """The known part of an environment that generates by reversing a diffusion in `steps` equal steps.

    Noising runs forward in t from data at 0 to almost pure noise at `time`, as dx = -f(t) x dt + g(t) dB, with f linear from
    `f_start` to `f_end` and g^2 = 2 `variance` f, so that N(0, variance I) is stationary and
    x_t | x_0 ~ N(alpha(t) x_0, sigma2(t) I). `f_start` = `f_end` are constant coefficients; variance 1 is the
    variance-preserving (VP) process with beta(t) = 2 f(t). An observation is (t, y), t being the time left; actions are
    estimates of the score of x_t at y (divided by `action_scale` where they are bounded), and one step goes from t to t - dt:

        sde   y + (f y + g^2 a) dt + g sqrt(dt) xi
        ode   y + (f y + g^2 a / 2) dt
        ddim  alpha' (y + sigma^2 a) / alpha - sigma' sigma a      (', at t - dt)

    The methods take and give numbers, NumPy arrays or tensors [...].
    """

    f_start: float
    f_end: float
    variance: float
    time: float
    steps: int
    sampler: Literal["sde", "ode", "ddim"]
    action_scale: float | None = None

    @property
    def dt(self) -> float:
        return self.time / self.steps

    def f(self, t: Any) -> Any:
        return self.f_start + (self.f_end - self.f_start) / self.time * t

    def g2(self, t: Any) -> Any:
        """g(t)^2."""
        return 2 * self.variance * self.f(t)

    def alpha(self, t: Any) -> Any:
        """exp(-int_0^t f): what is left of the data."""
        return math.e ** -((self.f_start + (self.f_end - self.f_start) / (2 * self.time) * t) * t)

    def sigma2(self, t: Any) -> Any:
        """Variance of x_t given x_0."""
        return self.variance * (1 - self.alpha(t) ** 2)


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """One environment as an agent and a report see it. It goes into a run's `config.yaml`.

    The action bounds are those of the actions that the agent gives ([-1, 1] for every bounded environment), None when
    unbounded. `horizon` is the largest number of decisions in an episode; one decision is `action_repeat` environment
    steps. `discount` None leaves it to the agent. `dynamics` is there where an agent may know them.
    """

    id: str
    obs_dim: int
    act_dim: int
    action_low: tuple[float, ...] | None
    action_high: tuple[float, ...] | None
    horizon: int
    action_repeat: int
    discount: float | None
    score: Score
    dynamics: Dynamics | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings only, so that YAML and JSON hold it unchanged."""
        fields = dataclasses.asdict(self)
        for bound in ("action_low", "action_high"):
            if fields[bound] is not None:
                fields[bound] = list(fields[bound])
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "EnvSpec":
        """The inverse of `to_dict`. Raises TypeError for a missing or an unknown field."""
        bounds = {bound: None if fields[bound] is None else tuple(fields[bound]) for bound in ("action_low", "action_high")}
        dynamics = Dynamics(**fields["dynamics"]) if fields.get("dynamics") else None
        return cls(**{**fields, **bounds, "score": Score(**fields["score"]), "dynamics": dynamics})


def check_action_repeat(value: Any) -> None:
    """Raises ValueError unless `value` is a whole number of environment steps, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"action_repeat must be a whole number >= 1, found {value!r}")
