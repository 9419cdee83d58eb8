"""`bench compare`: what it fails, what it lets pass, what it refuses. Times are made up (conftest.py) but in the slow tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from clockwork import DEFINITIONS, work

from bench import cli
from bench.compare import Comparison, Outcome, run, take_turns

ROOT = Path(__file__).parents[2]


@pytest.fixture
def compare(commit, capsys):
    """compare(base, head, **settings) -> exit code and output; no worktree is left."""

    def call(base: str, head: str, out: Path | None = None, **settings):
        code = run(Comparison(base, head, rounds=3, seconds=0.001, **settings), out)
        assert len(commit.git("worktree", "list").splitlines()) == 1
        return code, capsys.readouterr().out

    return call


def test_each_revision_is_timed_where_it_lies(commit, compare):
    """Its conf/ is the user's own there; the checkout's would be another one of the same names, which is refused."""
    text = work({"one": 1.0}) + "from pathlib import Path\nassert Path('work.py').samefile(__file__)\n"
    code, out = compare(commit(text=text), commit(text=text))
    assert (code, "one" in out) == (0, True)


def test_revisions_take_turns_in_going_first():
    """What runs second finds a warmer core: in half of the rounds it is BASE."""
    asked = []

    class Server:
        def ask(self, time, seconds):
            asked.append(self)
            return len(asked), 0.0

    base, head, outcome = Server(), Server(), Outcome()
    take_turns(outcome, base, head, ["one"], Comparison("a", rounds=4))
    assert asked == [base, head, head, base] * 2
    assert outcome.laps == {"one": ([1, 4, 5, 8], [2, 3, 6, 7])}


def test_only_what_is_slower_by_a_quarter_fails(commit, compare, tmp_path):
    base = commit({"one": 1.0, "two": 1.0, "three": 1.0, "four": 1.0})
    head = commit({"one": 1.3, "two": 1.2, "three": 1.0, "four": 0.5})
    code, said = compare(base, head, tmp_path / "out.json")
    stored = json.loads((tmp_path / "out.json").read_text())
    verdicts = {r["name"]: (r["verdict"], round(r["ratio"], 3)) for r in stored["results"]}
    assert verdicts == {"one": ("FAILS", 1.3), "two": ("slower", 1.2), "three": ("", 1.0), "four": ("faster", 0.5)}
    assert code == stored["exit"] == 1
    assert [line for line in said.splitlines() if line.startswith("fails")] == [
        "fails: one: every turn of HEAD (1.30 ms and up) is over 1.25 times BASE's (1.00 at most)"
    ]
    assert compare(base, base)[0] == 0


def test_a_turn_of_the_base_as_slow_as_head_is_doubt_enough(commit, compare):
    """Calls 6 to 9 (2 to warm up, then 4 a turn) make the second turn slow, as another user of the machine does."""
    base = commit({"one": [1.0] * 6 + [2.0] * 4 + [1.0] * 90})
    assert compare(base, commit({"one": 1.5}))[0] == 0
    assert compare(base, commit({"one": 2.6}))[0] == 1


def test_what_is_slow_in_one_process_alone_passes(commit, compare, tmp_path):
    """Where the memory of a process lies can slow it for its life: what fails is measured in another one."""
    base = commit({"one": 1.0, "two": 1.0})
    marker = tmp_path / "started"
    text = f'''
from pathlib import Path
first = not Path({str(marker)!r}).exists()
Path({str(marker)!r}).touch()
COSTS = {{"one": 2.0 if first else 1.0, "two": 1.0}}
ABOUT, PER_CALL = {{}}, 1
'''
    assert compare(base, commit(text=text))[0] == 0
    assert marker.exists()


def test_a_renamed_benchmark_fails_and_an_added_one_is_new(commit, compare, tmp_path):
    base = commit({"one": 1.0, "two": 1.0})
    renamed = commit({"one": 1.0, "zwei": 1.0})
    code, said = compare(base, renamed)
    assert code == 1
    assert "fails: gone, or renamed: two\nnew: zwei\n" in said
    code, said = compare(base, renamed, tmp_path / "out.json", accept=True)
    assert code == 0
    assert "gone (accepted): two\nnew: zwei\n" in said
    assert json.loads((tmp_path / "out.json").read_text())["gone"] == ["two"]
    assert compare(base, commit({"one": 1.0, "two": 1.0, "three": 9.0}))[0] == 0


def test_a_benchmark_that_only_the_definitions_of_head_drop_fails(commit, compare):
    base = commit({"one": 1.0, "two": 1.0})
    dropped = DEFINITIONS.replace("tree.COSTS.items()", "[*tree.COSTS.items()][:1]")
    code, said = compare(base, commit({"one": 1.0, "two": 1.0}, definitions=dropped))
    assert code == 1
    assert "fails: gone, or renamed: two" in said


def test_definitions_of_base_that_do_not_run_on_head_are_an_exit_code_of_their_own(commit, compare, tmp_path):
    base = commit({"one": 1.0})
    other = DEFINITIONS.replace("tree.COSTS", "tree.PRICES")
    head = commit(text="PRICES = {'one': 1.5}\nABOUT, PER_CALL = {}, 1\n", definitions=other)
    code, said = compare(base, head)
    assert code == 3
    assert "definitions changed" in said
    assert "AttributeError: module 'work' has no attribute 'COSTS'" in said
    code, said = compare(base, head, tmp_path / "out.json", accept=True)
    assert code == 1, "accepted, and then as slow as it is"
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored["definitions"] == "each revision's own (accepted)"
    assert stored["changes_accepted"] is True


def test_a_revision_that_mends_a_broken_base_can_be_accepted(commit, capsys, tmp_path):
    """By the flag that the workflow passes."""
    broken, mended, out = commit(text="raise RuntimeError('broken')\n"), commit({"one": 1.0}), tmp_path / "out.json"
    assert cli.main(["compare", broken, mended, "--accept-changed-definitions", "--out", str(out)]) == 0
    assert f"note: nothing was compared: {broken} does not run its own benchmarks" in capsys.readouterr().out
    stored = json.loads(out.read_text())
    assert (stored["changes_accepted"], stored["results"], stored["new"]) == (True, [], ["one"])


def test_what_keeps_ratios_from_saying_what_was_meant_is_noted(commit, compare):
    def noted(base: str, head: str = "HEAD") -> list[str]:
        return [line.split(": ")[1] for line in compare(base, head)[1].splitlines() if line.startswith("note: ")]

    base = commit({"one": 1.0})
    Path("constraints.txt").write_text("torch==2\n")
    assert noted(base, commit({"one": 1.1})) == ["constraints.txt or pyproject.toml differ"]
    last = commit({"one": 1.2})
    Path("work.py").write_text(work({"one": 9.0}))
    assert noted(last) == [f"{last} and HEAD hold the same files", "uncommitted changes are not timed"]


def test_bad_input_is_one_line(commit, capsys, monkeypatch, tmp_path):
    base = commit(text=work({"one": 1.0}), definitions=None)

    def error(*words: str) -> str:
        assert cli.main(["compare", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        return err

    assert "has no benchmark definitions" in error(base)
    assert "git knows no revision 'nowhere'" in error("nowhere")
    assert "--rounds 0" in error(base, "--rounds", "0")
    assert "no/such is not a directory" in error(base, "--out", "no/such/file.json")
    assert "it is a directory" in error(base, "--out", ".")
    broken, well = commit(text="raise RuntimeError('broken')\n"), commit({"one": 1.0})
    assert f"{broken} does not run its own benchmarks: RuntimeError: broken" in error(broken, well)
    assert f"{broken} does not run its own benchmarks, which are BASE's too: RuntimeError: broken" in error(well, broken)
    assert f"{broken} does not run its own benchmarks" in error(broken, broken, "--accept-changed-definitions")
    monkeypatch.chdir(tmp_path)
    assert "within a git repository" in error(base)


# -- the real bodies ---------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Path:
    """A repository that holds this tree's code as its first commit."""
    root = tmp_path / "project"
    for part in ("algos", "bench", "conf", "envs", "reports"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    commit_all(root)
    return root


def commit_all(root: Path) -> None:
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def compare_real(root: Path, *words: str) -> subprocess.CompletedProcess:
    small = ["--algos", "qsm,td3", "--rounds", "5", "--seconds", "0.02"]
    return subprocess.run(
        [sys.executable, "-m", "bench", "compare", *words, *small], cwd=root, capture_output=True, text=True
    )  # fmt: skip


@pytest.mark.slow
def test_an_unchanged_tree_passes_ten_times_of_ten(project):
    for turn in range(10):
        done = compare_real(project, "HEAD")
        assert done.returncode == 0, f"turn {turn}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_a_sleep_in_a_phase_is_caught(project):
    path = project / "algos" / "td3.py"
    path.write_text(path.read_text().replace("    def critic(self, batch, noise):\n", SLEEP))
    commit_all(project)
    done = compare_real(project, "HEAD~1")
    assert done.returncode == 1, done.stdout + done.stderr
    fails = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("fails")}
    # no more is asked than what a busy machine cannot hide: the phase itself, ten times slower
    assert "td3/critic:" in fails, done.stdout


SLEEP = """    def critic(self, batch, noise):
        import time

        time.sleep(0.05)
"""
