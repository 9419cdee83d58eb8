"""The peers do the same work as the agents they are compared with. Skipped where they are not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from algos.agent import Batch
from algos.qsm import QSM
from bench.bodies import SPEC

PEERS = Path(__file__).parent / "peers"


def peer(name: str):
    spec = importlib.util.spec_from_file_location(f"peer_{name}", PEERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_torch(value) -> torch.Tensor:
    return torch.from_numpy(np.array(value))


def put(agent: QSM, actor, critics) -> None:
    """The JAX peer's weights into ours: first layers are split by input, biases have a row."""
    a, s = SPEC.act_dim, SPEC.obs_dim
    rows = as_torch(actor["first"]["w"]).split([a, s, actor["first"]["w"].shape[0] - a - s])
    body = [*rows, as_torch(actor["second"]["w"]), as_torch(actor["last"]["w"])]
    biases = [as_torch(actor[name]["b"])[None] for name in ("first", "second", "last")]
    pairs = [
        (agent.predictor.time.w, as_torch(actor["frequency"])[None]),
        *zip(agent.predictor.body.weights, body, strict=True),
        *zip(agent.predictor.body.biases, biases, strict=True),
    ]
    for layer, name in enumerate(("time1", "time2")):
        pairs.append((agent.predictor.time_mlp.weights[layer], as_torch(actor[name]["w"])))
        pairs.append((agent.predictor.time_mlp.biases[layer], as_torch(actor[name]["b"])[None]))
    for net in (agent.critics, agent.target_critics):
        weights = [*as_torch(critics[0]["w"]).split([s, a], dim=1), *(as_torch(c["w"]) for c in critics[1:])]
        pairs += [*zip(net.weights, weights, strict=True)]
        pairs += [(bias, as_torch(c["b"])[:, None]) for bias, c in zip(net.biases, critics, strict=True)]
    with torch.no_grad():
        for parameter, value in pairs:
            assert parameter.shape == value.shape
            parameter.copy_(value)


@pytest.mark.slow  # XLA compiles for ten seconds and more
def test_the_jax_qsm_makes_the_same_update_as_ours():
    jax = pytest.importorskip("jax")
    theirs = peer("jax_qsm")
    state, data = theirs.new_state(64), theirs.random_batch(32)
    noise = theirs.draw(jax.random.PRNGKey(1), 32)
    agent = QSM(SPEC, QSM.Config(actor_hidden=(64, 64), critic_hidden=(64, 64), batch_size=32), torch.Generator())
    put(agent, state.actor, state.critics)
    ours = {name: as_torch(value) for name, value in noise.items()}
    ours["t"] = ours["t"].long()
    critic = {name: ours[name] for name in ("x_T", "z", "action")}
    info = agent.update(Batch(*map(as_torch, data)), {"critic": critic, "target": {}, "actor": ours})
    state, found = jax.jit(theirs.learn)(state, data, noise)
    for name in ("critic_loss", "actor_loss"):
        assert float(info[name]) == pytest.approx(float(found[name]), rel=1e-4)
    # after a step of Adam: each parameter moved by about the learning rate, in the direction of its gradient
    moved = [(agent.predictor.body.weights[3], state.actor["second"]["w"]), (agent.critics.weights[2], state.critics[1]["w"])]
    moved.append((agent.target_critics.weights[2], state.target[1]["w"]))
    for mine, other in moved:
        assert torch.allclose(mine, as_torch(other), atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package", "bodies"),
    [
        ("sb3", "stable_baselines3", {"sac@sb3/update", "sac@sb3/train", "td3@sb3/update", "td3@sb3/train"}),
        ("sbx_agents", "sbx", {"sac@sbx/update", "sac@sbx/train", "td3@sbx/update", "td3@sbx/train"}),
        ("jax_qsm", "jax", {"qsm@jax/update"}),
    ],
)
def test_the_bodies_of_peers_train(name, package, bodies):
    pytest.importorskip(package)
    found = peer(name).benchmarks(batch=16, width=32)
    assert found.keys() == bodies
    for body in found.values():
        body.run()
