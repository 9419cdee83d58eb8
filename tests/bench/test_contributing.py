"""The example agent of CONTRIBUTING.md: it passes the conformance tests by the line given there, and it runs in a grid."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    """An author's directory: the example, saved under the name that the text gives it."""
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path_factory.mktemp("outside")
    (path / "my_agents.py").write_text(example)
    return path


def test_the_conformance_line_passes_for_the_example(outside):
    (line,) = re.findall(r"^    (BENCH_AGENT=.*)$", TEXT, re.MULTILINE)
    line = line.replace("python -m pytest", f"{sys.executable} -m pytest -q -p no:cacheprovider")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, shell=True, cwd=outside, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^3\d passed", done.stdout, re.MULTILINE), done.stdout


def test_the_example_runs_beside_the_others(outside, command, here, monkeypatch):
    (line,) = re.findall(r"^    python -m bench run (.*)$", TEXT, re.MULTILINE)
    words = "algo.batch_size=32 steps=96 warmup=64 eval.episodes=1 --seeds 1 --name example --no-report"
    monkeypatch.syspath_prepend(outside)
    done = command("run", *shlex.split(line), *words.split())
    assert done.code == 0, done.out + done.err
    assert sorted(p.parts[-3] for p in Path("runs").rglob("DONE")) == ["bold", "mine", "sac"]
