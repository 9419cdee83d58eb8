"""A grid carried out: from what was asked for to finished runs, for the command line, a study and a sweep's confirmation."""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.display import GridView, Watcher
from bench.engines import Carrier, carrier
from bench.grid import plan, refuse_incomparable
from bench.provenance import source_hash
from bench.rundir import Experiment
from bench.typed import UsageError, user_error
from bench.worker import LOOK, limit_threads, locked
from reports.words import plural


def run_grid(
    preset: str, algos: str | None, env_ids: str | None, seeds: str | None, overrides: list[str], *, root: Path,
    name: str | None, how: Any, report: bool = True, plan_only: bool = False,
) -> int:  # fmt: skip
    """What `python -m bench run` does with these words; returns its exit code. how: options of engines, as `carrier` takes
    them, and `jobs`; plan_only: start nothing. Raises UsageError for bad input, before anything is written."""
    limit_threads(1)
    cells, default = user_error(plan, preset, algos, env_ids, seeds, overrides)
    engine = None if plan_only else carrier(how, [cell.config for cell in cells], how.jobs)
    experiment = Experiment(root, check_name(name or default))
    if any((experiment.path / file).exists() for file in ("sweep.json", "journal.log")):
        raise UsageError(f"{experiment.path} holds a sweep; choose another --name")
    entries = [cell.entry() for cell in cells]
    for entry, cell in zip(entries, cells, strict=True):
        experiment.run_dir(entry).prepare(cell.config)  # refuses before anything starts
    refuse_incomparable([c for c in experiment.cells() if experiment.run_dir(c).config_path.exists()], entries)
    with locked(experiment.path / "lock", str(experiment.path), LOOK):
        indices = experiment.write(preset, ["python", "-m", "bench", *sys.argv[1:]], entries)
        todo = unfinished(experiment, indices, how.retry_failed)
        if engine is None:
            print(f"{experiment.path}: {len(indices)} runs, {len(indices) - len(todo)} already ended; for each of the others:")
            for index in todo:
                words = ["--root", str(root.absolute()), "--name", experiment.path.name, "--index", str(index)]
                print("python -m bench worker", shlex.join(words + ["--retry-failed"] * how.retry_failed))
            return 0
        print(f"{experiment.path}: {len(indices)} runs, {len(indices) - len(todo)} already ended, {engine}", flush=True)
        for line in changed_code(experiment, indices):
            print(line, flush=True)
        outcome = carry(engine, experiment, todo)
        code = summary(experiment, indices, outcome)
    if report and any(experiment.run_dir(c).config_path.exists() for c in experiment.cells()):
        import reports

        say_report(lambda: reports.write([experiment.path], experiment.path / "report", allow_partial=True))
    return code


def say_report(write: Callable[[], Path]) -> None:
    """Write a report and say where it is. The runs are done whether or not it can be written: their exit code stays."""
    try:
        print(f"report: {write()}")
    except (ValueError, OSError) as error:
        print(f"no report: {error}", file=sys.stderr)


def check_name(name: str) -> str:
    """`name`, if it can be an experiment's; UsageError otherwise."""
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise UsageError(f"--name {name!r} is no directory name: letters, digits and _ . + - only")
    return name


def unfinished(experiment: Experiment, indices: list[int], retry_failed: bool) -> list[int]:
    """Cells that are not done for the steps asked for; failed ones only if they are to be tried again."""
    cells = experiment.cells()
    left = ("missing", "stopped", "running", *(["failed"] if retry_failed else []))
    return [index for index in indices if experiment.state(cells[index]) in left]


def changed_code(experiment: Experiment, indices: list[int]) -> list[str]:
    """A line for each algorithm and environment from outside whose code is another one than that of runs that are there: what
    is finished stays, what is not goes on with the new code, and a mean would be over both."""
    cells, changed = experiment.cells(), Counter()
    for index in indices:
        cell = cells[index]
        for key, name in (("source", cell["config"]["algo"]["agent"]), ("env_source", cell["config"]["env"]["id"])):
            now = source_hash(name)
            if now and any(session.get(key, now) != now for session in experiment.run_dir(cell).sessions()):
                changed[name] += 1
    return [
        f"note: the code of {name} has changed since {plural(count, 'run')} of it here began; a --name of its own begins anew"
        for name, count in changed.items()
    ]


def carry(engine: Carrier, experiment: Experiment, todo: list[int]) -> dict[int, str]:
    """Run these cells, with their progress on the terminal; how each ended, by its index."""
    if not todo:
        return {}
    with Watcher(GridView(experiment, todo)) as watch:
        return engine.submit(experiment, todo, watch)


def summary(experiment: Experiment, indices: list[int], outcome: dict[int, str]) -> int:
    """Print what did not end well; 0 if every cell is done, 1 if one failed, 3 if some were stopped."""
    cells, code, failed = experiment.cells(), 0, False
    for index in indices:
        directory, state = experiment.run_dir(cells[index]), experiment.state(cells[index])
        if state == "done":
            continue
        failure = directory.failure() or {}
        why = failure.get("error") or outcome.get(index, state)
        print(f"  {cells[index]['dir']}: {state}: {why}")
        if failure.get("checkpoint"):
            last = directory.path / failure["checkpoint"]
            print(f"    last good checkpoint: {last}; traceback in {directory.path / 'FAILED.json'}")
        failed |= state == "failed"
        bad = state == "failed" or outcome.get(index, "stopped") != "stopped"
        code = 1 if bad or code == 1 else 3
    if code:
        hint = " (--retry-failed runs failed cells again)" if failed else ""
        print(f"repeat the command to finish what is missing{hint}")
    return code
