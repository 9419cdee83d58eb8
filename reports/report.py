"""Runs in, report out: the order of things, and the files."""

from __future__ import annotations

import json
from pathlib import Path

from reports import ReportError, answer, clocks, html, provenance, references, sections, summary, wall_clock
from reports.figures import looks
from reports.load import Collection, read
from reports.merge import merge
from reports.records import BUSY, jsonable, read_json
from reports.summary import Row
from reports.words import listing, plural


def write_report(
    run_dirs: list[Path], out: Path, *, allow_mixed: bool, allow_partial: bool, title: str | None
) -> Path:
    """See reports.write."""
    refuse_files_of_others(out)
    collection = merge(read(run_dirs), allow_mixed=allow_mixed)
    clocks.leave_out_other_work(collection)
    rows = summary.per_seed(collection)
    numbers = summary.summarise(collection, rows, allow_partial=allow_partial)
    timings = _timings(collection)
    names = [experiment["name"] for experiment in collection.experiments]
    budgets = {cell["env"]: cell["budget"] for cell in numbers["cells"] if cell["budget"]}
    numbers |= {"experiments": names, "timing": timings, "notes": collection.all_notes()}
    numbers |= {"references": references.at_budgets(collection, budgets)}
    look = looks(numbers["labels"])
    parts = [
        answer.section(numbers, look),
        sections.curves(collection, rows, numbers, look),
        sections.aggregates(collection, rows, numbers, look),
        wall_clock.section(collection, numbers, timings, look),
        sections.behaviour(collection, numbers, look),
        provenance.health(collection, rows, look),
        provenance.provenance(collection, numbers, look),
    ]
    title = title or _title(numbers["labels"])
    return write_pages(out, title, parts, subtitle=_subtitle(numbers), rows=rows, numbers=numbers)


def refuse_files_of_others(out: Path) -> None:
    """ReportError where a file that would be written is there, and is not of an earlier report."""
    if read_json(out / "summary.json", []).get("schema"):
        return
    for name in ("report.html", "report.md", "summary.json", "per_seed.csv", "trials.csv"):
        if (out / name).exists():
            raise ReportError(f"{out / name} is not of an earlier report and would be written over; choose another --out")


def write_pages(
    out: Path, title: str, parts: list[html.Section], *, subtitle: str, rows: list[Row], numbers: Row
) -> Path:
    """The files of a report from its sections: report.html, report.md, figures/, summary.json and per_seed.csv.

    Any page of sections can be written with it; `rows` may be empty. Returns report.html's path.
    """
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = html.figures(parts)
    numbers = {**numbers, "figures": [figure.name for figure in drawn]}
    for name in read_json(out / "summary.json", []).get("figures") or []:  # of an earlier report in the same place
        for ending in ("png", "svg"):
            (folder / f"{Path(str(name)).name}.{ending}").unlink(missing_ok=True)
    for figure in drawn:
        (folder / f"{figure.name}.png").write_bytes(figure.png)
        (folder / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8", newline="\n")
    text = json.dumps({"title": title, **jsonable(numbers)}, indent=1, allow_nan=False, ensure_ascii=False)
    files = {
        "summary.json": text + "\n",  # first: by it the others are known as a report's
        "report.html": html.page(title, parts, subtitle=subtitle),
        "report.md": html.markdown(title, parts, subtitle=subtitle),
    }
    if rows:
        files["per_seed.csv"] = summary.to_csv(rows)
    for name, content in files.items():
        half = out / f".{name}.tmp"  # a torn one would be taken for another's
        half.write_text(content, encoding="utf-8", newline="\n")
        half.replace(out / name)
    return out / "report.html"


def _title(labels: list[str]) -> str:
    return f"Comparison of {listing(labels)}" if len(labels) <= 6 else f"Comparison of {len(labels)} algorithms"


def _subtitle(numbers: Row) -> str:
    total = sum(numbers["states"].values())
    counted = [
        plural(len(numbers["labels"]), "algorithm"),
        plural(len(numbers["envs"]), "environment"),
        plural(total, "run"),
    ]
    finished = numbers["states"].get("done", 0)
    state = "" if finished == total else f", {finished} finished"
    budgets = {cell["budget"] for cell in numbers["cells"] if cell["budget"]}
    frames = f" · {min(budgets):,} frames".replace(",", "\u202f") if len(budgets) == 1 else ""
    names = f" · {', '.join(numbers['experiments'])}" if numbers["experiments"] else ""
    return f"{' × '.join(counted[:2])}, {counted[2]}{state}{frames}{names}"


def _timings(collection: Collection) -> list[Row]:
    """The results of the experiments' timing files, each with its machine in words and its `clock`: processor, where others
    used the core that was measured. Its time is then the processor's, and how that spread was not recorded."""
    rows: list[Row] = []
    for content in collection.timing:
        machine = content.get("machine") or {}
        words = ", ".join(str(machine[key]) for key in ("cpu", "device") if machine.get(key))
        for result in content.get("results") or []:
            if "name" not in result:
                continue
            row = {**result, "machine": words, "clock": "wall"}
            if (machine.get("busy") or 1.0) > BUSY and row.get("device") == "cpu" and row.get("cpu_ms"):
                row |= {"clock": "processor", "median_ms": row["cpu_ms"], "iqr_ms": None}
            rows.append(row)
    return rows
