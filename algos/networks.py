"""Networks, written over [..., in] @ [..., in, out]: a leading axis (two critics today) is one batched product.

Weights are stored (in, out), the transpose of `torch.nn.Linear`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOG_STD_RANGE = (-20.0, 2.0)


class Mish(torch.autograd.Function):
    """mish(x) = x tanh(softplus(x)) (Misra 2020), written with s = sigmoid(-x): tanh(softplus(x)) = (1-s^2)/(1+s^2).

    Exact and stable for every x, and several times cheaper on CPU than the library's kernel, which takes an exponential,
    a logarithm and a hyperbolic tangent of every entry.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        s = torch.sigmoid(-x)
        square = s * s
        gate = (1 - square).div_(1 + square)
        ctx.save_for_backward(x, s, gate)
        return x * gate

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        x, s, gate = ctx.saved_tensors
        # d/dx = gate + x (1 - gate^2) sigmoid(x)
        slope = (gate * gate).sub_(1).mul_(x).mul_(s - 1).add_(gate)
        return slope.mul_(grad)


def mish(x: Tensor) -> Tensor:
    return Mish.apply(x)


ACTIVATIONS = {"relu": torch.relu, "mish": mish, "tanh": torch.tanh}


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight + bias for x [B, in] or [E, B, in] and weight [in, out] or [E, in, out]; bias [(E,) 1, out]."""
    if weight.dim() == 2:
        return torch.addmm(bias, x, weight)
    return torch.baddbmm(bias, x if x.dim() == 3 else x.expand(weight.shape[0], -1, -1), weight)


def init_weight(shape: tuple[int, ...], rule: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
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


class MLP(nn.Module):
    """Hidden layers with one activation and a linear output layer.

    sizes: widths from input to output. ensemble: number of independent copies along a leading axis, or None.
    """

    def __init__(self, sizes, activation: str, generator, ensemble: int | None = None, init: str = "xavier"):
        super().__init__()
        lead = () if ensemble is None else (ensemble,)
        pairs = [init_weight((*lead, i, o), init, generator) for i, o in zip(sizes[:-1], sizes[1:], strict=True)]
        self.weights = nn.ParameterList([w for w, _ in pairs])
        self.biases = nn.ParameterList([b for _, b in pairs])
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x, list(self.weights), list(self.biases))

    def layers(self, x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activation(affine(x, weight, bias))
        return affine(x, weights[-1], biases[-1])


class TwinCritic(MLP):
    """Two action-value functions Q_1, Q_2 (obs, action) -> [2, B], as one batched network over concat[obs, action]."""

    def __init__(self, obs_dim: int, act_dim: int, hidden, activation: str, generator, init: str = "xavier"):
        super().__init__([obs_dim + act_dim, *hidden, 1], activation, generator, ensemble=2, init=init)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(torch.cat([obs, action], dim=-1)).squeeze(-1)

    def one(self, member: Tensor | int, obs: Tensor, action: Tensor) -> Tensor:
        """The value [B] of one of the two, at the cost of one. `member` may be a device tensor [1]: no host sync."""
        x = torch.cat([obs, action], dim=-1)
        if isinstance(member, int):
            weights, biases = [w[member] for w in self.weights], [b[member] for b in self.biases]
        else:
            weights = [w.index_select(0, member).squeeze(0) for w in self.weights]
            biases = [b.index_select(0, member).squeeze(0) for b in self.biases]
        return self.layers(x, weights, biases).squeeze(-1)

    def action_gradient(self, obs: Tensor, action: Tensor, reduce: str) -> Tensor:
        """Gradient in the action [B, A] of the mean, or of the smaller, of the two values; detached."""
        with torch.enable_grad():
            action = action.detach().requires_grad_()
            q = self(obs, action)
            total = q.mean(dim=0).sum() if reduce == "mean" else q.amin(dim=0).sum()
            return torch.autograd.grad(total, action)[0]


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
        self.time_mlp = MLP([time_features, *time_hidden], activation, generator, init=init)
        self.body = MLP([act_dim + obs_dim + time_hidden[-1], *hidden, act_dim], activation, generator, init=init)
        self.rows = [act_dim, obs_dim, time_hidden[-1]]  # of the first weight, in the order of the concatenation
        self.register_buffer("times", torch.arange(steps, dtype=torch.float32))

    def state_part(self, obs: Tensor) -> Tensor:
        """The first layer's share from the observation [B, H]."""
        return obs @ self.body.weights[0].split(self.rows)[1]

    def time_part(self) -> Tensor:
        """The first layer's share from each of the T times, bias included [T, H]."""
        weight = self.body.weights[0].split(self.rows)[2]
        return affine(self.time_mlp(self.time(self.times)), weight, self.body.biases[0])

    def predict(self, x: Tensor, shared: Tensor) -> Tensor:
        """eps [B, A] for x [B, A] and the first layer's shared part [B, H] (state plus time)."""
        weight = self.body.weights[0].split(self.rows)[0]
        first = self.body.activation(torch.addmm(shared, x, weight))
        return self.body.layers(first, list(self.body.weights[1:]), list(self.body.biases[1:]))

    def forward(self, obs: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """obs [B, S], x [B, A], t [B] integers in {0, ..., T-1}."""
        return self.predict(x, self.state_part(obs) + self.time_part().index_select(0, t))


class GaussianPolicy(nn.Module):
    """Mean and log-std [N, A] of a state-dependent diagonal Gaussian; log-std clipped to LOG_STD_RANGE."""

    def __init__(self, obs_dim: int, act_dim: int, hidden, activation: str, generator, init: str = "xavier"):
        super().__init__()
        self.body = MLP([obs_dim, *hidden, 2 * act_dim], activation, generator, init=init)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.body(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)


class DeterministicPolicy(MLP):
    """mu(obs) [N, A] in [-1, 1] by a tanh."""

    def __init__(self, obs_dim: int, act_dim: int, hidden, activation: str, generator, init: str = "xavier"):
        super().__init__([obs_dim, *hidden, act_dim], activation, generator, init=init)

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(super().forward(obs))
