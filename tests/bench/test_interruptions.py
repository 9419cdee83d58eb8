"""What stops a run from outside: a signal, a full disk, another machine; and what `status` says of it."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from bench import run, worker
from bench.config import to_plain
from bench.engines.common import describe
from bench.rundir import Experiment, RunDir, load_tensors
from bench.worker import EXIT, stop_on_signal

# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [80, 160])
def test_a_stop_within_an_evaluation_loses_nothing(small, train, results, tmp_path, at):
    """In one between, and in the last: it is still due when the run goes on, and is then the same."""
    config = small("qsm")
    train(config, tmp_path / "undisturbed")

    def stopper(current):
        act = current.evaluator.act

        def stop_in_the_middle(*arguments):
            current.stop = current.env_step == at
            return act(*arguments)

        current.evaluator.act = stop_in_the_middle

    assert run.run(config, tmp_path / "stopped", stopper=stopper) == "stopped"
    counters = load_tensors(tmp_path / "stopped" / "checkpoint.pt")["counters"]
    assert (counters["env_step"], counters["eval_due"]) == (at, True)
    assert f'"env_step": {at},' not in (tmp_path / "stopped" / "evals.jsonl").read_text()
    # killed right after the evaluation was made up for: it is due once more, and its probe stands there already
    assert train(config, tmp_path / "stopped", kill_at=[at] if at < config.steps else []) == "done"
    assert results(tmp_path / "undisturbed") == results(tmp_path / "stopped")
    with np.load(tmp_path / "stopped" / "probes.npz") as probes:
        assert probes["env_step"].tolist() == [0, 80, 160]


def test_an_evaluation_keeps_the_heart_beating(small, train, tmp_path, monkeypatch):
    """However long it takes, a run that evaluates counts as running."""
    monkeypatch.setattr(run, "HEARTBEAT", 0.0)
    beats, written = [], RunDir.write_progress
    monkeypatch.setattr(RunDir, "write_progress", lambda self, r: beats.append(r["env_step"]) or written(self, r))
    train(small("sac"), tmp_path)
    assert beats.count(80) > 20  # a toy episode has 20 or more decisions


@pytest.mark.parametrize("number", worker.STOP_SIGNALS)
def test_a_second_signal_ends_the_process_at_once(number, tmp_path, monkeypatch):
    """The first one does not, for the run has a checkpoint to write, nor the same one that comes again by the grid."""
    monkeypatch.setattr(worker, "ONE_STOP", 0.2)
    goes_on = tmp_path / "after the first"
    child = os.fork()
    if child == 0:
        try:
            current = SimpleNamespace(stop=False)
            stop_on_signal(current)
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            goes_on.write_text(str(current.stop))
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os._exit(100)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT["stopped"]
    assert goes_on.read_text() == "True"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_ctrl_c_stops_a_grid_and_the_command_goes_on_with_it(bench_process, results, tmp_path, engine):
    words = ("run", "--algos", "sac(actor_hidden=[16,16],critic_hidden=[16,16],batch_size=16)", "--envs", "toy/multigoal",
             "--seeds", "2", "--jobs", "1", "--no-report", "--name", "grid", "steps=2500", "warmup=100", "log_every=50",
             "checkpoint_every=100000", "eval.episodes=2")  # fmt: skip
    process = bench_process(*words, "--root", "stopped", "--engine", engine, cwd=tmp_path)
    grid = tmp_path / "stopped" / "grid"
    while not any("update" in line for f in grid.rglob("metrics.jsonl") for line in f.read_text().splitlines()[2:]):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in out + err) == (3, False)
    assert out.count("stopped: stopped") == 1
    assert out.count("missing: stopped") == 1
    assert (grid / "toy_multigoal" / "sac" / "seed_0" / "checkpoint.pt").exists()
    for root in ("stopped", "quiet"):
        again = bench_process(*words, "--root", root, cwd=tmp_path)
        assert (again.communicate()[1], again.returncode) == ("", 0)
    for cell in Experiment(tmp_path / "quiet", "grid").cells():
        first, second = (results(tmp_path / root / "grid" / cell["dir"]) for root in ("quiet", "stopped"))
        assert first == second


# -- a full disk -------------------------------------------------------------------------------------------------------


@contextmanager
def no_file_larger_than(size: int):
    """The kernel's own limit: a write beyond it stops short, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("full", ["checkpoint.pt", "metrics.jsonl", "config.yaml"])
def test_a_full_disk_stops_a_run_that_then_goes_on(small, train, results, tmp_path, full, capsys):
    """At the second checkpoint or its replay piece; in the middle of a line of the log; before anything is there."""
    config = small("sac", *(["log_every=1"] if full == "metrics.jsonl" else []))
    train(config, tmp_path / "undisturbed")
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "undisturbed").iterdir() if file.is_file()}
    if full == "metrics.jsonl":
        assert sizes[full] > 3 * sizes["probes.npz"]
        config = small("sac", "log_every=1", "checkpoint_every=1000")
    limit = {"checkpoint.pt": sizes["checkpoint.pt"] - 1, "metrics.jsonl": sizes[full] // 2 + 7, "config.yaml": 100}[full]
    path = tmp_path / "full"
    with no_file_larger_than(limit):
        assert run.run(config, path) == "disk full"
    assert capsys.readouterr().err.count("free some space and repeat the command") == 1
    assert RunDir(path).state() in ("stopped", "missing")
    assert not list(path.rglob("*.tmp"))
    if full == "metrics.jsonl":
        assert not (path / full).read_bytes().endswith(b"\n")  # torn
    assert train(config, path) == "done"
    assert results(tmp_path / "undisturbed") == results(path)


def test_a_disk_without_room_for_a_heartbeat_is_named_too(small, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "attempt", fail)
    monkeypatch.setattr(RunDir, "write_progress", fail)
    assert run.run(small("sac"), tmp_path) == "disk full"
    assert "free some space and repeat the command" in capsys.readouterr().err


def test_a_full_disk_is_named_by_the_grid(tmp_path):
    assert describe(EXIT["disk full"], RunDir(tmp_path)).startswith("the disk is full")


# -- another machine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(small, tmp_path, monkeypatch) -> RunDir:
    """A run killed in the middle and copied to this machine a moment after its own wrote a heartbeat."""
    decide = run.Run._decide

    def until(self, warm):
        if self.env_step >= 130:
            raise KeyboardInterrupt
        decide(self, warm)

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_decide", until)
        with pytest.raises(KeyboardInterrupt):
            run.run(small("sac"), tmp_path / "there" / "seed_0")
    experiment = Experiment(tmp_path, "here")
    config = to_plain(small("sac"))
    experiment.write("quick", [], [{"env": "toy/multigoal", "label": "sac", "seed": 0, "dir": "seed_0", "config": config,
                                    "command": ""}])  # fmt: skip
    shutil.copytree(tmp_path / "there" / "seed_0", experiment.path / "seed_0")
    directory = RunDir(experiment.path / "seed_0")
    directory.write_progress(directory.progress() | {"host": "elsewhere", "time": time.time(), "state": "running"})
    (directory.path / "lock").write_text("pid 1 on elsewhere")
    monkeypatch.setattr(worker, "HEARTBEAT", 0.1)
    return directory


def test_a_run_from_another_machine_goes_on_here(copied, small, train, results, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    shutil.rmtree(tmp_path / "there")  # nothing may lead back to where it was
    assert worker.work(tmp_path, "here", 0) == "done"
    train(small("sac"), tmp_path / "undisturbed")
    assert results(copied.path) == results(tmp_path / "undisturbed")


def test_a_run_whose_heart_beats_on_another_machine_is_left_alone(copied, tmp_path):
    """On a file system whose locks do not reach that far."""
    over = threading.Event()

    def beat():
        copied.write_progress(copied.progress() | {"time": time.time() - 1000})  # by a clock that is late

    def beats():
        while not over.wait(0.02):
            beat()

    beat()
    thread = threading.Thread(target=beats)
    thread.start()
    try:
        with pytest.raises(ValueError, match=r"is in use by pid \d+ on elsewhere, whose heartbeat goes on"):
            worker.work(tmp_path, "here", 0)
    finally:
        over.set()
        thread.join()
    assert not list(copied.path.glob("DONE"))
    assert len(json.loads((copied.path / "provenance.json").read_text())["sessions"]) == 1


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_compares_the_code_of_a_plug_in_with_its_own(small, train, command, tmp_path):
    """Two runs are of the benchmark's own, which has no hash, one of another plug-in, and one of a plug-in that was changed."""
    codes = {"sac": (None, None), "mine": ("one", "one", "two"), "other": ("three",)}
    path, cells = tmp_path / "runs" / "grid", []
    config = small("sac", "steps=100")
    train(config, path / "first")
    for label, own in codes.items():
        for seed, code in enumerate(own):
            place = f"{label}_{seed}"
            shutil.copytree(path / "first", path / place)
            file = path / place / "provenance.json"
            (session,) = json.loads(file.read_text())["sessions"]
            file.write_text(json.dumps({"sessions": [session | ({"source": code} if code else {})]}))
            cells.append({"env": "toy/multigoal", "label": label, "seed": seed, "dir": place, "config": to_plain(config)})
    Experiment(tmp_path / "runs", "grid").write("quick", [], cells)
    said = [line for line in command("status", "grid").out.splitlines() if "source" in line]
    assert said == ["mine_2: source is two; most runs have one"]


@pytest.mark.parametrize(("age", "state"), [(-86_400, "stopped"), (-300, "running"), (30, "running"), (90, "stopped")])
def test_a_heartbeat_is_of_its_moment_by_whichever_clock(tmp_path, age, state):
    """One of tomorrow, written before a clock was set right, would keep a dead run running until then."""
    (tmp_path / "config.yaml").touch()
    RunDir(tmp_path).write_progress({"state": "running", "time": time.time() - age})
    assert RunDir(tmp_path).state() == state


def test_status_says_what_is_wrong_with_each_run(small, train, command, tmp_path):
    kinds = ("done", "running", "silent", "failed", "missing", "other", "longer", "elsewhere", "heartless")
    path = tmp_path / "runs" / "grid"
    train(small("sac", "steps=100"), path / "done")
    for kind in kinds:
        if kind not in ("done", "missing"):
            shutil.copytree(path / "done", path / kind)
    for kind, age in (("running", 1), ("silent", 100)):
        directory = RunDir(path / kind)
        directory.reopen()
        directory.write_progress(directory.progress() | {"state": "running", "time": time.time() - age, "env_step": 59})
    (path / "heartless" / "progress.json").unlink()
    (path / "heartless" / "progress.json").mkdir()  # an OSError for who reads it, as a network file system may answer
    RunDir(path / "failed").reopen()
    RunDir(path / "failed").mark_failed({"error": "RuntimeError: no luck"})
    file = path / "elsewhere" / "provenance.json"
    stored = json.loads(file.read_text())
    stored["sessions"].append(stored["sessions"][0] | {"cpu": "abacus", "packages": stored["sessions"][0]["packages"]})
    stored["sessions"][0]["packages"] = stored["sessions"][0]["packages"] | {"torch": "1.0"}
    file.write_text(json.dumps(stored))
    configs = {"other": small("sac", "steps=100", "eval.episodes=3"), "longer": small("sac", "steps=200")}
    experiment = Experiment(tmp_path / "runs", "grid")
    cells = [{"env": "toy/multigoal", "label": kind, "seed": 0, "dir": kind, "command": "",
              "config": to_plain(configs.get(kind, small("sac", "steps=100")))} for kind in kinds]  # fmt: skip
    experiment.write("quick", [], cells)
    done = command("status", "grid")
    assert done.code == 1
    lines = {kind: [line for line in done.out.splitlines() if kind in line.split(":")[0].split()] for kind in kinds}
    state = {kind: next(line for line in found if "seed 0" in line).split("│")[2:4] for kind, found in lines.items()}
    assert {kind: words[0].strip() for kind, words in state.items()} == {
        "done": "done", "running": "running", "silent": "stopped", "failed": "failed", "missing": "missing", "other": "done",
        "longer": "stopped", "elsewhere": "done", "heartless": "done",
    }  # fmt: skip
    assert state["running"][1].strip() in ("0:01 ago", "0:02 ago", "0:03 ago")
    assert state["silent"][1].strip().startswith("1:4")
    said = {kind: " ".join(line for line in found if "seed 0" not in line) for kind, found in lines.items()}
    assert "failed: RuntimeError: no luck" in said["failed"]
    assert "eval.episodes: 2 there, 3 asked for" in said["other"]
    assert "its replay was dropped" in said["longer"]
    assert "cpu changed between its sessions: " in said["elsewhere"]
    assert ", then abacus" in said["elsewhere"]
    assert "torch changed between its sessions: 1.0, then 2." in said["elsewhere"]
    assert not any(said[kind] for kind in ("done", "running", "silent", "missing", "heartless"))
    (path / "experiment.json").write_text(json.dumps(experiment.read() | {"cells": cells[:1]}))
    assert command("status", "--name", "grid").code == 0
