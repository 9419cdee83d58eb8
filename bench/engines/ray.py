"""Plain Ray tasks, one for each cell; a task whose node is lost is run again elsewhere, from the run's checkpoint.

A task only starts the worker and waits: the run has a process of its own, with its threads limited before torch is
imported, and needs nothing of Ray.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
from bench.engines.common import POLL, Options, command, describe, environment, first_line, log_path, required, stop_requests
from bench.rundir import Experiment
from bench.typed import UsageError

RETRIES = 20  # nodes that one cell may lose


def check(options: Options) -> None:
    required("ray", "ray")
    address = cluster_address(options)
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return  # a cluster of our own, or a word such as "auto", which Ray answers at once
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:  # Ray itself tries for minutes
        raise UsageError(f"--address {address}: no Ray cluster answers there ({first_line(error)})") from error


def cluster_address(options: Options) -> str | None:
    return options.address or os.environ.get("RAY_ADDRESS")


def submit(
    experiment: Experiment, indices: list[int], options: Options, watch: Callable[[], bool | None] = lambda: None
) -> dict[int, str]:
    """As bench.engines.local.submit, on a Ray cluster: `options.address`, else RAY_ADDRESS, else this machine alone.

    Without `options.jobs` as many runs go on as the cluster has room for.
    """
    ray, cells = required("ray", "ray"), experiment.cells()
    mine = connect(ray, options, max(cells[index]["config"]["threads"] for index in indices))
    waiting, running, outcome = list(indices), {}, {}
    jobs = min(options.jobs or int(ray.cluster_resources().get("CPU", 1)), len(indices))
    try:
        with stop_requests() as stopping:
            told = 0
            while running or (waiting and not stopping):
                while waiting and not stopping and (options.jobs is None or len(running) < options.jobs):
                    index = waiting.pop(0)
                    running[start(ray, experiment, cells[index], index, jobs, options)] = index
                for ref in ray.wait(list(running), timeout=POLL)[0]:
                    index = running.pop(ref)
                    outcome[index] = result(ray, ref, experiment.run_dir(cells[index]))
                for ref in running if len(stopping) > told else ():
                    ray.cancel(ref)  # interrupts `task`, which tells its worker
                told = len(stopping)
                if watch():
                    stopping.append(signal.SIGTERM)
    finally:
        if mine:
            ray.shutdown()
    return outcome | dict.fromkeys(waiting, "stopped")


def connect(ray: Any, options: Options, threads: int) -> bool:
    """Join a cluster or start one; False if this process was in one already. UsageError where none answers."""
    if ray.is_initialized():
        return False
    address = cluster_address(options)
    common = {"log_to_driver": False, "logging_level": "ERROR"}
    if not address:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a benchmark on one machine tells nobody
        ray.init(
            "local", num_cpus=options.here() * threads, num_gpus=len(options.devices), include_dashboard=False,
            _node_ip_address="127.0.0.1", **common,
        )  # fmt: skip
        return True
    try:
        ray.init(address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--address {address}: no Ray cluster answers there ({first_line(error)})") from error
    return True


def start(ray: Any, experiment: Experiment, cell: dict[str, Any], index: int, jobs: int, options: Options) -> Any:
    def task(argv: list[str], extra: dict[str, str], log: str, cwd: str) -> int:
        """The worker's exit code. Defined here so that it travels by value: a node has to import nothing for it."""
        import subprocess
        import sys

        with open(log, "ab") as file:
            env = os.environ | extra
            process = subprocess.Popen([sys.executable, *argv], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env,
                                       cwd=cwd, start_new_session=True)  # fmt: skip
        while True:
            try:
                return process.wait(timeout=0.2)  # short, so that an interrupt is seen
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:
                process.terminate()

    config = cell["config"]
    source = str(Path(bench.__file__).parents[1])  # a node finds this code where this process found it
    path = {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), source)))}
    gpus = 1 / options.per_device if config["device"] == "cuda" else 0
    remote = ray.remote(num_cpus=config["threads"], num_gpus=gpus, max_retries=RETRIES)(task)
    extra = environment(config["threads"]) | path
    return remote.remote(command(experiment, index, jobs, options)[1:], extra, str(log_path(experiment, cell)), os.getcwd())


def result(ray: Any, ref: Any, directory: Any) -> str:
    try:
        return describe(ray.get(ref), directory)
    except ray.exceptions.TaskCancelledError:
        return "stopped"
    except ray.exceptions.RayError as error:
        return f"died ({first_line(error)})"
