"""Writes run directories of made-up experiments, as `bench` would, from a seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

SKILL = {"qsm": 0.72, "dql": 0.55, "pg": 0.4, "sac": 0.7, "td3": 0.6}  # where a label's learning curve levels off
SPEED_MS = {"qsm": 3.9, "dql": 9.6, "pg": 6.2, "sac": 2.1, "td3": 1.4}
ENVS = ("dmc/reacher-easy", "gym/Example-v5")
ACT_DIMS = {"dmc/cartpole-swingup": 1, "dmc/reacher-easy": 2}
PACKAGES = {"torch": "2.13.0", "numpy": "2.4.6", "mujoco": "3.17.0"}
SESSION = {
    "git": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "packages": PACKAGES,
    "python": "3.12.3",
    "platform": "Linux-6.1-x86_64",
    "cpu": "Example CPU 3.0 GHz",
    "cores": 2,
    "device": "cpu",
    "threads": 1,
    "matmul_precision": "highest",
    "jobs": 2,
    "load": 1.5,
    "host": "example",
    "started": "2026-01-01T00:00:00",
    "command": ["python", "-m", "bench", "run"],
}


def experiment(
    root: Path,
    *,
    labels: tuple[str, ...] = ("qsm", "dql", "sac"),
    envs: tuple[str, ...] = ("dmc/cartpole-swingup",),
    seeds: int = 2,
    steps: int = 64000,
    evaluations: int = 17,
    episodes: int = 10,
    metric_lines: int = 64,
    **changes: object,
) -> Path:
    """A finished experiment at `root`; `changes` go to every run's config. Returns root."""
    cells = [(env, label, seed) for env in envs for label in labels for seed in range(seeds)]
    for env, label, seed in cells:
        run(
            root,
            env,
            label,
            seed,
            steps=steps,
            evaluations=evaluations,
            episodes=episodes,
            metric_lines=metric_lines,
            **changes,
        )
    listed = [
        {"env": e, "label": a, "seed": s, "dir": str(run_dir(root, e, a, s).relative_to(root))} for e, a, s in cells
    ]
    content = {
        "name": root.name,
        "preset": "quick",
        "command": ["python", "-m", "bench", "run"],
        "created": "2026-01-01T00:00:00",
    }
    write_json(root / "experiment.json", {**content, "cells": listed, "sweep": None})
    return root


def run_dir(root: Path, env: str, label: str, seed: int) -> Path:
    return root / env.replace("/", "_") / label / f"seed_{seed}"


def run(
    root: Path,
    env: str,
    label: str,
    seed: int,
    *,
    steps: int = 64000,
    evaluations: int = 17,
    episodes: int = 10,
    metric_lines: int = 64,
    repeat: int = 8,
    jobs: int = 2,
    rule: dict | None = None,
    score: dict | None = None,
    returns: np.ndarray | None = None,
) -> Path:
    """One finished run; `returns` [evaluations, episodes] replaces the made-up learning curve."""
    path = run_dir(root, env, label, seed)
    path.mkdir(parents=True)
    generator = np.random.default_rng([seed, len(label), sum(map(ord, label + env))])
    grid = np.linspace(0, steps, evaluations).round().astype(int)
    if returns is None:
        returns = _returns(generator, label, env, grid / steps, episodes)
    size = ACT_DIMS.get(env, 6)
    _write_config(
        path, env, label, seed, steps=steps, evaluations=evaluations, repeat=repeat, size=size, rule=rule, score=score
    )
    evals = [{"env_step": int(s), "update": int(s) // repeat, "returns": list(map(float, r)), "lengths": [1000] * len(r),
              "on_bound": [0.4 * s / steps] * len(r)} for s, r in zip(grid, returns.round(3), strict=True)]  # fmt: skip
    times = np.linspace(steps / metric_lines, steps, metric_lines).round().astype(int)
    write_lines(path / "evals.jsonl", evals)
    write_lines(path / "metrics.jsonl", _metrics(generator, label, times, repeat))
    write_lines(path / "clock.jsonl", _clock(generator, label, np.union1d(grid, times), repeat))
    _write_probes(path, generator, label, size, steps)
    session = {**SESSION, "jobs": jobs, "cell_command": f"python -m bench run --algos {label} --envs {env} --seeds 3"}
    write_json(path / "provenance.json", {"sessions": [session]})
    flops = {
        "parameters": 210000 + 1000 * size,
        "actor_parameters": 70000,
        "flops_per_update": 9.2e8,
        "operations_per_update": 420,
    }
    write_json(path / "cost.json", {**flops, "peak_memory_mb": 410.0})
    write_json(path / "progress.json", {"env_step": steps, "steps": steps, "state": "done", "time": 0.0})
    write_json(path / "DONE", {"env_step": steps, "update": steps // repeat, "time": 0.0})
    return path


def unfinish(path: Path, *, state: str, share: float = 0.5, time: float = 0.0) -> None:
    """Makes a finished run one that has come `share` of the way: running, interrupted, stopped or failed."""
    (path / "DONE").unlink()
    progress = json.loads((path / "progress.json").read_text())
    reached = int(share * progress["steps"])
    for name in ("evals.jsonl", "metrics.jsonl", "clock.jsonl"):
        lines = [line for line in (path / name).read_text().splitlines() if json.loads(line)["env_step"] <= reached]
        (path / name).write_text("".join(f"{line}\n" for line in lines))
    write_json(path / "progress.json", {**progress, "env_step": reached, "state": state, "time": time})
    if state == "failed":
        failure = {
            "error": "critic_loss is nan at update 4000",
            "traceback": "Traceback …\nFloatingPointError: <nan> & more",
        }
        write_json(path / "FAILED.json", {**failure, "update": 4000, "env_step": reached, "quantity": "critic_loss"})


def timing(path: Path, labels: tuple[str, ...] = ("qsm", "dql", "sac")) -> Path:
    """A timing.json in which dql's actor gets slower with T and qsm's does not."""
    results = []
    for label in labels:
        for chain in (None,) if label in ("sac", "td3") else (5, 10, 20, 50):
            for name, base, slope in (
                ("actor", 1.6, 0.5 if label == "dql" else 0.0),
                ("update", 3.5, 0.6),
                ("act", 0.1, 0.05),
            ):
                row = {
                    "algo": label,
                    "name": name,
                    "kind": name,
                    "batch": 256,
                    "width": 256,
                    "depth": 2,
                    "T": chain,
                    "device": "cpu",
                    "changed": ({"m_q": 120.0} if label == "qsm" else {}) | ({} if chain in (None, 5) else {"T": chain}),
                }
                ms = base + slope * (chain or 0)
                results.append(
                    {**row, "mode": "eager", "median_ms": ms, "iqr_ms": 0.1 * ms, "rounds": 50, "flops": 1e9}
                )
    return write_json(path, {"machine": {"cpu": "Example CPU", "cores": 2, "device": "cpu"}, "results": results})


def write_json(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def drop(path: Path) -> None:
    shutil.rmtree(path)


def _returns(generator: np.random.Generator, label: str, env: str, share: np.ndarray, episodes: int) -> np.ndarray:
    hardness = 0.6 + 0.4 * ((sum(map(ord, env)) % 7) / 6)
    top = 1000 * hardness * SKILL.get(label, 0.5) * generator.normal(1, 0.07)
    curve = 20 + top / (1 + np.exp(-12 * (share - generator.uniform(0.25, 0.45))))
    wobble = 0.04 * top * generator.normal(size=(len(share), 1))
    return np.clip(curve[:, None] + wobble + 0.03 * top * generator.normal(size=(len(share), episodes)), 0, 1000)


def _metrics(generator: np.random.Generator, label: str, times: np.ndarray, repeat: int) -> list[dict]:
    share = times / times[-1]
    columns = {
        "critic_loss": 0.1 + 3 * share * np.exp(generator.normal(0, 0.3, len(times))),
        "actor_loss": -40 * share + generator.normal(0, 1, len(times)),
        "q_mean": 60 * share + generator.normal(0, 2, len(times)),
        "target_q_mean": 58 * share,
        "actions_std": 0.5 - 0.3 * share,
        "actions_on_bound": 0.4 * share,
    }
    if label == "qsm":
        columns["alignment"] = np.tanh(3 * share) + generator.normal(0, 0.02, len(times))
    rows = [{name: round(float(column[i]), 5) for name, column in columns.items()} for i in range(len(times))]
    return [
        {"env_step": int(step), "update": int(step) // repeat, **row} for step, row in zip(times, rows, strict=True)
    ]


def _clock(generator: np.random.Generator, label: str, times: np.ndarray, repeat: int) -> list[dict]:
    ms = SPEED_MS.get(label, 4.0) * generator.normal(1, 0.02)
    shares = {"critic": 0.4, "actor": 0.5, "target": 0.1}
    rows = []
    for step in times.tolist():
        updates = step // repeat
        wall = {name: round(1e-3 * ms * share * updates, 4) for name, share in shares.items()}
        wall |= {
            name: round(1e-3 * cost * updates, 4)
            for name, cost in (("env", 0.6), ("act", 0.5), ("store", 0.03), ("sample", 0.08))
        }
        active = sum(wall.values())
        wall |= {"setup": 0.4, "eval": 0.2 * active, "checkpoint": 0.01 * active, "log": 0.001 * active}
        total = {"active": active, "process": 1.1 * active, "total": 1.3 * active, "rss_mb": 400.0}
        rows.append({"env_step": step, "update": updates, "wall": wall, **total, "updates_timed": updates})
    return rows


def _write_config(path: Path, env: str, label: str, seed: int, *, steps: int, evaluations: int, repeat: int, size: int,
                  rule: dict | None, score: dict | None) -> None:  # fmt: skip
    config = {
        "label": label,
        "algo": {
            "name": label, "agent": label, "lr": 3e-4, "batch_size": 256,
            "actor_hidden": [256, 256], "critic_hidden": [256, 256],
        } | ({} if label in ("sac", "td3") else {"T": 5}),
        "env": {"id": env, "action_repeat": repeat, "num_envs": 1},
        "seed": seed,
        "steps": steps,
        "warmup": min(5000, steps // 10),
        "eval_every": steps // max(1, evaluations - 1),
        "eval": rule or {"episodes": 10, "action": "own", "candidates": 1},
        "auto": ["warmup"],
        "changed": {"m_q": [50.0, 120.0]} if label == "qsm" else {},
        "spec": {
            "id": env, "obs_dim": 5, "act_dim": size, "action_low": [-1.0] * size, "action_high": [1.0] * size, "horizon": 1000,
            "action_repeat": repeat, "discount": 0.99,
            "score": score or {"name": "return", "direction": "max", "low": 25.0, "high": 1000.0, "source": "the task"},
        },
    }  # fmt: skip
    (path / "config.yaml").write_text(json.dumps(config, indent=1))  # JSON is YAML


def _write_probes(path: Path, generator: np.random.Generator, label: str, size: int, steps: int) -> None:
    recorded = np.linspace(0, steps, 9).round().astype(int)
    width = np.linspace(0.7, 0.15 if label == "sac" else 0.3, len(recorded))[:, None, None, None]
    modes = generator.choice([-0.5, 0.5], size=(len(recorded), 3, 64, size)) * (label != "sac")
    actions = np.clip(modes + width * generator.normal(size=(len(recorded), 3, 64, size)), -1, 1)
    np.savez(
        path / "probes.npz", obs=np.zeros((3, 5), np.float32), env_step=recorded, actions=actions.astype(np.float32)
    )
