"""Sweeps of several processes and storages, and what is killed in them. Real processes, so minutes."""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweeping import AGENT, PLANE, score

from bench.sweep.storage import open_storage

pytestmark = pytest.mark.slow
WORDS = ("--algos", f"{AGENT}(wait=0.03)", "--sweep", "space.yaml", "--seeds", "1", "--confirm", "0", "--name", "s",
         "--envs", "toy/interior", "steps=60", "warmup=3", "eval_every=10", "log_every=30", "checkpoint_every=20",
         "eval.episodes=1")  # fmt: skip


@pytest.fixture
def here(tmp_path) -> Path:
    shutil.copy(Path(__file__).with_name("sweeping.py"), tmp_path)
    (tmp_path / "space.yaml").write_text(PLANE)
    return tmp_path


def trials(root: Path) -> list[dict]:
    return json.loads((root / "s" / "sweep.json").read_text())["studies"]["aim"]["trials"]


def check_complete(found: list[dict], count: int) -> None:
    """Every trial of the budget once, with the value that its point has."""
    assert [(t["number"], t["state"]) for t in found] == [(n, "complete") for n in range(count)]
    assert len({str(t["params"]) for t in found}) == count
    for trial in found:
        assert trial["value"] == pytest.approx(score(trial["params"]), abs=1e-5)


def until(condition, process=None, seconds: float = 240):
    """Wait for a value that is true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):  # files that are being written
            if value := condition():
                return value
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def test_four_processes_of_two_commands_lose_and_repeat_no_trial(bench_process, here):
    both = [bench_process("sweep", *WORDS, "--jobs", "2", "--trials", "12", cwd=here) for _ in range(2)]
    outputs = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    check_complete(trials(here / "runs"), 12)
    sessions = [json.loads(p.read_text())["sessions"] for p in (here / "runs").rglob("provenance.json")]
    assert Counter(map(len, sessions)) == {1: 12}  # no run was started twice
    told = Counter(line.split(" (")[0] for out, _ in outputs for line in out.splitlines() if line.startswith("aim trial"))
    assert told == {f"aim trial {n}": 1 for n in range(12)}
    assert all("aim trial" in out for out, _ in outputs)  # both took part


def test_killed_runs_workers_and_commands_cost_no_trial_and_count_none_twice(bench_process, here):
    command = ("sweep", *WORDS, "--jobs", "2", "--trials", "7")
    first = bench_process(*command, cwd=here)
    runs = here / "runs" / "s" / "trials" / "aim"

    def owner(number: int) -> int:
        beat = json.loads((runs / f"{number:04d}" / "heartbeat.json").read_text())
        return beat["pid"]

    def progress(number: int) -> dict:
        (path,) = (runs / f"{number:04d}").rglob("progress.json")
        return json.loads(path.read_text())

    run = until(lambda: progress(0)["env_step"] >= 0 and progress(0), first)
    os.kill(run["pid"], signal.SIGKILL)  # a run: its trial starts it again
    until(lambda: progress(1)["state"] == "running", first)
    lost = owner(1)
    os.kill(lost, signal.SIGKILL)  # a worker: the other one takes up its trial
    until(lambda: owner(1) != lost, first)
    until(lambda: (runs / "0003").exists(), first)
    first.kill()  # the command itself
    first.communicate()
    second = bench_process(*command, cwd=here)
    out, err = second.communicate(timeout=500)
    assert second.returncode == 0, out + err
    check_complete(trials(here / "runs"), 7)
    assert len(list((here / "runs").rglob("DONE"))) == 7


def test_a_stopped_sweep_says_so_and_goes_on(bench_process, here):
    command = ("sweep", *WORDS, "--jobs", "2", "--trials", "3")
    first = bench_process(*command, cwd=here)
    until(lambda: list((here / "runs").rglob("progress.json")), first)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert (first.returncode, "unfinished (stopped)" in out) == (3, True), out + err
    second = bench_process(*command, cwd=here)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, out + err
    check_complete(trials(here / "runs"), 3)


def test_a_trial_that_cannot_start_is_bad_input_for_several_workers_too(bench_process, here):
    """A directory of another trial lies in the way. Fails if the command says that its trials were lost."""
    words = ("sweep", *WORDS, "--jobs", "2", "--trials", "2")
    first = bench_process(*words, cwd=here)
    assert first.wait() == 0, first.communicate()
    for name in ("journal.log", "sweep.json"):
        (here / "runs/s" / name).unlink()
    (here / "space.yaml").write_text(PLANE.replace("-1.0", "-2.0"))
    again = bench_process(*words, "--sampler", "random", cwd=here)
    out, err = again.communicate()
    assert (again.returncode, "holds another trial" in err, "lost" in out) == (2, True, False), (out, err)


def test_a_pruned_trial_ends_its_runs_on_the_way(bench_process, here):
    (here / "space.yaml").write_text("pruner: median\nspace: {x: {choices: [0.3, 0.2, 0.1, 0.0, -0.1, -1.0, -0.9]}}")
    words = ("--jobs", "1", "--sampler", "grid", "--seeds", "2", "steps=120", "warmup=3", "eval_every=10")
    process = bench_process("sweep", *WORDS, *words, cwd=here)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, out + err
    found = trials(here / "runs")
    assert [t["state"] for t in found] == ["complete"] * 5 + ["pruned"] * 2
    assert [t["env_steps"] for t in found[:5]] == [240] * 5
    assert all(t["env_steps"] < 200 for t in found[5:]), found
    assert not list((here / "runs").rglob("replay"))


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_sweep_through_another_engine_has_the_values_of_its_points(command, here, monkeypatch, engine, package):
    """Ray on this machine alone; submitit's local executor in place of Slurm."""
    pytest.importorskip(package, reason=f"the extra `{engine}` is not installed")
    if engine == "slurm":
        from bench.engines import slurm

        monkeypatch.setattr(slurm, "which", lambda _: "sbatch")
        monkeypatch.setattr(slurm, "executor", functools.partial(slurm.executor, cluster="local"))
    done = command("sweep", *WORDS, "--jobs", "1", "--trials", "2", "--engine", engine)
    assert done.code == 0, done
    check_complete(trials(here / "runs"), 2)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def program(name: str) -> str | None:
    """A server program; Debian keeps them out of PATH."""
    found = [shutil.which(name), *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True)]
    return next(filter(None, found), None)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of a server of our own. It refuses to run as root, so root hands it to the user `postgres`."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql; .ci/run does it)")
    root = os.geteuid() == 0
    user = "postgres" if root else getpass.getuser()
    as_user = ["runuser", "-u", user, "--"] if root else []
    place = Path(tempfile.mkdtemp(prefix="sweep-pg-"))
    if root:
        shutil.chown(place, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(*words: str) -> None:
        done = subprocess.run([*as_user, *words], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout

    data, log = str(place / "data"), str(place / "log")
    (place / "password").write_text("secret\n")
    (place / "password").chmod(0o644)
    call(initdb, "-D", data, "-U", "sweeper", "-A", "password", "--pwfile", str(place / "password"), "-N")
    settings = f"-p {port} -k {place} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        call(pg_ctl, "-D", data, "-l", log, "-o", settings, "-w", "start")
        yield f"postgresql://sweeper:secret@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*as_user, pg_ctl, "-D", data, "-m", "immediate", "stop"], cwd=place, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)


def test_machines_that_share_only_a_postgresql_server_work_on_one_study(postgresql, bench_process, here):
    pytest.importorskip("psycopg", reason="the extra `sweep` is not installed")
    command = ("sweep", *WORDS, "--jobs", "2", "--trials", "8", "--storage", postgresql)
    both = [bench_process(*command, "--root", root, cwd=here) for root in ("one", "two")]
    outputs = [process.communicate(timeout=500) for process in both]
    assert all(process.returncode in (0, 3) for process in both), outputs  # 3: the other one was still at work
    for root in ("one", "two"):
        last = bench_process(*command, "--root", root, cwd=here)
        out, err = last.communicate(timeout=200)
        assert last.returncode == 0, out + err
        check_complete(trials(here / root), 8)
        assert not [p for p in (here / root).rglob("*") if p.is_file() and b"secret" in p.read_bytes()]
    ran = [{p.parts[-5] for p in (here / root).rglob("DONE")} for root in ("one", "two")]
    assert len(ran[0]) + len(ran[1]) == len(ran[0] | ran[1]) == 8
    assert all(ran)


def test_a_connection_that_the_server_closed_is_made_again(postgresql, tmp_path):
    psycopg = pytest.importorskip("psycopg", reason="the extra `sweep` is not installed")
    storage = open_storage(SimpleNamespace(storage=postgresql, path=tmp_path))
    assert storage.get_all_studies() == []
    with psycopg.connect(postgresql) as other:
        closed = other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle'").fetchall()
    assert (True,) in closed
    assert storage.get_all_studies() == []
