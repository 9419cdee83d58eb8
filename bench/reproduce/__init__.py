"""The experiments of the papers, one command each: `python -m bench reproduce NAME`.

A module of this package with a `STUDY` is an experiment; its name is the module's, with "-" for "_". Nothing else has to be
told of it. A study declares what the paper claims and the rule that decides each claim, with its threshold, before anything
is run, and what each preset may spend; `run` then gives the findings, and the page is made from them.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engines import carrier
from bench.provenance import cpu_name, git_revision
from bench.typed import UsageError
from reports.reproduction import INDEX, Claim, Findings, write_index, write_page

PRESETS = ("quick", "long", "full")


@dataclass(frozen=True)
class Context:
    """How a study is run: under which name and preset, where its runs lie, and the words of the command line for the engine."""

    name: str
    preset: str
    root: Path
    how: Namespace


@dataclass(frozen=True)
class Study:
    """An experiment of a paper.

    setup: what is studied, and what of it the paper leaves open and is chosen here. budgets: what each preset spends, as `run`
    understands it. Both stand on the page. run(budget, context) gives the findings, or raises Stopped where it was interrupted.
    """

    title: str
    source: str  # the paper's section, equation or figure
    setup: str
    claims: tuple[Claim, ...]
    budgets: Mapping[str, Any]
    run: Callable[[Any, Context], Findings]


class Stopped(Exception):
    """The study's runs were interrupted; the same command goes on with them."""


def names() -> list[str]:
    """Names of all studies, without importing more than needed to know that they are one."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return [name.replace("_", "-") for name in found if hasattr(importlib.import_module(f"{__name__}.{name}"), "STUDY")]


def study(name: str) -> Study:
    """Raises UsageError, naming the nearest, for a name that there is not."""
    from algos import nearest

    known = names()
    if name not in known:
        raise UsageError(f"unknown experiment {name!r}; known are {', '.join(known)}{nearest(name, known)}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").STUDY


def reproduce(name: str, preset: str, root: Path, out: Path, how: Namespace) -> Findings:
    """Run a study and write its page into out/<name>, and the index of all pages into out/README.md."""
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; an experiment has {', '.join(PRESETS)}")
    chosen = study(name)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; it takes a directory")
    index = out / "README.md"
    if index.exists() and not index.read_text(encoding="utf-8", errors="replace").startswith(INDEX):
        raise UsageError(f"--out {out} has a README.md of its own, where the index of the pages goes; choose another directory")
    budget = chosen.budgets[preset]
    findings = chosen.run(budget, Context(name, preset, root, how))
    sha, dirty = git_revision()
    made = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "revision": f"{sha[:7]}{' with changes' if dirty else ''}" if sha else "unknown",
        "cpu": cpu_name(),
    }
    write_page(
        out / name, name, chosen.title, source=chosen.source, setup=chosen.setup, claims=chosen.claims, findings=findings,
        preset=preset, budget=str(budget), made=made,
    )  # fmt: skip
    write_index(out)
    return findings


def command(args: Namespace) -> int:
    """The subcommand: 0 where there is a page, 2 for bad input, 3 where it was stopped before."""
    if args.list:
        for name in names():
            chosen = study(name)
            print(f"{name}: {chosen.title} ({chosen.source})")
            for claim in chosen.claims:
                print(f"    {claim}")
        return 0
    if args.name is None:
        raise UsageError(f"reproduce needs a name; known are {', '.join(names())}")
    carrier(args, (), args.jobs)  # refuses what a study that trains nothing would not look at
    out = args.out or args.root / "reproduction"
    try:
        findings = reproduce(args.name, args.preset, args.root, out, args)
    except Stopped:
        print("repeat the command to finish what is missing")
        return 3
    for key, verdict in findings.verdicts.items():
        print(f"{key}: {verdict.outcome}. {verdict.why}")
    print(f"page: {out / args.name / 'report.html'}")
    return 0
