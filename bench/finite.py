"""Which quantity of a run stopped being a finite number first, kept on the device until somebody asks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class NonFinite(RuntimeError):
    """A loss, an observation, an action or a reward that is not a finite number."""

    def __init__(self, quantity: str, update: int):
        super().__init__(f"{quantity} became non-finite at update {update}")
        self.quantity, self.update = quantity, update


def finite(*arrays: np.ndarray) -> bool:
    """Whether all numbers are finite: by their sum, which one that is not makes so (as does an overflow)."""
    return math.isfinite(sum(float(array.sum()) for array in arrays))


class FirstNonFinite:
    """Notes the losses of every update without a host sync; `check` reads the device once."""

    def __init__(self, device: torch.device):
        self.device = device
        # phases that are not due every update give several sets of losses; each has a vector of first bad updates (-1: none)
        self.first: dict[tuple[str, ...], Tensor] = {}

    def note(self, info: Mapping[str, Tensor], update: int) -> None:
        """info: what update number `update` returned; its scalars named *_loss are looked at."""
        losses = {name: value for name, value in info.items() if name.endswith("_loss")}
        if not losses:
            return
        first = self.first.get(tuple(losses))
        if first is None:
            first = self.first[tuple(losses)] = torch.full((len(losses),), -1, device=self.device)
        values = torch.stack(list(losses.values()))
        first.masked_fill_((values - values != 0) & (first < 0), update)  # x - x is 0 for a finite x, else NaN

    def check(self) -> None:
        """Raises NonFinite, naming the losses that were non-finite in the first update that had one."""
        bad = [
            (update, name)
            for names, first in self.first.items()
            for name, update in zip(names, first.tolist(), strict=True)
            if update >= 0
        ]
        if bad:
            update = min(bad)[0]
            raise NonFinite(", ".join(name for at, name in bad if at == update), update)
