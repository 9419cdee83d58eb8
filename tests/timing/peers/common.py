"""What the peers that are built on Stable-Baselines3 share: an environment of the right sizes, a filled replay buffer."""

from __future__ import annotations

import gymnasium
import numpy as np

from bench.bodies import SPEC, STORED, Body


class Sizes(gymnasium.Env):
    """An environment that is never stepped; it only says the sizes of observations and actions."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (SPEC.obs_dim,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (SPEC.act_dim,), np.float32)


def fill(buffer) -> None:
    """Random transitions in every row of a Stable-Baselines3 ReplayBuffer."""
    generator = np.random.default_rng(0)
    for name in ("observations", "next_observations", "rewards"):
        field = getattr(buffer, name)
        field[:] = generator.standard_normal(field.shape, dtype=np.float32)
    buffer.actions[:] = generator.uniform(-1, 1, buffer.actions.shape)
    buffer.full = True


def bodies(build, label: str, delays: dict[str, int], batch: int, width: int) -> dict[str, Body]:
    """`train` is the library's own train() with one gradient step a call, as its default training loop calls it: sampling,
    update and its records. `update` is the same with a batch at hand. delays: updates in a full period, by algorithm.
    build(algo) -> a model with a replay buffer of STORED transitions.
    """
    out = {}
    for algo, delay in delays.items():
        for what in ("update", "train"):
            model = build(algo)
            fill(model.replay_buffer)
            if what == "update":
                ready = model.replay_buffer.sample(batch)
                model.replay_buffer.sample = lambda *_, ready=ready, **__: ready

            def run(model=model, delay=delay) -> None:
                for _ in range(delay):
                    model.train(gradient_steps=1, batch_size=batch)

            about = {
                "algo": f"{algo}@{label}", "name": what, "kind": "peer", "against": algo, "batch": batch, "width": width,
                "depth": 2, "T": None, "device": "cpu", "mode": "as shipped",
            }  # fmt: skip
            out[f"{algo}@{label}/{what}"] = Body(run, delay, about)
    return out


def settings(batch: int, width: int) -> dict:
    """Keywords of the libraries' constructors: their defaults but for the sizes."""
    return {"policy_kwargs": {"net_arch": [width, width]}, "batch_size": batch, "buffer_size": STORED, "seed": 0}
