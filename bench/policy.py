"""A trained policy in a notebook: `policy = bench.load_policy(run_dir); action = policy(obs)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import algos
from bench.compose import agent_config
from bench.evaluate import act
from bench.rundir import load_tensors
from envs import EnvSpec


class Policy:
    """obs [obs_dim] or [N, obs_dim] -> actions of the same leading shape in [-1, 1], as what `envs.make` makes takes them.

    Raises ValueError for observations of another shape.
    """

    def __init__(self, agent: algos.agent.Agent, mode: str, seed: int, candidates: int = 1):
        self.agent, self.mode, self.candidates = agent, mode, candidates
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        batch = torch.as_tensor(np.atleast_2d(np.asarray(obs, np.float32)))
        spec = self.agent.spec
        if batch.dim() != 2 or batch.shape[1] != spec.obs_dim:
            found, wanted = np.shape(obs), spec.obs_dim
            raise ValueError(f"an observation of {spec.id} is [{wanted}], several are [N, {wanted}]; found {found}")
        action = act(self.agent, batch, self.generator, self.mode, self.candidates).numpy()
        return action if np.ndim(obs) == 2 else action[0]


def load_policy(run_dir: str | Path, mode: str = "own", seed: int = 0, candidates: int = 1) -> Policy:
    """The newest policy of a run, from its `policy.pt` alone, on the CPU.

    mode: `own` (the method's evaluation action) or `sample`; candidates: of so many samples the best is taken. Raises
    FileNotFoundError where there is no policy yet.
    """
    stored = load_tensors(Path(run_dir) / "policy.pt", "algo", "spec", "agent")
    cls = algos.agent_class(stored["algo"]["agent"])
    agent = cls(EnvSpec.from_dict(stored["spec"]), agent_config(stored["algo"]), torch.Generator().manual_seed(0))
    agent.load_state_dict(agent.state_dict() | stored["agent"])  # of optimizers, which policy.pt has not, what a new agent has
    return Policy(agent, mode, seed, candidates)
