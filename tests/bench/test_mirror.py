"""TensorBoard and wandb show the JSONL files: every point once, also after a kill."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import mirror, run


def expected(path: Path) -> dict[str, dict[int, float]]:
    """Points by name and step, straight from the lines."""
    out: dict[str, dict[int, float]] = defaultdict(dict)
    for name in ("metrics", "evals"):
        for record in map(json.loads, (path / f"{name}.jsonl").read_text().splitlines()):
            step = record.pop("env_step")
            if name == "evals":
                lists = {"return": record["returns"]} | record.get("scores", {})
                record = {f"eval/{key}": sum(values) / len(values) for key, values in lists.items()}
            else:
                record = {f"train/{key}": value for key, value in record.items()}
            for key, value in record.items():
                out[key][step] = value
    return dict(out)


class List(mirror.Mirror):
    def __init__(self, path, config=None):
        super().__init__(path)
        self.points = defaultdict(list)

    def write(self, step, numbers):
        for name, value in numbers.items():
            self.points[name].append((step, value))

    def close(self):
        self.closed = True


def test_a_mirror_follows_the_lines_and_starts_anew_after_a_kill(small, train, tmp_path, monkeypatch):
    """Killed at 130, after the checkpoint at 118 and lines beyond it. The environment has scores of its own."""
    made = []
    monkeypatch.setattr(run, "mirror", lambda logger, path, config: made.append(List(path)) or made[-1])
    train(small("sac", env="generation/gmm1d"), tmp_path, kill_at=[130])
    first, second = made
    assert second.points["eval/KL"]
    assert {step for step, _ in first.points["train/critic_loss"]} >= {100, 120}
    for name, points in expected(tmp_path).items():
        assert second.points[name] == sorted(points.items()), name  # each once, in order
    assert second.points["time/active"] == sorted(dict(second.points["time/active"]).items())
    assert second.closed


def test_a_mirror_that_breaks_does_not_break_the_run(small, train, tmp_path, monkeypatch, capsys):
    class Lost(List):
        def write(self, step, numbers):
            if step >= 60:
                raise ConnectionError("the server is gone")

    monkeypatch.setattr(run, "mirror", lambda logger, path, config: Lost(path))
    assert train(small("sac"), tmp_path) == "done"
    assert capsys.readouterr().err.count("gave up (ConnectionError: the server is gone)") == 1

    def refuse(logger, path, config):
        raise ConnectionError("no key")

    monkeypatch.setattr(run, "mirror", refuse)
    assert train(small("sac"), tmp_path / "other") == "done"
    assert "gave up (ConnectionError: no key)" in capsys.readouterr().err


@pytest.mark.parametrize(("logger", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_logger_whose_package_is_missing_says_what_to_install(command, tmp_path, monkeypatch, logger, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    done = command("run", "--algos", "sac", "--envs", "toy/interior", f"logger={logger}")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"logger={logger} needs {package}" in done.err
    assert "pip install 'diffusion-policy-bench[logging]'" in done.err
    assert not any(tmp_path.iterdir())


def test_a_logger_is_operation(small, train, results, tmp_path, monkeypatch):
    """It may be changed when a run goes on, and changes no number."""
    from bench.rundir import RunDir

    config, other = small("sac"), small("sac", "logger=tensorboard")
    train(config, tmp_path / "none")
    assert RunDir(tmp_path / "none").prepare(other)[0].logger == "tensorboard"
    monkeypatch.setattr(run, "mirror", lambda *_: None)
    train(other, tmp_path / "other")
    assert results(tmp_path / "none") == results(tmp_path / "other")


@pytest.mark.slow
def test_tensorboard_event_files_hold_every_point_once(small, train, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(small("sac", "logger=tensorboard"), tmp_path, kill_at=[70, 130])
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for name, points in expected(tmp_path).items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in sorted(points.items())], name


@pytest.mark.slow
def test_wandb_offline_holds_every_point_once_and_resumes_under_its_id(small, train, tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = small("sac", "logger=wandb")

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    (before,) = tmp_path.glob("wandb/offline-run-*")
    name = (tmp_path / "wandb_id").read_text()
    assert train(config, tmp_path) == "done"
    (file,) = tmp_path.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb")
    assert before.name.endswith(name)
    found = defaultdict(list)
    for data in leveldb_log(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for key, value in items.items():
                found[key].append((items["env_step"], value))
    for key, points in expected(tmp_path).items():
        assert found[key] == [(step, pytest.approx(value)) for step, value in sorted(points.items())], key


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB, header of crc, length and kind) after 7 bytes."""
    at, open_record = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        open_record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield open_record
            open_record = b""
