"""What checkpoints and the log cost a run, with a replay of a million transitions:

    OMP_NUM_THREADS=1 python tests/timing/overhead.py [--env dmc/cheetah-run] [--algo sac]

Nothing is trained: a full replay is put into a real run, and what its clock calls checkpoint and log is timed as it stands
there, beside a decision with its update: a checkpoint, a line of the log, a heartbeat, and the note that every update makes
of its losses. The share is that of the default intervals: 25,000 frames between checkpoints, and 64 lines in a run (here of
two million frames). A quotient of times measured in turn, it holds on a loaded machine too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.grid import plan
from bench.run import Run
from bench.rundir import HEARTBEAT, RunDir

ROWS = 1_000_000


def seconds(*bodies: Callable[[], None], rounds: int) -> list[float]:
    """Median seconds of each body, in turn."""
    times: list[list[float]] = [[] for _ in bodies]
    for _ in range(rounds):
        for body, kept in zip(bodies, times, strict=True):
            start = time.perf_counter()
            body()
            kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in times]


def measure(env: str, algo: str, rounds: int = 5) -> dict[str, float]:
    """Seconds of a decision with its update, of the note on it, a checkpoint, a line of the log and a heartbeat; and these
    four together as a share of training."""
    steps = ["steps=2000000", "warmup=5000", "log_every=null", "eval.episodes=1", "eval_every=2000000",
             f"algo.capacity={ROWS}"]  # fmt: skip
    config = plan("quick", algo, env, "0-0", steps)[0][0].config
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, RunDir(Path(folder) / "run"))
        fill(run)
        run.checkpoint()  # the million rows before; they are never written again
        every, notes = config.checkpoint_every // config.frames_per_decision, []

        def decisions() -> None:
            before = run.clock.wall["log"]
            for _ in range(20):
                run._decide(False)
                run._update()
            notes.append(run.clock.wall["log"] - before)

        def checkpoint() -> None:
            run.replay.added += every  # as many new rows as an interval brings
            run.checkpoint()

        def heartbeat() -> None:
            run._progress("running")

        twenty, saved, logged, beat = seconds(decisions, checkpoint, run._log, heartbeat, rounds=rounds)
        assert len(run.replay) == ROWS
    note = statistics.median(notes) / 20
    one = twenty / 20 - note
    between = run.config.log_every // config.frames_per_decision
    return {
        "decision_and_update": one, "note": note, "checkpoint": saved, "log_line": logged, "heartbeat": beat,
        "share": (note + saved / every + logged / between) / one + beat / HEARTBEAT,
    }  # fmt: skip


def fill(run: Run) -> None:
    """Transitions of a random walk of the right shapes."""
    generator = torch.Generator().manual_seed(0)
    for name, field in run.replay.fields().items():
        if field.dtype is torch.bool:
            field.zero_()
        else:
            field.copy_(torch.rand(field.shape, generator=generator).mul_(0.1 if name == "reward" else 1.0))
    run.replay.added = ROWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="dmc/cheetah-run")
    parser.add_argument("--algo", default="sac")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.env, arguments.algo)
    print(f"{arguments.algo} on {arguments.env}, a replay of {ROWS:,} transitions:")
    for name in ("decision_and_update", "note", "checkpoint", "log_line", "heartbeat"):
        print(f"  {name:<20} {1000 * found[name]:9.2f} ms")
    print(f"  share of training    {100 * found['share']:9.3f} %")


if __name__ == "__main__":
    main()
