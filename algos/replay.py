"""Ring buffers of decisions: uniform batches with n-step returns for off-policy agents, whole rollouts for the others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from algos.agent import Batch, Replay, Rollout, Trajectories


class Rows:
    """The newest `rows` decisions of N environment copies, written in order, one row of N transitions each.

    A transition knows whether its episode terminated (no bootstrap) or ended for another reason (a time limit, bootstrap
    from its own next observation). Observations are stored once per transition end (obs and next_obs), so autoreset needs
    no special row.
    """

    def __init__(self, rows: int, obs_dim: int, act_dim: int, copies: int = 1, device: torch.device | str = "cpu"):
        self.rows, self.copies, self.device = rows, copies, torch.device(device)
        shape = (self.rows, copies)
        # torch.empty leaves pages untouched until they are written, so a short run does not pay for a million rows.
        self.obs = torch.empty(*shape, obs_dim, device=self.device)
        self.action = torch.empty(*shape, act_dim, device=self.device)
        self.next_obs = torch.empty(*shape, obs_dim, device=self.device)
        self.reward = torch.empty(shape, device=self.device)
        self.terminated = torch.empty(shape, dtype=torch.bool, device=self.device)
        self.ended = torch.empty(shape, dtype=torch.bool, device=self.device)
        self.added = 0  # rows ever written

    def fields(self) -> dict[str, Tensor]:
        names = ("obs", "action", "next_obs", "reward", "terminated", "ended")
        return {name: getattr(self, name) for name in names}

    def __len__(self) -> int:
        """Transitions held."""
        return min(self.added, self.rows) * self.copies

    def add(self, obs: Tensor, action: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor, next_obs: Tensor) -> None:
        """One decision of all copies: obs, next_obs [N, S], action [N, A], reward, terminated, truncated [N].

        next_obs is the observation the transition led to, not the first one of the next episode.
        """
        row = self.added % self.rows
        self.obs[row], self.action[row], self.next_obs[row] = obs, action, next_obs
        self.reward[row], self.terminated[row], self.ended[row] = reward, terminated, terminated | truncated
        self.added += 1

    def rows_since(self, row: int) -> dict[str, Tensor]:
        """The rows written since row number `row` that are still held, oldest first, on the CPU; empty if none."""
        first = max(row, self.added - self.rows)
        if first >= self.added:
            return {}
        index = torch.arange(first, self.added, device=self.device) % self.rows
        return {name: field.index_select(0, index).cpu() for name, field in self.fields().items()}

    def put_rows(self, first: int, rows: dict[str, Tensor]) -> None:
        """Write rows back at their number: what `rows_since` gave, in any number of pieces, oldest piece first."""
        count = len(rows["reward"])
        index = torch.arange(first, first + count, device=self.device) % self.rows
        for name, field in self.fields().items():
            field.index_copy_(0, index, rows[name].to(self.device))
        self.added = first + count


class ReplayBuffer(Rows):
    """The newest `capacity` decisions, sampled uniformly. An n-step window stops where its episode ends, and at the newest
    row; it never reaches into the next episode."""

    def __init__(self, need: Replay, obs_dim: int, act_dim: int, copies: int = 1, device: torch.device | str = "cpu"):
        super().__init__(max(need.capacity // copies, 1), obs_dim, act_dim, copies, device)
        self.need = need

    def updates_due(self) -> int:
        """Updates after each row: one per decision."""
        return self.copies

    def sample(self, generator: torch.Generator) -> Batch:
        """A uniform batch (with replacement). With n > 1, reward is the sum of up to n discounted rewards and discount
        is gamma^k for the k used, 0 if the window ended in a termination."""
        index = torch.randint(len(self), (self.need.batch_size,), generator=generator, device=self.device)
        if self.need.n_step == 1:
            flat = {name: field.view(-1, *field.shape[2:]) for name, field in self.fields().items() if name != "ended"}
            part = {name: field.index_select(0, index) for name, field in flat.items()}
            discount = torch.where(part.pop("terminated"), 0.0, self.need.gamma)
            return Batch(discount=discount, **part)
        return self.n_step(index)

    def n_step(self, index: Tensor) -> Batch:
        """Batch of n-step transitions that begin at flat positions index [B] (row * copies + copy)."""
        flat = {name: field.view(-1, *field.shape[2:]) for name, field in self.fields().items()}
        size = self.rows * self.copies
        newest = ((self.added - 1) % self.rows) * self.copies
        reward = torch.zeros(len(index), device=self.device)
        gamma, discount = self.need.gamma, torch.ones(len(index), device=self.device)
        open_, last = torch.ones(len(index), dtype=torch.bool, device=self.device), index
        for k in range(self.need.n_step):
            at = (index + k * self.copies) % size
            last = torch.where(open_, at, last)
            reward += torch.where(open_, discount * flat["reward"][at], 0.0)
            discount = torch.where(open_, discount * gamma, discount)
            open_ = open_ & ~flat["ended"][at] & (at // self.copies * self.copies != newest)
        return Batch(
            obs=flat["obs"][index],
            action=flat["action"][index],
            reward=reward,
            discount=torch.where(flat["terminated"][last], 0.0, discount),
            next_obs=flat["next_obs"][last],
        )


class RolloutBuffer(Rows):
    """One rollout at a time: `need.length` rows of `need.envs` copies, then `need.epochs` updates on all of them."""

    def __init__(self, need: Rollout, obs_dim: int, act_dim: int, copies: int = 1, device: torch.device | str = "cpu"):
        super().__init__(need.length, obs_dim, act_dim, copies, device)
        self.need = need
        self.kept: dict[str, Tensor] = {}  # made by the first row, which says what there is

    def fields(self) -> dict[str, Tensor]:
        return super().fields() | {f"kept.{name}": value for name, value in self.kept.items()}

    def keep(self, kept: Mapping[str, Tensor]) -> None:
        """What belongs to the row that `add` has just written, {name: [N, ...]}; the same names for every row."""
        if self.added == 1:
            self.kept = {name: self._empty(value) for name, value in kept.items()}
        for name, field in self.kept.items():
            field[(self.added - 1) % self.rows] = kept[name]

    def put_rows(self, first: int, rows: dict[str, Tensor]) -> None:
        for name in rows.keys() - self.fields().keys():
            self.kept[name.removeprefix("kept.")] = self._empty(rows[name][0])
        super().put_rows(first, rows)

    def _empty(self, row: Tensor) -> Tensor:
        return torch.empty(self.rows, *row.shape, dtype=row.dtype, device=self.device)

    def updates_due(self) -> int:
        """Updates after the row written last: all epochs where it completed a rollout, else none."""
        return self.need.epochs if self.added % self.rows == 0 else 0

    def sample(self, generator: torch.Generator) -> Trajectories:
        """The whole rollout in order, not copied; `generator` is not used. Only after its last row is it one rollout."""
        discount = torch.where(self.terminated, 0.0, self.need.gamma)
        return Trajectories(self.obs, self.action, self.reward, discount, self.next_obs, self.ended, dict(self.kept))


def buffer_for(
    need: Replay | Rollout, obs_dim: int, act_dim: int, copies: int, device: torch.device | str
) -> ReplayBuffer | RolloutBuffer:
    """The buffer that serves an agent's `data`."""
    kind = RolloutBuffer if isinstance(need, Rollout) else ReplayBuffer
    return kind(need, obs_dim, act_dim, copies, device)
