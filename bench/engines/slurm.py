"""A Slurm job array through submitit: one task for each cell, put back into the queue when it is preempted or timed out.

A task starts the worker in a process of its own. Slurm's warning stops it at its next decision, with a checkpoint, and
the task that takes its place goes on from there, so that a time limit is no limit to a run. SIGTERM comes before that
warning where the task is preempted, and before SIGKILL where it is cancelled: the worker is told, and the task waits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

from bench.engines.common import POLL, Options, command, describe, environment, first_line, log_path, required, stop_requests
from bench.rundir import Experiment
from bench.typed import UsageError
from bench.worker import EXIT

DEFAULTS = {"timeout_min": 240, "signal_delay_s": 90}  # minutes until a task is requeued; seconds of warning before it
REQUEUES = 1000  # times that one task may reach its time limit


def package() -> Any:
    """submitit, told to leave the logging of this process as it is: it would close every other handler, and its stream."""
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    return required("submitit", "slurm")


def check(options: Options) -> None:
    submitit = package()
    if options.address:
        raise UsageError("--address is for --engine ray; Slurm is reached through sbatch on this machine")
    if options.per_device > 1:
        raise UsageError("--per-device is for --engine local and ray: a Slurm task has its device to itself")
    known = {"timeout_min", "mem_gb", *submitit.SlurmExecutor._valid_parameters()}
    for key in options.slurm:
        if key not in known:
            raise UsageError(f"--slurm {key}: unknown; submitit takes {', '.join(sorted(known))}")
    if which("sbatch") is None:
        raise UsageError("--engine slurm needs sbatch, which is not on the path of this machine; start it on a login node")
    with tempfile.TemporaryDirectory() as folder:
        executor(Path(folder), "check", [{"threads": 1, "device": "cpu"}], options)


def submit(
    experiment: Experiment, indices: list[int], options: Options, watch: Callable[[], bool | None] = lambda: None
) -> dict[int, str]:
    """As bench.engines.local.submit, in a job array; `options.jobs` limits how many of its tasks run at a time."""
    cells = experiment.cells()
    folder = experiment.path.absolute() / "slurm"
    submitted = executor(folder, experiment.path.name, [cells[index]["config"] for index in indices], options)
    words = [command(experiment, index, 1, options) for index in indices]
    extra = [environment(cells[index]["config"]["threads"]) for index in indices]
    logs = [str(log_path(experiment, cells[index])) for index in indices]
    try:
        tasks = submitted.map_array(Task(), words, extra, logs)
    except RuntimeError as error:  # submitit's FailedJobError: sbatch has said why
        raise UsageError(f"Slurm does not take the job array: {' '.join(str(error).split())}") from error
    running = dict(zip(indices, tasks, strict=True))
    outcome: dict[int, str] = {}
    with stop_requests() as stopping:
        told = 0
        try:
            while running:
                for index, job in list(running.items()):
                    directory = experiment.run_dir(cells[index])
                    if told and directory.state() != "running":
                        outcome[index] = "stopped"  # a cancelled task leaves no result, and sacct is asked only now and then
                    elif job.done():
                        outcome[index] = result(job, directory, bool(stopping))
                running = {index: job for index, job in running.items() if index not in outcome}
                for job in running.values() if len(stopping) > told else ():
                    job.cancel(check=False)
                told = len(stopping)
                if watch():
                    stopping.append(signal.SIGTERM)
                time.sleep(POLL)
        finally:
            for job in running.values():  # the watch failed: nobody would wait for them
                job.cancel(check=False)
    return outcome


def executor(folder: Path, name: str, configs: list[dict[str, Any]], options: Options, cluster: str = "slurm") -> Any:
    """submitit's executor; `cluster` is another one of its plug-ins in tests. Raises UsageError for what it does not take."""
    try:
        return _executor(folder, name, configs, options, cluster)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        given = " ".join(f"{key}={value}" for key, value in options.slurm.items())
        raise UsageError(f"--engine slurm{given and f' with --slurm {given}'}: submitit refuses it ({said})") from error


def _executor(folder: Path, name: str, configs: list[dict[str, Any]], options: Options, cluster: str) -> Any:
    requeues = {f"{cluster}_max_num_timeout": REQUEUES}
    made = package().AutoExecutor(folder, cluster=cluster, **requeues)
    own = {"timeout_min", "mem_gb"}  # the others are Slurm's alone
    values = {key if key in own else f"slurm_{key}": value for key, value in options.slurm.items()}
    made.update_parameters(
        name=name, cpus_per_task=max(c["threads"] for c in configs),
        gpus_per_node=int(any(c["device"] == "cuda" for c in configs)), stderr_to_stdout=True,
        timeout_min=values.pop("timeout_min", DEFAULTS["timeout_min"]), slurm_signal_delay_s=DEFAULTS["signal_delay_s"],
    )  # fmt: skip
    if options.jobs:
        made.update_parameters(slurm_array_parallelism=options.jobs)
    made.update_parameters(**values)
    return made


@dataclass
class Task:
    """What a task of the array runs. Its result is the worker's exit code."""

    process: subprocess.Popen | None = field(default=None, repr=False)
    told: bool = False  # the worker was told to stop: once only, since a second signal may cost it its checkpoint

    def __call__(self, argv: list[str], extra: dict[str, str], log: str) -> int:
        with open(log, "ab") as file:
            env = os.environ | extra
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env,
                                            start_new_session=True)  # fmt: skip
        signal.signal(signal.SIGTERM, self.tell)  # submitit lets it pass
        try:
            while self.process.poll() is None or self.interrupted():
                time.sleep(POLL)
        finally:
            self.stop()
        return self.process.returncode

    def interrupted(self) -> bool:
        """Whether the worker ended because it was told to: a result would count as the end of the cell."""
        return self.told and self.process.returncode in (EXIT["stopped"], -signal.SIGTERM)

    def tell(self, *_: Any) -> None:
        if self.process is not None and not self.told:
            self.told = True
            self.process.terminate()

    def stop(self) -> None:
        """Ask the worker for its checkpoint, and wait for it."""
        self.tell()
        if self.process is not None:
            self.process.wait()

    def checkpoint(self, *arguments: Any) -> Any:
        """Called by submitit at Slurm's warning: what to put back into the queue."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(Task(), *arguments)


def result(job: Any, directory: Any, stopping: bool) -> str:
    import submitit

    try:
        return describe(job.result(), directory)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.UncompletedJobError) as error:
        return "stopped" if stopping else f"died ({first_line(error)}; {job.paths.stdout})"
