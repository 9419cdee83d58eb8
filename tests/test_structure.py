"""Who may import whom, and what is imported when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = {"algos", "envs", "reports", "bench"}


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("part", ["algos", "envs", "reports"])
def test_each_part_stands_alone(part):
    files = list((ROOT / part).rglob("*.py"))
    assert files
    others = PARTS - {part}
    assert {str(f.relative_to(ROOT)): sorted(imported(f) & others) for f in files if imported(f) & others} == {}


def test_reports_need_no_torch_and_environments_neither():
    """But for the features of images by a user's own module, which is torch's, and is loaded where it is asked for alone."""
    heavy = {"torch", "hydra"}
    for part, files in (("reports", []), ("envs", ["images.py"])):
        assert [f.name for f in (ROOT / part).rglob("*.py") if imported(f) & heavy] == files
    assert not modules_after("import envs, envs.generation.images") & heavy


def test_bench_names_no_algorithm():
    """No algorithm has a special case: bench does not import a module of one, nor compare with its name."""
    from algos import AGENTS

    modules = {f"algos.{name}" for name in AGENTS}
    for path in (ROOT / "bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            assert not modules & set(names), f"{path.name} imports {names}"
            if isinstance(node, ast.Compare):
                constants = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
                assert not constants & set(AGENTS), f"{path.name}:{node.lineno} compares with the name of an algorithm"


def test_what_two_parts_state_is_the_same():
    """Constants of the files between bench and reports, and of algorithms, which may not import one another."""
    from algos import agent
    from bench import clock, rundir
    from bench.sweep import plan
    from reports import behaviour, charts, load, records, sweep

    assert agent.ON_BOUND == behaviour.ON_BOUND
    assert set(clock.OVERHEAD) == set(load.IDLE_PHASES)
    assert clock.LOOP == charts.LOOP == (*load.LOOP_PHASES, "sample")
    assert rundir.STALE_AFTER == records.HEARTBEAT_S
    assert plan.SUFFIX == sweep.TUNED
    assert plan.OWN == sweep.OWN


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "statement", ["import bench, bench.cli, bench.__main__", "from bench.cli import parser; parser().format_help()"]
)
def test_the_command_line_imports_nothing_heavy(statement):
    assert not modules_after(statement) & {"torch", "numpy", "hydra", "gymnasium", "mujoco", "rich", "yaml"}


def test_the_reports_import_no_torch():
    assert "torch" not in modules_after("import reports, reports.load, reports.report")
