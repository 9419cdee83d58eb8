"""`python -m bench compare BASE [HEAD]`: is HEAD slower? Two revisions, timed in turns on one core of one machine.

Both are checked out into worktrees, and each gets its own process that runs BASE's benchmark definitions on its own code.
Clocks of shared machines wander by tens of per cent between jobs and by little within a second, so the two are timed back
to back, in turns, and a benchmark fails only if every one of HEAD's medians is FAIL times above every one of BASE's. What
fails is measured once more in fresh processes, because where a process's memory happens to lie can slow it for its life;
only what fails both times counts.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.rundir import dump_json, replace_file
from bench.timing import DEFINITIONS, BodiesFailed, BodyServer, Options, check, default_core, one_round, rounds_shown
from bench.timing_tables import Table, ms, show
from bench.typed import UsageError

FAIL = 1.25  # every HEAD median this many times above every BASE median: slower
LOCKS = ("constraints.txt", "pyproject.toml")  # of a revision's packages
REPORT = 1.05  # ratio of the medians from which a benchmark is named
DEFINITIONS_CHANGED = 3  # exit code


@dataclass
class Comparison:
    """What `python -m bench compare` was asked for."""

    base: str
    head: str = "HEAD"
    algos: str | None = None
    rounds: int = 10
    seconds: float = 0.05
    core: int | None = None
    accept: bool = False  # benchmarks that are gone, and definitions of BASE that HEAD, or BASE itself, does not run


@dataclass
class Outcome:
    """What was found; `laps` maps a benchmark to the medians (ms) of BASE and of HEAD, one a round."""

    laps: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    definitions: str = "BASE"  # whose definitions timed HEAD
    notes: list[str] = field(default_factory=list)  # what a reader of the ratios has to know

    def ratios(self) -> dict[str, float]:
        return {name: statistics.median(head) / statistics.median(base) for name, (base, head) in self.laps.items()}

    def slower(self) -> list[str]:
        return [name for name, (base, head) in self.laps.items() if min(head) > FAIL * max(base)]


class DefinitionsChanged(Exception):
    """BASE's definitions do not run on HEAD."""


def run(asked: Comparison, out: Path | None = None) -> int:
    """Compare, print and write; returns the exit code. Raises UsageError for bad input."""
    check(Options({}, asked.rounds, asked.seconds, asked.core))
    with worktree(asked.base, "BASE") as base, worktree(asked.head, "HEAD") as head:
        for tree, name in ((base, asked.base), (head, asked.head)):
            if not (tree / DEFINITIONS).is_file():
                raise UsageError(f"revision {name} has no benchmark definitions ({DEFINITIONS}); it is older than this command")
        try:
            outcome = timed(asked, base, head)
        except DefinitionsChanged as changed:
            print(f"definitions changed: those of {asked.base} do not run on {asked.head}: {changed}")
            print("where that is meant, --accept-changed-definitions lets each revision run its own")
            return DEFINITIONS_CHANGED
        except BodiesFailed as failure:
            raise UsageError(f"a benchmark failed while it was timed: {failure}") from failure
        outcome.notes += notes(asked, base, head)
    code = 1 if outcome.slower() or (outcome.gone and not asked.accept) else 0
    if out is not None:
        replace_file(out, dump_json(record(asked, outcome, code)))
    tell(asked, outcome, code)
    return code


def notes(asked: Comparison, base: Path, head: Path) -> list[str]:
    """What else decides the ratios, or keeps them from saying what was meant."""
    found = []
    if git("diff", "--quiet", "--end-of-options", asked.base, asked.head).returncode == 0:
        found.append(f"{asked.base} and {asked.head} hold the same files: what differs is noise")
    if asked.head == "HEAD" and git("diff", "--quiet", "HEAD", "--").returncode:
        found.append("uncommitted changes are not timed: HEAD is the last commit")
    locks = [[(tree / name).read_bytes() for name in LOCKS if (tree / name).is_file()] for tree in (base, head)]
    if locks[0] != locks[1]:
        found.append(f"{' or '.join(LOCKS)} differ: both revisions were timed with the packages that are installed here")
    return found


def git(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *map(str, words)], capture_output=True, text=True)


@contextlib.contextmanager
def worktree(revision: str, what: str) -> Iterator[Path]:
    """A checkout of a revision of the repository around the current directory, removed at the end."""
    if git("rev-parse", "--git-dir").returncode:
        raise UsageError(f"compare works within a git repository; {Path.cwd()} is in none")
    sha = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").stdout.strip()
    if not sha:
        raise UsageError(f"{what}: git knows no revision {revision!r} here (a shallow clone lacks old ones: fetch-depth: 0)")
    with tempfile.TemporaryDirectory(prefix="bench-compare-") as root:
        path = Path(root) / what
        added = git("worktree", "add", "--detach", "--force", path, sha)
        if added.returncode:
            raise UsageError(f"{what}: git worktree add failed: {added.stderr.strip().splitlines()[-1]}")
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", path)


def timed(asked: Comparison, base: Path, head: Path) -> Outcome:
    """Raises DefinitionsChanged, UsageError where a revision does not run its own benchmarks, BodiesFailed where one fails
    later."""
    core = default_core() if asked.core is None else asked.core
    settings = {} if asked.algos is None else {"algos": asked.algos}
    alike = (base / DEFINITIONS).read_bytes() == (head / DEFINITIONS).read_bytes()
    outcome, whose = Outcome(), base
    with contextlib.ExitStack() as stack:

        def start(tree: Path, definitions: Path) -> BodyServer:
            server = BodyServer(definitions / DEFINITIONS, settings, core, tree, here=tree)  # no other revision's conf/
            stack.callback(server.close)
            return server

        one, other = start(base, base), start(head, base)
        try:
            one.wait()
        except BodiesFailed as failure:
            broken = f"{asked.base} does not run its own benchmarks: {failure}"
            if not asked.accept:
                raise UsageError(broken) from failure
            outcome.definitions = "none (accepted)"
            outcome.notes.append(f"nothing was compared: {broken}")
            outcome.new = sorted(started(start(head, head), asked.head).about)
            return outcome
        try:
            other.wait()
        except (BodiesFailed, UsageError) as failure:
            if alike:
                raise UsageError(f"{asked.head} does not run its own benchmarks, which are BASE's too: {failure}") from failure
            if not asked.accept:
                raise DefinitionsChanged(str(failure)) from failure
            whose, outcome.definitions = head, "each revision's own (accepted)"
        own = other if alike else started(start(head, head), asked.head)
        if whose is head:
            other = own
        there = set(other.about) & set(own.about)
        outcome.new = sorted(set(own.about) - set(one.about))
        outcome.gone = sorted(set(one.about) - there)
        if own is not other:
            own.close()
        take_turns(outcome, one, other, [name for name in one.about if name in there], asked)
        one.close()
        other.close()
        if suspects := outcome.slower():
            one, other = start(base, base), start(head, whose)
            take_turns(outcome, one.wait(), other.wait(), suspects, asked)
    return outcome


def started(server: BodyServer, revision: str) -> BodyServer:
    try:
        return server.wait()
    except BodiesFailed as failure:
        raise UsageError(f"{revision} does not run its own benchmarks: {failure}") from failure


def take_turns(outcome: Outcome, one: BodyServer, other: BodyServer, names: list[str], asked: Comparison) -> None:
    """Add each side's medians of the rounds to the outcome's."""
    laps: dict[tuple[BodyServer, str], list[float]] = defaultdict(list)
    for number in rounds_shown(range(asked.rounds)):
        for slot, (clock, _) in one_round([[(one, n), (other, n)] for n in names], number % 2 == 1, asked.seconds):
            laps[slot].append(clock)
    for name in names:
        base, head = outcome.laps.setdefault(name, ([], []))
        base += laps[one, name]
        head += laps[other, name]


def verdict(outcome: Outcome, name: str, ratio: float) -> str:
    if name in outcome.slower():
        return "FAILS"
    return "slower" if ratio >= REPORT else "faster" if ratio <= 1 / REPORT else ""


def record(asked: Comparison, outcome: Outcome, code: int) -> dict[str, Any]:
    """What --out holds."""
    results = [
        {"name": name, "ratio": ratio, "verdict": verdict(outcome, name, ratio),
         "base_ms": outcome.laps[name][0], "head_ms": outcome.laps[name][1]}
        for name, ratio in outcome.ratios().items()
    ]  # fmt: skip
    return {
        "base": asked.base, "head": asked.head, "exit": code, "definitions": outcome.definitions,
        "changes_accepted": asked.accept, "gone": outcome.gone, "new": outcome.new,
        "notes": outcome.notes, "limit": FAIL, "results": results,
    }  # fmt: skip


def tell(asked: Comparison, outcome: Outcome, code: int) -> None:
    rows = [
        [name, ms(statistics.median(outcome.laps[name][0])), ms(statistics.median(outcome.laps[name][1])), f"{ratio:.2f}",
         verdict(outcome, name, ratio)]
        for name, ratio in outcome.ratios().items()
    ]  # fmt: skip
    title = f"{asked.head} against {asked.base}, medians of {asked.rounds} turns; definitions: {outcome.definitions}"
    show([Table(title, ["benchmark", "BASE ms", "HEAD ms", "ratio", ""], rows)])
    for name in outcome.slower():
        base, head = outcome.laps[name]
        least, most = ms(min(head)), ms(max(base))
        print(f"fails: {name}: every turn of HEAD ({least} ms and up) is over {FAIL} times BASE's ({most} at most)")
    for name in outcome.gone:
        word = "gone (accepted)" if asked.accept else "fails: gone, or renamed"
        print(f"{word}: {name}")
    for name in outcome.new:
        print(f"new: {name}")
    for note in outcome.notes:
        print(f"note: {note}")
    print("slower, or benchmarks are gone" if code else "no benchmark fails")
