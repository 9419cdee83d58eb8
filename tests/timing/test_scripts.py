"""The measuring scripts whose results stand in docs/performance.md reach into a run's loop: here whether they still hold it."""

from __future__ import annotations

import loop
import overhead


def test_the_loop_is_timed_around_all_that_it_is_for():
    found = loop.measure("td3", "gym/Pendulum-v1", 552)
    # 40 decisions with a step, an action, the critic's update and, every second time, the actor's and the targets';
    # the first decision came before its update
    assert found["calls"] == 40 * 3 + 20 * 2 - 2
    assert found["overhead"] > 0  # the parts are within the whole
    assert found["loop_us"] > found["bare_us"] > 0


def test_all_that_the_clock_calls_checkpoint_and_log_is_timed_in_a_real_run(monkeypatch):
    monkeypatch.setattr(overhead, "ROWS", 60_000)
    found = overhead.measure("gym/Pendulum-v1", "td3", rounds=1)
    assert all(found[name] > 0 for name in ("decision_and_update", "note", "checkpoint", "log_line", "heartbeat"))
    assert 0 < found["share"] < 1
