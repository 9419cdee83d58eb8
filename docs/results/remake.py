"""Makes everything in this folder but README.md again, and the curves that reports draw beside a user's: `make results`.

The grids are run in `runs/`, where they go on if they were stopped. `remake.py tables` only writes tables.md anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reports import load, references
from reports.reproduction import shrink
from reports.words import interval, number

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
        bench("run", "--preset", preset, "--name", preset, "--no-report")
        bench("archive", f"runs/{preset}", "--out", str(HERE / f"{preset}.jsonl"))
    references.write(HERE / "dmc100k.jsonl")
    for preset in PRESETS:
        bench("report", str(HERE / f"{preset}.jsonl"), "--out", str(HERE / preset))
        for drawing in (HERE / preset).glob("figures/*"):
            drawing.unlink() if drawing.suffix == ".svg" else shrink(drawing)
    write_tables()


def bench(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "bench", *words], check=True)


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
        table(["task", "here", *references.PUBLISHED.values(), "range", "here in the range"], sac(main)),
        "## TD3 beside SpinningUp's",
        "Theirs: mean ± standard deviation of 8 seeds, action repeat 1, learning rate 1e-3, batches of 100.",
        table(["task", "here", "SpinningUp"], beside),
        "## QSM's score weight and chain length",
        "On the bound: the share of sampled actions there at the end, mean over seeds.",
        table(["task", "M_q", "T", "seeds", "on the bound", "final return", "minus M_q = 50, T = 5"], saturation(variants)),
    ]
    return "\n\n".join(blocks) + "\n"


def headline(summary: dict[str, Any]) -> Rows:
    rows = []
    for label in summary["labels"]:
        cells = [cell_of(summary, env, label) for env in summary["envs"]]
        iqm = summary["aggregates"]["labels"][label]["final"]["iqm"]
        rows.append([label, str(min(cell["n"] for cell in cells)), shown(iqm), *(shown(cell["final"]) for cell in cells)])
    return rows


def sac(summary: dict[str, Any]) -> Rows:
    rows = []
    for env in summary["envs"]:
        means = {found.source: found.mean[list(found.step).index(FRAMES)] for found in references.published(env, FRAMES)}
        low, high = min(means.values()), max(means.values())
        final = cell_of(summary, env, "sac")["final"]
        verdict = "yes" if low <= final["value"] <= high else "above" if final["value"] > high else "below"
        each = [number(means[source]) if source in means else "–" for source in references.PUBLISHED]
        rows.append([env, shown(final), *each, f"{number(low)} to {number(high)}", verdict])
    return rows


def saturation(summary: dict[str, Any]) -> Rows:
    runs = load.read([HERE / "qsm100k.jsonl"]).runs
    pairs = {(pair["env"], pair["x"], pair["y"]): pair["difference"] for pair in summary["pairs"]}
    rows = []
    for cell in summary["cells"]:
        own = [run for run in runs if (run.env, run.label, run.state) == (cell["env"], cell["label"], "done")]
        bound = np.mean([run.probes.on_bound[-1] for run in own])
        here, there = (pairs.get((cell["env"], *pair)) for pair in ((cell["label"], "m50"), ("m50", cell["label"])))
        gap = here or (there and {**there, "value": -there["value"], "low": -there["high"], "high": -there["low"]})
        settings, share = own[0].config["algo"], f"{100 * bound:.0f} %"
        name = [cell["env"], f"{settings['m_q']:g}", str(settings["T"]), str(cell["n"])]
        rows.append([*name, share, shown(cell["final"]), shown(gap) if gap else ""])
    return rows


def cell_of(summary: dict[str, Any], env: str, label: str) -> dict[str, Any]:
    return next(cell for cell in summary["cells"] if (cell["env"], cell["label"]) == (env, label))


def shown(estimate: dict[str, Any]) -> str:
    return f"{number(estimate['value'])} {interval(estimate)}".strip()


def table(heads: list[str], rows: Rows) -> str:
    lines = [heads, [":--", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    write_tables() if sys.argv[1:] == ["tables"] else main()
