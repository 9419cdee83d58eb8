"""A sweep as `status` and `watch` show it, from its files alone: a row for each trial, then the runs of the confirmation.

A trial's score is its value, the mean over its runs of what each has reached in the normalised range. Trials of machines that
share a database but no file system are not seen.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.display import GridView, rows
from bench.rundir import Experiment, is_fresh, read_json, read_sweep
from bench.sweep.plan import SUFFIX
from bench.typed import UsageError

ENDS = {"complete": "complete", "pruned": "pruned", "fail": "failed"}  # of sweep.json
ENDED = "ended.json"  # how a trial ended, in its directory, for those who look at files: the storage is what counts


def heartbeat_of(place: Path) -> dict[str, Any] | None:
    """A trial's newest heartbeat; None without one, or where a crash of the machine left it empty: it is not flushed."""
    try:
        return read_json(place / "heartbeat.json", time=(int, float), host=str)
    except UsageError:
        return None


class SweepView(GridView):
    score = "score"

    def __init__(self, path: Path):
        super().__init__(Experiment(path, "confirm"))
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        trials = [self._trial(label, place) for label, found in self._begun().items() for place in found]
        return trials + [{**row, "run": f"confirm {row['run']}", "return": None} for row in super().rows()]

    def remarks(self) -> list[str]:
        asked = self._asked()
        lines = [f"{label}: {len(found)} of {asked[label]} trials begun" for label, found in self._begun().items()]
        for label, found in self._begun().items():
            ends = [(place, self._end(label, place)) for place in found]
            lines += [f"{label} trial {int(place.name)}: failed: {end['error']}" for place, end in ends if end and end["error"]]
        return lines + super().remarks()

    def going(self) -> bool:
        """Whether somebody worked on it a moment ago and it is not complete: between two trials nothing runs."""
        files = [heartbeat_of(place) for found in self._begun().values() for place in found]
        beats = [beat["time"] for beat in files if beat]
        beats += [time.time() - row["age"] for row in super().rows() if row["age"] is not None]
        return not self.complete() and any(map(is_fresh, beats))

    def complete(self) -> bool:
        """Whether every trial has ended, every search has found something, and that is confirmed where it was asked for."""
        wanted, listed = read_sweep(self.path)["confirm"], {cell["label"] for cell in self.experiment.cells()}
        begun = self._begun()
        for label, count in self._asked().items():
            states = [end["state"] for place in begun[label] if (end := self._end(label, place))]
            if len(states) < count or "complete" not in states or (wanted and f"{label}{SUFFIX}" not in listed):
                return False
        return all(row["state"] == "done" for row in super().rows())

    def _asked(self) -> dict[str, int]:
        return {label: study["asked"] for label, study in read_sweep(self.path)["studies"].items()}

    def _begun(self) -> dict[str, list[Path]]:
        return {label: sorted((self.path / "trials" / label).glob("[0-9]*")) for label in self._asked()}

    def _end(self, label: str, place: Path) -> dict[str, Any] | None:
        """How a trial ended: as its own file says, or, if a process died before it wrote that, the summary of the sweep."""
        if end := read_json(place / ENDED):
            return end
        known = read_sweep(self.path)["studies"][label]["trials"]
        trial = next((t for t in known if t["number"] == int(place.name) and t["state"] in ENDS), None)
        return trial and {"state": ENDS[trial["state"]], "value": trial["value"], "error": trial.get("error", "")}

    def _trial(self, label: str, place: Path) -> dict[str, Any]:
        inner = rows(Experiment(place.parent, place.name))
        end, beat = self._end(label, place), heartbeat_of(place)
        works = beat is not None and is_fresh(beat["time"])
        ages, rest = ([row[key] for row in inner if row[key] is not None] for key in ("age", "eta"))
        state = end["state"] if end else "running" if works else "stopped"
        return {
            "run": f"{label} trial {int(place.name)}", "state": state, "return": end and end["value"],
            "env_step": sum(row["env_step"] for row in inner), "steps": sum(row["steps"] for row in inner),
            "sps": sum(row["sps"] for row in inner if row["state"] == "running"),
            "eta": max(rest, default=None), "age": min(ages, default=None),
        }  # fmt: skip
