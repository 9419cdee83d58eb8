"""The tables of `bench timing` and `bench compare`, for a terminal and as Markdown for a document."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]


class Table(NamedTuple):
    title: str
    columns: list[str]
    rows: list[list[str]]


def show(tables: list[Table], markdown: bool = False) -> None:
    """Print them; rich in a terminal, full width in a log."""
    if markdown:
        print("\n\n".join(map(as_markdown, tables)))
        return
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables:
        out = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            out.add_column(column, justify="left" if number == 0 else "right")
        for cells in table.rows:
            out.add_row(*cells)
        console.print(out)


def as_markdown(table: Table) -> str:
    lines = [table.columns, [":--", *["--:"] * (len(table.columns) - 1)], *table.rows]
    return f"{table.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def timing_tables(content: Row) -> list[Table]:
    """The tables of a timing.json: the bodies, the peers if there are any, the dependence on T if several were timed."""
    machine, results = content["machine"], content["results"]
    title = (
        f"{machine['cpu']}, {machine['device']}, one core: {machine['fp32_gflops']:.0f} GFLOP/s of 256^3 fp32 products, "
        f"{machine['small_op_us']:.1f} us a small operation"
    )
    columns = ["algorithm", "what", "batch", "width", "T", "ms", "IQR %", "CPU ms", "GFLOP", "% of product rate"]
    tables = [Table(title, columns, [
        [
            r["algo"], r["name"], *(str(r[key] or "") for key in ("batch", "width", "T")), ms(r["median_ms"]),
            f"{100 * r['iqr_ms'] / r['median_ms']:.0f}", ms(r["cpu_ms"]), f"{r['flops'] / 1e9:.3f}" if r["flops"] else "",
            f"{100 * r['share']:.0f}" if r["share"] else "",
        ]
        for r in results
    ])]  # fmt: skip
    if floors := floor_rows(machine, results):
        tables.append(Table("Where the time of an update goes: what its work costs at the machine's own rates, in ms", [
            "algorithm", "T", "GFLOP", "MB", "operations", "products", "bytes", "dispatch", "sum", "CPU ms", "CPU / sum",
        ], floors))  # fmt: skip
    if content["ratios"]:
        columns = ["algorithm", "what", "peer", "ratio", "IQR", "CPU ratio"]
        tables.append(Table("Time over the peer's, paired by round", columns, [
            [r["algo"], r["name"], r["peer"], f"{r['ratio']:.2f}", f"{r['iqr']:.2f}",
             f"{r['cpu_ratio']:.2f}" if r["cpu_ratio"] else ""]
            for r in content["ratios"]
        ]))  # fmt: skip
    return tables + chain_tables(results)


def floors(machine: Row, results: list[Row]) -> Iterator[tuple[Row, str, dict[str, float]]]:
    """Each update's row, its algorithm (with the batch and width where these differ between updates), and the milliseconds of
    its products at the calibrated product rate, of its other operations' bytes at the copy rate, and of its operations at the
    price of dispatch; on one core these add up."""
    updates = [r for r in results if r["name"] == "update" and r["flops"] is not None and "against" not in r]
    several = [key for key in ("batch", "width") if len({r[key] for r in updates}) > 1]
    for r in updates:
        products, moved = r["flops"] / machine["fp32_gflops"] / 1e6, r["bytes"] / machine["copy_gbs"] / 1e6
        parts = {"products": products, "bytes": moved, "dispatch": r["operations"] * machine["small_op_us"] / 1e3}
        yield r, " ".join([r["algo"], *(f"{key} {r[key]}" for key in several)]), parts


def floor_rows(machine: Row, results: list[Row]) -> list[list[str]]:
    rows = []
    for r, label, parts in floors(machine, results):
        total = sum(parts.values())
        rows.append([
            label, str(r["T"] or ""), f"{r['flops'] / 1e9:.3f}", f"{r['bytes'] / 1e6:.1f}", f"{r['operations']:.0f}",
            *map(ms, (*parts.values(), total, r["cpu_ms"])), f"{r['cpu_ms'] / total:.2f}",
        ])  # fmt: skip
    return rows


def write_figures(content: Row, folder: Path) -> None:
    """`floor.png`, what the updates' work costs at the machine's rates and what was measured beyond, and `steps.png`, the cost
    against T if several were timed; into `folder`."""
    from reports.charts import stacked
    from reports.figures import draw
    from reports.reproduction import shrink
    from reports.wall_clock import steps_of_denoising

    bars = {}
    for r, label, parts in floors(content["machine"], content["results"]):
        name = label if r["T"] is None else f"{label}, T = {r['T']}"
        bars[name] = parts | {"beyond": max(r["cpu_ms"] - sum(parts.values()), 0.0)}
    own = [r for r in content["results"] if "against" not in r]
    drawn = [steps_of_denoising(own, list(dict.fromkeys(r["algo"] for r in own)))]
    if bars:
        paint = functools.partial(stacked, [("an update", bars)], ["products", "bytes", "dispatch", "beyond"], "ms")
        drawn.append(draw("floor", "Where an update's time goes", "Stacked bars of milliseconds by kind of work", paint))
    for figure in filter(None, drawn):
        path = folder / f"{figure.name.removeprefix('timing_')}.png"
        path.write_bytes(figure.png)
        shrink(path)


def chain_tables(results: list[Row]) -> list[Table]:
    """The actor's phase against T: time (the processor's on a CPU, else the clock's) and, where they are counted, FLOPs of each
    algorithm, and both as multiples of the first one's."""
    actors = [r for r in results if r["name"] == "actor" and r["T"]]
    first = actors[0] if actors else None
    actors = [r for r in actors if (r["batch"], r["width"]) == (first["batch"], first["width"])]
    time = "cpu_ms" if first and first["device"] == "cpu" else "median_ms"
    steps = sorted({r["T"] for r in actors})
    if len(steps) < 2:
        return []
    reference = {r["T"]: r for r in actors if r["algo"] == first["algo"]}
    rows = []
    for r in sorted(actors, key=lambda r: r["algo"] != first["algo"]):
        if r["T"] in reference:
            base = reference[r["T"]]
            work = ["", ""] if r["flops"] is None else [f"{r['flops'] / 1e9:.3f}", f"{r['flops'] / base['flops']:.2f}"]
            rows.append([r["algo"], str(r["T"]), ms(r[time]), work[0], f"{r[time] / base[time]:.2f}", work[1]])
    title = f"Actor update against the denoising steps T; ratios to {first['algo']} at the same T"
    return [Table(title, ["algorithm", "T", "CPU ms" if time == "cpu_ms" else "ms", "GFLOP", "time ratio", "FLOP ratio"], rows)]
