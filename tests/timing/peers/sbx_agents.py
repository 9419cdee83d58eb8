"""SBX's SAC and TD3 (Stable-Baselines3 in JAX) as shipped, as bodies for `bench timing --peers`.

train() reads its losses back at the end of every call, so a call returns when the work is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sbx import SAC, TD3
from stable_baselines3.common.logger import configure

sys.path.insert(1, str(Path(__file__).parent))

import common


def benchmarks(batch: int = 256, width: int = 256):
    def build(algo: str):
        model = {"sac": SAC, "td3": TD3}[algo]("MlpPolicy", common.Sizes(), **common.settings(batch, width))
        model.set_logger(configure(None, []))
        return model

    return common.bodies(build, "sbx", {"sac": 1, "td3": 2}, batch, width)
