"""What a run's clock charges to its phases."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time

import pytest
import torch

from bench import clock
from bench.clock import Clock, CudaClock
from bench.provenance import described, peak_memory_mb


class Stream:
    """A device that works through what is queued, beside a host that queues it; both in seconds."""

    host = free = 0.0

    def queue(self, seconds: float) -> None:
        self.host += 0.125
        self.free = max(self.free, self.host) + seconds

    def wait(self) -> None:
        self.host = max(self.host, self.free)


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self) -> None:
            self.at = max(stream.host, stream.free)

        def synchronize(self) -> None:
            stream.host = max(stream.host, self.at)

        def elapsed_time(self, other: Event) -> float:
            assert stream.host >= other.at, "read before the device got there"
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    return stream


def test_a_phase_is_charged_once_and_overhead_is_no_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    measured = Clock({"env": 0.5})
    for phase, seconds in (("act", 1.0), ("env", 2.0), ("eval", 4.0), ("setup", 8.0), ("log", 16.0), ("checkpoint", 32.0)):
        now[0] += seconds
        measured.lap(phase)
    monkeypatch.setattr(clock, "peak_memory_mb", lambda: 300.04)
    assert [Clock(rss_mb=earlier).state()["rss_mb"] for earlier in (0.0, 410.5)] == [300.0, 410.5]  # of any session
    record = measured.record()
    assert record["wall"] == {"env": 2.5, "act": 1.0, "eval": 4.0, "setup": 8.0, "log": 16.0, "checkpoint": 32.0}
    assert (record["active"], record["total"]) == (3.5, 63.5)


def test_the_clock_of_a_killed_run_goes_on_where_its_checkpoint_stood(small, train, tmp_path):
    train(small("sac"), tmp_path, kill_at=[130])
    rows = [json.loads(line) for line in (tmp_path / "clock.jsonl").read_text().splitlines()]
    assert [row["updates_timed"] for row in rows] == [row["update"] for row in rows]
    for name in ("active", "total", "process"):
        assert all(before[name] <= after[name] for before, after in itertools.pairwise(rows)), name


@pytest.mark.parametrize("unread", [4096, 4])
def test_on_cuda_a_phase_is_charged_for_its_kernels_and_not_for_their_launch(stream, monkeypatch, unread):
    monkeypatch.setattr(clock, "UNREAD", unread)
    measured = CudaClock({"critic": 1.0}, updates=7)
    for _ in range(3):
        stream.queue(2.0)
        measured.lap("critic")
        stream.queue(4.0)
        measured.lap("actor")
        stream.queue(0.5)
        stream.wait()  # the action is needed on the host
        measured.lap("act")
        stream.host += 1.0
        measured.lap("env")
    # the critic's are queued to an idle device, the others while it is busy
    assert measured.record()["wall"] == {"critic": 1.0 + 3 * 2.125, "actor": 12.0, "act": 1.5, "env": 3.0}
    assert measured.record()["total"] == 1.0 + stream.host
    assert CudaClock(**measured.state()).record()["wall"] == measured.record()["wall"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_device_too():
    torch.cuda._sleep(1000)
    measured, start = CudaClock(), time.perf_counter()
    torch.cuda._sleep(200_000_000)  # cycles, about a tenth of a second
    measured.lap("actor")
    launched = time.perf_counter() - start
    torch.zeros(1, device="cuda").cpu()
    measured.lap("act")
    wall = measured.record()["wall"]
    assert wall["actor"] > 10 * launched
    assert wall["actor"] > 10 * wall["act"]


def test_the_peak_of_memory_is_a_process_s_own():
    """Fails where the peak of the process that started it counts too, as in Linux's ru_maxrss."""
    code = "from bench.provenance import peak_memory_mb; print(peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 5 < float(done.stdout) < 100 < peak_memory_mb()  # this one has torch


def test_processors_of_one_name_are_told_apart():
    """Two generations as a virtual machine shows them: their seconds must not share a time axis."""
    milan = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    genoa = milan.replace("model\t\t: 1", "model\t\t: 17")
    assert described(f"{milan}\n\n{genoa}") == "AMD EPYC, family 25 model 1"
    assert described(genoa) == "AMD EPYC, family 25 model 17"
    assert described("processor\t: 0\nBogoMIPS\t: 50.00\nCPU part\t: 0xd40\n") == ""  # Arm names no processor
