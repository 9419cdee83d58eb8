"""Evaluation: one rule and one code path for every algorithm, which never touches training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import envs
from algos.agent import ON_BOUND, Agent, sample
from bench.config import RunConfig
from bench.finite import NonFinite, finite

EVAL_STREAM, PROBE_STREAM = 1, 2  # second word of the environment seed; training uses the bare seed


class Evaluator:
    """Plays whole episodes in lock step, in its own environments and with its own random numbers.

    Evaluation e of seed k plays the same starting states for every algorithm, and its noise depends on (k, e) alone, so
    how often one evaluates changes nothing else.
    """

    def __init__(self, config: RunConfig, device: torch.device):
        self.rule, self.seed, self.device = config.eval, config.seed, device
        self.env, self.spec = envs.make(config.env["id"], (config.seed, EVAL_STREAM), self.rule.episodes, **config.env_settings)

    def act(self, agent: Agent, obs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The rule's action [N, A]: the method's own or a sample, the best of `candidates` by `Agent.value`."""
        return act(agent, obs, generator, self.rule.action, self.rule.candidates)

    def play(self, agent: Agent, index: int, stopped: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Evaluation number `index`: {"returns": one per episode, "lengths": decisions}; "on_bound", where actions have
        bounds: the share of the episode's actions that were there; and where the environment has more to say of the last
        observations, "scores": lists of numbers by name. None if `stopped`, which is asked at every decision, ended it.
        Played again, it is the same. Raises NonFinite for an observation or an action."""
        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, EVAL_STREAM, index))
        n = self.rule.episodes
        obs, _ = self.env.start([index] * n)
        returns, lengths, on_bound, running = np.zeros(n), np.zeros(n, int), np.zeros(n), np.ones(n, bool)
        final = np.zeros_like(obs)
        while running.any():
            if not finite(obs[running]):
                raise NonFinite("evaluation observation", agent.updates)
            action = self.act(agent, torch.from_numpy(obs).to(self.device), generator).cpu().numpy()
            if not finite(action[running]):
                raise NonFinite("evaluation action", agent.updates)
            obs, reward, terminated, truncated, info = self.env.step(action)
            returns[running] += reward[running]  # not of the episodes that copies begin after theirs
            lengths += running
            on_bound += (np.abs(action) >= ON_BOUND).mean(axis=1) * running
            ended = running & (terminated | truncated)
            if ended.any():
                final[ended] = info["final_obs"][ended]
            running &= ~ended
            if running.any() and stopped():
                return None
        record: dict[str, Any] = {"returns": returns.tolist(), "lengths": lengths.tolist()}
        if self.spec.action_low is not None:
            record["on_bound"] = (on_bound / lengths).round(4).tolist()
        if scores := self.env.scores(final):
            record["scores"] = scores
        return record

    def close(self) -> None:
        self.env.close()


def act(agent: Agent, obs: torch.Tensor, generator: torch.Generator, mode: str, candidates: int = 1) -> torch.Tensor:
    """Actions [N, A] for obs [N, S]: the agent's in this mode, or of several samples the best by `Agent.value`."""
    n = len(obs)
    if candidates == 1:
        return agent.act(obs, sample(agent.draws(mode, n), generator, agent.device), mode)
    repeated = obs.repeat_interleave(candidates, dim=0)
    noise = sample(agent.draws("sample", n * candidates), generator, agent.device)
    actions = agent.act(repeated, noise, "sample")
    best = agent.value(repeated, actions).view(n, candidates).argmax(dim=1)
    return actions.view(n, candidates, -1)[torch.arange(n, device=agent.device), best]


class Probes:
    """Actions drawn at fixed first states of episodes, for the figures on behaviour."""

    STATES, SAMPLES, MOST = 4, 64, 50

    def __init__(self, config: RunConfig, device: torch.device):
        vector, self.spec = envs.make(config.env["id"], (config.seed, PROBE_STREAM), self.STATES, **config.env_settings)
        self.obs, _ = vector.reset()
        vector.close()
        self.seed, self.device = config.seed, device
        # a long run records every few evaluations, so that the file stays small
        evaluations = config.steps // config.eval_every + 1
        self.stride = -(-evaluations // self.MOST)
        self.steps: list[int] = []
        self.actions: list[np.ndarray] = []

    def draw(self, agent: Agent, index: int, env_step: int, last: bool = False) -> None:
        """Record evaluation `index`, or pass over it. last: of the final policy, which is never passed over."""
        if index % self.stride and not last:
            return
        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, PROBE_STREAM, index))
        obs = torch.from_numpy(self.obs).to(self.device).repeat_interleave(self.SAMPLES, dim=0)
        noise = sample(agent.draws("sample", len(obs)), generator, self.device)
        actions = agent.act(obs, noise, "sample").cpu().numpy()
        self.steps.append(env_step)
        self.actions.append(actions.reshape(self.STATES, self.SAMPLES, -1).astype(np.float32))

    def spread(self) -> dict[str, float]:
        """Of the newest actions: standard deviation at one state, and the fraction on the bound where there is one."""
        newest = self.actions[-1]
        found = {"probe_std": float(newest.std(axis=1).mean())}
        if self.spec.action_low is not None:
            found["probe_on_bound"] = float((np.abs(newest) >= ON_BOUND).mean())
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        return {"obs": self.obs, "env_step": np.asarray(self.steps), "actions": np.stack(self.actions)}


def stream_seed(*words: int) -> int:
    """A seed for a torch generator from a few small numbers, of which the CPU's generator takes the low 32 bits."""
    low, high = np.random.SeedSequence([len(words), *words]).generate_state(2)
    return (int(high) << 31) ^ int(low)
