"""`python -m envs.measure dmc/cartpole-swingup ...`: measures a uniformly random policy, rewrites scores.yaml, or for an
environment from outside ./conf/scores.yaml."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import envs
from envs import scores


def random_returns(id: str, episodes: int, action_repeat: int, seed: int) -> np.ndarray:
    """Returns [episodes] of actions drawn uniformly from [-1, 1]. Raises ValueError when the actions are unbounded."""
    env, spec = envs.make(id, seed, **({"action_repeat": action_repeat} if action_repeat != 1 else {}))
    if spec.action_low is None:
        raise ValueError(f"'{id}' has unbounded actions; there is no uniformly random policy")
    # A stream of its own, so that the actions share nothing with the episodes' initial states.
    actions = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    returns = np.zeros(episodes)
    env.reset()
    for episode in range(episodes):
        done = False
        while not done:
            _, reward, terminated, truncated, _ = env.step(actions.uniform(-1.0, 1.0, (1, spec.act_dim)))
            returns[episode] += reward[0]
            done = terminated[0] or truncated[0]
    env.close()
    return returns


def write(rows: list[dict[str, Any]], file: Path) -> None:
    """Replaces the measurements of the same (id, action_repeat) and keeps the others; one line each, sorted."""
    merged = {(row["id"], row["action_repeat"]): row for row in [*scores.read(file), *rows]}
    lines = ["# Returns of a uniformly random policy. Written by `python -m envs.measure`."]
    for _, row in sorted(merged.items()):
        lines.append("- " + yaml.safe_dump(row, default_flow_style=True, sort_keys=False, width=1000).strip())
    file.parent.mkdir(exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    os.replace(part, file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m envs.measure", description=__doc__)
    parser.add_argument("ids", nargs="+", metavar="id")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--action-repeat", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.episodes < 2:
        parser.error(f"--episodes is {options.episodes}; expected 2 or more, for a standard deviation")
    for id in options.ids:
        try:
            returns = random_returns(id, options.episodes, options.action_repeat, options.seed)
        except ValueError as error:
            parser.error(str(error))
        row = {
            "id": id,
            "action_repeat": options.action_repeat,
            "episodes": options.episodes,
            "seed": options.seed,
            "mean": float(f"{returns.mean():.6g}"),
            "std": float(f"{returns.std(ddof=1):.6g}"),
        }
        try:
            write([row], scores.OWN if ":" in id else scores.FILE)
        except OSError as error:
            parser.error(str(error))
        print(row, flush=True)


if __name__ == "__main__":
    main()
