"""Wall-clock and process time of one run, split by phase, summed over its sessions."""

from __future__ import annotations

import time

import torch

from bench.provenance import peak_memory_mb

UNREAD = 4096  # laps after which a CUDA clock reads its events, however far the next record is
OVERHEAD = ("eval", "checkpoint", "log", "setup")  # everything else is active training time
LOOP = ("env", "act", "store", "sample")  # what is active beside the phases of an update


class Clock:
    """`lap(phase)` charges the time since the last lap to a phase, so the phases add up to the whole."""

    def __init__(self, wall: dict[str, float] | None = None, process: float = 0.0, updates: int = 0, rss_mb: float = 0.0):
        self.wall = dict(wall or {})
        self.updates, self._rss_before = updates, rss_mb
        self._process_before, self._process_start = process, time.process_time()
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.wall[phase] = self.wall.get(phase, 0.0) + now - self._last
        self._last = now

    @property
    def active(self) -> float:
        """Seconds of training: acting, stepping, storing, sampling and updating; no evaluation, log or checkpoint."""
        return sum(seconds for phase, seconds in self.wall.items() if phase not in OVERHEAD)

    @property
    def process(self) -> float:
        return self._process_before + time.process_time() - self._process_start

    @property
    def rss_mb(self) -> float:
        """Largest resident memory of any session."""
        return max(self._rss_before, round(peak_memory_mb(), 1))

    def state(self) -> dict[str, object]:
        return {"wall": dict(self.wall), "process": self.process, "updates": self.updates, "rss_mb": self.rss_mb}

    def record(self) -> dict[str, object]:
        return {
            "wall": {phase: round(seconds, 6) for phase, seconds in self.wall.items()},
            "active": round(self.active, 6),
            "process": round(self.process, 6),
            "total": round(sum(self.wall.values()), 6),
            "updates_timed": self.updates,
            "rss_mb": self.rss_mb,
        }


class CudaClock(Clock):
    """A clock whose laps are events in the device's stream.

    A phase returns when its kernels are queued. The host's clock would charge their time to whatever waits for them next,
    which is acting; waiting after each phase would leave the device idle in between. Events do neither: a lap ends when the
    device gets there, at once where it had nothing to do. They are read when the times are asked for.
    """

    def __init__(self, wall: dict[str, float] | None = None, process: float = 0.0, updates: int = 0, rss_mb: float = 0.0):
        super().__init__(wall, process, updates, rss_mb)
        self._before, self._laps = _event(), []

    def lap(self, phase: str) -> None:
        self._laps.append((phase, _event()))
        if len(self._laps) >= UNREAD:
            self._read()

    def _read(self) -> None:
        if self._laps:
            self._laps[-1][1].synchronize()
        for phase, event in self._laps:
            self.wall[phase] = self.wall.get(phase, 0.0) + self._before.elapsed_time(event) / 1000
            self._before = event
        self._laps = []

    def state(self) -> dict[str, object]:
        self._read()
        return super().state()

    def record(self) -> dict[str, object]:
        self._read()
        return super().record()


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
