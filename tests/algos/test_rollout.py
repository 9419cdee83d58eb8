"""What a rollout holds: rows in order, the right discounts and ends, what the agent kept; and how it is put back."""

from __future__ import annotations

import pytest
import torch

from algos.agent import Phase, Replay, Rollout
from algos.replay import RolloutBuffer, buffer_for

NEED = Rollout(length=5, envs=2, epochs=3, gamma=0.9)


def fill(buffer: RolloutBuffer, rows: int, first: int = 0) -> None:
    """Row i: obs i, action -i, reward i + copy, kept 10 i; copy 0 terminates at 2, copy 1 is truncated at 3."""
    for i in range(first, first + rows):
        at = torch.full((2, 1), float(i))
        ends = torch.tensor([i % 5 == 2, False]), torch.tensor([False, i % 5 == 3])
        buffer.add(at, -at, torch.tensor([i, i + 1.0]), *ends, at + 0.5)
        buffer.keep({"log_prob": 10 * at[:, 0]})


def test_a_rollout_is_its_rows_in_order_with_their_own_discounts():
    buffer = buffer_for(NEED, 1, 1, 2, "cpu")
    fill(buffer, 10)  # the second rollout replaces the first
    batch = buffer.sample(torch.Generator())
    assert batch.obs[:, 0, 0].tolist() == [5, 6, 7, 8, 9]
    assert batch.reward.tolist() == [[i, i + 1] for i in range(5, 10)]
    assert torch.equal(batch.next_obs, batch.obs + 0.5)
    assert torch.equal(batch.kept["log_prob"], 10 * batch.obs[..., 0])
    assert batch.ended.nonzero().tolist() == [[2, 0], [3, 1]]
    zero = torch.tensor([2, 0])  # a time limit bootstraps, a termination does not
    assert (batch.discount == 0).nonzero().tolist() == [zero.tolist()]
    assert batch.discount[3, 1] == NEED.gamma


def test_updates_are_due_when_a_rollout_is_whole_and_only_then():
    buffer, due = buffer_for(NEED, 1, 1, 2, "cpu"), []
    for i in range(12):
        fill(buffer, 1, i)
        due.append(buffer.updates_due())
    assert due == [0, 0, 0, 0, 3, 0, 0, 0, 0, 3, 0, 0]
    assert buffer_for(Replay(4, 8, 1, 0.9), 1, 1, 2, "cpu").updates_due() == 2


@pytest.mark.parametrize("cut", [[3], [7], [4, 8], [5], [5, 10]])
def test_pieces_put_a_partial_rollout_back(cut):
    first, second, pieces = buffer_for(NEED, 1, 1, 2, "cpu"), buffer_for(NEED, 1, 1, 2, "cpu"), []
    for start, end in zip([0, *cut[:-1]], cut, strict=True):
        fill(first, end - start, start)
        rows = first.rows_since(start)
        pieces.append((first.added - len(rows["reward"]), rows))
    for number, rows in pieces:
        second.put_rows(number, rows)
    assert second.added == first.added == cut[-1]
    for buffer in (first, second):
        fill(buffer, 15 - cut[-1], cut[-1])
    for name, value in first.fields().items():
        assert torch.equal(value, second.fields()[name]), name


def test_a_phase_is_due_from_its_start_to_before_its_stop():
    phase = Phase("pretrain", every=2, start=1, stop=6)
    assert [update for update in range(10) if phase.due(update)] == [1, 3, 5]
