"""An archive is reported as its directories are, to the byte; what is not one is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import synthetic

import reports
from bench.cli import main
from reports import archive, load
from reports.records import Found

CARTPOLE = "dmc/cartpole-swingup"


def files(tops: list[Path], out: Path) -> dict[str, bytes]:
    reports.write(tops, out, allow_partial=True)
    return {name: (out / name).read_bytes() for name in ("per_seed.csv", "summary.json", "report.md")}


def cell(root: Path, label: str, seed: int) -> Path:
    return synthetic.run_dir(root, CARTPOLE, label, seed)


def test_an_archive_gives_the_report_of_its_directories(tmp_path: Path, undrawn: None) -> None:
    """With failed, interrupted and missing runs, timings, probes, clocks without a line at every evaluation, and torn lines."""
    root = synthetic.experiment(tmp_path / "study", seeds=4, metric_lines=300)
    synthetic.timing(root / "timing.json")
    synthetic.unfinish(cell(root, "dql", 3), state="failed")
    synthetic.unfinish(cell(root, "sac", 1), state="interrupted")
    synthetic.drop(cell(root, "qsm", 2))
    synthetic.drop(cell(root, "dql", 1))
    synthetic.write_json(cell(root, "dql", 1) / "FAILED.json", {"error": "RuntimeError: no such weights"})
    clock = cell(root, "qsm", 0) / "clock.jsonl"
    rows = [json.loads(line) for line in clock.read_text().splitlines()]
    synthetic.write_lines(clock, [row for row in rows if row["env_step"] % 4000])
    evals = cell(root, "dql", 0) / "evals.jsonl"
    evals.write_text(evals.read_text().replace('"returns": [', '"returns": [NaN, ', 1))
    torn = cell(root, "sac", 0) / "metrics.jsonl"
    torn.write_text(torn.read_text() + '{"env_step": 64001, "critic_l')
    file = tmp_path / "study.jsonl"
    runs, size = archive.write(load.find([root]), file)
    assert (runs, size) == (10, file.stat().st_size)
    assert size < sum(path.stat().st_size for path in root.rglob("*.*")) / 3
    assert files([file], tmp_path / "a") == files([root], tmp_path / "b")
    assert "failed before it began: RuntimeError: no such weights" in (tmp_path / "a" / "report.md").read_text()

    before = file.read_bytes()
    archive.write(load.find([file]), file)
    assert file.read_bytes() == before


def test_other_work_that_came_and_went_between_evaluations_is_left_out_alike(tmp_path: Path, undrawn: None) -> None:
    root = synthetic.experiment(tmp_path / "busy", labels=("qsm", "sac"), seeds=3)
    generator = np.random.default_rng(0)
    for seed in range(3):
        path = cell(root, "sac", seed) / "clock.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        waited = np.cumsum(generator.exponential(size=len(rows)) * generator.integers(2, size=len(rows)))
        rows = [row | {key: row[key] + lost for key in ("active", "total")} for row, lost in zip(rows, waited, strict=True)]
        synthetic.write_lines(path, rows)
    archive.write(load.find([root]), tmp_path / "busy.jsonl")
    written = files([tmp_path / "busy.jsonl"], tmp_path / "a")
    assert written == files([root], tmp_path / "b")
    assert json.loads(written["summary.json"])["clock"] == "processor"


def test_an_archive_names_no_machine(tmp_path: Path) -> None:
    root = synthetic.experiment(tmp_path / "secret", labels=("qsm",), seeds=1, evaluations=3)
    path = cell(root, "qsm", 0) / "provenance.json"
    session = json.loads(path.read_text())["sessions"][0]
    synthetic.write_json(path, {"sessions": [session | {"host": "my-laptop", "command": ["--root", "/home/me/runs"]}]})
    archive.write(load.find([root]), tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    assert session["cell_command"] in text
    assert not any(word in text for word in ("my-laptop", "/home/me", str(tmp_path)))


def test_what_is_drawn_is_thinned_and_ends_where_it_ended(tmp_path: Path) -> None:
    root = synthetic.experiment(tmp_path / "study", labels=("qsm",), seeds=1, metric_lines=330)
    archive.write(load.find([root]), tmp_path / "study.jsonl")
    (whole,), (kept,) = (load.read([top]).runs for top in (root, tmp_path / "study.jsonl"))
    for name in ("critic_loss", "alignment"):
        curve, drawn = whole.metrics[name], kept.metrics[name]
        assert len(curve) == 330
        assert 80 < len(drawn) <= 101
        assert drawn.step[-1] == curve.step[-1]
        at = np.searchsorted(curve.step, drawn.step)
        assert (drawn.step == curve.step[at]).all()
        assert drawn.value == pytest.approx(curve.value[at], rel=1e-4)
    assert kept.probes.last == pytest.approx(whole.probes.last, abs=1e-3)
    for name in ("step", "spread", "on_bound"):
        assert (getattr(kept.probes, name) == getattr(whole.probes, name)).all()


def test_archives_and_directories_are_reported_together(tmp_path: Path, undrawn: None) -> None:
    ours = synthetic.experiment(tmp_path / "ours", labels=("qsm", "sac"))
    mine = synthetic.experiment(tmp_path / "mine", labels=("td3",))
    archive.write(load.find([ours]), tmp_path / "ours.jsonl")
    together = files([tmp_path / "ours.jsonl", mine], tmp_path / "a")
    assert together == files([ours, mine], tmp_path / "b")
    assert json.loads(together["summary.json"])["labels"] == ["qsm", "sac", "td3"]
    with pytest.raises(reports.ReportError, match="twice"):
        reports.write([tmp_path / "ours.jsonl", ours], tmp_path / "c")


def test_a_torn_line_is_noted_and_the_rest_read(tmp_path: Path, undrawn: None) -> None:
    file = tmp_path / "study.jsonl"
    archive.write(load.find([synthetic.experiment(tmp_path / "study", labels=("qsm",), seeds=3)]), file)
    file.write_text(file.read_text()[:-200])
    summary = json.loads(files([file], tmp_path / "a")["summary.json"])
    assert summary["states"] == {"done": 2, "missing": 1}
    assert summary["notes"] == ["study.jsonl: unreadable line 5 left out"]


SPOILED = {
    "evals": None,
    "config": [],
    "metrics": [1],
    "notes": None,
    "notes ": [1],
    "probes": {"step": [0], "last": [0], "spread": [0], "on_bound": [0]},
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_line_of_another_shape_is_noted_too(tmp_path: Path, name: str) -> None:
    file = tmp_path / "study.jsonl"
    archive.write(load.find([synthetic.experiment(tmp_path / "study", labels=("qsm",), seeds=2)]), file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[2][name.strip()] = SPOILED[name]
    lines[1]["cells"] = [1]
    synthetic.write_lines(file, [*lines, lines[3]])
    found = load.read([file])
    assert [run.seed for run in found.runs] == [1]
    assert found.notes == [f"study.jsonl: unreadable line {n} left out" for n in (2, 3, 5)]


def test_experiments_of_one_name_are_told_apart_and_confirmations_called_after_their_sweeps(tmp_path: Path) -> None:
    places = {"qsm": "a/study", "sac": "b/study", "dql": "c/study #2", "td3": "lr/confirm", "pg": "T/confirm"}
    tops = [synthetic.experiment(tmp_path / place, labels=(label,), seeds=1) for label, place in places.items()]
    for sweep in ("lr", "T"):
        synthetic.write_json(tmp_path / sweep / "sweep.json", {})
    archive.write(load.find(tops), tmp_path / "all.jsonl")
    names = {"qsm": "study", "sac": "study #2", "dql": "study #2 #2", "td3": "lr confirm", "pg": "T confirm"}
    for top in (tops, [tmp_path / "all.jsonl"]):
        assert {run.label: run.experiment for run in load.read(top).runs} == names


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is no archive"), ("# Notes\n", "is no archive"), ("[1]\n", "is no archive"), ('{"archive": 9}\n', "of version 9")],
)
def test_another_file_is_no_archive(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(reports.ReportError, match=message):
        load.read([tmp_path / "file"])


def test_nothing_is_archived_by_halves_or_over_another_file(tmp_path: Path) -> None:
    root = synthetic.experiment(tmp_path / "study", labels=("qsm",), seeds=2)
    found, out = load.find([root]), tmp_path / "out.jsonl"
    notes = tmp_path / "notes.md"
    notes.write_text("# Notes\n")
    with pytest.raises(reports.ReportError, match=r"notes\.md exists and is no archive"):
        archive.write(found, notes)
    assert notes.read_text() == "# Notes\n"
    archive.write(found, out)
    before = out.read_bytes()
    unlike = [synthetic.experiment(tmp_path / "others", labels=("qsm",), seeds=1)]
    unlike += [synthetic.experiment(tmp_path / "again" / "study", labels=("qsm",), seeds=2, steps=32000)]
    for others in unlike:
        with pytest.raises(reports.ReportError, match="holds another study/dmc_cartpole-swingup/qsm/seed_0 than these"):
            archive.write(load.find([others]), out)
        assert out.read_bytes() == before
        synthetic.drop(others)
    (tmp_path / "again").rmdir()
    synthetic.experiment(root.parent / "more" / "study", labels=("qsm",), seeds=3)
    runs, _ = archive.write(load.find([tmp_path / "more" / "study"]), out)  # the same and more
    assert runs == 3
    synthetic.drop(tmp_path / "more")

    out.write_bytes(before[:-100])
    with pytest.raises(reports.ReportError, match=r"out\.jsonl exists and is damaged \(out\.jsonl: unreadable line 4"):
        archive.write(found, out)
    with pytest.raises(reports.ReportError, match="unreadable line 4 left out: it would be missing"):
        archive.write(load.find([out]), tmp_path / "copy.jsonl")
    out.unlink()
    listed = (root / "experiment.json").read_text()
    (root / "experiment.json").write_text(listed[:-9])
    with pytest.raises(reports.ReportError, match=r"experiment\.json.*would be missing"):
        archive.write(load.find([root]), out)
    (root / "experiment.json").write_text(listed)
    with pytest.raises(reports.ReportError, match="is not a directory"):
        archive.write(found, tmp_path / "no" / "out.jsonl")
    with pytest.raises(reports.ReportError, match="no runs to archive"):
        archive.write(Found(), out)
    synthetic.unfinish(cell(root, "qsm", 1), state="running", time=time.time())
    with pytest.raises(reports.ReportError, match="still going"):
        archive.write(found, out)
    (cell(root, "qsm", 0) / "config.yaml").write_text("label: [")
    with pytest.raises(reports.ReportError, match="cannot be read"):
        archive.write(found, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.md", "study"]


def test_the_commands(tmp_path: Path, undrawn: None, capsys: pytest.CaptureFixture) -> None:
    root, file = synthetic.experiment(tmp_path / "study", labels=("qsm",)), tmp_path / "study.jsonl"
    assert main(["archive", str(root), "--out", str(file)]) == 0
    assert f"{file}: 2 runs, 0.0" in capsys.readouterr().out
    assert main(["report", str(file)]) == 0
    assert (tmp_path / "study-report" / "report.html").exists()
    assert main(["report", str(root / "experiment.json")]) == 2
    assert "is no archive; `python -m bench archive" in capsys.readouterr().err
