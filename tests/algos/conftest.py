"""Small agents, batches and draws for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import algos
import envs
from algos.agent import Agent, Batch, sample
from algos.replay import RolloutBuffer
from envs.generation import Config as GenerationConfig
from envs.generation import ground_truth

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


@pytest.fixture
def generated() -> Callable[..., tuple[float, float, float]]:
    """generated(cls, config, beta, rollouts): trains on generation/gmm1d, then plays `own` 4,000 times: the divergences of what
    it generates from the best law and from the data, and its mean reward."""

    def train(cls, config, beta: float, rollouts: int) -> tuple[float, float, float]:
        env, spec = envs.make("generation/gmm1d", 0, config.envs, beta=beta)
        generator, to = torch.Generator().manual_seed(0), torch.from_numpy
        agent = cls(spec, config, torch.Generator().manual_seed(0))
        buffer = RolloutBuffer(agent.data, spec.obs_dim, spec.act_dim, config.envs)
        obs, _ = env.reset()
        for _ in range(rollouts):
            for _ in range(spec.horizon):
                action, kept = agent.explore(to(obs), sample(agent.draws("explore", config.envs), generator))
                after, reward, terminated, truncated, info = env.step(action.numpy())
                led_to = info["final_obs"] if terminated.any() else after
                buffer.add(to(obs), action, to(reward), to(terminated), to(truncated), to(led_to))
                buffer.keep(kept | {name: to(info[name]) for name in agent.data.infos})
                obs = after
            for _ in range(buffer.updates_due()):
                noise = {phase.name: sample(agent.draws(phase.name, agent.data.batch_size), generator) for phase in agent.due()}
                agent.update(buffer.sample(generator), noise)
        judge, _ = envs.make("generation/gmm1d", (0, 1), 4000, beta=beta)
        obs, _ = judge.reset()
        for _ in range(spec.horizon):
            obs, _, _, _, info = judge.step(agent.act(to(obs), {}, "own").numpy())
        known, final = ground_truth("gmm1d", GenerationConfig(beta=beta)), info["final_obs"][:, 1:].astype(float)
        return known.kl(final, known.best), known.kl(final, known.data), float(known.h(final).mean())

    return train
