"""What the best policy of a task with a known law generates: the ground truth, by quadrature on a grid.

With the objective beta E h(y_T) - E int g^2 |score - a|^2 dt, Hopf and Cole's transform of the HJB equation gives, for the SDE
sampler and a prior equal to p*_T (`Truth.prior_gap` is what another one costs),

    p*(y) = p_0(y) exp(beta h(y) / 2) / Z,      mu*(t, y) = grad log p_t(y) + grad J*(t, y) / 2 = grad log p*_t(y),

p*_t being the law of alpha(t) x + sigma(t) noise with x ~ p*. Neither depends on the temperature of an agent's exploration.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from envs.generation.batch import move
from envs.generation.data import Mixture
from envs.spec import Dynamics

REACH = 4.0  # the grid covers [-REACH, REACH]^d; both laws have less than 1e-6 outside
CELLS = {1: 80, 2: 40}  # of a histogram, on each axis
NODES = {1: 640, 2: 320}  # of the quadrature, on each axis: a few in every standard deviation of the data's noise
ROWS, PLAYED = 2000, 100_000  # actions at a time, and in all, from which a bound is taken
EDGE = 1e-4  # probability of p* in the outermost cells from which on it is taken to reach beyond the grid
FLOOR = 1e-6  # probability that a cell has at least in a divergence, so that one stray sample has a bounded share in it
TINY = 1e-300  # probability that a node has at least, so that a y however far out has a posterior


class Truth:
    """p*, its score and its divergences, for a law in one or two dimensions, a reward h and its weight beta.

    Raises ValueError where p* reaches the edge of the grid: what lies beyond would be missing from every number.
    """

    def __init__(self, law: Mixture, h: Callable[[np.ndarray], np.ndarray], beta: float, dynamics: Dynamics):
        self.law, self.h, self.dynamics = law, h, dynamics
        self.dim = law.means.shape[1]
        self.axis = midpoints(NODES[self.dim])
        nodes = np.stack(np.meshgrid(*[self.axis] * self.dim, indexing="ij"), axis=-1)
        factors = [np.exp(-np.square(self.axis - means[:, None]) / (2 * law.sd**2)) for means in law.means.T]
        data = law.weights @ factors[0] if self.dim == 1 else (law.weights[:, None] * factors[0]).T @ factors[1]
        self.rewards = h(nodes.reshape(-1, self.dim)).reshape(data.shape)
        self.data = data / data.sum()
        tilted = self.data * np.exp(beta / 2 * (self.rewards - self.rewards.max()))
        self.best = np.maximum(tilted / tilted.sum(), TINY)  # probabilities of the nodes under p*, as `data` under p_0
        inner = self._cells(self.best)[(slice(1, -1),) * self.dim]
        edge = 1 - float(inner.sum())
        if edge > EDGE:
            raise ValueError(
                f"the best law has {edge:.2g} of its mass at the edge of [-{REACH:g}, {REACH:g}], where the grid of its scores "
                f"ends (at most {EDGE:g} may be there): lower beta={beta:g}, or move the reward's optimum towards the data"
            )

    def mean_reward(self) -> float:
        """E h under p*."""
        return float((self.best * self.rewards).sum())

    def score(self, t: float, y: np.ndarray) -> np.ndarray:
        """grad log p_t at y [N, d], in closed form: [N, d]."""
        return self.law.score(y, self.dynamics.alpha(t), self.dynamics.sigma2(t))

    def policy(self, t: float, y: np.ndarray) -> np.ndarray:
        """mu*(t, y), the mean of the best policy of the SDE sampler with time t left, at y [N, d]: [N, d]."""
        alpha, sigma2 = self.dynamics.alpha(t), self.dynamics.sigma2(t)
        square = [np.square(column[:, None] - alpha * self.axis) for column in y.T]
        kernels = [np.exp((part.min(axis=1, keepdims=True) - part) / (2 * sigma2)) for part in square]
        if self.dim == 1:
            mean = [kernels[0] @ (self.best * self.axis) / (kernels[0] @ self.best)]
        else:
            inner = kernels[0] @ self.best
            total = (inner * kernels[1]).sum(axis=1)
            across = (kernels[0] * self.axis) @ self.best
            mean = [(across * kernels[1]).sum(axis=1) / total, (inner * kernels[1]) @ self.axis / total]
        return (alpha * np.stack(mean, axis=1) - y) / sigma2

    def score_error(self, path: np.ndarray) -> float:
        """E sum_i g^2 |a_i - mu*|^2 dt over `path` [steps, n, 2, d], the y and the actions of n whole episodes.

        By Girsanov's theorem it is twice the divergence of the paths' law from the best one's, and so at least twice that of
        what they generate (under the SDE, but for the size of the steps); at beta = 0 it is what the best penalty is short of.
        """
        d = self.dynamics
        times = d.time * (d.steps - np.arange(d.steps)) / d.steps
        squares = [np.square(at[:, 1] - self.policy(t, at[:, 0])).sum(axis=1).mean() for t, at in zip(times, path, strict=True)]
        return float(d.dt * (d.g2(times) * squares).sum())

    def action_bound(self, exact: float, played: float) -> float:
        """A bound that no more than `exact` of the entries of mu* exceed on p*_t, over all steps, and no more than `played` of
        them in the sampler's own chain, which large steps lead away from p*_t."""
        return max(float(np.quantile(self._exact_sizes(), 1 - exact)), float(np.quantile(self._played_sizes(), 1 - played)))

    def _exact_sizes(self) -> np.ndarray:
        generator, sizes = np.random.default_rng(0), []
        chosen = generator.choice(self.best.size, ROWS, p=self.best.ravel())
        x = self.axis[np.stack(np.unravel_index(chosen, self.best.shape), axis=1)]
        for t in self.dynamics.dt * np.linspace(1, self.dynamics.steps, min(self.dynamics.steps, 50)):
            y = self.dynamics.alpha(t) * x + np.sqrt(self.dynamics.sigma2(t)) * generator.standard_normal(x.shape)
            sizes.append(np.abs(self.policy(t, y)))
        return np.concatenate(sizes)

    def _played_sizes(self) -> np.ndarray:
        d, generator, sizes = self.dynamics, np.random.default_rng(0), []
        chains = min(ROWS, PLAYED // d.steps + 1)
        for _ in range(-(-PLAYED // (chains * d.steps))):
            y = np.sqrt(d.sigma2(d.time)) * generator.standard_normal((chains, self.dim))
            for t in d.time * np.arange(d.steps, 0, -1) / d.steps:
                action = self.policy(t, y)
                sizes.append(np.abs(action))
                y = move(d, t, y, action, generator.standard_normal(y.shape))
        return np.concatenate(sizes)

    def prior_gap(self) -> float:
        """KL from p* of what mu* generates, in small steps, from the prior N(0, sigma2(T) I) instead of p*_T.

        That law is p*(x) E_y [p_T(y | x) / p*_T(y)], y from the prior.
        """
        alpha, sigma2 = self.dynamics.alpha(self.dynamics.time), self.dynamics.sigma2(self.dynamics.time)
        y, x = np.sqrt(sigma2) * np.linspace(-6, 6, 241), alpha * self.axis
        prior, ratio = np.exp(-np.square(y) / (2 * sigma2)), np.exp((y[:, None] * x - np.square(x) / 2) / sigma2)
        prior /= prior.sum()  # ratio: p_T(y | x) over the prior's density
        if self.dim == 1:
            weight = prior / (ratio @ self.best) @ ratio
        else:
            weight = ratio.T @ (np.outer(prior, prior) / (ratio @ self.best @ ratio.T)) @ ratio
        return float((self.best * weight * np.log(np.maximum(weight, TINY))).sum())

    def kl(self, y: np.ndarray, law: np.ndarray) -> float:
        """KL divergence of the law of samples y [n, d] from `best` or `data`, between histograms.

        Samples beyond the grid count in its outer cells. n samples of the law itself give about `kl_floor(n, law)`.
        """
        cells = CELLS[self.dim]
        place = np.clip(((y + REACH) * (cells / (2 * REACH))).astype(int), 0, cells - 1)
        found = np.zeros([cells] * self.dim)
        np.add.at(found, tuple(place.T), 1 / len(y))
        wanted = self._cells(law)
        some = found > 0
        return float((found[some] * np.log(found[some] / np.maximum(wanted[some], FLOOR))).sum())

    def kl_floor(self, n: int, law: np.ndarray) -> float:
        """The mean of `kl` for n samples of `law` itself: (cells that they reach - 1) / 2n (Miller and Madow)."""
        return float(((1 - (1 - self._cells(law)) ** n).sum() - 1) / (2 * n))

    def prior_kl(self) -> float:
        """KL from p* of N(0, variance I), what a policy generates that takes noise for data; its tails as `kl` counts them."""
        prior, edges = NormalDist(0.0, self.dynamics.variance**0.5), np.linspace(-REACH, REACH, CELLS[self.dim] + 1)[1:-1]
        each = np.diff([0.0, *map(prior.cdf, edges), 1.0])
        found, wanted = each if self.dim == 1 else np.outer(each, each), self._cells(self.best)
        return float((found * np.log(np.maximum(found, TINY) / np.maximum(wanted, FLOOR))).sum())

    def _cells(self, law: np.ndarray) -> np.ndarray:
        each = NODES[self.dim] // CELLS[self.dim]
        if self.dim == 1:
            return law.reshape(-1, each).sum(axis=1)
        return law.reshape(CELLS[2], each, CELLS[2], each).sum(axis=(1, 3))


def midpoints(n: int) -> np.ndarray:
    """Midpoints of n equal parts of [-REACH, REACH]."""
    return REACH * (2 * np.arange(n) + 1 - n) / n
