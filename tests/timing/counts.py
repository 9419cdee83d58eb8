"""The exact layer of the timing gate: what one period of updates of each algorithm of conf/algo does, and one action, counted.

Run as a script (`make timing-baseline`) it renews counts.json and prints what changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import algos
from bench.bodies import spec_of
from bench.compose import agent_config, algo_values, available
from bench.cost import count_acting, count_period

PATH = Path(__file__).with_name("counts.json")
TORCH = torch.__version__.partition("+")[0]  # the operations dispatched belong to one version, whatever its build


def build(name: str, **settings: Any) -> algos.agent.Agent:
    values = algo_values(name) | settings
    cls = algos.agent_class(values["agent"])
    return cls(spec_of(cls), agent_config(values), torch.Generator().manual_seed(0))


def counted(names: Iterable[str] | None = None) -> dict[str, Any]:
    """The content of counts.json, counted now, of all names by default. Independent of the machine."""
    found = {name: count_period(build(name)) | {"acting": count_acting(build(name))} for name in names or available("algo")}
    return {"torch": TORCH, "counts": found}


def differences(before: Mapping[str, Any], after: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """A line for each number that is not the same, by its dotted name."""
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{where}{key}.")
        elif old != new:
            yield f"{where}{key}: {old} -> {new}"


def main() -> None:
    before = json.loads(PATH.read_text()) if PATH.exists() else {}
    after = counted()
    PATH.write_text(json.dumps(after, indent=1) + "\n")
    print("\n".join(differences(before, after)) or "nothing changed")


if __name__ == "__main__":
    main()
