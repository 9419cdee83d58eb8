"""What the command line takes: its commands and their options. Nothing heavy is imported here, so that `--help` is quick."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

SETTINGS = "key=value anywhere sets a key of a run (conf/ but for grid): steps=3000, algo.m_q=120, eval.candidates=8."


class Parser(argparse.ArgumentParser):
    """Bad input is one line here as everywhere; `--help` has the usage."""

    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def parser() -> argparse.ArgumentParser:
    main = Parser(
        prog="python -m bench",
        description="Compare diffusion-policy RL algorithms with SAC and TD3 on equal terms.",
        epilog=SETTINGS,
        allow_abbrev=False,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *groups) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        for group in groups:
            group(sub)
        return sub

    run = add("run", "run a seeded grid and write its report", where, what, how)
    run.add_argument("--no-report", action="store_true", help="do not write the report at the end")
    text = "write experiment.json with a cell for each run and start none: for a scheduler of yours, by `worker`"
    run.add_argument("--plan-only", action="store_true", help=text)
    run.epilog = SETTINGS
    sweep_options(add("sweep", "tune algorithms with equal budgets, confirm on fresh seeds, report", where, what, how))
    listing = add("list", "list algorithms, environments or presets")
    listing.add_argument("group", choices=["algos", "envs", "presets"])
    worker = add("worker", "run one cell of an experiment (for schedulers)", where)
    worker.add_argument("--index", type=int, required=True, help="the cell's number in experiment.json")
    worker.add_argument("--jobs", type=int, default=1, help="runs that share the machine (recorded, nothing else)")
    worker.add_argument("--retry-failed", action="store_true", help="run the cell again if it has failed")
    worker.add_argument("--with-parent", type=int, nargs="?", const=0, help=argparse.SUPPRESS)
    report = add("report", "write a report over one or several experiments")
    report.add_argument("runs", nargs="+", type=Path, help="experiment directories, or archives of them")
    report.epilog = coverage_help()
    report.add_argument("--out", type=Path, help="where to (default: report/ in the first one, FILE-report/ by an archive)")
    report.add_argument("--allow-mixed", action="store_true", help="merge runs evaluated or set up differently, marked")
    report.add_argument("--allow-partial", action="store_true", help="aggregate although cells are missing, marked")
    keep = add("archive", "write experiments into one small file that `report` reads: scores, clocks, settings, no weights")
    keep.add_argument("runs", nargs="+", type=Path, help="experiment directories, or other archives")
    keep.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="the file")
    for name, text in (
        ("status", "print what is done, running, failed or missing; 0 only if all is done"),
        ("watch", "show a live grid from another terminal, from its files alone"),
    ):
        add(name, text, where).add_argument("experiment", nargs="?", metavar="NAME", help="the same as --name")
    film = add("play", "render the policy of a run to an mp4 or gif")
    film.add_argument("run", type=Path, metavar="RUN", help="<root>/<name>/<environment>/<label>/seed_<k>")
    film.add_argument("--out", type=Path, help="x.mp4 or x.gif (default: play.mp4 in the run, or play.gif without ffmpeg)")
    film.add_argument("--episodes", type=int, default=1, help="how many (default: 1)")
    film.add_argument("--seed", type=int, default=0, help="of the episodes (default: 0)")
    again = add("reproduce", "make an experiment of a paper again: its figures, numbers and a verdict on its claim", how)
    again.add_argument("name", nargs="?", help="which one (--list)")
    again.add_argument("--list", action="store_true", help="list the experiments and what they claim")
    again.add_argument("--preset", default="quick", help="quick: minutes on two cores | long: hours | full: the paper's scale")
    again.add_argument("--root", type=Path, default=Path("runs"), help="directory of the runs it makes (default: runs)")
    again.add_argument("--out", type=Path, help="directory of the pages (default: reproduction/ in --root)")
    timing = add("timing", "time updates, phases, acting and sampling on one core; writes timing.json", timed)
    timing.add_argument("--algos", help="as in run (default: every algorithm of the registry)")
    for name, text in (("--T", "denoising steps"), ("--batch", "batch sizes"), ("--width", "widths of the hidden layers")):
        timing.add_argument(name, type=integers, metavar="N,N", help=f"{text} to go through (default: the algorithm's own)")
    timing.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    timing.add_argument("--mode", default="eager", help="how the phases are run: eager (default), compile or cudagraph")
    timing.add_argument("--peers", action="store_true", help="in the same rounds: Stable-Baselines3, SBX and a JAX QSM")
    timing.add_argument("--out", type=Path, default=Path("timing.json"), help="file for the results (default: timing.json)")
    timing.add_argument("--figures", type=Path, metavar="DIR", help="draw where the time goes, and the cost against T, there")
    timing.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    timing.add_argument("--baseline", type=Path, metavar="FILE", help="stored timings to compare with")
    timing.add_argument("--save-baseline", type=Path, metavar="FILE", help="store these timings there, by hardware")
    compare = add("compare", "time two revisions against each other on one core; 1 if HEAD is slower, for CI", timed)
    compare.epilog = "exit codes: 0 no slower; 1 slower, or a benchmark gone; 2 bad input; 3 definitions changed"
    compare.add_argument("base", metavar="BASE", help="revision to compare with; its benchmark definitions are used")
    compare.add_argument("head", metavar="HEAD", nargs="?", default="HEAD", help="revision in question (default: HEAD)")
    compare.add_argument("--algos", help="as in run (default: every algorithm of the registry)")
    accept = "benchmarks may be gone, or be defined by HEAD where BASE's do not run on it or on BASE; the output says so"
    compare.add_argument("--accept-changed-definitions", action="store_true", help=accept)
    compare.add_argument("--out", type=Path, help="file for the results, as JSON")
    return main


def coverage_help() -> str:
    """How often the report's 95 % intervals cover the truth, from simulations; only built when that help is asked for."""
    if sys.argv[1:3] not in (["report", "--help"], ["report", "-h"]):
        return ""
    from reports import coverage

    return coverage.text()


def where(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--root", type=Path, default=Path("runs"), help="directory of all experiments (default: runs)")
    sub.add_argument("--name", help="name of the experiment (default of run and sweep: preset and a hash of its settings)")


def what(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--preset", default="quick", help="values to start from (python -m bench list presets)")
    sub.add_argument("--algos", help="qsm,hot=qsm(m_q=120),mine=my_pkg.agents:MyAgent")
    sub.add_argument("--envs", help="dmc/walker-walk,gym/Pendulum-v1")
    sub.add_argument("--seeds", help="5 (0 to 4), 0-4, or 0,3,7")


def how(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--jobs", type=int, help="runs at a time (default: cores, device slots, or what the cluster takes)")
    sub.add_argument("--engine", default="local", help="what carries the runs: local, ray or slurm")
    sub.add_argument("--address", help="of a Ray cluster (default: RAY_ADDRESS, else one on this machine)")
    slurm = "a parameter of the job array: partition=gpu, timeout_min=240, mem_gb=8 (repeat for more)"
    sub.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help=slurm)
    sub.add_argument("--device", choices=["cpu", "cuda"], help="the same as device=...; cuda shares this machine's devices")
    sub.add_argument("--per-device", type=int, default=1, help="runs that share one device (default: 1)")
    sub.add_argument("--retry-failed", action="store_true", help="run failed runs again (of a sweep: of its confirmation)")


def sweep_options(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(seeds="3", jobs=None)
    sub.add_argument("--trials", type=int, help="trials per algorithm (default: 50; the whole grid with --sampler grid)")
    sub.add_argument("--sweep", help="search space, for one algorithm (default: conf/sweep/<agent>.yaml)")
    sub.add_argument("--sampler", default="tpe", help="tpe (default) | random | cmaes | grid")
    sub.add_argument("--pruner", help="median | hyperband | none (default: what the search space says)")
    sub.add_argument("--confirm", type=int, default=5, help="fresh seeds for the winner and the defaults (default: 5)")
    sub.add_argument("--storage", help="postgresql://user@host/db, or any address of Optuna (default: a file in the sweep)")
    sub.add_argument("--as-worker", type=int, metavar="PARENT", help=argparse.SUPPRESS)
    sub.epilog = (
        f"{SETTINGS} Here --seeds is the number of tuning seeds (default: 3), and --jobs counts trials, "
        "whose runs go side by side (default: cores, or device slots, / runs of a trial). "
        "The same command elsewhere (same --root and --name, or same --storage) works on the same sweep."
    )


def timed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--rounds", type=int, default=10, help="turns of every body (default: 10)")
    sub.add_argument("--seconds", type=float, default=0.05, help="of each body in each round (default: 0.05)")
    sub.add_argument("--core", type=int, help="core to pin everything to (default: the last one)")


def integers(text: str) -> list[int]:
    """`5,10,20`, for argparse."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 5,10,20")
    return [int(part) for part in text.split(",")]
