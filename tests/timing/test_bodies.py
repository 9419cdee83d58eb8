"""The bodies of `bench timing` under pytest-benchmark: `pytest tests/timing --benchmark-enable`. Else each runs once."""

from __future__ import annotations

import pytest

from bench import bodies

BODIES = bodies.benchmarks()


@pytest.mark.parametrize("name", BODIES)
def test_body(name, benchmark):
    body = BODIES[name]
    benchmark.group = body.about["name"]
    benchmark.extra_info |= body.about | {"per_call": body.per_call}
    benchmark(body.run)
