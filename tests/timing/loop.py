"""What a run's loop costs beside what it is for, and what a second worker brings.

    python tests/timing/loop.py [--algo sac] [--env dmc/cheetah-run] [--frames 6000]   the loop's share
    python tests/timing/loop.py --workers 2                                            two processes against one

The loop's share: seconds of a run from its first update on, without evaluations and checkpoints, over the bare sum of
`env.step`, `act` and the phases that were called in those very seconds. Both sides are taken from the same run, so a busy
machine slows both; processor time is counted, not the wall clock's. The workers' gain goes by the wall clock and needs a
machine with nothing else on it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import grid
from bench.run import Run
from bench.rundir import RunDir


class Stopwatch:
    """Seconds of processor time spent inside wrapped calls, from `start` on."""

    def __init__(self):
        self.seconds, self.calls, self.on = 0.0, 0, False

    def around(self, call: Callable) -> Callable:
        def timed(*args, **kwargs):
            before = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                if self.on:
                    self.seconds += time.process_time() - before
                    self.calls += 1

        return timed


def measure(algo: str, env: str, frames: int) -> dict[str, float]:
    """One run of `frames` frames: decisions per second of the loop, microseconds of a decision's loop and bare parts, their
    ratio less one, and how many calls the bare parts were."""
    # logs and checkpoints at their defaults
    settings = ["env.action_repeat=1", f"steps={frames}", "warmup=512", f"eval_every={frames}", "eval.episodes=1"]
    cells, _ = grid.plan("quick", algo, env, "1", settings)
    with tempfile.TemporaryDirectory() as path:
        run = Run(cells[0].config, RunDir(Path(path)))
        bare, aside = Stopwatch(), Stopwatch()
        run.env.step, run.run_phase = bare.around(run.env.step), bare.around(run.run_phase)
        run.agent.act = bare.around(run.agent.act)
        for name in ("_evaluate", "_finish", "checkpoint"):
            setattr(run, name, aside.around(getattr(run, name)))
        evaluate, update, started = run._evaluate, run._update, []

        def first_update() -> None:
            if not started:
                bare.on = aside.on = True
                started.append((time.process_time(), time.perf_counter()))
            update()

        def evaluation() -> None:
            bare.on = False  # it steps and acts, too
            started.append((time.process_time() - aside.seconds, time.perf_counter()))
            evaluate()

        run._update, run._evaluate = first_update, evaluation
        run.train()
        (cpu, wall), (cpu_end, wall_end) = started
        decisions = (frames - 512) // run.config.frames_per_decision
    loop = cpu_end - cpu
    return {
        "overhead": loop / bare.seconds - 1, "loop_us": 1e6 * loop / decisions, "bare_us": 1e6 * bare.seconds / decisions,
        "decisions_per_second": decisions / (wall_end - wall), "calls": bare.calls,
    }  # fmt: skip


def gain(workers: int, arguments: list[str]) -> float:
    """Decisions per second of several processes at once over those of one."""

    def rate(count: int) -> float:
        command = [sys.executable, __file__, *arguments]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        shown = [process.communicate()[0] for process in processes]
        return sum(float(text.split("decisions_per_second ")[1].split()[0]) for text in shown)

    return rate(workers) / rate(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--algo", default="sac")
    parser.add_argument("--env", default="dmc/cheetah-run")
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    if given.workers:
        arguments = ["--algo", given.algo, "--env", given.env, "--frames", str(given.frames)]
        print(f"{given.workers} workers: {gain(given.workers, arguments):.3f} times one")
        return
    for name, value in measure(given.algo, given.env, given.frames).items():
        print(name, round(value, 4))


if __name__ == "__main__":
    main()
