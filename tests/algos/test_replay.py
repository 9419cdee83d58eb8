"""Replay and n-step returns against a plain list of transitions."""

from __future__ import annotations

import pytest
import torch

from algos.agent import Replay
from algos.replay import ReplayBuffer

GAMMA = 0.9


def fill(capacity, n_step, copies, rows, seed=0, batch_size=4):
    """A buffer after `rows` decisions, and every transition ever added as (row, copy) -> (reward, terminated, ended).

    An observation is (row, copy, 0), the next one (row, copy, 1), the action (row, copy)."""
    buffer = ReplayBuffer(Replay(batch_size, capacity, n_step, GAMMA), obs_dim=3, act_dim=2, copies=copies)
    g, history = torch.Generator().manual_seed(seed), {}
    for row in range(rows):
        reward, fate = torch.randn(copies, generator=g), torch.randint(6, (copies,), generator=g)
        terminated, truncated = fate == 0, fate == 1
        place = torch.stack([torch.full((copies,), float(row)), torch.arange(copies).float()], dim=1)
        obs, next_obs = (torch.cat([place, torch.full((copies, 1), v)], dim=1) for v in (0.0, 1.0))
        buffer.add(obs, place, reward, terminated, truncated, next_obs)
        for copy in range(copies):
            history[row, copy] = (float(reward[copy]), bool(terminated[copy]), bool(terminated[copy] | truncated[copy]))
    return buffer, history


def expected(history, row, copy, n_step, rows):
    """(reward, discount, last row) of the window that begins at (row, copy), straight from the definition."""
    total, k = 0.0, 0
    while True:
        reward, terminated, ended = history[row + k, copy]
        total += GAMMA**k * reward
        k += 1
        if ended or k == n_step or row + k == rows:
            return total, 0.0 if terminated else GAMMA**k, row + k - 1


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("rows", [1, 4, 9, 10, 14, 37])
def test_every_window_is_what_its_definition_says(n_step, copies, rows):
    """At a capacity of 10 rows, before and after the ring has wrapped. Fails on a window that crosses an episode's end or
    the newest row, a bootstrap after a termination or none after a truncation, gamma^n for gamma^k, or copies mixed up."""
    capacity = 10 * copies + copies // 2  # what does not fill a row is left out
    buffer, history = fill(capacity, n_step, copies, rows)
    held = range(max(0, rows - 10), rows)
    assert len(buffer) == len(held) * copies
    batch = buffer.n_step(torch.arange(len(buffer)))
    seen = set()
    for i in range(len(buffer)):
        row, copy = int(batch.obs[i, 0]), int(batch.obs[i, 1])
        seen.add((row, copy))
        reward, discount, last = expected(history, row, copy, n_step, rows)
        assert batch.reward[i].item() == pytest.approx(reward, abs=1e-5)
        assert batch.discount[i].item() == pytest.approx(discount, abs=1e-6)
        assert batch.next_obs[i].tolist() == [last, copy, 1.0]
        assert batch.action[i].tolist() == [row, copy]
    assert seen == {(row, copy) for row in held for copy in range(copies)}


@pytest.mark.parametrize("n_step", [1, 3])
def test_batches_are_uniform_over_what_is_held(n_step):
    """One-step batches have a path of their own. Fails on unwritten or overwritten rows, or on an uneven choice."""
    for rows in (4, 14):
        buffer, history = fill(20, n_step, 2, rows, batch_size=20_000)
        batch = buffer.sample(torch.Generator().manual_seed(0))
        flat = batch.obs[:, 0].long() * 2 + batch.obs[:, 1].long()
        counts = flat.bincount(minlength=2 * rows)[-len(buffer) :].float()
        assert counts.sum() == 20_000
        assert ((counts / 20_000 - 1 / len(buffer)).abs() < 4 * (1 / len(buffer) / 20_000) ** 0.5).all()
        for i in range(200):
            row, copy = divmod(int(flat[i]), 2)
            reward, discount, _ = expected(history, row, copy, n_step, rows)
            assert (batch.reward[i].item(), batch.discount[i].item()) == pytest.approx((reward, discount), abs=1e-5)


def test_by_hand():
    """Three rewards 1, 2, 4 and gamma 1/2: 1 + 1 + 1 with a bootstrap of 1/8, cut by an end after the second."""
    ends = {None: (3.0, 0.125), "terminated": (2.0, 0.0), "truncated": (2.0, 0.25)}
    for end, wanted in ends.items():
        buffer = ReplayBuffer(Replay(1, 8, 3, 0.5), 1, 1)
        for row, reward in enumerate((1.0, 2.0, 4.0, 8.0)):
            flags = [torch.tensor([end == kind and row == 1]) for kind in ("terminated", "truncated")]
            buffer.add(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([reward]), *flags, torch.full((1, 1), row + 1.0))
        batch = buffer.n_step(torch.tensor([0]))
        assert (batch.reward.item(), batch.discount.item()) == wanted
        assert batch.next_obs.item() == (2.0 if end else 3.0)


def test_pieces_of_rows_rebuild_the_buffer():
    """What checkpoints do, with pieces that overlap the ring's end. Fails on a piece written to the wrong rows."""
    buffer, _ = fill(10, 3, 2, 0)
    copy, source = ReplayBuffer(buffer.need, 3, 2, 2), None
    done = 0
    for rows in (3, 4, 11, 13):
        source, _ = fill(10, 3, 2, rows)
        piece = source.rows_since(done)
        copy.put_rows(rows - len(piece["reward"]), piece)
        done = rows
    assert source.rows_since(done) == {}
    index = torch.arange(len(source))
    for found, wanted in zip(copy.n_step(index), source.n_step(index), strict=True):
        assert torch.equal(found, wanted)
