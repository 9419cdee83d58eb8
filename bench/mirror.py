"""A run's records in TensorBoard or wandb. The JSONL files stay the truth; a mirror is made from their lines.

Each session of a run makes its mirror anew from the first line on, and follows the files from there. So a run that was
killed and cut back to its checkpoint shows no point twice and misses none, whatever the mirror had flushed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.typed import UsageError

FILES = {"metrics.jsonl": "train", "evals.jsonl": "eval", "clock.jsonl": "time"}
NEEDS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def check(logger: str) -> None:
    """UsageError saying what to install if the logger's package is missing."""
    try:
        importlib.import_module(NEEDS.get(logger, "json"))
    except ImportError as error:
        raise UsageError(f"logger={logger} needs {logger} ({error}): pip install 'diffusion-policy-bench[logging]'") from error


def values(kind: str, record: dict[str, Any]) -> dict[str, float]:
    """A line's numbers by name: train/critic_loss, eval/return (the mean of the episodes), time/active (seconds). An
    environment's own scores are means too, eval/KL, and so is the share of actions on the bound, eval/on_bound."""
    if kind == "eval":
        own = {"on_bound": record["on_bound"]} if "on_bound" in record else {}
        lists = {"return": record["returns"]} | own | record.get("scores", {})
        numbers = {name: sum(values) / len(values) for name, values in lists.items()}
    elif kind == "time":
        numbers = {name: record[name] for name in ("active", "total")}
    else:
        numbers = {name: value for name, value in record.items() if name != "env_step"}
    return {f"{kind}/{name}": float(value) for name, value in numbers.items()}


class Mirror:
    """Follows the JSONL files of a run. `follow` passes on what was appended since the last call."""

    def __init__(self, path: Path):
        self.path = path
        self.offsets = dict.fromkeys(FILES, 0)
        self.newest: dict[str, int] = {}  # step by name: a line of the clock stands beside each of the other two files

    def follow(self) -> None:
        points: dict[int, dict[str, float]] = {}
        for name, kind in FILES.items():
            for record in self._new(name):
                step = record["env_step"]
                new = {key: value for key, value in values(kind, record).items() if self.newest.get(key, -1) < step}
                self.newest |= dict.fromkeys(new, step)
                points.setdefault(step, {}).update(new)
        for step in sorted(points):
            self.write(step, points[step])

    def _new(self, name: str) -> Iterator[dict[str, Any]]:
        with open(self.path / name, "rb") as file:
            file.seek(self.offsets[name])
            for line in file:
                self.offsets[name] += len(line)
                yield json.loads(line)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class TensorBoard(Mirror):
    """Event files in <run>/tensorboard."""

    def __init__(self, path: Path, config: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(path)
        shutil.rmtree(path / "tensorboard", ignore_errors=True)
        # purge_step=0 tells a TensorBoard that is open now to forget what it has of the session before
        self.writer = SummaryWriter(str(path / "tensorboard"), purge_step=0)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb(Mirror):
    """<run>/wandb, offline unless WANDB_MODE says otherwise; `wandb sync` sends it. A run keeps its id for good."""

    def __init__(self, path: Path, config: dict[str, Any]):
        import wandb

        super().__init__(path)
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":  # this session's directory holds all of the run
            shutil.rmtree(path / "wandb", ignore_errors=True)
        where, project = path.absolute().parts[-4:], os.environ.get("WANDB_PROJECT", "diffusion-policy-bench")
        self.run = wandb.init(
            id=self._id(), resume="allow", mode=mode, dir=str(path), config=config, name="/".join(where), group=where[0],
            project=project, settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip

    def _id(self) -> str:
        file = self.path / "wandb_id"
        if not file.exists():
            file.write_text(hashlib.sha256(os.urandom(16)).hexdigest()[:12])
        return file.read_text()

    def write(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers | {"env_step": step}, step=step)

    def close(self) -> None:
        import wandb

        self.run.finish()
        wandb.teardown()  # waits for its service, which writes an offline run's last records


def mirror(logger: str, path: Path, config: dict[str, Any]) -> Mirror | None:
    """The mirror that `logger=tensorboard|wandb|none` asks for. Raises UsageError where its package is missing."""
    check(logger)
    return {"tensorboard": TensorBoard, "wandb": Wandb, "none": lambda *_: None}[logger](path, config)
