"""The networks' hand-written passes and the optimizer against the library's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from algos.layers import SMALL, product
from algos.networks import MLP, FourierTime, GaussianPolicy, NoisePredictor, TwinCritic
from algos.optimizer import Adam

PLAIN = {"relu": torch.relu, "tanh": torch.tanh, "mish": F.mish}


def plain(net, member, inputs):
    """The network as the textbook writes it, from its parameters: one weight per input in the first layer."""
    first = len(inputs)
    weights = [w if member is None else w[member] for w in net.weights]
    biases = [b if member is None else b[member] for b in net.biases]
    x = torch.cat(inputs, dim=-1) @ torch.cat(weights[:first]) + biases[0]
    for weight, bias in zip(weights[first:], biases[1:], strict=True):
        x = PLAIN[net.activation](x) @ weight + bias
    return x


def same(found, wanted, leaves):
    """Values and all gradients of a random projection agree in float64."""
    torch.testing.assert_close(found, wanted)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grads = [torch.autograd.grad((x * weights).sum(), leaves, allow_unused=True) for x in (found, wanted)]
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second)


class Products(TorchDispatchMode):
    """The precision in force at each matrix product, with its multiply-adds."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket.__name__.rstrip("_") in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:]
            self.found.append((a.shape[-2] * a.shape[-1] * b.shape[-1], torch.get_float32_matmul_precision()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["medium", "highest"])
def test_only_wide_products_go_through_onednn(precision):
    """Forwards and backwards; fails on a product that misses the rule, or on a setting that is not put back."""
    critic = TwinCritic(17, 6, [256, 256], "mish", torch.Generator().manual_seed(0))
    torch.set_float32_matmul_precision(precision)
    with Products() as products:
        critic(torch.randn(256, 17), torch.randn(256, 6, requires_grad=True)).sum().backward()
    assert {count > SMALL for count, _ in products.found} == {True, False}
    assert all(used == (precision if count > SMALL else "highest") for count, used in products.found)
    with pytest.raises(RuntimeError):
        product(torch.matmul, torch.zeros(2, 3), torch.zeros(2, 3))
    assert torch.get_float32_matmul_precision() == precision


def test_networks_compile_into_one_graph():
    """Fails on anything that a compiler cannot trace, where speed=compile would run the rest piece by piece."""
    torch.set_float32_matmul_precision("medium")
    g = torch.Generator().manual_seed(0)
    predictor, critic = NoisePredictor(3, 2, [8, 8], 5, g), TwinCritic(3, 2, [8, 8], "relu", g)

    def loss(obs, x, t):
        return critic(obs, predictor(obs, x, t)).sum()

    batch = torch.randn(4, 3), torch.randn(4, 2), torch.arange(4)
    torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(*batch), loss(*batch))


@pytest.mark.parametrize("activation", PLAIN)
@pytest.mark.parametrize("hidden", [[8, 8], []])
@pytest.mark.parametrize(("ensemble", "out"), [(None, 3), (2, 1), (2, 3)])
def test_a_perceptron_and_its_gradients(activation, ensemble, out, hidden):
    """Fails on a slope, a transposed product, a bias that is not summed over the batch, or members that share a gradient."""
    g = torch.Generator().manual_seed(1)
    net = MLP([4, 2], [*hidden, out], activation, g, ensemble=ensemble, init="torch").double()
    x, y = (3 * torch.randn(16, n, generator=g, dtype=torch.float64) for n in (4, 2))
    leaves = [x.requires_grad_(), y.requires_grad_(), *net.parameters()]
    members = [None] if ensemble is None else range(ensemble)
    wanted = torch.stack([plain(net, m, [x, y]) for m in members])
    same(net(x, y), wanted[0] if ensemble is None else wanted, leaves)
    with torch.no_grad():
        torch.testing.assert_close(net(x, y), wanted[0] if ensemble is None else wanted)


def test_initial_weights():
    """Glorot and Bengio's bound and torch.nn.Linear's, which uniform weights come close to and stay within; N(0, 0.2^2)."""
    g = torch.Generator().manual_seed(5)
    for rule, bound, bias in (("xavier", (6 / (300 + 200)) ** 0.5, 0.0), ("torch", 300**-0.5, 300**-0.5)):
        net = MLP([300], [200, 1], "relu", g, init=rule)
        for found, largest in ((net.weights[0], bound), (net.biases[0], bias)):
            assert found.abs().max() <= largest
            assert found.abs().max() >= 0.95 * largest
            assert found.detach().std() == pytest.approx(largest / 3**0.5, rel=0.15)
    assert FourierTime(4000, g).w.detach().std() == pytest.approx(0.2, rel=0.1)
    policy = GaussianPolicy(2, 1, (8,), "relu", g)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1e4)
        stds = policy(torch.randn(200, 2, generator=g))[1]
    assert (stds.min(), stds.max()) == (-20, 2)


def test_mish_far_from_the_origin():
    """Fails on a form that overflows or loses its digits, in value or slope, in float32."""
    net = MLP([1], [1, 1], "mish", torch.Generator())
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1.0 if p.dim() == 2 and p in set(net.weights) else 0.0)
    x = torch.tensor([-200.0, -90.0, -30.0, -10.0, -1.0, 0.0, 1.0, 10.0, 30.0, 200.0])[:, None].requires_grad_()
    same_x = x.detach().double().requires_grad_()
    found, wanted = net(x), F.mish(same_x)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)
    slopes = [torch.autograd.grad(v.sum(), leaf)[0].double() for v, leaf in ((found, x), (wanted, same_x))]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def test_one_critic_and_the_action_gradient():
    """`one` is the member asked for, the smaller value's gradient is taken state by state, and no gradient reaches the
    critics' parameters. Fails on swapped members or a minimum over the batch mean."""
    g = torch.Generator().manual_seed(2)
    critics = TwinCritic(3, 2, (8, 8), "relu", g).double()
    obs, action = (torch.randn(32, n, generator=g, dtype=torch.float64) for n in (3, 2))
    action.requires_grad_()
    for member in (0, 1):
        for index in (member, torch.tensor([member])):
            one = critics.one(index, obs, action)
            same(one, plain(critics, member, [obs, action]).squeeze(-1), [action])
            one = critics.one(index, obs, action)
            assert torch.autograd.grad(one.sum(), critics.weights[0], allow_unused=True)[0] is None
    values = [plain(critics, m, [obs, action]).squeeze(-1) for m in (0, 1)]
    slopes = [torch.autograd.grad(v.sum(), action, retain_graph=True)[0] for v in values]
    smaller = (values[1] < values[0])[:, None]
    assert smaller.any()
    assert not smaller.all()
    torch.testing.assert_close(critics.action_gradient(obs, action, "min"), torch.where(smaller, slopes[1], slopes[0]))
    torch.testing.assert_close(critics.action_gradient(obs, action, "mean"), (slopes[0] + slopes[1]) / 2)


@pytest.mark.parametrize("time", ["fourier", "sinusoidal"])
def test_the_noise_predictor_sees_its_own_time(time):
    """Against the concatenation [x, obs, embedding(t)]. Fails if a row gets another row's time, state or bias."""
    g = torch.Generator().manual_seed(3)
    net = NoisePredictor(3, 2, (8, 8), 5, g, time=time, time_features=8, time_hidden=(6, 6), init="torch").double()
    obs, x = (torch.randn(20, n, generator=g, dtype=torch.float64) for n in (3, 2))
    t = torch.randint(5, (20,), generator=g)
    embedded = plain(net.time_mlp, None, [net.time(t.double())])
    same(net(obs, x, t), plain(net.body, None, [x, obs, embedded]), list(net.parameters()))


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adam(clip):
    """Against torch.optim.Adam over five steps, a learning rate that changes, and a restored state. Fails on a step count,
    moments that are shared or lost, or a clip per tensor instead of over all."""
    g = torch.Generator().manual_seed(4)
    own = [torch.randn(n, generator=g).requires_grad_() for n in (3, 5)]
    theirs = [p.detach().clone().requires_grad_() for p in own]
    optimizer, library = Adam(own, 1e-2, clip), torch.optim.Adam(theirs, lr=1e-2)
    for step in range(5):
        optimizer.lr = library.param_groups[0]["lr"] = 1e-2 / (step + 1)
        optimizer.minimise(sum((p**4).sum() for p in own))
        library.zero_grad()
        sum((p**4).sum() for p in theirs).backward()
        norm = torch.cat([p.grad for p in theirs]).norm()
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        torch.testing.assert_close(optimizer.grad_norm(), torch.minimum(norm, torch.tensor(clip)) if clip else norm)
        library.step()
        restored = Adam(own, 1e-2, clip)
        restored.load_state_dict(optimizer.state_dict())
        optimizer = restored
    for mine, wanted in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_adam_clips_a_gradient_that_two_parameters_share_once():
    own = [torch.zeros(4).requires_grad_() for _ in range(2)]
    optimizer = Adam(own, 1e-3, clip=1.0)
    optimizer.minimise(((own[0] + own[1]) * torch.tensor([3.0, 0.0, 4.0, 0.0])).sum())
    torch.testing.assert_close(optimizer.grad_norm(), torch.tensor(1.0))


@pytest.mark.parametrize("loss", [
    lambda p: (p.t() * (torch.arange(6).reshape(3, 2) - 2.5)).sum(), lambda p: p.sum(), lambda p: (p[:, ::2] ** 2).sum(),
])  # fmt: skip
def test_adam_takes_a_gradient_that_lies_in_another_order(loss):
    """Of a transposed or an expanded one the kernel would read other numbers, or beyond its end, and say nothing."""
    own = torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_()
    theirs = own.detach().clone().requires_grad_()
    optimizer, library = Adam([own], 1e-2), torch.optim.Adam([theirs], lr=1e-2, foreach=False)
    for _ in range(3):
        optimizer.minimise(loss(own) * (1 + own.detach().sum() ** 2))
        library.zero_grad()
        (loss(theirs) * (1 + theirs.detach().sum() ** 2)).backward()
        library.step()
    torch.testing.assert_close(own, theirs)
