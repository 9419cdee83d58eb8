"""Exact counts: a change in what an update does shows here, on any machine, and in nothing but what it does."""

from __future__ import annotations

import json

import counts
import pytest
import torch

import algos
from algos.agent import MODES, sample
from algos.qsm import QSM
from bench import bodies
from bench.bodies import SPEC
from bench.compose import available
from bench.cost import OperationCounter, count, count_acting, count_period, count_work
from bench.synthetic import random_batch

STEPS = (2, 3, 5, 9)


def test_an_update_does_what_the_committed_counts_say():
    stored = json.loads(counts.PATH.read_text())
    if stored["torch"] != counts.TORCH:
        pytest.skip(f"counts.json was made under torch {stored['torch']}, this is {counts.TORCH}")
    changed = list(counts.differences(stored, counts.counted()))
    assert not changed, "\n".join(["not what counts.json says; if that is meant: make timing-baseline", *changed])


def test_the_committed_counts_are_of_the_torch_that_is_locked():
    """Under another one they are held by nobody: make timing-baseline goes with a new lock."""
    lock = (counts.PATH.parents[2] / "constraints.txt").read_text()
    assert f"\ntorch=={json.loads(counts.PATH.read_text())['torch'].partition('+')[0]}\n" in lock


def test_a_mean_update_is_counted_without_making_every_one_of_a_period():
    mean, period = count(counts.build("td3")), count_period(counts.build("td3"))
    assert mean["operations_per_update"] == period["operations"] / period["updates"]
    assert mean["flops_per_update"] == period["flops"] / period["updates"]
    late = count(counts.build("td3", delay=5000))  # half a minute, if each was made
    assert late["forwards_per_update"]["policy"] == 1 / 5000
    assert late["forwards_per_update"]["target_policy"] == 1


def actor_counts(name: str, steps: int) -> dict:
    """Counts of one actor phase with this many denoising steps."""
    agent, generator = counts.build(name, T=steps), torch.Generator().manual_seed(0)
    (phase,) = (phase for phase in agent.phases if phase.name == "actor")
    n = agent.data.batch_size
    batch, noise = random_batch(SPEC, n, generator), sample(agent.draws("actor", n), generator)
    agent.run_phase(phase, batch, noise)
    return count_work(agent, lambda: agent.run_phase(phase, batch, noise))


def test_the_actor_update_of_qsm_does_not_depend_on_the_number_of_steps():
    """The table of T embedded times aside, which is T rows in place of the batch's 256: its products are subtracted."""
    found = [actor_counts("qsm", steps) for steps in STEPS]
    features, hidden, width = 64, 128, 256
    per_time = 3 * 2 * (features * hidden + hidden * hidden + hidden * width)  # forward, weights' and inputs' gradients
    assert len({c["operations"] for c in found}) == 1
    assert all(c["forwards"] == {"predictor": 1, "critics": 1, "target_critics": 0} for c in found)
    assert len({c["flops"] - steps * per_time for c, steps in zip(found, STEPS, strict=True)}) == 1
    assert per_time < 0.002 * found[0]["flops"]


def test_the_actor_update_of_diffusion_ql_is_affine_in_the_number_of_steps():
    found = [actor_counts("dql", steps) for steps in STEPS]
    for key in ("operations", "flops"):
        slopes = {(c[key] - found[0][key]) / (t - STEPS[0]) for c, t in zip(found[1:], STEPS[1:], strict=True)}
        assert len(slopes) == 1, key
        assert slopes.pop() > 0
    assert [c["forwards"]["predictor"] for c in found] == list(STEPS)


def test_timed_updates_are_the_counted_ones_and_averaged_over_a_period():
    """TD3's period is two updates, with one actor update."""
    stored, body = counts.counted(["td3"])["counts"]["td3"], bodies.benchmarks(algos="td3")["td3/update"]
    assert stored["updates"] == body.per_call == 2
    assert all(stored[key] == 2 * value for key, value in bodies.work(body).items())


def test_bytes_are_those_read_and_written():
    one, many = torch.zeros(1), torch.zeros(100)
    with OperationCounter() as counter:
        many + one  # reads 400 and 4 bytes, writes 400
        many.add_(one.expand(100))  # the same; an expanded tensor has its own four bytes
        many.view(10, 10)  # nothing
        many[:10].sum()  # reads 40, writes 4
        torch._foreach_lerp_([many, one], [many, one], 0.5)  # reads 2 x 404, writes 404
        many[:, None].T @ many[:, None]  # a product: FLOPs, no bytes
        torch.zeros(1, 1).addmm_(many[None], many[:, None])  # the same, and the zero that is made
    assert counter.bytes == 804 + 804 + 44 + 1212 + 4
    assert counter.flops == 200 + 200


def planted(cls: type) -> list[str]:
    """What the counts say of a changed QSM."""
    build = lambda c: c(SPEC, QSM.Config(), torch.Generator().manual_seed(0))  # noqa: E731
    return list(counts.differences(count_period(build(QSM)), count_period(build(cls))))


def test_an_extra_forward_is_caught():
    class Wasteful(QSM):
        def critic(self, batch, noise):
            self.target_critics(batch.next_obs, batch.action)
            return super().critic(batch, noise)

    found = planted(Wasteful)
    assert "forwards.target_critics: 1 -> 2" in found
    assert {line.partition(":")[0] for line in found} >= {"operations", "flops"}


def test_an_extra_chain_for_an_action_is_caught():
    class Twice(QSM):
        def act(self, obs, noise, mode):
            super().act(obs, noise, mode)
            return super().act(obs, noise, mode)

    build = lambda c: c(SPEC, QSM.Config(), torch.Generator().manual_seed(0))  # noqa: E731
    found = list(counts.differences(count_acting(build(QSM)), count_acting(build(Twice))))
    assert {f"{mode}.forwards.predictor: 5 -> 10" for mode in MODES} <= set(found)
    assert not any(line.startswith("value") for line in found)


def test_a_lost_no_grad_is_caught():
    """It adds no operation that the loss asks for: the tensors kept for a backward pass give it away."""

    class Recording(QSM):
        target_q = torch.enable_grad()(QSM.target_q.__wrapped__)

    assert {line.partition(":")[0] for line in planted(Recording)} >= {"tensors_kept", "bytes_kept"}


def test_every_registered_algorithm_is_counted():
    stored = json.loads(counts.PATH.read_text())["counts"]
    assert stored.keys() == set(available("algo")) >= algos.AGENTS.keys()
    assert all(c["operations"] > 0 and c["flops"] > 0 and c["tensors_kept"] > 0 for c in stored.values())
