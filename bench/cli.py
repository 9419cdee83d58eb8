"""The command line. Subcommands import what they need when they run; `--help` imports nothing heavy.

Exit codes: 0 all well; 1 a run failed or is missing; 2 bad input; 3 stopped before the end.
"""

from __future__ import annotations

import argparse
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
    sweep_options(add("sweep", "tune algorithms with equal budgets, confirm on fresh seeds, report", where, what, how))
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
    again = add("reproduce", "make an experiment of a paper again: its figures, numbers and a verdict on its claim")
    again.add_argument("name", nargs="?", help="which one (--list)")
    again.add_argument("--list", action="store_true", help="list the experiments and what they claim")
    again.add_argument("--preset", default="quick", help="quick: minutes on two cores | long: hours | full: the paper's scale")
    again.add_argument("--root", type=Path, default=Path("runs"), help="directory of the runs it makes (default: runs)")
    again.add_argument("--out", type=Path, help="directory of the pages (default: reproduction/ in --root)")
    again.add_argument("--jobs", type=int, help="runs at a time (default: the number of cores)")
    timing = add("timing", "time updates, phases, acting and sampling on one core; writes timing.json", timed)
    timing.add_argument("--algos", help="as in run (default: every algorithm of the registry)")
    for name, text in (("--T", "denoising steps"), ("--batch", "batch sizes"), ("--width", "widths of the hidden layers")):
        timing.add_argument(name, type=integers, metavar="N,N", help=f"{text} to go through (default: the algorithm's own)")
    timing.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    timing.add_argument("--mode", default="eager", help="how the phases are run: eager")
    timing.add_argument("--peers", action="store_true", help="in the same rounds: Stable-Baselines3, SBX and a JAX QSM")
    timing.add_argument("--out", type=Path, default=Path("timing.json"), help="file for the results (default: timing.json)")
    timing.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    timing.add_argument("--baseline", type=Path, metavar="FILE", help="stored timings to compare with")
    timing.add_argument("--save-baseline", type=Path, metavar="FILE", help="store these timings there, by hardware")
    compare = add("compare", "time two revisions against each other on one core; 1 if HEAD is slower, for CI", timed)
    compare.epilog = "exit codes: 0 no slower; 1 slower, or a benchmark gone; 2 bad input; 3 definitions changed"
    compare.add_argument("base", metavar="BASE", help="revision to compare with; its benchmark definitions are used")
    compare.add_argument("head", metavar="HEAD", nargs="?", default="HEAD", help="revision in question (default: HEAD)")
    compare.add_argument("--algos", help="as in run (default: every algorithm of the registry)")
    accept = "benchmarks may be gone, or be defined by HEAD where BASE's do not run on it; the output says so"
    compare.add_argument("--accept-changed-definitions", action="store_true", help=accept)
    compare.add_argument("--out", type=Path, help="file for the results, as JSON")
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
    sub.add_argument("--jobs", type=int, help="runs at a time (default: cores, device slots, or what the cluster takes)")
    sub.add_argument("--engine", default="local", help="what carries the runs: local, ray or slurm")
    sub.add_argument("--address", help="of a Ray cluster (default: RAY_ADDRESS, else one on this machine)")
    slurm = "a parameter of the job array: partition=gpu, timeout_min=240, mem_gb=8 (repeat for more)"
    sub.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE", help=slurm)
    sub.add_argument("--device", choices=["cpu", "cuda"], help="the same as device=...; cuda shares this machine's devices")
    sub.add_argument("--per-device", type=int, default=1, help="runs that share one device (default: 1)")


def sweep_options(sub: argparse.ArgumentParser) -> None:
    sub.set_defaults(seeds="3", jobs=None)
    sub.add_argument("--trials", type=int, help="trials per algorithm (default: 50; the whole grid with --sampler grid)")
    sub.add_argument("--sweep", help="search space, for one algorithm (default: conf/sweep/<algorithm>.yaml)")
    sub.add_argument("--sampler", default="tpe", help="tpe (default) | random | cmaes | grid")
    sub.add_argument("--pruner", help="median | hyperband | none (default: what the search space says)")
    sub.add_argument("--confirm", type=int, default=5, help="fresh seeds for the winner and the defaults (default: 5)")
    sub.add_argument("--storage", help="postgresql://user@host/db, or any address of Optuna (default: a file in the sweep)")
    sub.add_argument("--as-worker", action="store_true", help=argparse.SUPPRESS)
    sub.epilog = (
        "Here --seeds is the number of tuning seeds, and --jobs counts trials, whose runs go side by side. "
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
    if rest and args.command not in ("run", "sweep"):
        raise UsageError(f"{args.command} takes no settings, found {rest[0]!r}")
    return rest


def parser_options(command: str) -> list[str]:
    subparsers = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [option for action in subparsers.choices[command]._actions for option in action.option_strings]


# -- commands ----------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    from bench.engines import engine
    from bench.grid import plan
    from bench.rundir import Experiment
    from bench.worker import limit_threads, locked

    limit_threads(1)
    extra = [f"device={args.device}"] if args.device else []
    cells, default = user_error(plan, args.preset, args.algos, args.envs, args.seeds, [*args.overrides, *extra])
    options = engine_options(args, cells)
    experiment = Experiment(args.root, check_name(args.name or default))
    entries = [cell.entry() for cell in cells]
    for entry, cell in zip(entries, cells, strict=True):
        experiment.run_dir(entry).prepare(cell.config)  # refuses before anything starts
    with locked(experiment.path / "lock", str(experiment.path)):
        indices = experiment.write(args.preset, ["python", "-m", "bench", *sys.argv[1:]], entries)
        todo = unfinished(experiment, indices, args.retry_failed)
        ended, where = len(indices) - len(todo), at_a_time(args, options)
        print(f"{experiment.path}: {len(indices)} runs, {ended} already ended, {where}", flush=True)
        outcome = carry(engine(args.engine), experiment, todo, options)
        code = summary(experiment, indices, outcome)
    if not args.no_report and any(experiment.run_dir(c).config_path.exists() for c in experiment.cells()):
        import reports

        path = reports.write([experiment.path], experiment.path / "report", allow_partial=True)
        print(f"report: {path}")
    return code


def engine_options(args: argparse.Namespace, cells: list):
    """What the command line says about the engine; UsageError for what it cannot do, before anything is written."""
    import dataclasses

    from bench import mirror
    from bench.config import UsageError, parse_override
    from bench.devices import here
    from bench.engines import ENGINES, engine

    if args.engine not in ENGINES:
        raise UsageError(f"unknown engine {args.engine!r}; known are {', '.join(ENGINES)}")
    for name in ("jobs", "per_device"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)}: it takes a number from 1")
    if args.slurm and args.engine != "slurm":
        raise UsageError(f"--slurm {args.slurm[0]} is for --engine slurm")
    if args.address and args.engine != "ray":
        raise UsageError(f"--address {args.address} is for --engine ray")
    chosen, slurm = engine(args.engine), {s.key: s.value for s in map(parse_override, args.slurm)}
    options = chosen.Options(jobs=args.jobs, per_device=args.per_device, address=args.address, slurm=slurm)
    one_machine = args.engine == "local" or (args.engine == "ray" and not chosen.cluster_address(options))
    if one_machine and any(cell.config.device == "cuda" for cell in cells):
        options = dataclasses.replace(options, devices=here())
    chosen.check(options)
    for logger in {cell.config.logger for cell in cells}:
        mirror.check(logger)
    return options


def at_a_time(args: argparse.Namespace, options) -> str:
    return f"{options.here()} at a time" if args.engine == "local" else f"on {args.engine}"


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


def carry(engine, experiment, todo: list[int], options) -> dict[int, str]:
    from bench.display import Watcher

    if not todo:
        return {}
    with Watcher(experiment, todo) as watch:
        return engine.submit(experiment, todo, options, watch)


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


def sweep(args: argparse.Namespace) -> int:
    from bench.sweep.command import sweep

    return sweep(args)


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
    from reports.sweep import write as sweep_report

    if len(args.runs) == 1 and (args.runs[0] / "sweep.json").exists():
        print(f"report: {user_error(sweep_report, args.runs[0], args.out)}")
        return 0
    first = args.runs[0] / "confirm" if (args.runs[0] / "sweep.json").exists() else args.runs[0]
    out = args.out or first / "report"
    path = user_error(lambda: reports.write(args.runs, out, allow_mixed=args.allow_mixed, allow_partial=args.allow_partial))
    print(f"report: {path}")
    return 0


def existing(args: argparse.Namespace):
    """The experiment that --root and --name say; UsageError if there is none."""
    from bench.config import UsageError
    from bench.rundir import Experiment

    name = args.experiment or args.name
    if not name:
        raise UsageError(f"{args.command} needs a name: python -m bench {args.command} NAME")
    experiment = Experiment(args.root, name)
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


def play(args: argparse.Namespace) -> int:
    from bench.play import play

    out, returns = user_error(play, args.run, args.out, args.episodes, args.seed)
    print(f"{out}: " + ", ".join(f"return {value:.1f}" for value in returns))
    return 0


def status(args: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.display import remarks, rows, table

    experiment = existing(args)
    data = rows(experiment)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(data, str(experiment.path)))
    for line in remarks(experiment):
        print(line)
    return 0 if all(r["state"] == "done" for r in data) else 1


def reproduce(args: argparse.Namespace) -> int:
    from bench.reproduce import command

    return command(args)


def timing(args: argparse.Namespace) -> int:
    from bench import baselines
    from bench.rundir import dump_json, replace_file
    from bench.timing import Options, measure, rounds_shown
    from bench.timing_tables import show, timing_tables

    asked = {name: getattr(args, name) for name in ("algos", "T", "batch", "width", "device", "mode")}
    settings = {name: value for name, value in asked.items() if value is not None}
    for path in filter(None, (args.out, args.baseline, args.save_baseline)):
        check_file(path)
    if args.baseline:
        baselines.existing(args.baseline)  # a bad file is refused before anything is measured
    options = Options(settings, args.rounds, args.seconds, args.core, args.peers)
    content = measure(options, say=lambda text: print(text, file=sys.stderr), progress=rounds_shown)
    replace_file(args.out, dump_json(content))
    tables, slow, alike = timing_tables(content), [], False
    if args.baseline:
        table, slow, alike = baselines.against(args.baseline, content)
        tables.append(table)
    if args.save_baseline:
        baselines.store(args.save_baseline, content)
    show(tables, args.markdown)
    for text in slow:
        print(f"{'slower' if alike else 'advice'}: {text}")
    print(f"timings: {args.out}", file=sys.stderr)
    return 1 if slow and alike else 0


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, before the time for its content is spent."""
    from bench.config import UsageError

    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: {'it is' if path.is_dir() else f'{path.parent} is not'} a directory")


def compare(args: argparse.Namespace) -> int:
    from bench.compare import Comparison, run

    return run(
        Comparison(args.base, args.head, args.algos, args.rounds, args.seconds, args.core, args.accept_changed_definitions),
        args.out,
    )


COMMANDS = {
    "run": run, "sweep": sweep, "list": listing, "worker": worker, "report": report, "reproduce": reproduce, "status": status,
    "watch": watch, "play": play, "timing": timing, "compare": compare,
}  # fmt: skip
