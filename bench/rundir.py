"""How an experiment and a run lie on disk: their layout and their marks.

    <root>/<name>/experiment.json                      what the grid asked for, cell by cell
    <root>/<name>/<env, "/" as "_">/<label>/seed_<k>/  one run; docs/run_directory.md says what each file holds

Everything that replaces a file is written beside it, flushed to the disk, and renamed. JSONL files only grow; after a
crash they are cut back to the length that the checkpoint remembers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.config import AUTO, RunConfig, from_plain, identity, to_plain
from bench.typed import UsageError

JSONL = ("metrics.jsonl", "evals.jsonl", "clock.jsonl")
EPISODES = "episode_return"  # of a line of metrics.jsonl: mean return of the training episodes that ended since the one before
HEARTBEAT = 5.0  # seconds between two heartbeats of a run; on a busy disk one takes 10 ms
STALE_AFTER = 60.0  # seconds without a heartbeat after which a run no longer counts as running
CLOCKS_APART = 600.0  # seconds by which the clock of another machine may be ahead of this one's


def is_fresh(beat: float, now: float | None = None) -> bool:
    """Whether a heartbeat of this time says that its process is alive. Another machine's clock may be a little ahead."""
    return -CLOCKS_APART < (now or time.time()) - beat < STALE_AFTER


def replace_file(path: Path, data: bytes) -> None:
    """Write atomically: after a crash at any moment the old or the new file is there, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dump_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, **kinds: type | tuple[type, ...]) -> Any:
    """The file's value, or None if there is no such file. kinds: keys that it has, each with the type of its value. Raises
    UsageError for a damaged file, and for one that is of another kind."""
    try:
        found = json.loads(path.read_text())
        for key, kind in kinds.items():
            if not isinstance(found, dict) or key not in found or not isinstance(found[key], kind):
                raise ValueError(f"it has no {key!r}, or another one")
    except FileNotFoundError:
        return None
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"{path} cannot be read ({said}); restore it or remove what it belongs to") from error
    return found


class RunDir:
    """One run's directory."""

    def __init__(self, path: Path):
        self.path = Path(path)

    # -- state ---------------------------------------------------------------------------------------------------------
    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    def state(self, now: float | None = None) -> str:
        """missing | running | stopped | done | failed, from the files alone."""
        if (self.path / "DONE").exists():
            return "done"
        if (self.path / "FAILED.json").exists():
            return "failed"
        progress = self.progress()
        if progress is None:
            return "stopped" if self.config_path.exists() else "missing"
        return "running" if progress["state"] == "running" and is_fresh(progress["time"], now) else "stopped"

    def progress(self) -> dict[str, Any] | None:
        """The last heartbeat; None also where a crash of the machine left it empty, for it is written without a flush, and
        where a network file system lost it to the next one while it was read."""
        try:
            return read_json(self.path / "progress.json", time=(int, float), state=str)
        except (UsageError, OSError):
            return None

    def completion(self) -> dict[str, Any] | None:
        """What DONE says; {} where a crash of the machine left it torn: it is an end all the same."""
        try:
            return read_json(self.path / "DONE")
        except UsageError:
            return {}

    def failure(self) -> dict[str, Any] | None:
        return read_json(self.path / "FAILED.json")

    def stored(self) -> tuple[RunConfig, dict[str, Any]] | None:
        """The configuration of earlier sessions of this run, and the whole of config.yaml; None for a new run."""
        import yaml

        if not self.config_path.exists():
            return None
        try:
            values = yaml.safe_load(self.config_path.read_text())
            extra = {key: values.pop(key) for key in ("auto", "changed", "spec")}
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise UsageError(f"{self.config_path} cannot be read; restore it or remove {self.path}") from error
        try:
            return from_plain(values), {**values, **extra}
        except (UsageError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{self.config_path} is of another version of this package, or damaged ({str(error).splitlines()[0]}); "
                "choose another --name"
            ) from error

    def prepare(self, config: RunConfig) -> tuple[RunConfig, list[str]]:
        """`config` resolved for this directory, and the keys whose value was derived.

        A continued run keeps the derived values of its first session. Raises UsageError naming the keys where the
        identity of the stored run differs, if it went further than `steps` asks for, or if it cannot go on.
        """
        stored = self.stored()
        if stored is None:
            return config.resolved(), [key for key in AUTO if getattr(config, key) is None]
        old, values = stored
        new = config.resolved({key: values[key] for key in values["auto"]})
        self.refuse_other_settings(identity(old), identity(new))
        if new.steps < old.steps:
            raise UsageError(f"{self.path} was run for steps={old.steps}; steps={new.steps} is less (it can only be raised)")
        if new.steps > old.steps and (self.path / "DONE").exists():
            if not (old.keep_replay and (self.path / "replay").exists()):
                raise UsageError(
                    f"{self.path} is finished and its replay was dropped, so it cannot go on to steps={new.steps}; "
                    "choose another --name (a run made with keep_replay=true can be continued)"
                )
            if not (self.path / "checkpoint.pt").exists():
                raise UsageError(
                    f"{self.path} is finished and has no checkpoint.pt, so it cannot go on to steps={new.steps}; put it back, "
                    "or choose another --name"
                )
        return new, values["auto"]

    def refuse_other_settings(self, there: dict[str, Any], asked: dict[str, Any]) -> None:
        """UsageError naming the keys in which two identities differ: that of what lies here, and that of the run asked for."""
        differ = [key for key in sorted(asked.keys() | there.keys()) if asked.get(key) != there.get(key)]
        if differ:
            pairs = ", ".join(f"{key}: {there.get(key)} there, {asked.get(key)} asked for" for key in differ)
            raise UsageError(f"{self.path} holds a run with other settings ({pairs}); choose another --name")

    def write_config(self, config: RunConfig, auto: Iterable[str], changed: dict[str, Any], spec: dict[str, Any]) -> None:
        import yaml

        values = to_plain(config) | {"auto": list(auto), "changed": changed, "spec": spec}
        replace_file(self.config_path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())

    # -- records -------------------------------------------------------------------------------------------------------
    def append(self, name: str, record: dict[str, Any]) -> None:
        """One line. Raises ValueError for a number that is not finite: NaN is no JSON."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with open(self.path / name, "ab") as file:
            file.write(line.encode())

    def offsets(self) -> dict[str, int]:
        """Bytes of each JSONL file, flushed to the disk: what a checkpoint remembers."""
        sizes = {}
        for name in JSONL:
            path = self.path / name
            if path.exists():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            sizes[name] = path.stat().st_size if path.exists() else 0
        return sizes

    def check_lengths(self, offsets: dict[str, int]) -> None:
        """UsageError where a file has lost what the checkpoint that remembers `offsets` counts on."""
        for name, size in offsets.items():
            path = self.path / name
            found = path.stat().st_size if path.exists() else 0
            if found < size:
                raise UsageError(f"{path} is shorter than its checkpoint remembers ({found} < {size} bytes)")

    def cut_back(self, offsets: dict[str, int]) -> None:
        """Drop what was written after the checkpoint that remembers `offsets`."""
        self.check_lengths(offsets)
        for name in JSONL:
            path, size = self.path / name, offsets.get(name, 0)
            if size:
                os.truncate(path, size)
            else:
                path.unlink(missing_ok=True)

    def add_session(self, session: dict[str, Any]) -> None:
        replace_file(self.path / "provenance.json", dump_json({"sessions": [*self.sessions(), session]}))

    def sessions(self) -> list[dict[str, Any]]:
        """What provenance.json says of each session of this run, oldest first."""
        return (read_json(self.path / "provenance.json", sessions=list) or {"sessions": []})["sessions"]

    def write_progress(self, record: dict[str, Any]) -> None:
        """The heartbeat: replaced without a flush, since only a live run's heartbeat means anything."""
        temporary = self.path / f".progress.json.{os.getpid()}.tmp"
        try:
            temporary.write_text(json.dumps(record))
            os.replace(temporary, self.path / "progress.json")
        finally:
            temporary.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        replace_file(self.path / name, dump_json(value))

    # -- the end -------------------------------------------------------------------------------------------------------
    def mark_done(self, record: dict[str, Any]) -> None:
        self.write_json("DONE", record)
        (self.path / "FAILED.json").unlink(missing_ok=True)

    def mark_failed(self, record: dict[str, Any]) -> None:
        self.write_json("FAILED.json", record)
        (self.path / "DONE").unlink(missing_ok=True)  # of fewer steps: a run has one end mark

    def reopen(self) -> None:
        """Take back the end marks, before a finished run is continued or a failed one retried, and remove what a process that
        was killed within a write left of it. Only under the run's lock."""
        for name in ("DONE", "FAILED.json"):
            (self.path / name).unlink(missing_ok=True)
        for torn in (*self.path.glob(".*.tmp"), *(self.path / "replay").glob(".*.tmp")):
            torn.unlink()


# -- tensors -----------------------------------------------------------------------------------------------------------


def save_tensors(path: Path, value: Any) -> None:
    """Tensors and plain values, atomically."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    replace_file(path, buffer.getbuffer())


def load_tensors(path: Path, *keys: str) -> Any:
    """Inverse of `save_tensors` for a dictionary with these keys; no code is run. Raises UsageError for a file that is not
    whole, or not of this kind."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = (str(error).strip() or "the file ends too early").splitlines()[0][:160]
        raise UsageError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {reason})") from error
    lacking = [key for key in keys if key not in found] if isinstance(found, dict) else keys
    if lacking or not isinstance(found, dict):
        raise UsageError(f"{path} cannot be read as a checkpoint (it has no {', '.join(lacking)})")
    return found


# -- the experiment ----------------------------------------------------------------------------------------------------


class Experiment:
    """A directory of runs that one command line asked for."""

    def __init__(self, root: Path, name: str):
        self.path = Path(root) / name

    def read(self) -> dict[str, Any] | None:
        return read_json(self.path / "experiment.json", name=str, cells=list)

    def cells(self) -> list[dict[str, Any]]:
        return (self.read() or {"cells": []})["cells"]

    def write(
        self, preset: str, command: list[str], cells: list[dict[str, Any]], sweep: dict[str, Any] | None = None
    ) -> list[int]:
        """Add or renew cells; returns their indices. A cell's index never changes. sweep: of which trial they are."""
        known = self.read() or {
            "name": self.path.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sweep": sweep,
            "cells": [],
        }
        place = {cell["dir"]: i for i, cell in enumerate(known["cells"])}
        indices = []
        for cell in cells:
            at = place.setdefault(cell["dir"], len(known["cells"]))
            known["cells"][at : at + 1] = [cell]
            indices.append(at)
        replace_file(self.path / "experiment.json", dump_json(known | {"preset": preset, "command": command}))
        return indices

    def run_dir(self, cell: dict[str, Any]) -> RunDir:
        return RunDir(self.path / cell["dir"])

    def state(self, cell: dict[str, Any], now: float | None = None) -> str:
        """As `RunDir.state`; stopped where it is done for fewer steps than the cell asks for, which were raised since."""
        directory, steps = self.run_dir(cell), cell["config"]["steps"]
        state = directory.state(now)
        end = (directory.completion() or {}) if state == "done" else {}  # a worker may take it back in between
        return "stopped" if end.get("steps", steps) < steps else state


def read_sweep(path: Path) -> dict[str, Any] | None:
    """The sweep.json of a directory; None if there is none."""
    return read_json(Path(path) / "sweep.json", name=str, studies=dict)


def cell_dir(env_id: str, label: str, seed: int) -> str:
    return f"{env_id.replace('/', '_')}/{label}/seed_{seed}"
