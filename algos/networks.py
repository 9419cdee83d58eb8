"""Networks to build agents from: perceptrons, critics, policies and noise predictors.

Weights are stored ([E,] in, out), the transpose of `torch.nn.Linear`, with the members of an ensemble along a leading axis.
The arithmetic is that of `algos.layers`.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from algos.layers import ACTIVATIONS, input_grad, product, run_layers

LOG_STD_RANGE = (-20.0, 2.0)


def init_layer(shape: tuple[int, ...], rule: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A weight [(E,) in, out] and its bias [(E,) 1, out].

    rule `xavier`: Xavier-uniform weight, zero bias (the official QSM). rule `torch`: both uniform in +-1/sqrt(in), the
    default of `torch.nn.Linear` (Diffusion-QL, Stable-Baselines3).
    """
    fan_in, fan_out = shape[-2:]
    bound = math.sqrt(6 / (fan_in + fan_out)) if rule == "xavier" else 1 / math.sqrt(fan_in)
    weight = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    bias = torch.zeros(*shape[:-2], 1, fan_out)
    if rule == "torch":
        bias.uniform_(-bound, bound, generator=generator)
    return weight, bias


def long_side_contiguous(weight: Tensor) -> Tensor:
    """The same weight [(E,) in, out] with the longer of its two sides contiguous in memory.

    On CPU, products with the few rows of an input layer or the few columns of an output layer are then two to five times
    faster, forwards and backwards.
    """
    return weight.contiguous() if weight.shape[-2] <= weight.shape[-1] else weight.mT.contiguous().mT


class MLP(nn.Module):
    """Hidden layers with one activation and a linear output layer, over one or several inputs side by side.

    widths: of the hidden layers and the output. parts: widths of the inputs; their concatenation is what the first layer
    sees, but each has its own weight, so that nothing need be concatenated and a part can be left out of a gradient.
    ensemble: number of independent copies along a leading axis, or None.
    """

    def __init__(self, parts, widths, activation: str, generator, ensemble: int | None = None, init: str = "xavier"):
        super().__init__()
        lead = () if ensemble is None else (ensemble,)
        first, bias = init_layer((*lead, sum(parts), widths[0]), init, generator)
        rest = [init_layer((*lead, i, o), init, generator) for i, o in itertools.pairwise(widths)]
        weights = [*first.split(list(parts), dim=-2), *(w for w, _ in rest)]
        self.weights = nn.ParameterList([long_side_contiguous(w) for w in weights])
        self.biases = nn.ParameterList([bias] + [b for _, b in rest])
        self.activation = activation

    def forward(self, *xs: Tensor) -> Tensor:
        return self.layers(xs, *self.tensors())

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights and biases as plain lists: iterating over a ParameterList costs a look-up by name for every entry."""
        return list(self.weights._parameters.values()), list(self.biases._parameters.values())

    def detached(self) -> tuple[list[Tensor], list[Tensor]]:
        weights, biases = self.tensors()
        return [w.detach() for w in weights], [b.detach() for b in biases]

    def layers(self, xs, weights: list[Tensor], biases: list[Tensor], hidden: list | None = None) -> Tensor:
        return run_layers(self.activation, xs, weights, biases, hidden)


class TwinCritic(MLP):
    """Two action-value functions Q_1, Q_2 (obs, action) -> [2, B], as one batched network over (obs, action)."""

    def __init__(self, obs_dim: int, act_dim: int, hidden, activation: str, generator, init: str = "xavier"):
        super().__init__([obs_dim, act_dim], [*hidden, 1], activation, generator, ensemble=2, init=init)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(obs, action).squeeze(-1)

    def frozen(self, obs: Tensor, action: Tensor) -> Tensor:
        """The same values, through which a gradient reaches the action alone: what an actor's loss needs."""
        return self.layers((obs, action), *self.detached()).squeeze(-1)

    def one(self, member: Tensor | int, obs: Tensor, action: Tensor) -> Tensor:
        """The value [B] of one of the two, frozen, at the cost of one. `member` may be a device tensor [1]: no sync."""
        if isinstance(member, int):
            weights, biases = ([p[member] for p in group] for group in self.detached())
        else:
            weights, biases = ([p.index_select(0, member)[0] for p in group] for group in self.detached())
        return self.layers((obs, action), weights, biases).squeeze(-1)

    @torch.no_grad()
    def action_gradient(self, obs: Tensor, action: Tensor, reduce: str) -> Tensor:
        """Gradient in the action [B, A] of the mean, or of the smaller, of the two values; detached.

        Taken by hand: one forward and one backward pass without a graph and without any gradient in the weights.
        """
        (weights, biases), hidden = self.detached(), []
        q = self.layers((obs, action), weights, biases, hidden)
        if reduce == "mean":
            grad = torch.full_like(q, 1 / len(q))
        else:
            grad = (q == q.amin(dim=0)).to(q.dtype)
            grad /= grad.sum(dim=0)
        for weight, (value, *kept) in zip(weights[:1:-1], hidden[::-1], strict=True):
            grad = ACTIVATIONS[self.activation].backward(input_grad(grad, weight, shared=False), value, kept)
        return input_grad(grad, weights[1], shared=True)


class FourierTime(nn.Module):
    """Learned Fourier features of the raw step: [cos 2 pi t w, sin 2 pi t w], w ~ N(0, 0.2^2) (official QSM)."""

    def __init__(self, features: int, generator):
        super().__init__()
        self.w = nn.Parameter(0.2 * torch.randn(1, features // 2, generator=generator))
        self.features = features

    def forward(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t[:, None] * self.w
        return torch.cat([angle.cos(), angle.sin()], dim=-1)


class SinusoidalTime(nn.Module):
    """Fixed sinusoids of the raw step: [sin t w_k, cos t w_k], w_k = 10000^(-k/(K-1)) (official Diffusion-QL)."""

    def __init__(self, features: int, generator=None):
        super().__init__()
        half = features // 2
        self.register_buffer("w", torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))[None])
        self.features = features

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.w
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


TIME_EMBEDDINGS = {"fourier": FourierTime, "sinusoidal": SinusoidalTime}


class NoisePredictor(nn.Module):
    """eps_theta(obs, x_t, t): an MLP over concat[x_t, obs, embedding(t)] with a linear output [B, A].

    There are only T different times, so the embedding network runs on T rows, not on one per sample; and along a
    reverse chain only x_t changes, so the first layer's products with the state and with the time are taken once
    (`state_part`, `time_part`) and added. The result is that of the plain concatenation up to the order of summation.
    """

    def __init__(
        self, obs_dim: int, act_dim: int, hidden, steps: int, generator, *, activation: str = "mish",
        time: str = "fourier", time_features: int = 64, time_hidden=(128, 128), init: str = "xavier",
    ):  # fmt: skip
        super().__init__()
        self.time = TIME_EMBEDDINGS[time](time_features, generator)
        self.time_mlp = MLP([time_features], time_hidden, activation, generator, init=init)
        self.body = MLP([act_dim, obs_dim, time_hidden[-1]], [*hidden, act_dim], activation, generator, init=init)
        self.register_buffer("times", torch.arange(steps, dtype=torch.float32))

    def state_part(self, obs: Tensor) -> Tensor:
        """The first layer's share from the observation [B, H]."""
        return product(torch.matmul, obs, self.body.weights[1])

    def time_part(self) -> Tensor:
        """The first layer's share from each of the T times, bias included [T, H]."""
        embedded = self.time_mlp(self.time(self.times))
        return run_layers(self.body.activation, [embedded], [self.body.weights[2]], [self.body.biases[0]])

    def predict(self, x: Tensor, shared: Tensor) -> Tensor:
        """eps [B, A] for x [B, A] and the first layer's shared part [B, H] (state plus time)."""
        weights, biases = self.body.tensors()
        return self.body.layers((x,), [weights[0], *weights[3:]], [shared, *biases[1:]])

    def forward(self, obs: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """obs [B, S], x [B, A], t [B] integers in {0, ..., T-1}."""
        (x_weight, obs_weight, _, *weights), (_, *biases) = self.body.tensors()
        return self.body.layers((x, obs), [x_weight, obs_weight, *weights], [self.time_part().index_select(0, t), *biases])


class GaussianPolicy(nn.Module):
    """Mean and log-std [N, A] of a state-dependent diagonal Gaussian; log-std clipped to LOG_STD_RANGE."""

    def __init__(self, obs_dim: int, act_dim: int, hidden, activation: str, generator, init: str = "xavier"):
        super().__init__()
        self.body = MLP([obs_dim], [*hidden, 2 * act_dim], activation, generator, init=init)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.body(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)


class DeterministicPolicy(MLP):
    """mu(obs) [N, A] in [-1, 1] by a tanh."""

    def __init__(self, obs_dim: int, act_dim: int, hidden, activation: str, generator, init: str = "xavier"):
        super().__init__([obs_dim], [*hidden, act_dim], activation, generator, init=init)

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(super().forward(obs))
