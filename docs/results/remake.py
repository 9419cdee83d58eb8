"""Makes everything in this folder but README.md again, and the curves that reports draw beside a user's: `make results`.

The grids are run in `runs/`, where they go on if they were stopped. `remake.py tables` only writes tables.md anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reports import load, references
from reports.behaviour import ON_BOUND
from reports.reproduction import shrink
from reports.words import NOTHING, interval, number

HERE = Path(__file__).parent
PRESETS = ("dmc100k", "qsm100k")
FRAMES = 100_000
TD3 = {
    "dmc/cartpole-swingup": (782.6, 92.9),
    "dmc/cheetah-run": (190.9, 147.6),
    "dmc/finger-spin": (621.8, 265.3),
}  # SpinningUp's TD3 at 100k frames, mean and standard deviation of 8 seeds: LQNew/DMControlSuite-3M on GitHub

Rows = list[list[str]]


def main() -> None:
    for preset in PRESETS:
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


def bench(*words: str, fine: tuple[int, ...] = (0,)) -> None:
    if (code := subprocess.run([sys.executable, "-m", "bench", *words]).returncode) not in fine:
        sys.exit(code)


def write_tables() -> None:
    (HERE / "tables.md").write_text(tables(), encoding="utf-8", newline="\n")


def tables() -> str:
    """tables.md, from the summaries of the reports, the archives and the published curves."""
    main, variants = (json.loads((HERE / preset / "summary.json").read_text(encoding="utf-8")) for preset in PRESETS)
    beside = [[env, shown(cell_of(main, env, "td3")["final"]), f"{number(of[0])} ± {number(of[1])}"] for env, of in TD3.items()]
    blocks = [
        "# The numbers",
        "Means over seeds of the last evaluation, at 100,000 frames, with 95 % intervals (t; for the IQM a stratified\n"
        "bootstrap; `?`: unreliable, from few seeds). Made by `remake.py` from the archives beside this page.",
        "## Five algorithms",
        table(["algorithm", "seeds", "IQM, normalised", *main["envs"]], headline(main)),
        "## SAC beside what others have published",
        "The range is that of the sources' means at the same frames.",
        table(["task", "here", *references.PUBLISHED.values(), "range", "mean here", "interval here"], sac(main)),
        "## TD3 beside SpinningUp's",
        "Theirs: mean ± standard deviation of 8 seeds, action repeat 1, learning rate 1e-3, batches of 100.",
        table(["task", "here", "SpinningUp"], beside),
        "## QSM's score weight and chain length",
        "On the bound: of the actions sampled at a few first states of an episode, at the end, the share at\n"
        f"{ON_BOUND:g} of the bound or beyond; mean over seeds.",
        table(["task", "M_q", "T", "seeds", "on the bound", "final return", "minus M_q = 50, T = 5"], saturation(variants)),
    ]
    return "\n\n".join(blocks) + "\n"


def headline(summary: dict[str, Any]) -> Rows:
    rows = []
    for label in summary["labels"]:
        cells = [cell_of(summary, env, label) for env in summary["envs"]]
        iqm = summary["aggregates"]["labels"].get(label, {}).get("final", {}).get("iqm")
        rows.append([label, str(min(cell["n"] for cell in cells)), shown(iqm), *(shown(cell["final"]) for cell in cells)])
    return rows


def sac(summary: dict[str, Any]) -> Rows:
    rows = []
    for env in summary["envs"]:
        means = {found.source: found.mean[list(found.step).index(FRAMES)] for found in references.published(env, FRAMES)}
        low, high = min(means.values()), max(means.values())
        final = cell_of(summary, env, "sac")["final"]
        if not final:
            continue
        verdict = "in it" if low <= final["value"] <= high else "above" if final["value"] > high else "below"
        apart = final["low"] is not None and (final["low"] > high or final["high"] < low)
        meets = NOTHING if final["low"] is None else "apart from it" if apart else "meets it"
        each = [number(means.get(source)) for source in references.PUBLISHED]
        rows.append([env, shown(final), *each, f"{number(low)} to {number(high)}", verdict, meets])
    return rows


def saturation(summary: dict[str, Any]) -> Rows:
    runs = load.read([HERE / "qsm100k.jsonl"]).runs
    pairs = {(pair["env"], pair["x"], pair["y"]): pair["difference"] for pair in summary["pairs"]}
    rows = []
    for cell in summary["cells"]:
        own = [run for run in runs if (run.env, run.label) == (cell["env"], cell["label"])]
        bound = [100 * run.probes.on_bound[-1] for run in own if run.state == "done" and run.probes]
        settings, share = own[0].config["algo"], f"{np.mean(bound):.0f} %" if bound else NOTHING
        gap = pairs.get((cell["env"], cell["label"], "m50")) or negated(pairs.get((cell["env"], "m50", cell["label"])))
        name = [cell["env"], f"{settings['m_q']:g}", str(settings["T"]), str(cell["n"])]
        rows.append([*name, share, shown(cell["final"]), shown(gap)])
    return rows


def negated(estimate: dict[str, Any] | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    low, high = (None if end is None else -end for end in (estimate["high"], estimate["low"]))
    return estimate | {"value": -estimate["value"], "low": low, "high": high}


def cell_of(summary: dict[str, Any], env: str, label: str) -> dict[str, Any]:
    return next(cell for cell in summary["cells"] if (cell["env"], cell["label"]) == (env, label))


def shown(estimate: dict[str, Any] | None) -> str:
    return f"{number(estimate['value'])} {interval(estimate)}".strip() if estimate else NOTHING


def table(heads: list[str], rows: Rows) -> str:
    lines = [heads, [":--", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    write_tables() if sys.argv[1:] == ["tables"] else main()
