"""What moves parameters: Adam along a loss, its learning rate's decay, and the averaging of target networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Adam:
    """Adam (Kingma & Ba 2015; beta 0.9, 0.999, eps 1e-8) over one loss's own parameters, with optional norm clipping.

    The arithmetic is the library's fused kernel; the class around it is ours, because the library's optimizer spends
    more time on book-keeping for parameter groups and hooks than the kernel does on networks of this size.
    """

    def __init__(self, modules: nn.Module | list[Tensor], lr: float, clip: float = 0.0):
        self.own = list(modules.parameters()) if isinstance(modules, nn.Module) else list(modules)
        self.clip = clip
        self.rate: float | Tensor = lr
        self.mean = [torch.zeros_like(p) for p in self.own]
        self.square = [torch.zeros_like(p) for p in self.own]
        self.step = torch.zeros((), device=self.own[0].device)  # all parameters take the same steps
        self.grads: list[Tensor] = []

    @property
    def lr(self) -> float | Tensor:
        """Learning rate: a number, or a device tensor once `capturable` was called, which an assignment fills."""
        return self.rate

    @lr.setter
    def lr(self, value: float) -> None:
        if isinstance(self.rate, Tensor):
            self.rate.fill_(value)
        else:
            self.rate = value

    def capturable(self) -> None:
        """Keep the learning rate on the device: a captured graph reads the value of the moment, not that of the capture."""
        self.rate = torch.as_tensor(self.rate, dtype=torch.float32, device=self.step.device)

    def minimise(self, loss: Tensor) -> None:
        """One step on `loss` []. Nothing but this optimizer's parameters gets a gradient, so no work is wasted on others.

        Raises ValueError for a loss that is no scalar.
        """
        if loss.dim():
            raise ValueError(f"minimise takes a scalar loss, found one of shape {list(loss.shape)}: take its mean")
        found = torch.autograd.grad(loss, self.own)
        self.grads = [laid_out(grad, p) for grad, p in zip(found, self.own, strict=True)]
        if self.clip:
            norm = nn.utils.get_total_norm(self.grads)
            # not in place: where two parameters have one gradient, as of p + q, it would be scaled twice
            self.grads = list(torch._foreach_mul(self.grads, (self.clip / (norm + 1e-6)).clamp(max=1.0)))
        with torch.no_grad():
            self.step += 1
            # named, since a tensor is silently read on the host where the overload for a number is tried first
            kernel = torch.ops.aten._fused_adam_
            (kernel.tensor_lr if isinstance(self.rate, Tensor) else kernel.default)(
                self.own, self.grads, self.mean, self.square, [], [self.step] * len(self.own), lr=self.rate,
                beta1=0.9, beta2=0.999, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Moments, step count, learning rate, and the gradients of the last step (a log line takes their norm)."""
        return {"mean": self.mean, "square": self.square, "step": self.step, "lr": self.rate, "grads": self.grads}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("mean", "square"):
            for own, stored in zip(getattr(self, name), state[name], strict=True):
                own.copy_(stored)
        self.step.copy_(state["step"])
        self.lr = float(state["lr"])
        if len(self.grads) == len(state["grads"]):  # into the storages that a captured graph may write to
            for own, stored in zip(self.grads, state["grads"], strict=True):
                own.copy_(stored)
        else:
            self.grads = [stored.to(p) for p, stored in zip(self.own, state["grads"], strict=False)]

    def grad_norm(self) -> Tensor | None:
        """2-norm of the gradient of the last step (after clipping), or None before the first."""
        return nn.utils.get_total_norm(self.grads) if self.grads else None


def laid_out(grad: Tensor, like: Tensor) -> Tensor:
    """A gradient as it is, or copied where it does not lie in memory as its parameter does (of p.T or p.sum(), for instance):
    the fused kernel walks both by address, and on a CPU checks nothing."""
    if grad.stride() == like.stride():
        return grad
    same = all(n == 1 or a == b for n, a, b in zip(like.shape, grad.stride(), like.stride(), strict=True))
    return grad if same else torch.empty_like(like).copy_(grad)


def cosine_decay(lr: float, update: int, decay_updates: int) -> float:
    """Cosine schedule from lr to 0 over `decay_updates` (0: constant)."""
    if decay_updates == 0:
        return lr
    return lr * 0.5 * (1 + math.cos(math.pi * min(update, decay_updates) / decay_updates))


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, rate: float) -> None:
    """target <- (1 - rate) target + rate online, over all parameters."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), rate)
