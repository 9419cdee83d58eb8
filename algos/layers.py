"""The arithmetic of a multi-layer perceptron and of its backward pass, written out so that small layers are fast on a core.

Everything is written over [..., in] @ [..., in, out]: a leading axis (the two critics) is one batched product. Authors of
agents build on `algos.networks`; what is here was measured, and docs/performance.md says what each part brought.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

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
    """tanh(x) = 2 sigmoid(2x) - 1, from 2x: to 2e-7 of the library's kernel, in a third of its time on CPU."""
    s = double.sigmoid_()
    return torch.add(s.new_full((), -1), s, alpha=2, out=s), ()


def tanh_backward(grad: Tensor, value: Tensor, kept) -> Tensor:
    return torch.ops.aten.tanh_backward.grad_input(grad, value, grad_input=grad)


def mish_forward(minus: Tensor, keep: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """mish(x) = x tanh(softplus(x)) (Misra 2020), as x (2/q - 1) with q = 1 + s^2 and s = sigmoid(-x), from -x.

    Stable for every x and, in float32, to 1.3e-6 of the library's kernel, whose exponential, logarithm and hyperbolic tangent
    of every entry cost several times as much on CPU. What is lost is the relative precision of the tail far below 0.
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
