"""Stored timings by hardware: how long each body takes in units of this machine's own 256^3 product.

A stored file holds, for each hardware id, the bodies' medians divided by the calibration of the same rounds. On like
hardware a body that is LIMIT times slower than its entry is a failure; on other hardware the nearest thing there is, any
other machine's entry, is shown as advice and fails nothing: the ratio of the parts of an update that are bound by products,
memory and dispatch differs between machines by more than the limit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.grid import parse_variants
from bench.rundir import dump_json, read_json, replace_file
from bench.timing import RATES
from bench.timing_tables import Table
from bench.typed import UsageError

LIMIT = 1.25
SAME = ("torch", "matmul_precision")  # of entries whose bodies can be compared


def refuse_unnamed(algos: str | None) -> None:
    """UsageError for other settings under an algorithm's own name, by which its stored timings are known."""
    for variant in parse_variants(algos) if algos else ():
        if variant.settings and variant.label == variant.algo.rpartition(":")[2]:
            raise UsageError(f"stored timings go by name: give {variant.text} one of its own, as in mine={variant.text}")


def key(row: dict[str, Any]) -> str:
    """A body's name in a baseline: all that decides what it is."""
    return " ".join(f"{part}={row[part]}" for part in ("algo", "name", "batch", "width", "depth", "T", "device", "mode"))


def read(path: Path) -> dict[str, Any]:
    """A stored file's entries by hardware id, {} if there is no file. Raises UsageError for a file that is no baseline."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise UsageError(f"{path} is no baseline file: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(map(is_entry, content.values())):
        wanted = f"`products`, numbers above 0 by body, {' and '.join(f'`{name}`' for name in SAME)}"
        raise UsageError(f"{path} is no baseline file: it maps hardware ids to entries with {wanted}")
    return content


def is_entry(entry: Any) -> bool:
    products = entry.get("products") if isinstance(entry, dict) else None
    if not isinstance(products, dict) or any(name not in entry for name in SAME):
        return False
    return all(isinstance(value, int | float) and value > 0 for value in products.values())


def existing(path: Path) -> dict[str, Any]:
    """As `read`; raises UsageError where there is nothing to compare with."""
    stored = read(path)
    if not stored:
        raise UsageError(f"there is no baseline in {path}; make one with --save-baseline {path}")
    return stored


def store(path: Path, content: dict[str, Any]) -> None:
    """Put a timing.json's content into this hardware's entry. Bodies that were not timed stay, if torch and its products are
    the same."""
    machine, stored = content["machine"], read(path)
    entry = {name: machine[name] for name in ("torch", "matmul_precision", *RATES)}
    old = stored.get(machine["id"], {"products": {}})
    kept = old["products"] if all(old.get(name) == machine[name] for name in SAME) else {}
    entry["products"] = kept | {key(r): round(r["products"], 4) for r in content["results"] if "against" not in r}
    replace_file(path, dump_json(stored | {machine["id"]: entry}))


def against(path: Path, content: dict[str, Any]) -> tuple[Table, list[str], bool]:
    """(table, bodies slower than LIMIT, whether the entry is of like hardware) of timings beside a stored file.

    Raises UsageError where the file is missing or holds none of the bodies.
    """
    stored = existing(path)
    hardware = content["machine"]["id"]
    timed = {key(r) for r in content["results"]}
    shared = [name for name, entry in stored.items() if timed & entry["products"].keys()]
    if not shared:
        raise UsageError(f"{path} holds none of the bodies that were timed")
    chosen = hardware if hardware in shared else shared[0]
    alike = chosen == hardware and all(stored[chosen][name] == content["machine"][name] for name in SAME)
    rows, slow = [], []
    for r in content["results"]:
        before = stored[chosen]["products"].get(key(r))
        if before is None:  # a new one, or one whose name or sizes have changed since
            rows.append([f"{r['algo']} {r['name']}", "not there", f"{r['products']:.2f}", ""])
            continue
        times = r["products"] / before
        rows.append([f"{r['algo']} {r['name']}", f"{before:.2f}", f"{r['products']:.2f}", f"{times:.2f}"])
        if times > LIMIT:
            slow.append(f"{r['algo']} {r['name']} takes {times:.2f} times its baseline")
    now, then = ([m[name] for name in SAME] for m in (content["machine"], stored[chosen]))
    word = "like hardware" if alike else f"advice only, this is {hardware}, torch {' '.join(now)}, not torch {' '.join(then)}"
    table = Table(f"Against the baseline of {chosen} ({word})", ["body", "products then", "products now", "ratio"], rows)
    return table, slow, alike
