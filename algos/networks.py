"""Networks, written over [..., in] @ [..., in, out]: a leading axis (two critics today) is one batched product.

Weights are stored (in, out), the transpose of `torch.nn.Linear`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOG_STD_RANGE = (-20.0, 2.0)
SMALL = 2**21  # multiply-adds, of one member, up to which entering oneDNN (15 us) costs a product more than it may gain


class Activation(NamedTuple):
    """forward(pre, keep) -> (value, what the backward pass needs besides it); it may overwrite pre, and where `keep` is
    false nothing is kept. backward(grad, value, kept) -> gradient in its argument; it may overwrite grad.

    factor: `pre` is factor times the argument, which costs nothing in the product that makes it.
    """

    forward: Callable
    backward: Callable
    factor: int = 1


def relu_forward(pre: Tensor, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    return pre.relu_(), ()


def relu_backward(grad: Tensor, value: Tensor, kept) -> Tensor:
    return torch.ops.aten.threshold_backward.grad_input(grad, value, 0, grad_input=grad)


def tanh_forward(double: Tensor, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """tanh(x) = 2 sigmoid(2x) - 1, from 2x: to 1e-7 of the library's kernel, in a third of its time on CPU."""
    s = double.sigmoid_()
    return torch.add(s.new_full((), -1), s, alpha=2, out=s), ()


def tanh_backward(grad: Tensor, value: Tensor, kept) -> Tensor:
    return torch.ops.aten.tanh_backward.grad_input(grad, value, grad_input=grad)


def mish_forward(minus: Tensor, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """mish(x) = x tanh(softplus(x)) (Misra 2020), as x (2/q - 1) with q = 1 + s^2 and s = sigmoid(-x), from -x.

    Exact and stable for every x, and several times cheaper on CPU than the library's kernel, which takes an exponential,
    a logarithm and a hyperbolic tangent of every entry.
    """
    s = torch.sigmoid(minus)
    q = torch.addcmul(s.new_ones(()), s, s, out=None if keep else s)
    value = torch.addcdiv(minus, minus, q, value=-2, out=None if keep else minus)
    return value, (minus, s, q)


def mish_backward(grad: Tensor, value: Tensor, kept) -> Tensor:
    """mish'(x) = g + x (1 - g^2) sigmoid(x) with g = 2/q - 1; with r = s/q and sigmoid(x) = 1 - s it is 1 - 2w, where
    w = r (s - 2 x r (1 - s))."""
    minus, s, q = kept
    r = s / q
    w = minus * r
    w.addcmul_(w, s, value=-1)
    w = torch.add(s, w, alpha=2, out=w).mul_(r)
    return grad.addcmul_(grad, w, value=-2)


ACTIVATIONS = {
    "relu": Activation(relu_forward, relu_backward),
    "mish": Activation(mish_forward, mish_backward, factor=-1),
    "tanh": Activation(tanh_forward, tanh_backward, factor=2),
}


def product(take: Callable[..., Tensor], *tensors: Tensor, **scales: int) -> Tensor:
    """take(*tensors, **scales), whose last two tensors are multiplied; a small product is left to the BLAS.

    Under the precision "medium" torch sends every fp32 product on a CPU through oneDNN. Where that pays it does for wide
    ones alone, and most of an update's products, and all of an action's, are small.
    """
    if torch.compiler.is_compiling():  # looked at first: a compiler cannot trace the setting
        return take(*tensors, **scales)
    a, b = tensors[-2:]
    precision = torch.get_float32_matmul_precision()
    if precision == "highest" or a.shape[-2] * a.shape[-1] * b.shape[-1] > SMALL:
        return take(*tensors, **scales)
    torch.set_float32_matmul_precision("highest")
    try:
        return take(*tensors, **scales)
    finally:
        torch.set_float32_matmul_precision(precision)


def affine(x: Tensor, weight: Tensor, bias: Tensor, factor: int = 1) -> Tensor:
    """factor (x @ weight + bias) for x [B, in] or [E, B, in], weight [(E,) in, out], bias [(E,) 1 or B, out]."""
    take = torch.addmm
    if weight.dim() == 3:
        take, x = torch.baddbmm, members(x, weight)
    if weight.shape[-1] == 1:  # a product with one column is several times slower than its transpose, with one row
        return product(take, bias.mT, weight.mT, x.mT, beta=factor, alpha=factor).mT
    return product(take, bias, x, weight, beta=factor, alpha=factor)


def members(x: Tensor, like: Tensor) -> Tensor:
    """x [B, in], shared by the ensemble, as [E, B, in]."""
    return x if x.dim() == like.dim() else x.expand(like.shape[0], -1, -1)


def weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient [(E,) in, out] of a weight, laid out in memory like the weight (see `init_layer`)."""
    x = members(x, grad)
    return product(torch.matmul, x.mT, grad) if x.shape[-1] <= grad.shape[-1] else product(torch.matmul, grad.mT, x).mT


def input_grad(grad: Tensor, weight: Tensor, shared: bool) -> Tensor:
    """Gradient in the input; summed over the ensemble if its members shared one input [B, in]."""
    out = grad * weight.mT if weight.shape[-1] == 1 else product(torch.matmul, grad, weight.mT)
    return out.sum(0) if shared else out


def bias_grad(grad: Tensor, bias: Tensor) -> Tensor:
    return grad.sum(-2, keepdim=True) if bias.shape[-2] == 1 else grad


class Layers(torch.autograd.Function):
    """A whole multi-layer perceptron with a hand-written backward pass.

    First layer: sum_i x_i @ W_i + b, so that a part that many calls share can be handed in as the bias ([B, H] instead
    of [1, H]); then layers of activation and product. Compared with recording each operation this halves the number of
    operations, writes activations in place, and takes each skinny product in the order in which the library is fast.
    """

    @staticmethod
    def forward(ctx, activation: str, inputs: int, *tensors: Tensor) -> Tensor:
        """tensors: x_1..x_inputs, then all weights (the first layer has one for each input), then one bias per layer."""
        xs, weights, biases = unpack(tensors, inputs)
        hidden: list[tuple[Tensor, ...]] = []
        value = forward_layers(ACTIVATIONS[activation], xs, weights, biases, hidden)
        ctx.activation, ctx.inputs = activation, inputs
        ctx.save_for_backward(*tensors, *itertools.chain(*hidden))
        ctx.own = len(tensors)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        own, saved = ctx.saved_tensors[: ctx.own], ctx.saved_tensors[ctx.own :]
        xs, weights, biases = unpack(own, ctx.inputs)
        n, layers = ctx.inputs, len(biases)
        need = ctx.needs_input_grad[2:]
        need_x, need_w, need_b = need[:n], need[n : n + len(weights)], need[n + len(weights) :]
        grads_w: list[Tensor | None] = [None] * len(weights)
        grads_b: list[Tensor | None] = [None] * layers
        step = len(saved) // max(layers - 1, 1)
        act = ACTIVATIONS[ctx.activation].backward
        for layer in range(layers - 1, 0, -1):
            value, *kept = saved[(layer - 1) * step : layer * step]
            at = n + layer - 1
            if need_w[at]:
                grads_w[at] = weight_grad(value, grad)
            if need_b[layer]:
                grads_b[layer] = bias_grad(grad, biases[layer])
            grad = act(input_grad(grad, weights[at], shared=False), value, kept)
        for i in range(n):
            if need_w[i]:
                grads_w[i] = weight_grad(xs[i], grad)
        if need_b[0]:
            grads_b[0] = bias_grad(grad, biases[0])
        grads_x = [
            input_grad(grad, w, shared=x.dim() < grad.dim()) if needed else None
            for x, w, needed in zip(xs, weights[:n], need_x, strict=True)
        ]
        return None, None, *grads_x, *grads_w, *grads_b


def unpack(tensors: tuple[Tensor, ...], inputs: int) -> tuple[tuple[Tensor, ...], ...]:
    """inputs + (inputs + L - 1) weights + L biases."""
    layers = (len(tensors) - 2 * inputs + 1) // 2
    first_bias = len(tensors) - layers
    return tensors[:inputs], tensors[inputs:first_bias], tensors[first_bias:]


def first_layer(xs, weights, biases, factor: int) -> Tensor:
    """factor (sum_i x_i @ weight_i + bias); the sum is taken in place."""
    value = affine(xs[0], weights[0], biases[0], factor)
    for x, weight in zip(xs[1:], weights[1:], strict=False):
        add = Tensor.addmm_ if weight.dim() == 2 else Tensor.baddbmm_
        product(add, value, members(x, weight), weight, alpha=factor)
    return value


def forward_layers(act: Activation, xs, weights, biases, hidden: list | None) -> Tensor:
    """The perceptron's output; `hidden` takes each hidden layer's (value, *what its activation keeps), unless it is None."""
    last = len(biases) - 1
    value = first_layer(xs, weights, biases, act.factor if last else 1)
    for layer, (weight, bias) in enumerate(zip(weights[len(xs) :], biases[1:], strict=True), start=1):
        value, kept = act.forward(value, hidden is not None)
        if hidden is not None:
            hidden.append((value, *kept))
        value = affine(value, weight, bias, 1 if layer == last else act.factor)
    return value


def run_layers(activation: str, xs, weights, biases, hidden: list | None = None) -> Tensor:
    """The perceptron's output: recorded for a backward pass where gradients are enabled, else without keeping anything.

    xs: the first layer's inputs; weights: one for each of them, then one a layer; biases: one a layer. hidden: a list that
    takes what a backward pass by hand needs (see `forward_layers`); nothing is recorded then.
    """
    if hidden is None and torch.is_grad_enabled():
        return Layers.apply(activation, len(xs), *xs, *weights, *biases)
    return forward_layers(ACTIVATIONS[activation], xs, weights, biases, hidden)


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
