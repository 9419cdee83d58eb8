"""Noise schedules, forward noising, and the kernels of the reverse chain.

Notation (Ho et al. 2020): beta_t, alpha_t = 1 - beta_t, alpha_bar_t = prod_{s<=t} alpha_s, with t in {0, ..., T-1}.
Coefficients are computed in float64 and used as Python numbers: a step of the chain needs no table look-up on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from algos.agent import Draw, EnvSpec, NetworkConfig, ReplayConfig, normal, require, require_choice, require_widths
from algos.networks import TIME_EMBEDDINGS, NoisePredictor

SCHEDULES = ("vp", "cosine", "linear")
MOST_BETA = 0.999
LEAST_LINEAR = 19  # steps; in a shorter chain more than the last beta would be cut, and a first draw lie on the bounds
KERNELS = ("ddpm", "posterior")


def betas(schedule: str, steps: int) -> list[float]:
    """beta_0..beta_{T-1}.

    vp: 1 - exp(-b_min/T - (b_max-b_min)(2t-1)/(2T^2)), t = 1..T, b_min 0.1, b_max 10 (Xiao et al. 2022; QSM and
    Diffusion-QL). cosine: Nichol & Dhariwal 2021, eq. 17, beta at most 0.999. linear: 1e-4 to 2e-2 at T = 1000
    (Ho et al. 2020), scaled by 1000/T so that the chain ends near pure noise, at most 0.999.
    """
    if schedule == "vp":
        low, high = 0.1, 10.0
        return [1 - math.exp(-low / steps - 0.5 * (high - low) * (2 * t - 1) / steps**2) for t in range(1, steps + 1)]
    if schedule == "cosine":
        bar = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
        return [min(1 - bar[t + 1] / bar[t], MOST_BETA) for t in range(steps)]
    span = [t / max(steps - 1, 1) for t in range(steps)]
    return [min(1000 / steps * (1e-4 + (2e-2 - 1e-4) * s), MOST_BETA) for s in span]


@dataclass(frozen=True)
class Chain:
    """A T-step reverse chain a^T ~ N(0, I) -> a^0 with one kernel.

    kernel `ddpm` (official QSM; the benchmark's default): mean (x - beta/sqrt(1-alpha_bar) eps)/sqrt(alpha), sigma_t =
    sqrt(beta_t), x clipped to [-1, 1] after every step. kernel `posterior` (official Diffusion-QL): mean from the
    clipped x0-prediction, sigma_t^2 the posterior variance, x clipped only at the end; its last mean is the prediction
    itself, which that clip makes the same action and a penalty can see beyond the box. No noise at t = 0 in either,
    unless `sigma_min`, a floor on every sigma_t, is positive (policy gradients need a density at the last step).
    """

    schedule: str
    steps: int
    kernel: str = "ddpm"
    temperature: float = 1.0  # factor on sigma_t
    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        require(self.steps >= 1, "T", self.steps, "1 or more denoising steps")
        require_choice("schedule", self.schedule, SCHEDULES)
        if self.schedule == "linear":
            require(self.steps >= LEAST_LINEAR, "T", self.steps, f"{LEAST_LINEAR} or more with schedule=linear")
        require_choice("kernel", self.kernel, KERNELS)
        require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        require(self.sigma_min >= 0, "sigma_min", self.sigma_min, "0 or more")
        beta = betas(self.schedule, self.steps)
        bar, product = [], 1.0
        for b in beta:
            product *= 1 - b
            bar.append(product)
        object.__setattr__(self, "beta", beta)
        object.__setattr__(self, "alpha_bar", bar)
        object.__setattr__(self, "tables", {})

    def sigma(self, t: int) -> float:
        """Standard deviation of the kernel's noise at step t."""
        previous = self.alpha_bar[t - 1] if t else 1.0
        variance = self.beta[t]
        if self.kernel == "posterior":
            variance *= (1 - previous) / (1 - self.alpha_bar[t])
        return max(self.temperature * math.sqrt(variance) if t else 0.0, self.sigma_min)

    def mean(self, x: Tensor, eps: Tensor, t: int) -> Tensor:
        """Mean of the kernel p(a^t-1 | a^t = x) given the predicted noise eps, both [B, A]."""
        beta, bar = self.beta[t], self.alpha_bar[t]
        if self.kernel == "ddpm":
            scale = 1 / math.sqrt(1 - beta)
            return torch.add(x * scale, eps, alpha=-scale * beta / math.sqrt(1 - bar))
        x0 = torch.add(x * math.sqrt(1 / bar), eps, alpha=-math.sqrt(1 / bar - 1))
        if t == 0:
            return x0
        previous, x0 = self.alpha_bar[t - 1], x0.clamp(-1, 1)
        from_x0 = beta * math.sqrt(previous) / (1 - bar)
        from_x = (1 - previous) * math.sqrt(1 - beta) / (1 - bar)
        return torch.add(x0 * from_x0, x, alpha=from_x)

    def clip(self, x: Tensor, t: int) -> Tensor:
        """What the next step sees of a draw: `ddpm` clips after every step, `posterior` only after the last."""
        return x.clamp(-1, 1) if self.kernel == "ddpm" or t == 0 else x

    def draws(self, n: int, act_dim: int) -> dict[str, Draw]:
        """Noise of one chain for n observations: the start, and one draw for each step that adds noise."""
        noisy = self.steps if self.sigma_min > 0 else self.steps - 1
        return {"x_T": normal(n, act_dim), "z": normal(noisy, n, act_dim)}

    def walk(
        self, predictor: NoisePredictor, obs: Tensor, noise: Mapping[str, Tensor], stop: int = 0, detach: bool = False
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """The chain, step by step: yields (t, x_t, mean, draw) for t = T-1, ..., stop; x_{t-1} = clip(draw).

        detach: the draws are data; a gradient reaches the parameters through each step's mean alone.
        """
        state, times = predictor.state_part(obs), predictor.time_part()
        x = noise["x_T"]
        for row, t in enumerate(range(self.steps - 1, stop - 1, -1)):
            mean = self.mean(x, predictor.predict(x, state + times[t]), t)
            sigma = self.sigma(t)
            draw = torch.add(mean, noise["z"][row], alpha=sigma) if sigma > 0 else mean
            draw = draw.detach() if detach else draw
            yield t, x, mean, draw
            x = self.clip(draw, t)

    def sample(self, predictor: NoisePredictor, obs: Tensor, noise: Mapping[str, Tensor], stop: int = 0) -> Tensor:
        """Actions in [-1, 1] [B, A] for obs [B, S]. stop > 0 ends the chain early, with the draw of step `stop`."""
        for _t, _x, _mean, draw in self.walk(predictor, obs, noise, stop):
            x = draw
        return x.clamp(-1, 1)

    def noised(self, action: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Forward noising x_t = sqrt(alpha_bar_t) action + sqrt(1-alpha_bar_t) eps (not clipped), and sqrt(1-alpha_bar_t).

        action, eps [B, A]; t [B]. Returns x_t [B, A] and sigma [B, 1].
        """
        scale, sigma = (table.index_select(0, t) for table in self._tables(action))
        return scale * action + sigma * eps, sigma

    def _tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar), sqrt(1 - alpha_bar) as [T, 1]; kept per device, so that a phase makes no host copy."""
        key = (like.device, like.dtype)
        if key not in self.tables:
            bar = torch.tensor(self.alpha_bar, dtype=torch.float64)[:, None]
            self.tables[key] = tuple(x.to(like) for x in (bar.sqrt(), (1 - bar).sqrt()))
        return self.tables[key]


@dataclass(frozen=True)
class ChainConfig(NetworkConfig):
    """Settings every diffusion policy shares. Benchmark defaults: one chain and one time embedding for all of them."""

    T: int = 5  # denoising steps (official QSM and Diffusion-QL: 5)
    schedule: str = "vp"  # vp | cosine | linear
    kernel: str = "ddpm"  # ddpm: sigma_t = sqrt(beta_t), x clipped each step (QSM) | posterior (Diffusion-QL)
    temperature: float = 1.0  # factor on the chain's noise (official QSM: 1)
    time_embedding: str = "fourier"  # fourier: learned (official QSM) | sinusoidal (official Diffusion-QL)
    time_features: int = 64  # official QSM 64, Diffusion-QL 16
    time_hidden: tuple[int, ...] = (128, 128)  # embedding network, output included (official QSM 128, 128)
    explore_noise: float = 0.1  # std of the noise added to behaviour actions, clipped (official QSM 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chain()  # refuses a bad T, schedule, kernel or temperature
        require_choice("time_embedding", self.time_embedding, TIME_EMBEDDINGS)
        even = self.time_features >= 4 and self.time_features % 2 == 0
        require(even, "time_features", self.time_features, "an even number from 4")
        require_widths("time_hidden", self.time_hidden)
        require(self.explore_noise >= 0, "explore_noise", self.explore_noise, "0 or more")

    def chain(self, sigma_min: float = 0.0) -> Chain:
        return Chain(self.schedule, self.T, self.kernel, self.temperature, sigma_min)

    def predictor(self, spec: EnvSpec, generator: torch.Generator) -> NoisePredictor:
        return NoisePredictor(
            spec.obs_dim, spec.act_dim, self.actor_hidden, self.T, generator, activation=self.actor_activation,
            time=self.time_embedding, time_features=self.time_features, time_hidden=self.time_hidden, init=self.init,
        )  # fmt: skip


@dataclass(frozen=True)
class DiffusionConfig(ChainConfig, ReplayConfig):
    """Settings of a diffusion policy that learns from a replay buffer."""


def log_density(draw: Tensor, mean: Tensor, sigma: float) -> Tensor:
    """log N(draw; mean, sigma^2 I) [B], summed over action dimensions."""
    return -0.5 * (((draw - mean) / sigma) ** 2).sum(-1) - draw.shape[-1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi))


def overshoot(draw: Tensor) -> Tensor:
    """Squared distance [B] of a chain's last draw [B, A] from the box [-1, 1]^A.

    The clip of the action has no gradient outside the box, so a policy whose every draw lies outside would never come
    back, wherever the critic's optimum is. A small weight on this restores a gradient there and changes nothing inside.
    """
    return (draw - draw.clamp(-1, 1)).square().sum(dim=-1)
