"""Every engine gives what the local one gives, also when a machine is lost or a task preempted half-way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import devices
from bench.engines import local, slurm
from bench.engines.common import POLL, Options, command, stop_requests
from bench.rundir import Experiment

TINY = "actor_hidden=[16,16],critic_hidden=[16,16],batch_size=16"
GRID = ("run", "--algos", f"sac({TINY})", "--envs", "toy/multigoal", "--seeds", "2", "--no-report", "--name", "grid",
        "steps=1000", "warmup=100", "log_every=100", "eval_every=500", "checkpoint_every=200", "eval.episodes=2")  # fmt: skip


# -- refusals and slots ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_whose_package_is_missing_says_what_to_install(command, tmp_path, monkeypatch, engine, package):
    monkeypatch.setitem(sys.modules, package, None)
    done = command(*GRID, "--engine", engine)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"--engine {engine} needs {package}" in done.err
    assert f"pip install 'diffusion-policy-bench[{engine}]'" in done.err
    assert not any(tmp_path.iterdir())


MEETS = """
import os, pathlib, sys, time
start, here = time.time(), pathlib.Path(sys.argv[1])
(here / str(os.getpid())).touch()
while len(list(here.iterdir())) < int(sys.argv[2]) and time.time() < start + 10:
    time.sleep(0.01)
print(os.environ["CUDA_VISIBLE_DEVICES"], start, time.time(), os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.parametrize(("jobs", "at_once"), [(None, 4), (3, 3), (9, 4)])
def test_runs_share_devices_by_slots(tmp_path, monkeypatch, jobs, at_once):
    """Stand-ins for workers say which device they saw, when, and with how many threads. The first wait for one another."""
    met = tmp_path / "met"
    met.mkdir()
    monkeypatch.setattr(local, "command", lambda *_: [sys.executable, "-S", "-c", MEETS, str(met), str(at_once)])
    experiment = Experiment(tmp_path, "grid")
    experiment.write("quick", [], [{"dir": f"seed_{k}", "config": {"threads": 3}} for k in range(7)])
    options = Options(jobs=jobs, devices=("0", "GPU-5a"), per_device=2)
    assert local.submit(experiment, list(range(7)), options) == dict.fromkeys(range(7), "done")
    spans = [line.split() for line in (p.read_text() for p in tmp_path.rglob("worker.log"))]
    assert {device for device, *_ in spans} == {"0", "GPU-5a"}
    assert {threads for *_, threads in spans} == {"3"}
    running = [[device for device, a, b, _ in spans if float(a) <= float(start) < float(b)] for _, start, *_ in spans]
    assert max(map(len, running)) == at_once
    assert all(now.count(device) <= 2 for now in running for device in now)
    assert options.slots() == ["0", "GPU-5a"] * 2  # a free device before a shared one


@pytest.mark.parametrize("engine", [local, slurm])
def test_a_run_records_how_many_run_beside_it_on_its_machine(tmp_path, monkeypatch, engine):
    """Times are compared among runs of one such number: that of the slots, or of the runs where these are fewer; a task of
    Slurm's has its own machine."""
    experiment, told = Experiment(tmp_path, "grid"), []
    experiment.write("quick", [], [{"dir": f"seed_{k}", "config": {"threads": 1, "device": "cpu"}} for k in range(5)])
    done = SimpleNamespace(poll=lambda: 0, returncode=0, done=lambda: True)
    monkeypatch.setattr(slurm, "result", lambda *_: "done")
    monkeypatch.setattr(local, "start", lambda experiment, cell, argv, slot: told.append(argv) or done)
    array = SimpleNamespace(map_array=lambda task, words, *_: told.extend(words) or [done] * len(words))
    monkeypatch.setattr(slurm, "executor", lambda *_: array)
    for count in (5, 2):
        assert engine.submit(experiment, list(range(count)), Options(jobs=4)) == dict.fromkeys(range(count), "done")
    numbers = [int(words[words.index("--jobs") + 1]) for words in told]
    assert numbers == ([4] * 5 + [2] * 2 if engine is local else [1] * 7)


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [(None, 2, ("0", "1")), ("", 1, ("0",)), ("3, GPU-5a", 2, ("3", "GPU-5a")), ("3,no such,4", 1, ("3",))],
)
def test_devices_are_called_as_this_process_may_see_them(monkeypatch, visible, count, names):
    """An unknown one ends the list, which torch's count says."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.here() == names


@pytest.mark.parametrize(
    ("devices", "each", "processes", "used"),
    [("0,1", 1, 2, 2), ("0,1", 2, 2, 4), ("0,1,2", 2, 4, 6), ("0,1", 4, 3, 6), ("0", 2, 2, 2)],
)
def test_processes_share_devices_without_more_runs_on_one_than_asked(devices, each, processes, used):
    options = Options(devices=tuple(devices.split(",")), per_device=each)
    parts = [options.share(k, processes).slots() for k in range(processes)]
    assert all(parts)
    assert sum(map(len, parts)) == used
    assert options.least_share(processes) == min(map(len, parts))
    assert all(sum(part.count(device) for part in parts) <= each for device in options.devices)
    assert {device for part in parts for device in part} == set(options.devices)
    assert Options(devices=("0",)).share(1, 2).slots() == ["0"]  # more processes than slots: they have to share


def test_the_caller_learns_of_a_signal_that_came_too_late_for_the_runs(tmp_path, monkeypatch):
    """A sweep takes no other trial then; the end of a pruned one, which its watcher asks for, stops no sweep."""
    monkeypatch.setattr(local, "command", lambda *_: [sys.executable, "-S", "-c", "import time; time.sleep(0.5)"])
    experiment = Experiment(tmp_path, "grid")
    experiment.write("quick", [], [{"dir": f"seed_{k}", "config": {"threads": 1}} for k in range(2)])
    options = Options(jobs=1)

    def late():
        if not told:
            time.sleep(1.0)  # the run ends meanwhile
            told.append(signal.raise_signal(signal.SIGTERM))

    told = []
    with stop_requests() as asked:
        assert local.submit(experiment, [0], options, lambda: True) == {0: "stopped"}
        assert asked == []
        assert local.submit(experiment, [0], options, late) == {0: "done"}
        assert asked == [signal.SIGTERM]
        assert local.submit(experiment, [0, 1], options) == dict.fromkeys(range(2), "stopped")
    assert len(told) == 1


SLOW_TO_STOP = """
import pathlib, signal, sys, time
told = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda *_: told.append(1))
pathlib.Path(sys.argv[1], "ready").touch()
while not told:
    time.sleep(0.01)
time.sleep(0.3)
pathlib.Path(sys.argv[1], "checkpoint").write_text(str(len(told)))
sys.exit(3)
"""


def test_a_read_error_of_the_display_leaves_the_runs_their_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "command", lambda *_: [sys.executable, "-S", "-c", SLOW_TO_STOP, tmp_path])
    experiment = Experiment(tmp_path, "grid")
    experiment.write("quick", [], [{"dir": "seed_0", "config": {"threads": 1}}])

    def watch():
        if (tmp_path / "ready").exists():
            raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.raises(OSError, match="Stale"):
        local.submit(experiment, [0], Options(jobs=1), watch)
    assert (tmp_path / "checkpoint").read_text() == "1"


@pytest.mark.parametrize("written", [False, True])
def test_a_slurm_task_that_gets_sigterm_waits_for_what_comes_after_it(tmp_path, monkeypatch, written):
    """Submitit's signal, to be put back into the queue, or the end of all: a result would count as the end of the cell."""
    from bench.engines import slurm

    helpers = SimpleNamespace(DelayedSubmission=lambda *put_back: put_back)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(helpers=helpers))
    monkeypatch.setitem(sys.modules, "submitit.helpers", helpers)
    task, asked = slurm.Task(), ([sys.executable, "-S", "-c", SLOW_TO_STOP, str(tmp_path)], {}, str(tmp_path / "log"))
    child = os.fork()
    if child == 0:
        try:
            put_back = lambda *_: os._exit(7 if task.checkpoint(*asked) == (slurm.Task(), *asked) else 8)  # noqa: E731
            signal.signal(signal.SIGUSR2, put_back)
            task(*asked)
        finally:
            os._exit(100)
    wait_for((tmp_path / "ready").exists)
    os.kill(child, signal.SIGTERM)
    if written:
        wait_for((tmp_path / "checkpoint").exists)
    time.sleep(3 * POLL if written else 0.1)
    os.kill(child, signal.SIGUSR2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert (tmp_path / "checkpoint").read_text() == "1"


def test_a_slurm_task_that_is_cancelled_ends_with_its_run(tmp_path, monkeypatch):
    """Submitit would ask sacct minutes later, and wait for a result that never comes. The second one was still queued."""
    from bench.engines import slurm

    experiment = Experiment(tmp_path, "grid")
    experiment.write("quick", [], [{"dir": f"seed_{k}", "config": {"threads": 1}} for k in range(2)])
    directory = experiment.run_dir(experiment.cells()[0])
    deadline, beat = time.time() + 10, {"state": "running", "time": time.time()}

    class Job:
        def done(self):
            assert time.time() < deadline
            return False

        def cancel(self, check):
            directory.write_progress(beat | {"state": "stopped"})

    def map_array(task, *columns):
        directory.write_progress(beat)
        return [Job() for _ in columns[0]]

    monkeypatch.setattr(slurm, "executor", lambda *_: SimpleNamespace(map_array=map_array))
    assert slurm.submit(experiment, [0, 1], Options(), lambda: True) == dict.fromkeys(range(2), "stopped")


def test_no_slurm_task_outlives_a_watch_that_fails(tmp_path, monkeypatch):
    """A sweep that cannot reach its database any more: nobody would count what they do."""
    from bench.engines import slurm

    experiment, cancelled = Experiment(tmp_path, "grid"), []
    experiment.write("quick", [], [{"dir": f"seed_{k}", "config": {"threads": 1}} for k in range(2)])
    jobs = [SimpleNamespace(done=bool, cancel=lambda check, k=k: cancelled.append(k)) for k in range(2)]
    monkeypatch.setattr(slurm, "executor", lambda *_: SimpleNamespace(map_array=lambda *_: jobs))
    with pytest.raises(ZeroDivisionError):
        slurm.submit(experiment, [0, 1], Options(), lambda: 1 / 0)
    assert cancelled == [0, 1]


# -- the same bytes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Path:
    """An undisturbed grid of the local engine."""
    root = tmp_path_factory.mktemp("local")
    subprocess.run([sys.executable, "-m", "bench", *GRID, "--root", root, "--jobs", "2"], cwd=root, check=True)
    return root / "grid"


def records(experiment: Path) -> dict[str, bytes]:
    files = [*experiment.rglob("metrics.jsonl"), *experiment.rglob("evals.jsonl")]
    return {str(f.relative_to(experiment)): f.read_bytes() for f in files}


def prepared(root: Path, expected: Path) -> Experiment:
    """An experiment of the same cells in which nothing has been started."""
    (root / "grid").mkdir(parents=True)
    shutil.copy(expected / "experiment.json", root / "grid")
    return Experiment(root, "grid")


def sessions(experiment: Experiment) -> list[int]:
    files = [experiment.run_dir(cell).path / "provenance.json" for cell in experiment.cells()]
    return [len(json.loads(f.read_text())["sessions"]) for f in files]


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_workers_by_hand(expected, tmp_path):
    experiment = prepared(tmp_path, expected)
    for index in range(2):
        argv = [sys.executable, "-m", "bench", "worker", "--root", tmp_path, "--name", "grid", "--index", str(index)]
        subprocess.run(argv, cwd=tmp_path, check=True)
    assert records(experiment.path) == records(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "says", "left"), [
    (("timeout_min=abc",), "submitit refuses it", False), (("mem_gb=x",), "submitit refuses it", False),
    (("partition=a,b", "nodelist=node[1-3]", "constraint=a&b"), "Slurm does not take the job array: sbatch: error", True),
])  # fmt: skip
def test_what_submitit_or_slurm_refuse_is_one_line(command, tmp_path, monkeypatch, words, says, left):
    """A stand-in for sbatch that takes no array; Slurm's own lists are given as they stand."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sbatch", "srun"):
        (tools / name).write_text(f"#!/bin/sh\ncat $1 > {tools}/array\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    done = command(*GRID, "--engine", "slurm", *(part for word in words for part in ("--slurm", word)))
    *before, last = done.err.splitlines()  # submitit prints what sbatch said, too
    assert (done.code, len(before) <= left, last.startswith("error: "), says in last) == (2, True, True, True), done
    assert (tmp_path / "runs").exists() == left
    if left:
        array = (tools / "array").read_text().replace("'", "")
        assert all(f"#SBATCH --{word}" in array for word in words)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [(signal.SIGUSR2,), (signal.SIGTERM, signal.SIGUSR2)])
def test_a_slurm_array_one_of_whose_tasks_is_preempted(expected, tmp_path, monkeypatch, signals):
    """submitit's local executor in place of Slurm: the same pickles, the same signals, the same requeue."""
    from bench.engines import slurm

    jobs = []
    made = slurm.executor

    def executor(*arguments):
        local_one = made(*arguments, cluster="local")
        map_array = local_one.map_array
        local_one.map_array = lambda *words: jobs.extend(map_array(*words)) or jobs
        return local_one

    monkeypatch.setattr(slurm, "executor", executor)
    monkeypatch.chdir(tmp_path)
    experiment, preempted = prepared(tmp_path, expected), []
    middle = experiment.run_dir(experiment.cells()[1]).path

    def watch():
        if not preempted and (middle / "checkpoint.pt").exists():
            # Slurm's signal reaches the task's process, a child of submitit's controller
            (task,) = Path(f"/proc/{jobs[1].job_id}/task/{jobs[1].job_id}/children").read_text().split()
            preempted.append(task)
            for number in signals:
                os.kill(int(task), number)
                time.sleep(0.2)

    outcome = slurm.submit(experiment, [0, 1], Options(), watch)
    assert outcome == dict.fromkeys(range(2), "done"), [job.stdout() for job in jobs]
    assert preempted
    assert sessions(experiment) == [1, 2]
    assert records(experiment.path) == records(expected)


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node(expected, tmp_path, bench_process, monkeypatch):
    """Two nodes and a head without room; a node on which a run is under way is killed, its worker with it."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's own word for: loopback is this machine's address
    from ray.cluster_utils import Cluster

    loopback = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **loopback})
    try:
        nodes = [cluster.add_node(num_cpus=1, **loopback) for _ in range(2)]
        process = bench_process(*GRID, "--root", "runs", "--engine", "ray", "--address", cluster.address, cwd=tmp_path)
        experiment = Experiment(tmp_path / "runs", "grid")
        checkpoints = lambda: list(experiment.path.rglob("checkpoint.pt"))  # noqa: E731
        wait_for(lambda: len(checkpoints()) >= 2 or process.poll() is not None)
        lost = nodes[0].all_processes["raylet"][0].process.pid
        orphans = [pid for pid in bench_workers() if f"RAY_RAYLET_PID={lost}" in environ(pid)]
        assert orphans
        waiting = [parent(pid) for pid in orphans]
        for pid in waiting:  # a lost machine tells nobody that its workers died
            os.kill(pid, signal.SIGSTOP)
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        cluster.remove_node(nodes[0], allow_graceful=False)
        for pid in waiting:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (out, err)
    finally:
        cluster.shutdown()
    assert max(sessions(experiment)) >= 2
    assert records(experiment.path) == records(expected)


def bench_workers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"bench\0worker" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def environ(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return ""


def test_a_worker_is_told_where_by_absolute_paths(tmp_path, monkeypatch):
    """It may start on another machine, in another directory."""
    monkeypatch.chdir(tmp_path)
    argv = command(Experiment(Path("runs"), "grid"), 3, 2, Options())
    assert argv[argv.index("--root") + 1] == str(tmp_path / "runs")
    assert "--retry-failed" not in argv
    assert "--retry-failed" in command(Experiment(Path("runs"), "grid"), 3, 2, Options(retry_failed=True))
