"""Repositories with revisions to compare."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for clockwork.py and counts.py

from clockwork import DEFINITIONS, work


@pytest.fixture(autouse=True)
def _own_git(monkeypatch):
    """What git exports to its hooks would have the tests commit to the repository that they are run for."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def commit(tmp_path, monkeypatch) -> Callable[..., str]:
    """commit(work=..., definitions=...) -> the name of a revision of a repository in the current directory."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)

    def git(*words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")

    def make(costs: dict | None = None, text: str | None = None, definitions: str | None = DEFINITIONS) -> str:
        (root / "work.py").write_text(work(costs) if text is None else text)
        if definitions is not None:
            (root / "bench").mkdir(exist_ok=True)
            (root / "bench" / "bodies.py").write_text(definitions)
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", "x")
        return git("rev-parse", "HEAD")

    make.git = git
    return make
