"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reports.html import Cell

NOTHING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent where one can do without."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = (
        f"{round(value, places):,.{max(0, places)}f}" if -3 < math.log10(abs(value)) < 7 else f"{value:.{digits - 1}e}"
    )
    return text.replace("-", "−").replace(",", "\u202f")


def large(value: float | None) -> str:
    """Counts with a unit: 64000 -> 64k, 1.9e9 -> 1.9G."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (0.9995 * size if size > 1e3 else size):  # 999,500 to three digits is a million
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"


def interval(estimate: dict[str, Any] | None) -> str:
    """'[low, high]' of an estimate, marked when unreliable; '' without an interval."""
    if not estimate or estimate["low"] is None:
        return ""
    return f"[{number(estimate['low'])}, {number(estimate['high'])}]{'?' if estimate['caution'] else ''}"


def estimate(value: dict[str, Any] | None, *, strong: bool = False) -> Cell:
    """A table cell: the value, and its interval in small type."""
    if not value:
        return Cell(NOTHING)
    return Cell(number(value["value"]), interval(value), strong=strong)


def listing(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
