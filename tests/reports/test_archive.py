"""An archive is reported as its directories are, to the byte; what is not one is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

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
    clock = cell(root, "qsm", 0) / "clock.jsonl"
    rows = [json.loads(line) for line in clock.read_text().splitlines()]
    synthetic.write_lines(clock, [row for row in rows if row["env_step"] % 4000])
    torn = cell(root, "sac", 0) / "metrics.jsonl"
    torn.write_text(torn.read_text() + '{"env_step": 64001, "critic_l')
    file = tmp_path / "study.jsonl"
    runs, size = archive.write(load.find([root]), file)
    assert (runs, size) == (11, file.stat().st_size)
    assert size < sum(path.stat().st_size for path in root.rglob("*.*")) / 3
    assert files([file], tmp_path / "a") == files([root], tmp_path / "b")

    before = file.read_bytes()
    archive.write(load.find([file]), file)
    assert file.read_bytes() == before


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
    others = synthetic.experiment(tmp_path / "others", labels=("qsm",), seeds=1)
    with pytest.raises(reports.ReportError, match=r"holds study/dmc_cartpole-swingup/qsm/seed_0, which .* \(2 such\)"):
        archive.write(load.find([others]), out)
    assert out.read_bytes() == before
    out.unlink()
    synthetic.drop(others)
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
    assert (tmp_path / "study" / "report" / "report.html").exists()
    assert main(["report", str(root / "experiment.json")]) == 2
    assert "is no archive; `python -m bench archive" in capsys.readouterr().err
