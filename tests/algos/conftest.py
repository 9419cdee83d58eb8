"""Small agents, batches and draws for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import algos
from algos.agent import Agent, Batch, sample

Noise = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _one_thread_of_plain_fp32():
    torch.set_float32_matmul_precision("highest")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_agent() -> Callable[..., Agent]:
    """make_agent(name, obs_dim, act_dim, seed, **settings): an agent of narrow networks on an environment in [-1, 1]^A."""

    def build(name: str, obs_dim: int = 3, act_dim: int = 2, seed: int = 0, **settings) -> Agent:
        cls = algos.agent_class(name)
        narrow = {"actor_hidden": (16, 16), "critic_hidden": (16, 16)}
        spec = SimpleNamespace(
            id="test", obs_dim=obs_dim, act_dim=act_dim, action_low=(-1.0,) * act_dim, action_high=(1.0,) * act_dim,
            horizon=1, discount=None,
        )  # fmt: skip
        return cls(spec, cls.Config(**narrow | settings), torch.Generator().manual_seed(seed))

    return build


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """make_batch(n, obs_dim, act_dim, seed): random transitions that do not terminate."""

    def build(n: int = 32, obs_dim: int = 3, act_dim: int = 2, seed: int = 1) -> Batch:
        g = torch.Generator().manual_seed(seed)
        obs, next_obs = torch.randn(2, n, obs_dim, generator=g)
        action, reward = torch.rand(n, act_dim, generator=g) * 2 - 1, torch.randn(n, generator=g)
        return Batch(obs, action, reward, torch.full((n,), 0.99), next_obs)

    return build


@pytest.fixture
def draw() -> Callable[..., Noise]:
    """draw(agent, phase or mode, n, seed): what the agent declares for it."""
    return lambda agent, name, n, seed=2: sample(agent.draws(name, n), torch.Generator().manual_seed(seed))


@pytest.fixture
def update(draw) -> Callable[..., Noise]:
    """update(agent, batch, seed): one update with fresh draws; gives what the phases returned."""

    def run(agent: Agent, batch: Batch, seed: int = 2) -> Noise:
        due = {phase.name: draw(agent, phase.name, len(batch.reward), seed) for phase in agent.due()}
        return agent.update(batch, due)

    return run
