"""What an environment says about itself: sizes, bounds, horizon and the scale of its score."""

import dataclasses
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
class EnvSpec:
    """One environment as an agent and a report see it. It goes into a run's `config.yaml`.

    The action bounds are those of the actions that the agent gives ([-1, 1] for every bounded environment), None when
    unbounded. `horizon` is the largest number of decisions in an episode; one decision is `action_repeat` environment
    steps. `discount` None leaves it to the agent.
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
        return cls(**{**fields, **bounds, "score": Score(**fields["score"])})


def check_action_repeat(value: Any) -> None:
    """Raises ValueError unless `value` is a whole number of environment steps, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"action_repeat must be a whole number >= 1, found {value!r}")
