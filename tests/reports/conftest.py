from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import synthetic
from synthetic import ENVS

import reports


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest real case: three algorithms, one environment, two seeds. The experiment's directory, with its report."""
    root = synthetic.experiment(tmp_path_factory.mktemp("runs") / "quick", labels=("qsm", "dql", "sac"), seeds=2)
    reports.write([root], root / "report")
    return root


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two environments, five seeds, and all that goes wrong: a failed, a running, an interrupted, a missing and a torn run."""
    root = synthetic.experiment(tmp_path_factory.mktemp("runs") / "study", envs=ENVS, seeds=5)
    synthetic.timing(root / "timing.json")
    synthetic.unfinish(synthetic.run_dir(root, ENVS[0], "dql", 4), state="failed")
    synthetic.unfinish(synthetic.run_dir(root, ENVS[0], "sac", 1), state="running", time=time.time() + 1e6)
    synthetic.unfinish(synthetic.run_dir(root, ENVS[1], "sac", 2), state="running", share=0.25)
    synthetic.drop(synthetic.run_dir(root, ENVS[1], "qsm", 3))
    torn = synthetic.run_dir(root, ENVS[1], "qsm", 0) / "metrics.jsonl"
    torn.write_text(torn.read_text() + '{"env_step": 64001, "critic_l')
    reports.write([root], root / "report")
    return root


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without drawings: for tests about words and numbers."""
    from reports import action_plots, html, plots, wall_clock

    def draw(name: str, caption: str, alt: str, paint: object, *, how: str = "") -> html.Figure:
        return html.Figure(name, b"", "<svg></svg>", caption, alt, how)

    for module in (plots, action_plots, wall_clock):
        monkeypatch.setattr(module, "draw", draw)
