"""The command line. Subcommands import what they need when they run; `--help` imports nothing heavy.

Exit codes: 0 all well; 1 a run failed or is missing; 2 bad input; 3 stopped before the end.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import sys
from pathlib import Path

from bench.options import parser
from bench.output import drop, lasting_output

OVERRIDE = re.compile(r"[+~]{0,2}[\w@/.]+=")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends no command
    args, rest = parser().parse_known_args(argv)
    with contextlib.nullcontext() if args.command == "watch" else lasting_output():
        return call(args, rest)


def call(args: argparse.Namespace, rest: list[str]) -> int:
    try:
        args.overrides = overrides(args, rest)
        code = COMMANDS[args.command](args)
        sys.stdout.flush()
        return code
    except ValueError as error:
        from bench.typed import UsageError

        if isinstance(error, UsageError):
            print(f"error: {error}", file=sys.stderr)
            return 2
        raise
    except OSError as error:  # a full disk, a directory that may not be written to: the system says it in one line
        if isinstance(error, BrokenPipeError) and args.command == "watch":  # who watched has had enough
            drop(sys.stdout)
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 3


def overrides(args: argparse.Namespace, rest: list[str]) -> list[str]:
    """The key=value words among what argparse did not know, and --device as one. Raises UsageError for the others, and
    for an empty option."""
    from bench.config import RunConfig
    from bench.typed import UsageError

    for word in rest:
        if not OVERRIDE.match(word):
            import difflib

            options = [o for o in parser_options(args.command) if o.startswith("--")]
            near = difflib.get_close_matches(word, options, n=1)
            setting = word.lstrip("-").partition("=")[0]
            hint = f"; did you mean {near[0]}?" if near else "; settings are given as key=value"
            known = {field.name for field in dataclasses.fields(RunConfig)}
            if setting in known and not any(option.startswith(word) for option in options):
                hint = f"; settings are given as key=value: {setting}=…"
            raise UsageError(f"unknown argument {word!r}{hint}")
    if rest and args.command not in ("run", "sweep"):
        raise UsageError(f"{args.command} takes no settings, found {rest[0]!r}")
    device = args.device if args.command in ("run", "sweep") else None
    if empty := next((name for name in ("name", "algos") if getattr(args, name, None) == ""), None):
        raise UsageError(f"--{empty} is empty; leave it out, or give it a value")
    return [*rest, f"device={device}"] if device else rest


def parser_options(command: str) -> list[str]:
    subparsers = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [option for action in subparsers.choices[command]._actions for option in action.option_strings]


# -- commands ----------------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    from bench.carry import run_grid

    asked = (args.preset, args.algos, args.envs, args.seeds, args.overrides)
    return run_grid(*asked, root=args.root, name=args.name, how=args, report=not args.no_report, plan_only=args.plan_only)


def worker(args: argparse.Namespace) -> int:
    from bench.typed import UsageError
    from bench.worker import EXIT, die_with_parent, work

    if args.with_parent is not None:
        die_with_parent(args.with_parent)
    if not args.name:
        raise UsageError("worker needs --name")
    return EXIT[work(args.root, args.name, args.index, args.jobs, args.retry_failed)]


def sweep(args: argparse.Namespace) -> int:
    from bench.sweep.command import sweep

    return sweep(args)


def listing(args: argparse.Namespace) -> int:
    from bench.compose import available

    if args.group == "envs":
        import envs

        names = envs.names()
    else:
        names = available({"algos": "algo", "presets": "preset"}[args.group])
    print("\n".join(names))
    return 0


def report(args: argparse.Namespace) -> int:
    import reports
    from bench.typed import user_error
    from reports.sweep import write as sweep_report

    if len(args.runs) == 1 and (args.runs[0] / "sweep.json").exists():
        path = user_error(lambda: sweep_report(args.runs[0], args.out, allow_mixed=args.allow_mixed))
        print(f"report: {path}")
        return 0
    first = args.runs[0] / "confirm" if (args.runs[0] / "sweep.json").exists() else args.runs[0]
    out = args.out or (first.with_name(f"{first.stem}-report") if first.is_file() else first / "report")
    path = user_error(lambda: reports.write(args.runs, out, allow_mixed=args.allow_mixed, allow_partial=args.allow_partial))
    print(f"report: {path}")
    return 0


def archive(args: argparse.Namespace) -> int:
    from bench.typed import user_error
    from reports import archive, load

    runs, size = user_error(lambda: archive.write(load.find(args.runs), args.out))
    print(f"{args.out}: {runs} runs, {size / 1e6:.2f} MB; python -m bench report {args.out} makes their report")
    if any((path / "sweep.json").exists() for path in args.runs):
        print("of a sweep only its confirmation: trials were chosen by their own score and enter no comparison")
    return 0


def existing(args: argparse.Namespace):
    """A view of the grid or the sweep that --root and --name say; UsageError if there is none."""
    from bench.display import GridView
    from bench.rundir import Experiment
    from bench.typed import UsageError

    name = args.experiment or args.name
    if args.experiment and args.name not in (None, args.experiment):
        raise UsageError(f"{args.command} takes one name, found {args.experiment} and --name {args.name}")
    if not name:
        raise UsageError(f"{args.command} needs a name: python -m bench {args.command} NAME")
    experiment = Experiment(args.root, name)
    if (experiment.path / "sweep.json").exists():
        from bench.sweep.status import SweepView

        return SweepView(experiment.path)
    if experiment.read() is None:
        raise UsageError(f"there is no experiment and no sweep in {experiment.path}")
    return GridView(experiment)


def watch(args: argparse.Namespace) -> int:
    import time

    from bench.display import Watcher

    view = existing(args)
    with Watcher(view) as show:
        while view.going():
            show()
            time.sleep(0.5)
    return 0


def play(args: argparse.Namespace) -> int:
    from bench.play import play
    from bench.typed import user_error

    if args.out is not None:
        check_file(args.out)
    out, returns = user_error(play, args.run, args.out, args.episodes, args.seed)
    print(f"{out}: " + ", ".join(f"return {value:.1f}" for value in returns))
    return 0


def status(args: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.display import table

    view = existing(args)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(view))
    for line in view.remarks():
        print(line)
    return 0 if view.complete() else 1


def reproduce(args: argparse.Namespace) -> int:
    from bench.reproduce import command

    return command(args)


def timing(args: argparse.Namespace) -> int:
    from bench import baselines
    from bench.rundir import dump_json, replace_file
    from bench.timing import Options, measure, rounds_shown
    from bench.timing_tables import show, timing_tables, write_figures
    from bench.typed import UsageError

    asked = {name: getattr(args, name) for name in ("algos", "T", "batch", "width", "device", "mode")}
    settings = {name: value for name, value in asked.items() if value is not None}
    check_file(args.out, "machine", "results")
    if args.save_baseline:
        check_file(args.save_baseline)
    if args.baseline or args.save_baseline:
        baselines.refuse_unnamed(args.algos)
    if args.out.resolve() in [path.resolve() for path in (args.baseline, args.save_baseline) if path]:
        raise UsageError(f"--out {args.out} is the baseline file too; give another")
    if args.baseline:
        baselines.existing(args.baseline)  # a bad file is refused before anything is measured
    if args.save_baseline:
        baselines.read(args.save_baseline)
    if args.figures:
        args.figures.mkdir(parents=True, exist_ok=True)
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
    if args.figures:
        write_figures(content, args.figures)
    for text in slow:
        print(f"{'slower' if alike else 'advice'}: {text}")
    print(f"timings: {args.out}", file=sys.stderr)
    return 1 if slow and alike else 0


def check_file(path: Path, *keys: str) -> None:
    """Refuse a file that could not be written, before the time for its content is spent; and one that is there and is not of
    the kind that would replace it, a JSON object with these keys."""
    import tempfile

    from bench.rundir import read_json
    from bench.typed import UsageError

    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: {'it is' if path.is_dir() else f'{path.parent} is not'} a directory")
    if path.is_symlink() or (path.exists() and not path.is_file()):  # a device would be replaced by a file
        raise UsageError(f"{path} cannot be written: it is no plain file")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
        if keys and path.exists():
            read_json(path, **dict.fromkeys(keys, object))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"{path} is there and is something else than earlier results; choose another --out") from error


def compare(args: argparse.Namespace) -> int:
    from bench.compare import Comparison, run

    if args.out is not None:
        check_file(args.out, "base", "head", "results")

    return run(
        Comparison(args.base, args.head, args.algos, args.rounds, args.seconds, args.core, args.accept_changed_definitions),
        args.out,
    )


COMMANDS = {
    "run": run, "sweep": sweep, "list": listing, "worker": worker, "report": report, "archive": archive,
    "reproduce": reproduce, "status": status, "watch": watch, "play": play, "timing": timing, "compare": compare,
}  # fmt: skip
