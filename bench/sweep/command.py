"""`python -m bench sweep`: trials until the budget is spent, then the confirmation on fresh seeds, then the report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from optuna.storages import BaseStorage

from bench.carry import say_report
from bench.engines import Carrier
from bench.engines.common import Options, stop_requests
from bench.provenance import usable_cores
from bench.rundir import read_sweep
from bench.sweep.claim import Claim, claim, running_here
from bench.sweep.finish import confirm, snapshot
from bench.sweep.plan import Plan, plan
from bench.sweep.storage import FINISHED, Opened, open_storage, open_study, outages, public, study_name
from bench.sweep.trial import run_trial
from bench.typed import UsageError, user_error
from bench.worker import EXIT, STOP_SIGNALS, die_with_parent, limit_threads, thread_limits

REFUSED = 2  # exit code of a command, and so of a worker, that could not go on and has said why
IDLE = 1.0  # seconds between two looks for trials that were lost


def sweep(args: Any) -> int:
    """Exit code: 0 the sweep is complete, 1 a study has no finished trial or a confirmation failed, 2 a worker could not
    go on, 3 it is not complete."""
    if args.as_worker:
        die_with_parent(args.as_worker)
    limit_threads(1)
    asked = user_error(plan, args)
    check_directory(asked)
    with outages(asked):
        return carry_out(asked, args)


def carry_out(asked: Plan, args: Any) -> int:
    """The sweep, or a worker's part of it; exit codes as of `sweep`."""
    storage = open_storage(asked)
    refuse_lost_trials(asked, storage)
    studies = [open_study(asked, study, storage) for study in asked.studies]
    if args.as_worker:
        return EXIT[work(studies, asked.engine)]
    snapshot(asked, studies)
    options = asked.engine.options
    room = len(options.slots()) or usable_cores()
    jobs = args.jobs or max(1, room // asked.cells_per_trial)
    while not args.jobs and jobs > 1 and options.least_share(jobs) < asked.cells_per_trial:
        jobs -= 1  # the runs of a trial go side by side
    count = asked.studies[0].trials
    left = sum(len(opened.unfinished()) for opened in studies)
    print(
        f"{asked.path}: {', '.join(s.label for s in asked.studies)}: {count} trials each of {asked.cells_per_trial} runs, "
        f"{left} trials to go, {jobs} at a time",
        flush=True,
    )
    state = work(studies, asked.engine) if jobs == 1 or not left else carry(min(jobs, left), options)
    snapshot(asked, studies)
    if open_trials := [f"{o.asked.label} {t.number}" for o in studies for t in o.unfinished()]:
        if state == "refused":
            print(f"unfinished (a worker could not go on, see its error above): trials {', '.join(open_trials)}")
            return REFUSED
        where = "stopped" if state == "stopped" else "lost, or run by another machine whose files cannot be seen here"
        print(f"unfinished ({where}): trials {', '.join(open_trials)}; repeat the command to finish what is missing")
        return 3
    if state == "stopped":  # at the end of the last trial
        print("stopped before the confirmation; repeat the command to go on with it")
        return 3
    code = confirm(asked, studies, args.retry_failed)
    if code == 3:
        return code
    snapshot(asked, studies)
    from reports import sweep as report

    say_report(lambda: report.write(asked.path))
    return code


def check_directory(asked: Plan) -> None:
    """Refuse a directory that is something else, or whose trials lie in another storage."""
    if (asked.path / "experiment.json").exists():
        raise UsageError(f"{asked.path} holds an experiment of `run`; choose another --name")
    known = read_sweep(asked.path)
    if known is not None and known["name"] != asked.path.name:
        raise UsageError(
            f"{asked.path} is the sweep {known['name']}, after which its studies are called; "
            "give the directory that name again, or choose another --name"
        )
    for study in asked.studies if known is not None else ():
        trials = known["studies"].get(study.label, {}).get("asked", 0)
        if study.trials < trials:
            raise UsageError(f"the sweep {asked.path} has {trials} trials of {study.label}; --trials can only be raised")
    if known is not None and known["storage"] != public(asked.storage):
        raise UsageError(
            f"the trials of {asked.path} lie in the storage {known['storage']}, not in {public(asked.storage)}; "
            "give the same --storage, or choose another --name"
        )


def refuse_lost_trials(asked: Plan, storage: BaseStorage) -> None:
    """Refuse a storage without any of the trials that sweep.json knows of: another one, or one that was emptied. They would all
    be run again, and what is known of the search be overwritten. Of a torn journal the last may be gone, and is made again."""
    for label, record in (read_sweep(asked.path) or {"studies": {}})["studies"].items():
        try:
            study = storage.get_study_id_from_name(study_name(asked, label))
            ended = storage.get_all_trials(study, deepcopy=False, states=FINISHED)
        except KeyError:
            ended = []
        if not ended and (known := record["budget"]["trials"]):
            raise UsageError(
                f"the storage {public(asked.storage)} of {asked.path} has no finished trial of {label}, where sweep.json knows "
                f"of {known}: it is another one, or was emptied; restore it, or choose another --name"
            )


def work(studies: list[Opened], engine: Carrier) -> str:
    """Take trials until none is left (done) or a signal comes (stopped). Waits for trials of others, which may be lost."""
    with stop_requests() as stopping:
        while not stopping:
            mine = claim(studies)
            if mine is None:
                if not running_here(studies):
                    break
                time.sleep(IDLE)
                continue
            try:
                state = run_trial(mine, engine)
            finally:
                mine.release()
            if state == "stopped":
                return state
            print(line(mine, state), flush=True)
    return "stopped" if stopping else "done"


def line(mine: Claim, state: str) -> str:
    trials = mine.opened.trials()
    trial = trials[mine.number]
    params = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
    what = trial.user_attrs["error"] if state == "failed" else f"{state} {trial.value:.4f}"
    done = sum(t.state in FINISHED for t in trials)
    best = max((t.value for t in trials if t.state.name == "COMPLETE"), default=None)
    top = "" if best is None else f"; best {best:.4f}"
    return f"{mine.opened.asked.label} trial {mine.number} ({params}): {what}{top}; {done} of {len(trials)} done"


def carry(jobs: int, options: Options) -> str:
    """Processes that take trials, `jobs` of them: done, stopped, or refused where one could not go on. One that dies leaves
    its trial to the others. Each has its own share of this machine's devices."""
    command = [sys.executable, "-m", "bench", *sys.argv[1:], "--as-worker", str(os.getpid())]
    workers = []
    for k in range(jobs):
        words, env = command, os.environ | thread_limits(1)
        if options.devices:
            own = options.share(k, jobs)
            words, env = [*command, "--per-device", str(own.per_device)], env | {"CUDA_VISIBLE_DEVICES": ",".join(own.devices)}
        workers.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, env=env, start_new_session=True))
    stopping: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        stopping.append(number)
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for code in codes:
        if code not in (EXIT["done"], EXIT["stopped"], REFUSED) and not (stopping and -code in STOP_SIGNALS):
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            print(f"a worker died ({why}); the others took up its trial, if any was left", flush=True)
    if stopping or EXIT["stopped"] in codes:
        return "stopped"
    return "refused" if REFUSED in codes else "done"
