"""Five algorithms x ten tasks x ten seeds x 1,000 evaluations: the report that a paper's grid needs."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic

TASKS = ("acrobot-swingup", "cartpole-swingup", "cheetah-run", "finger-spin", "hopper-hop", "quadruped-walk", "reacher-easy",
         "walker-run", "walker-stand", "walker-walk")  # fmt: skip


@pytest.mark.slow
def test_large_input(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "large"
    envs = tuple(f"dmc/{task}" for task in TASKS)
    synthetic.experiment(
        root, labels=tuple(synthetic.SKILL), envs=envs, seeds=10, steps=1_000_000, evaluations=1000, metric_lines=1000
    )
    code = (
        f"import reports; reports.write([{str(root)!r}], {str(root / 'report')!r}); "
        "from bench.provenance import peak_memory_mb; print(peak_memory_mb())"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    memory = float(done.stdout)
    size = (root / "report" / "report.html").stat().st_size / 1e6
    with capsys.disabled():
        print(f"\n500 runs x 1,000 evaluations: {seconds:.0f} s of a processor, {memory:.0f} MB, report.html {size:.1f} MB")
    assert seconds < 60
    assert memory < 600
    assert size < 15
