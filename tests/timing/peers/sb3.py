"""Stable-Baselines3's SAC and TD3 as shipped (ReLU networks, separate critics), as bodies for `bench timing --peers`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import configure

sys.path.insert(1, str(Path(__file__).parent))

import common


def benchmarks(precision: str = "highest", batch: int = 256, width: int = 256):
    """precision: of torch's fp32 products: `highest` is its default, `medium` goes through oneDNN."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(precision)

    def build(algo: str):
        model = {"sac": SAC, "td3": TD3}[algo]("MlpPolicy", common.Sizes(), device="cpu", **common.settings(batch, width))
        model.set_logger(configure(None, []))
        return model

    label = "sb3" if precision == "highest" else "sb3-onednn"
    return common.bodies(build, label, {"sac": 1, "td3": 2}, batch, width)
