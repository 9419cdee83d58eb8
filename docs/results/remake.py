"""Makes everything in this folder but README.md again, and the curves that reports draw beside a user's: `make results`.

The grids are run in `runs/`, where they go on if they were stopped. `remake.py tables` only writes tables.md anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bench.grid import plan
from reports import load, references, stats
from reports import summary as numbers
from reports.behaviour import ON_BOUND
from reports.html import Cell, Section, Table, markdown
from reports.reproduction import shrink
from reports.summary import Row
from reports.words import NOTHING, estimate, listing, number

HERE = Path(__file__).parent
PRESETS = ("dmc100k", "qsm100k")
FRAMES = 100_000
RETURNS = 1000  # the most that an episode of a DeepMind Control task can return
# frames at which sources with an update for each frame have made our 47,500: both begin after 5,000 decisions, pytorch_sac with
# an update a decision at action repeat 1, SimBa with two at action repeat 2
EQUAL = {"pytorch_sac": 52_500, "simba_sac": 57_500}
TD3 = {
    "dmc/cartpole-swingup": (782.6, 92.9),
    "dmc/cheetah-run": (190.9, 147.6),
    "dmc/finger-spin": (621.8, 265.3),
}  # SpinningUp's TD3 at 100k frames, mean and standard deviation of 8 seeds: LQNew/DMControlSuite-3M on GitHub

Rows = list[list[Cell | str]]


def main() -> None:
    for preset in PRESETS:
        take_over(PRESETS[0], preset)
        bench("run", "--preset", preset, "--name", preset, "--no-report", fine=(0, 1))  # 1: a run has failed, and stays so
        fresh = Path("runs", f"{preset}.jsonl")
        fresh.unlink(missing_ok=True)
        bench("archive", f"runs/{preset}", "--out", str(fresh))
        os.replace(fresh, HERE / fresh.name)  # an archive is not written over others' numbers, but these are to be replaced
    references.write(HERE / "dmc100k.jsonl")
    for preset in PRESETS:
        bench("report", str(HERE / f"{preset}.jsonl"), "--out", str(HERE / preset))
        for drawing in (HERE / preset).glob("figures/*"):
            drawing.unlink() if drawing.suffix == ".svg" else shrink(drawing)
    write_tables()


def take_over(done: str, preset: str) -> None:
    """Take the runs of `preset` that `done` has finished too from there: the same settings and seed give the same numbers."""
    for cell in plan(preset, None, None, None, [])[0]:
        run, there = (Path("runs", name, cell.entry()["dir"]) for name in (done, preset))
        if (run / "DONE").exists() and not there.exists():
            half = there.with_name(f".{there.name}")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(run, half)
            half.rename(there)  # whole or not at all


def bench(*words: str, fine: tuple[int, ...] = (0,)) -> None:
    if (code := subprocess.run([sys.executable, "-m", "bench", *words]).returncode) not in fine:
        sys.exit(code)


def write_tables() -> None:
    (HERE / "tables.md").write_text(tables(), encoding="utf-8", newline="\n")


def tables() -> str:
    """tables.md, from the summaries of the reports that are there, the archives and the published curves."""
    main, variants = (summary_of(preset) for preset in PRESETS)
    told = (
        "Means over seeds of the last evaluation, at 100,000 frames, with 95 % t intervals (`?`: unreliable, from few seeds; "
        "they may reach beyond 0 and 1000, between which returns lie). Made by `remake.py` from the archives beside this page."
    )
    theirs = "Theirs: mean ± standard deviation of 8 seeds, action repeat 1, learning rate 1e-3, batches of 100."
    bound = (
        "On the bound: of the actions sampled at a few first states of an episode, at the end, the share at "
        f"{ON_BOUND:g} of the bound or beyond; mean over seeds."
    )
    parts = {}
    if main:
        whole = len(main["aggregates"]["envs"]) == len(main["envs"])
        over = "mean, normalised" + ("" if whole else f", of {listing(main['aggregates']['envs'])}")
        parts |= {
            "The algorithms": Table(
                ["algorithm", "seeds", *main["envs"], over], headline(main), note="Seeds: the fewest of a task that was run."
            ),
            "SAC beside what others have published": Table(
                ["task", "here", *references.PUBLISHED.values(), "range", "mean here", "interval here"], sac(main),
                note="The range is that of the sources' means at the same frames; n: their seeds. Too wide: an interval longer "
                "than half of the range of returns, which would meet most things.",
            ),
            "SAC after as many updates": Table(
                ["task", "here", *(references.PUBLISHED[source] for source in EQUAL), "mean here"], equal_updates(main),
                note="After 47,500 updates: ours at 100,000 frames, pytorch_sac's at 52,500, SimBa's at 57,500, between their "
                "evaluations. In it: between the two.",
            ),
            "TD3 beside SpinningUp's": Table(["task", "here", "SpinningUp"], td3(main), note=theirs),
        }  # fmt: skip
    if variants:
        parts["QSM's score weight and chain length"] = Table(
            ["task", "M_q", "T", "seeds", "on the bound", "final return", "minus M_q = 50, T = 5"], saturation(variants),
            note=bound,
        )  # fmt: skip
    return markdown("The numbers", [Section("", title, [table]) for title, table in parts.items()], subtitle=told)


def summary_of(preset: str) -> Row | None:
    """The summary of a preset's report; None before its grid has been run."""
    path = HERE / preset / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def headline(summary: Row) -> Rows:
    rows = []
    for label in summary["labels"]:
        cells = [cell_of(summary, env, label) for env in summary["envs"]]
        seeds = str(min((cell["n"] for cell in cells if cell["n"]), default=0))
        rows.append([label, seeds, *(estimate(cell["final"]) for cell in cells), estimate(over_tasks(summary, label))])
    return rows


def sac(summary: Row) -> Rows:
    rows = []
    for env in summary["envs"]:
        found = references.published(env, FRAMES)
        means = {one.source: one.mean[list(one.step).index(FRAMES)] for one in found}
        seeds = {one.source: len(one.seeds) for one in found}
        low, high = min(means.values()), max(means.values())
        final = cell_of(summary, env, "sac")["final"]
        if not final:
            continue
        apart = final["low"] is not None and (final["low"] > high or final["high"] < low)
        wide = final["low"] is not None and final["high"] - final["low"] > RETURNS / 2
        meets = NOTHING if final["low"] is None else "apart from it" if apart else "too wide" if wide else "meets it"
        each = [Cell(number(means.get(source)), f"n = {seeds.get(source, 0)}") for source in references.PUBLISHED]
        verdict, told = place(final["value"], (low, high)), f"{number(low)} to {number(high)}"
        rows.append([env, estimate(final), *each, told, verdict, meets])
    return rows


def equal_updates(summary: Row) -> Rows:
    rows = []
    for env in summary["envs"]:
        curves = {found.source: found.trained for found in references.published(env)}
        means = [float(np.interp(frames, *curves[source])) for source, frames in EQUAL.items()]
        if final := cell_of(summary, env, "sac")["final"]:
            rows.append([env, estimate(final), *map(number, means), place(final["value"], means)])
    return rows


def place(value: float, others: Iterable[float]) -> str:
    return "below" if value < min(others) else "above" if value > max(others) else "in it"


def td3(summary: Row) -> Rows:
    envs = [env for env in TD3 if env in summary["envs"]]
    finals = {env: estimate(cell_of(summary, env, "td3")["final"]) for env in envs}
    return [[env, finals[env], "{} ± {}".format(*map(number, TD3[env]))] for env in envs]


def saturation(summary: Row) -> Rows:
    collection = load.read([HERE / "qsm100k.jsonl"])
    seeds = numbers.per_seed(collection)
    rows = []
    for cell in summary["cells"]:
        env, label = cell["env"], cell["label"]
        own = [run for run in collection.runs if (run.env, run.label) == (env, label)]
        bound = [100 * run.probes.on_bound[-1] for run in own if run.state == "done" and run.probes]
        if not own:  # not run yet
            continue
        settings, share = own[0].config["algo"], f"{np.mean(bound):.0f} %" if bound else NOTHING
        here, there = (numbers.scores(seeds, name, [env], "final") for name in (label, "qsm"))
        gap = numbers.estimate(stats.difference(here, there)) if here and there and label != "qsm" else None
        name = [env, f"{settings['m_q']:g}", str(settings["T"]), str(cell["n"])]
        rows.append([*name, share, estimate(cell["final"]), estimate(gap)])
    return rows


def over_tasks(summary: Row, label: str) -> Row | None:
    return summary["aggregates"]["labels"].get(label, {}).get("final", {}).get("mean")


def cell_of(summary: Row, env: str, label: str) -> Row:
    """A cell of the grid; one that was not run yet has no seeds and no score."""
    found = (cell for cell in summary["cells"] if (cell["env"], cell["label"]) == (env, label))
    return next(found, {"n": 0, "final": None})


if __name__ == "__main__":
    write_tables() if sys.argv[1:] == ["tables"] else main()
