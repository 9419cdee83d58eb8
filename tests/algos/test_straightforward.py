"""An update at the algorithms' own widths against the same update written plainly, with the library's layers and autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import algos
from algos.agent import sample
from algos.networks import MLP, TwinCritic
from algos.optimizer import Adam
from bench.bodies import spec_of
from bench.compose import agent_config, algo_values
from bench.synthetic import latest_start, random_data

# By algorithm and optimizer, a share of its largest gradient, where terms of both signs cancel in others by construction:
# ctq's deltas are centred at each time, so that the gradients in the biases of J are 0 but for rounding, or close to it.
CANCEL = {("ctq", "critic_optimizer"): 0.1}
PLAIN = {"relu": torch.relu, "tanh": torch.tanh, "mish": F.mish}


def layers(self, xs, weights, biases, hidden=None):
    value = biases[0] + sum(x @ w for x, w in zip(xs, weights, strict=False))
    for weight, bias in zip(weights[len(xs) :], biases[1:], strict=True):
        value = PLAIN[self.activation](value) @ weight + bias
    return value


def action_gradient(self, obs, action, reduce):
    with torch.enable_grad():
        action = action.detach().requires_grad_()
        q = self(obs, action)
        return torch.autograd.grad((q.mean(dim=0) if reduce == "mean" else q.amin(dim=0)).sum(), action)[0]


def minimise(self, loss):
    """One step of the library's Adam from this optimizer's state."""
    self.grads = list(torch.autograd.grad(loss, self.own))
    library = torch.optim.Adam(self.own, lr=self.lr, foreach=False)
    for p, mean, square, grad in zip(self.own, self.mean, self.square, self.grads, strict=True):
        library.state[p] = {"step": self.step.clone(), "exp_avg": mean, "exp_avg_sq": square}
        p.grad = grad
    library.step()
    for p in self.own:
        p.grad = None
    self.step += 1


def build(name, settings):
    values = algo_values(name) | settings
    cls = algos.agent_class(values["agent"])
    return cls(spec_of(cls), agent_config(values), torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "settings"), [*((n, {}) for n in algos.AGENTS), ("qsm", {"critic_reduce": "min"})])
def test_every_phase_agrees_to_1e_5(monkeypatch, name, settings):
    """Losses, gradients and steps, each phase from the same state. Fails on any optimisation that changes the result."""
    fast, plain = (build(name, settings) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    fast.updates = latest_start(fast)
    for _ in range(2):
        data = random_data(fast, generator)
        for phase in fast.due():
            noise = sample(fast.draws(phase.name, fast.data.batch_size), generator)
            plain.load_state_dict(fast.state_dict())
            before = [p.detach().clone() for p in of(fast)]
            found = fast.run_phase(phase, data, noise)
            with monkeypatch.context() as patch:
                patch.setattr(MLP, "layers", layers)
                patch.setattr(TwinCritic, "action_gradient", action_gradient)
                patch.setattr(Adam, "minimise", minimise)
                wanted = plain.run_phase(phase, data, noise)
            for key, value in found.items():
                near(value, wanted[key], f"{phase.name}: {key}")
            told = {id(p): torch.ones_like(p) for p in of(fast)}
            for (label, optimizer), other in zip(fast.optimizers().items(), plain.optimizers().values(), strict=True):
                assert len(optimizer.grads) == len(other.grads)  # none at all before its first step
                cancel = CANCEL.get((name, label), 0.0) * max((float(grad.norm()) for grad in other.grads), default=0.0)
                for p, grad, same in zip(optimizer.own, optimizer.grads, other.grads, strict=False):
                    near(grad, same, f"{phase.name}: a gradient", least=max(cancel, 1e-12))
                    told[id(p)] = (same.abs() >= 1e-5 * cancel).float()
            # Adam's first steps divide by the size of the gradient itself, so the few entries without one are left to chance
            kept = [told[id(p)] for p in of(fast)]
            moved = [
                torch.cat([((p.detach() - was) * keep).flatten() for p, was, keep in zip(of(agent), before, kept, strict=True)])
                for agent in (fast, plain)
            ]
            near(*moved, f"{phase.name}: the step", tolerance=1e-3)
        fast.updates += max(phase.every for phase in fast.phases)


def of(agent):
    return [p for net in agent.networks().values() for p in net.parameters()]


def near(found: torch.Tensor, wanted: torch.Tensor, what: str, tolerance: float = 1e-5, least: float = 1e-12) -> None:
    """least: the smallest norm that an error is held against."""
    # a loss may be a small mean of large terms of both signs: 1 is the scale of a term
    error = float((found - wanted).norm() / wanted.norm().clamp(min=1.0 if wanted.dim() == 0 else least))
    assert error <= tolerance, f"{what} differs by {error:.2g} of its norm"
