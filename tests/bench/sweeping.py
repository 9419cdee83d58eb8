"""An agent whose score is known in closed form, for sweeps: it plays the point (x, y) of toy/interior and learns nothing,
though its x may drift."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from algos.agent import Agent, Phase, Replay

AGENT = "aim=sweeping:Aim"
BEST = np.array([0.3, -0.4])  # of toy/interior, whose reward is 1 - |a - best|^2 / 2
LOW = {"toy_interior": 1 - np.sum(1 / 3 + BEST**2) / 2, "toy_corner": 0.0}  # mean rewards of uniform actions; the best is 1
PLANE = "space: {x: {low: -1.0, high: 1.0}, y: {low: -1.0, high: 1.0}}\npruner: none\n"


def score(params: dict) -> float:
    """Of a point (x, y), normalised: the closed form."""
    reward = 1 - np.sum((np.array([params["x"], params["y"]]) - BEST) ** 2) / 2
    return float((reward - LOW["toy_interior"]) / (1 - LOW["toy_interior"]))


@dataclass(frozen=True)
class Config:
    x: float = 0.0
    y: float = 0.0
    spread: float = 0.0  # std of what a run adds to its x, drawn from its own generator
    drift: float = 0.0  # added to its x at each update
    shift: int = 0  # does nothing
    kind: str = "plain"  # broken: raises; sick: plays a NaN
    hidden: tuple[int, ...] = (8,)  # does nothing
    wait: float = 0.0  # seconds per decision
    batch_size: int = 1
    capacity: int = 64


class Aim(Agent):
    Config = Config
    phases = (Phase("idle"),)

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        self.data = Replay(1, config.capacity, 1, 0.9)
        self.x = config.x + config.spread * float(torch.randn((), generator=generator))

    def draws(self, phase, n):
        return {}

    def act(self, obs, noise, mode):
        if mode == "explore":
            time.sleep(self.config.wait)
            if self.config.kind == "broken":
                raise RuntimeError("broken on purpose")
        x = float("nan") if self.config.kind == "sick" and mode == "explore" else self.x + self.config.drift * self.updates
        return torch.tensor([[x, self.config.y]]).clamp(-1, 1).repeat(len(obs), 1)

    def idle(self, batch, noise):
        return {}

    def value(self, obs, action):
        return torch.zeros(len(obs))
