"""The command line. Subcommands import what they need when they run; `--help` imports nothing heavy.

Exit codes: 0 all well; 1 a run failed or is missing; 2 bad input; 3 stopped before the end.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

OVERRIDE = re.compile(r"[+~]{0,2}[\w@/.]+=")


class Parser(argparse.ArgumentParser):
    """Bad input is one line here as everywhere; `--help` has the usage."""

    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def parser() -> argparse.ArgumentParser:
    main = Parser(
        prog="python -m bench",
        description="Compare diffusion-policy RL algorithms with SAC and TD3 on equal terms.",
        epilog="key=value anywhere sets a key of conf/ (steps=3000, algo.m_q=120, eval.candidates=8).",
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *groups) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        for group in groups:
            group(sub)
        return sub

    run = add("run", "run a seeded grid and write its report", where, what, how)
    run.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    run.add_argument("--no-report", action="store_true", help="do not write the report at the end")
    listing = add("list", "list algorithms, environments or presets")
    listing.add_argument("group", choices=["algos", "envs", "presets"])
    worker = add("worker", "run one cell of an experiment (for schedulers)", where)
    worker.add_argument("--index", type=int, required=True, help="the cell's number in experiment.json")
    worker.add_argument("--jobs", type=int, default=1, help="runs that share the machine (recorded, nothing else)")
    worker.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)
    report = add("report", "write a report over one or several experiments")
    report.add_argument("runs", nargs="+", type=Path, help="experiment directories")
    report.epilog = coverage_help()
    report.add_argument("--out", type=Path, help="where to (default: report/ in the first directory)")
    report.add_argument("--allow-mixed", action="store_true", help="merge runs with different evaluation rules, marked")
    report.add_argument("--allow-partial", action="store_true", help="aggregate although cells are missing, marked")
    again = add("reproduce", "make an experiment of a paper again: its figures, numbers and a verdict on its claim")
    again.add_argument("name", nargs="?", help="which one (--list)")
    again.add_argument("--list", action="store_true", help="list the experiments and what they claim")
    again.add_argument("--preset", default="quick", help="quick: minutes on two cores | long: hours | full: the paper's scale")
    again.add_argument("--root", type=Path, default=Path("runs"), help="directory of the runs it makes (default: runs)")
    again.add_argument("--out", type=Path, help="directory of the pages (default: reproduction/ in --root)")
    again.add_argument("--jobs", type=int, help="runs at a time (default: the number of cores)")
    add("status", "print what is done, running, failed or missing; 0 only if all is done", where)
    add("watch", "show a live grid from another terminal, from its files alone", where)
    return main


def coverage_help() -> str:
    """How often the report's 95 % intervals cover the truth, from simulations; only built when that help is asked for."""
    if sys.argv[1:3] not in (["report", "--help"], ["report", "-h"]):
        return ""
    from reports.stats import coverage_text

    return coverage_text()


def where(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--root", type=Path, default=Path("runs"), help="directory of all experiments (default: runs)")
    sub.add_argument("--name", help="name of the experiment (default: preset and a hash of its settings)")


def what(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--preset", default="quick", help="values to start from (python -m bench list presets)")
    sub.add_argument("--algos", help="qsm,hot=qsm(m_q=120),mine=my_pkg.agents:MyAgent")
    sub.add_argument("--envs", help="dmc/walker-walk,gym/Pendulum-v1")
    sub.add_argument("--seeds", help="5 (0 to 4), 0-4, or 0,3,7")


def how(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--jobs", type=int, help="runs at a time (default: the number of cores)")
    sub.add_argument("--engine", default="local", help="what carries the runs: local")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args, rest = parser().parse_known_args(argv)
    try:
        args.overrides = overrides(args, rest)
        return COMMANDS[args.command](args)
    except ValueError as error:
        from bench.config import UsageError

        if isinstance(error, UsageError):
            print(f"error: {error}", file=sys.stderr)
            return 2
        raise
    except KeyboardInterrupt:
        return 3


def overrides(args: argparse.Namespace, rest: list[str]) -> list[str]:
    """The key=value words among what argparse did not know. Raises UsageError for the others."""
    from bench.config import UsageError

    for word in rest:
        if not OVERRIDE.match(word):
            import difflib

            options = [o for o in parser_options(args.command) if o.startswith("--")]
            near = difflib.get_close_matches(word, options, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; settings are given as key=value"
            raise UsageError(f"unknown argument {word!r}{hint}")
    if rest and args.command != "run":
        raise UsageError(f"{args.command} takes no settings, found {rest[0]!r}")
    return rest


def parser_options(command: str) -> list[str]:
    subparsers = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [option for action in subparsers.choices[command]._actions for option in action.option_strings]


# -- commands ----------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    from bench.config import UsageError, to_plain
    from bench.engines import ENGINES, engine
    from bench.grid import plan
    from bench.rundir import Experiment, cell_dir
    from bench.worker import limit_threads, locked

    limit_threads(1)
    if args.engine not in ENGINES:
        raise UsageError(f"unknown engine {args.engine!r}; known are {', '.join(ENGINES)}")
    jobs = args.jobs if args.jobs is not None else len(os.sched_getaffinity(0))
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: it takes a number from 1")
    cells, default = user_error(plan, args.preset, args.algos, args.envs, args.seeds, args.overrides)
    experiment = Experiment(args.root, check_name(args.name or default))
    entries = [
        {
            "env": cell.config.env["id"], "label": cell.config.label, "seed": cell.config.seed,
            "dir": cell_dir(cell.config.env["id"], cell.config.label, cell.config.seed),
            "config": to_plain(cell.config), "command": cell.command,
        }
        for cell in cells
    ]  # fmt: skip
    for entry, cell in zip(entries, cells, strict=True):
        experiment.run_dir(entry).prepare(cell.config)  # refuses before anything starts
    with locked(experiment.path / "lock", str(experiment.path)):
        indices = experiment.write(args.preset, ["python", "-m", "bench", *sys.argv[1:]], entries)
        todo = unfinished(experiment, indices, args.retry_failed)
        print(f"{experiment.path}: {len(indices)} runs, {len(indices) - len(todo)} already ended, {jobs} at a time", flush=True)
        outcome = carry(engine(args.engine), experiment, todo, jobs)
        code = summary(experiment, indices, outcome)
    if not args.no_report and any(experiment.run_dir(c).config_path.exists() for c in experiment.cells()):
        import reports

        path = reports.write([experiment.path], experiment.path / "report", allow_partial=True)
        print(f"report: {path}")
    return code


def user_error(function, *arguments):
    """Call it; a ValueError of the packages below (an unknown environment, a bad plug-in) is the user's to mend."""
    from bench.config import UsageError

    try:
        return function(*arguments)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_name(name: str) -> str:
    from bench.config import UsageError

    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise UsageError(f"--name {name!r} is no directory name: letters, digits and _ . + - only")
    return name


def unfinished(experiment, indices: list[int], retry_failed: bool) -> list[int]:
    """Cells that are not done for the steps asked for; failed ones only if they are to be tried again."""
    from bench.config import from_plain

    todo, cells = [], experiment.cells()
    for index in indices:
        directory = experiment.run_dir(cells[index])
        state = directory.state()
        raised = state == "done" and directory.stored()[0].steps < from_plain(cells[index]["config"]).steps
        if raised or state in ("missing", "stopped", "running") or (state == "failed" and retry_failed):
            todo.append(index)
    return todo


def carry(engine, experiment, todo: list[int], jobs: int) -> dict[int, str]:
    from bench.display import Watcher

    if not todo:
        return {}
    with Watcher(experiment, todo) as watch:
        return engine.submit(experiment, todo, engine.Options(jobs=jobs), watch)


def summary(experiment, indices: list[int], outcome: dict[int, str]) -> int:
    """Print what did not end well; 0 if every cell is done, 1 if one failed, 3 if some were stopped."""
    cells, code = experiment.cells(), 0
    for index in indices:
        directory = experiment.run_dir(cells[index])
        state = directory.state()
        if state == "done":
            continue
        failure = directory.failure() or {}
        why = failure.get("error") or outcome.get(index, state)
        print(f"  {cells[index]['dir']}: {state}: {why}")
        if failure.get("checkpoint"):
            print(f"    last good checkpoint: {failure['checkpoint']}; traceback in {directory.path / 'FAILED.json'}")
        bad = state == "failed" or outcome.get(index, "stopped") != "stopped"
        code = 1 if bad or code == 1 else 3
    if code:
        hint = " (--retry-failed runs failed cells again)" if code == 1 else ""
        print(f"repeat the command to finish what is missing{hint}")
    return code


def worker(args: argparse.Namespace) -> int:
    from bench.config import UsageError
    from bench.worker import EXIT, die_with_parent, work

    if args.with_parent:
        die_with_parent()
    if not args.name:
        raise UsageError("worker needs --name")
    return EXIT[work(args.root, args.name, args.index, args.jobs)]


def listing(args: argparse.Namespace) -> int:
    from bench.config import available

    if args.group == "envs":
        import envs

        names = envs.names()
    else:
        names = available({"algos": "algo", "presets": "preset"}[args.group])
    print("\n".join(names))
    return 0


def report(args: argparse.Namespace) -> int:
    import reports

    out = args.out or args.runs[0] / "report"
    path = user_error(lambda: reports.write(args.runs, out, allow_mixed=args.allow_mixed, allow_partial=args.allow_partial))
    print(f"report: {path}")
    return 0


def existing(args: argparse.Namespace):
    """The experiment that --root and --name say; UsageError if there is none."""
    from bench.config import UsageError
    from bench.rundir import Experiment

    if not args.name:
        raise UsageError(f"{args.command} needs --name")
    experiment = Experiment(args.root, args.name)
    if experiment.read() is None:
        raise UsageError(f"there is no experiment in {experiment.path}")
    return experiment


def watch(args: argparse.Namespace) -> int:
    import time

    from bench.display import Watcher, rows

    experiment = existing(args)
    with Watcher(experiment) as show:
        while any(r["state"] == "running" for r in rows(experiment)):
            show()
            time.sleep(0.5)
    return 0


def status(args: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.display import rows, table

    experiment = existing(args)

    data = rows(experiment)
    Console().print(table(data, str(experiment.path)))
    return 0 if all(r["state"] == "done" for r in data) else 1


def reproduce(args: argparse.Namespace) -> int:
    from bench.reproduce import command

    return command(args)


COMMANDS = {
    "run": run, "list": listing, "worker": worker, "report": report, "reproduce": reproduce, "status": status, "watch": watch,
}  # fmt: skip
