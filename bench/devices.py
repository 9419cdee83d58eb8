"""The CUDA devices of this machine. No run names one: each sees a single device, which its engine has chosen for it."""

from __future__ import annotations

import os

from bench.typed import UsageError


def here() -> tuple[str, ...]:
    """The devices that this process may use, each as CUDA_VISIBLE_DEVICES names it. UsageError if there is none."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise UsageError(f"device=cuda: torch {torch.__version__} sees no CUDA device here; use device=cpu")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(name.strip() for name in visible.split(",")[:count]) if visible else tuple(map(str, range(count)))
