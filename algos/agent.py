"""The contract between an algorithm and the bench, and the few things every agent does the same way.

An agent is one file of this package (or any class elsewhere) that derives from `Agent`, once:

* ``Config``   a frozen dataclass; every field has a default, a meaning and a source.
* ``data``     what it trains on, `Replay` or `Rollout`, read by the run loop.
* ``phases``   the parts of an update, in order; ``phase(batch, noise)`` is a method with the phase's name.
* ``draws``    the random numbers that a phase, or an acting mode, needs.
* ``schedule`` what depends on the number of updates (optional).
* ``act``      actions for a batch of observations.
* ``value``    by which the best of several actions is picked in evaluation.

Every loss is a pure function of (parameters, batch, noise). So recorded draws of a published implementation can be fed
in, a run can be replayed, and a phase can be captured in a CUDA graph. An agent never looks at a clock, a device or a
file; phases return detached tensors of any shape, which `diagnose` reduces when a line of the log is due.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from algos.layers import ACTIVATIONS
from algos.optimizer import Adam

ON_BOUND = 0.99  # of the range: actions at least this far out count as on the bound; a tanh comes close and never there
MODES = ("explore", "own", "sample")  # explore: with the method's exploration; own: the method's own evaluation; sample


class EnvSpec(Protocol):
    """What an agent may know of its environment (`envs.EnvSpec` has more)."""

    id: str
    obs_dim: int
    act_dim: int
    action_low: tuple[float, ...] | None
    action_high: tuple[float, ...] | None
    horizon: int
    discount: float | None
    dynamics: Any  # what is known of an environment that generates by a reversed diffusion (envs.spec.Dynamics), or None


class Batch(NamedTuple):
    """Transitions. With n-step returns `reward` is the discounted sum and `next_obs` lies k <= n steps ahead.

    obs [B, S], action [B, A], reward [B], discount [B] (gamma^k, 0 after a termination), next_obs [B, S].
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor


class Trajectories(NamedTuple):
    """L decisions of N copies, in order, all of one policy: what a `Rollout` agent is updated on.

    obs, next_obs [L, N, S], action [L, N, A], reward [L, N]. discount [L, N]: gamma, 0 after a termination. ended [L, N]
    (bool): the episode ended there, for whichever reason, and obs of the row below begins another; next_obs is always the
    observation that the decision led to. kept: by name, what `Agent.explore` returned and the entries of the
    environment's infos that `Rollout.infos` names, [L, N, ...].
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Tensor
    ended: Tensor
    kept: dict[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """A part of an update, due at update numbers start, start + every, start + 2 every, ... below stop (the first is 0)."""

    name: str
    every: int = 1
    start: int = 0
    stop: int | None = None  # null: to the end

    def __post_init__(self) -> None:
        name, stop = f"Phase({self.name!r})", self.stop
        require(self.every >= 1, f"{name}.every", self.every, "1 or more")
        require(self.start >= 0, f"{name}.start", self.start, "0 or more")
        require(stop is None or stop >= self.start, f"{name}.stop", stop, f"None, or its start {self.start} or more")

    def due(self, update: int) -> bool:
        running = self.start <= update and (self.stop is None or update < self.stop)
        return running and (update - self.start) % self.every == 0


@dataclass(frozen=True)
class Replay:
    """Data need of an off-policy agent: uniform batches from a ring buffer, one update per decision."""

    batch_size: int
    capacity: int
    n_step: int
    gamma: float

    def __post_init__(self) -> None:
        for name in ("batch_size", "capacity", "n_step"):
            require(getattr(self, name) >= 1, f"Replay.{name}", getattr(self, name), "1 or more")


@dataclass(frozen=True)
class Rollout:
    """Data need of an on-policy agent: `length` decisions of `envs` copies with one policy, then `epochs` updates, each on
    all of them (`Trajectories`); then the next rollout, from where the episodes stand. Nothing is trained before the first
    rollout is whole, there are no uniformly random decisions, and what is left of a rollout at the end is not used.

    An agent that steps on minibatches splits them inside its phase. The bench makes as many copies of the training
    environment as the agent's setting `envs` says, which stands in its Config under that name.
    """

    length: int
    envs: int
    epochs: int
    gamma: float
    infos: tuple[str, ...] = ()  # entries of the environment's infos to keep, arrays [N, ...] of every step

    def __post_init__(self) -> None:
        for name in ("length", "envs", "epochs"):
            require(getattr(self, name) >= 1, f"Rollout.{name}", getattr(self, name), "1 or more")

    @property
    def batch_size(self) -> int:
        """Decisions in one update: the n of `Agent.draws`."""
        return self.length * self.envs


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of an actor and its critics, whatever they are trained on. Benchmark defaults."""

    actor_hidden: tuple[int, ...] = (256, 256)  # widths of the actor's hidden layers
    critic_hidden: tuple[int, ...] = (256, 256)  # widths of each critic's hidden layers
    critic_activation: str = "relu"
    actor_activation: str = "mish"
    init: str = "xavier"  # initial weights: xavier (official QSM) | torch (torch.nn.Linear's default)
    gamma: float = 0.99  # discount per decision
    actor_lr: float = 3e-4  # Adam
    critic_lr: float = 3e-4  # Adam
    grad_clip: float = 0.0  # largest 2-norm of the gradient of each network's optimizer; 0: no clipping

    def __post_init__(self) -> None:
        for name in ("actor_hidden", "critic_hidden"):
            require_widths(name, getattr(self, name))
        for name in ("critic_activation", "actor_activation"):
            require_choice(name, getattr(self, name), ACTIVATIONS)
        require_choice("init", self.init, ("xavier", "torch"))
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "a value in [0, 1]")
        for name in ("actor_lr", "critic_lr"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.grad_clip >= 0, "grad_clip", self.grad_clip, "0 (off) or more")


@dataclass(frozen=True)
class ReplayConfig(NetworkConfig):
    """Settings every off-policy agent shares; its own Config extends this one."""

    tau: float = 0.005  # Polyak rate of the target critics
    batch_size: int = 256
    capacity: int = 1_000_000  # transitions kept
    n_step: int = 1  # steps in the return; the bootstrap uses gamma^k for the k actually used, without correction

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.tau <= 1, "tau", self.tau, "a value in (0, 1]")
        for name in ("batch_size", "capacity", "n_step"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.batch_size <= self.capacity, "batch_size", self.batch_size, f"at most the capacity {self.capacity}")


def require(condition: bool, name: str, found: object, wanted: str) -> None:
    """Raise a ValueError that names the setting, what was found and what would be right."""
    if not condition:
        raise ValueError(f"{name}={found!r} is out of range: it takes {wanted}")


def require_choice(name: str, found: str, choices: Collection[str]) -> None:
    require(found in choices, name, found, "one of " + ", ".join(choices))


def require_widths(name: str, found: tuple[int, ...]) -> None:
    require(len(found) >= 1 and min(found) >= 1, name, found, "one or more widths of 1 or more")


class Draw(NamedTuple):
    """A declared random number: shape and kind; `high` bounds an integer draw (exclusive)."""

    shape: tuple[int, ...]
    kind: str  # normal | uniform | integer
    high: int = 0


def normal(*shape: int) -> Draw:
    """Standard normal numbers."""
    return Draw(shape, "normal")


def uniform(*shape: int) -> Draw:
    """Numbers uniform in [0, 1)."""
    return Draw(shape, "uniform")


def integers(high: int, *shape: int) -> Draw:
    """Integers uniform in {0, ..., high - 1}."""
    return Draw(shape, "integer", high)


def sample(draws: Mapping[str, Draw], generator: torch.Generator, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Draw everything that was declared: the one place where a run's random numbers are made."""
    noise = {}
    for name, (shape, kind, high) in draws.items():
        if kind == "normal":
            noise[name] = torch.randn(shape, generator=generator, device=device)
        elif kind == "uniform":
            noise[name] = torch.rand(shape, generator=generator, device=device)
        else:
            noise[name] = torch.randint(high, shape, generator=generator, device=device)
    return noise


class Agent:
    """Base of every agent. Subclasses build their networks in `__init__` after calling this one.

    spec: the environment; config: an instance of `Config`; generator: for the initial weights (CPU), and nothing else
    decides them; device: a torch device. Numbers drawn elsewhere than in `draws` would be lost in a resume: a run refuses
    draws from the global generators of Python, NumPy and torch on the CPU. Raises ValueError where the environment does not fit
    (unbounded actions for an agent that needs bounds).
    """

    Config: type
    data: Replay | Rollout
    phases: tuple[Phase, ...] = ()
    bounded_actions = True  # acts in [-1, 1]^A
    home = "toy/multigoal"  # an environment that it can be tried on; the conformance tests run it there
    small: Mapping[str, Any] = {}  # settings with which they try it, of its own fields: shorter periods, smaller networks

    def __init__(self, spec: EnvSpec, config: Any, generator: torch.Generator, device: torch.device | str = "cpu"):
        if self.bounded_actions and spec.action_low is None:
            raise ValueError(f"{type(self).__name__} needs bounded actions; those of {spec.id} are unbounded")
        self.spec, self.config, self.device = spec, config, torch.device(device)
        self.updates = 0
        # discount per decision: the task's own where it states one
        self.gamma: float | None = getattr(config, "gamma", None) if spec.discount is None else spec.discount

    def replay_need(self) -> Replay:
        c = self.config
        return Replay(c.batch_size, c.capacity, c.n_step, self.gamma)

    # -- to be given by the algorithm --------------------------------------------------------------------------------
    def draws(self, phase: str, n: int) -> dict[str, Draw]:
        """The random numbers of a phase for a batch of n decisions, or of a mode of `act` for n observations."""
        raise NotImplementedError

    def act(self, obs: Tensor, noise: Mapping[str, Tensor], mode: str) -> Tensor:
        """Actions [N, A] for observations [N, S]; mode is one of MODES."""
        raise NotImplementedError

    def value(self, obs: Tensor, action: Tensor) -> Tensor:
        """The value [N] by which best-of-N evaluation picks, of critics the smaller target one's. obs [N, S], action [N, A]."""
        raise NotImplementedError

    # -- the same for all --------------------------------------------------------------------------------------------
    def explore(self, obs: Tensor, noise: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """`act` in the mode explore, and what a rollout keeps of it besides, such as log-densities: {name: [N, ...]}."""
        return self.act(obs, noise, "explore"), {}

    def schedule(self) -> None:
        """Set what depends on the number of updates done, such as a learning rate; called before the phases of an update.

        A phase itself looks neither at the counter nor at a plain number that is set here: what is captured in a graph would
        keep the value of its capture. A tensor that is filled here (`self.weight.fill_(x)`) is read anew at every replay.
        """

    def due(self) -> list[Phase]:
        return [phase for phase in self.phases if phase.due(self.updates)]

    def update(
        self,
        batch: Batch | Trajectories,
        noise: Mapping[str, Mapping[str, Tensor]],
        run: Callable[[Phase, Any, Mapping[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Run the phases that are due, in order, and count the update.

        noise maps each due phase's name to its draws. `run` stands between: the bench passes one that times the phase,
        compiles it or replays a graph. Returns the detached tensors of all phases.
        """
        info: dict[str, Tensor] = {}
        self.schedule()
        for phase in self.due():
            method = self.run_phase if run is None else run
            found = method(phase, batch, noise[phase.name])
            if not isinstance(found, Mapping):
                what = "None" if found is None else f"a {type(found).__name__}"
                raise TypeError(f"phase {phase.name!r} returned {what}; it returns its detached tensors by name, or {{}}")
            if twice := info.keys() & found.keys():
                raise ValueError(f"phase {phase.name!r} returns {min(twice)!r}, as one before it does; give it another name")
            info |= found
        self.updates += 1
        return info

    def run_phase(self, phase: Phase, batch: Batch | Trajectories, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return getattr(self, phase.name)(batch, noise)

    def networks(self) -> dict[str, nn.Module]:
        """Networks by attribute name, targets included."""
        return {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}

    def optimizers(self) -> dict[str, Adam]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Adam)}

    def trained(self) -> dict[str, list[Tensor]]:
        """Parameters moved by each optimizer, by the optimizer's attribute name."""
        return {name: optimizer.own for name, optimizer in self.optimizers().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact continuation needs but the replay: networks, targets, optimizers, the update counter."""
        parts = {name: value.state_dict() for name, value in (self.networks() | self.optimizers()).items()}
        return parts | {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Raises KeyError for a missing part and RuntimeError for a shape that differs."""
        for name, value in (self.networks() | self.optimizers()).items():
            value.load_state_dict(state[name])
        self.updates = int(state["updates"])

    def diagnose(self, info: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars for a line of the log, from what the last update's phases returned. Called at log intervals only.

        Scalars pass; `q` gives mean and max; tensors whose name ends in `actions` give their standard deviation and the
        fraction on the bound; any other tensor its mean. Each optimizer adds its gradient's norm.
        """
        out = {}
        for name, value in info.items():
            if value.dim() == 0:
                out[name] = value
            elif name.endswith("actions"):
                out[f"{name}_std"] = value.std(dim=0, correction=0).mean()
                out[f"{name}_on_bound"] = (value.abs() >= ON_BOUND).float().mean()
            else:
                out[f"{name}_mean"] = value.float().mean()
                if name == "q":
                    out["q_max"] = value.max()
        for name, optimizer in self.optimizers().items():
            norm = optimizer.grad_norm()
            if norm is not None:
                out[f"{name.removesuffix('_optimizer')}_grad_norm"] = norm
        return out
