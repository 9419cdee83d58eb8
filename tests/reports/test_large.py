"""Five algorithms x ten tasks x ten seeds x 1,000 evaluations: the report that a paper's grid needs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic

TASKS = ("acrobot-swingup", "cartpole-swingup", "cheetah-run", "finger-spin", "hopper-hop", "quadruped-walk", "reacher-easy",
         "walker-run", "walker-stand", "walker-walk")  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory from Linux's /proc")
def test_large_input(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = tmp_path / "large"
    envs = tuple(f"dmc/{task}" for task in TASKS)
    synthetic.experiment(
        root, labels=tuple(synthetic.SKILL), envs=envs, seeds=10, steps=1_000_000, evaluations=1000, metric_lines=1000
    )
    start = time.perf_counter()
    code = f"import reports; reports.write([{str(root)!r}], {str(root / 'report')!r}); print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    # not ru_maxrss, which a process takes over from the one that started it
    memory = int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) / 1024
    size = (root / "report" / "report.html").stat().st_size / 1e6
    with capsys.disabled():
        print(f"\n500 runs x 1,000 evaluations: {seconds:.0f} s, {memory:.0f} MB, report.html {size:.1f} MB")
    assert memory < 600
    assert size < 15
