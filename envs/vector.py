"""N copies of one environment, stepped in turn or as one batch, with an episode that depends on nothing but its number."""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space


class Copy(Protocol):
    """One copy of an environment, in its own units; the vector environment does the rest.

    `bounds` are the (low, high) of the native actions, each [act_dim], or None when they are unbounded.
    """

    bounds: tuple[np.ndarray, np.ndarray] | None

    def reset(self, seed: int) -> None: ...

    def step(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """One environment step: (reward, terminated, truncated)."""

    def observation(self) -> np.ndarray:
        """The current observation, [obs_dim]."""

    def render(self) -> np.ndarray: ...

    def close(self) -> None: ...


class Batch(Protocol):
    """All copies of an environment that steps them as one array operation, in its own units. `rows` are indices of copies
    [n]; `len()` is their number, `bounds` as in `Copy`."""

    bounds: tuple[np.ndarray, np.ndarray] | None

    def __len__(self) -> int: ...

    def reset(self, rows: np.ndarray, seeds: Sequence[int]) -> None:
        """Begins an episode in each of these copies, from its own seed."""

    def step(
        self, actions: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One environment step of these copies: rewards, terminated, truncated [n], and arrays [n, ...] for the infos."""

    def observations(self) -> np.ndarray:
        """The current observations of all copies, [N, obs_dim]; not written to again."""

    def scores(self, final: np.ndarray) -> dict[str, list[float]]:
        """What the last observations [n, obs_dim] of n episodes are worth, beside their returns: lists of numbers by name,
        each standing for an evaluation by its mean."""

    def render(self) -> tuple[np.ndarray, ...]: ...


def seed_words(seed: int | Sequence[int]) -> tuple[int, ...]:
    """A seed as a tuple of numbers >= 0; raises ValueError for anything else."""
    words = tuple(seed) if isinstance(seed, Sequence | np.ndarray) else (seed,)
    whole = (isinstance(word, int | np.integer) and not isinstance(word, bool) for word in words)
    if not words or not all(whole) or min(words) < 0:
        raise ValueError(f"a seed must be a whole number >= 0 or a sequence of such numbers, found {seed!r}")
    return tuple(int(word) for word in words)


def episode_seed(seed: int | Sequence[int], copy: int, episode: int) -> int:
    """The 32-bit seed of one episode of one copy.

    The length of `seed` goes in first: SeedSequence pads with zeros, so without it the seeds 5 and (5, 0) would share
    their episodes.
    """
    words = seed_words(seed)
    return int(np.random.SeedSequence([len(words), *words, copy, episode]).generate_state(1)[0])


class VectorEnv(gymnasium.vector.VectorEnv):
    """A gymnasium vector environment with same-step autoreset and an episode number per copy.

    Observations are float32 [N, obs_dim]; actions [N, act_dim], in [-1, 1] when the native actions are bounded (a larger
    one is clipped) and native otherwise; rewards float64 [N], summed over `action_repeat` environment steps, fewer when
    the episode ends within them; terminated and truncated bool [N]. When an episode ends, the returned observation is
    the first of the next one, and `infos["final_obs"]` [N, obs_dim] holds the last of the ended one in the rows where
    terminated or truncated is set. No returned array is written to again.

    Episode e of copy i is a function of (seed, i, e, its actions) alone, whatever this object did before, so an
    episode can be had again: `start` at its number, and give its actions.

    Not gymnasium's SyncVectorEnv, which reseeds no episode at an autoreset and costs more than twice as much per step.
    """

    def __init__(self, copies: Sequence[Copy], obs_dim: int, act_dim: int, action_repeat: int, seed: Any):
        self._prepare(len(copies), copies[0].bounds, obs_dim, act_dim, seed)
        self._copies = list(copies)
        self._action_repeat = action_repeat

    def _prepare(self, num_envs: int, bounds: tuple | None, obs_dim: int, act_dim: int, seed: Any) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        bound = np.inf if bounds is None else 1.0
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-bound, bound, (act_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.episodes: list[int] | None = None
        self._seed = seed_words(seed)
        self._obs_shape = (self.num_envs, obs_dim)
        self._act_shape = (self.num_envs, act_dim)
        self._scale = _scale(bounds)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Episode 0 of every copy: (observations, {}). A `seed` replaces that of the whole environment."""
        if seed is not None:
            self._seed = seed_words(seed)
        return self.start([0] * self.num_envs)

    def start(self, episodes: Sequence[int]) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins copy i at episode number `episodes[i]`: (observations, {}). Raises ValueError for another length."""
        episodes = [int(episode) for episode in episodes]
        if len(episodes) != self.num_envs:
            raise ValueError(f"start needs one episode number for each of {self.num_envs} copies, found {episodes}")
        self.episodes = episodes
        return self._begin_all(), {}

    def resume(self, episodes: Sequence[int], actions: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Plays copy i's open episode again, number `episodes[i]`, with its actions so far: observations [N, obs_dim].

        `actions[i]` holds copy i's actions [act_dim] since the episode began. This is how an interrupted run gets back
        to the middle of an episode without any state of the physics.
        """
        observations, _ = self.start(episodes)
        for i, (copy, played) in enumerate(zip(self._copies, actions, strict=True)):
            for action in played:
                self._decide(copy, self._native(np.broadcast_to(action, self._act_shape))[i])
            if len(played):
                observations[i] = copy.observation()
        return observations

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision in every copy. Raises ValueError for a wrong shape of `actions`, ResetNeeded before `reset`."""
        if self.episodes is None:
            raise gymnasium.error.ResetNeeded("call reset or start before step")
        actions = self._native(actions)
        observations = np.empty(self._obs_shape, np.float32)
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        for i, copy in enumerate(self._copies):
            rewards[i], terminated[i], truncated[i] = self._decide(copy, actions[i])
            observations[i] = copy.observation()
            if terminated[i] or truncated[i]:
                infos.setdefault("final_obs", np.zeros_like(observations))[i] = observations[i]
                self.episodes[i] += 1
                observations[i] = self._begin(i)
        return observations, rewards, terminated, truncated, infos

    def scores(self, final: np.ndarray) -> dict[str, list[float]]:
        """What episodes that ended in these observations [n, obs_dim] are worth, beside their returns; see `Batch`."""
        return {}

    def render(self) -> tuple[np.ndarray, ...]:
        """An RGB frame [height, width, 3] uint8 of each copy. Raises RuntimeError saying what to install if it cannot."""
        return tuple(copy.render() for copy in self._copies)

    def close_extras(self, **kwargs: Any) -> None:
        for copy in self._copies:
            copy.close()

    def _begin_all(self) -> np.ndarray:
        observations = np.empty(self._obs_shape, np.float32)
        for i in range(self.num_envs):
            observations[i] = self._begin(i)
        return observations

    def _begin(self, i: int) -> np.ndarray:
        self._copies[i].reset(episode_seed(self._seed, i, self.episodes[i]))
        return self._copies[i].observation()

    def _decide(self, copy: Copy, action: np.ndarray) -> tuple[float, bool, bool]:
        total = 0.0
        for _ in range(self._action_repeat):
            reward, terminated, truncated = copy.step(action)
            total += reward
            if terminated or truncated:
                break
        return total, terminated, truncated

    def _native(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions, np.float64)
        if actions.shape != self._act_shape:
            raise ValueError(f"actions must have the shape {self._act_shape}, found {actions.shape}")
        if self._scale is None:
            return actions
        low, high, identity = self._scale
        actions = np.minimum(np.maximum(actions, -1.0), 1.0)
        if identity:
            return actions
        return np.minimum(np.maximum((low + high) / 2 + (high - low) / 2 * actions, low), high)  # rounded, it may lie beyond


class BatchEnv(VectorEnv):
    """The same contract over a `Batch`. Its infos also hold the arrays that the batch's `step` gives, [N, ...]."""

    def __init__(self, batch: Batch, obs_dim: int, act_dim: int, seed: Any):
        self._prepare(len(batch), batch.bounds, obs_dim, act_dim, seed)
        self._batch = batch
        self._all = np.arange(len(batch))

    def resume(self, episodes: Sequence[int], actions: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        self.start(episodes)
        lengths = np.array([len(played) for played in actions])
        for k in range(lengths.max(initial=0)):
            rows = np.flatnonzero(lengths > k)
            played = np.zeros(self._act_shape)
            played[rows] = [actions[row][k] for row in rows]
            self._batch.step(self._native(played)[rows], rows)
        return self._batch.observations()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self.episodes is None:
            raise gymnasium.error.ResetNeeded("call reset or start before step")
        rewards, terminated, truncated, infos = self._batch.step(self._native(actions), self._all)
        ended = np.flatnonzero(terminated | truncated)
        observations = self._batch.observations()
        if len(ended):
            infos["final_obs"] = np.zeros_like(observations)
            infos["final_obs"][ended] = observations[ended]
            for row in ended:
                self.episodes[row] += 1
            observations = self._begin_rows(ended)
        return observations, rewards, terminated, truncated, infos

    def scores(self, final: np.ndarray) -> dict[str, list[float]]:
        return self._batch.scores(final)

    def render(self) -> tuple[np.ndarray, ...]:
        return self._batch.render()

    def close_extras(self, **kwargs: Any) -> None:
        pass

    def _begin_all(self) -> np.ndarray:
        return self._begin_rows(self._all)

    def _begin_rows(self, rows: np.ndarray) -> np.ndarray:
        self._batch.reset(rows, [episode_seed(self._seed, int(row), self.episodes[row]) for row in rows])
        return self._batch.observations()


def _scale(bounds: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """(lowest, highest, whether they are -1 and 1) of the native actions, or None when these are unbounded."""
    if bounds is None:
        return None
    low, high = (np.asarray(bound, np.float64) for bound in bounds)
    return low, high, bool(np.all(low == -1.0) and np.all(high == 1.0))
