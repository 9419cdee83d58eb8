"""Q-score matching in JAX, one jitted function an update: what a compiler makes of the same arithmetic.

Written from the paper (Psenka et al. 2024, arXiv 2312.11752, Alg. 1) at the benchmark's defaults, with the savings that
algos/qsm.py has too, so that the two differ in how they are run and not in what they compute: the times are embedded once
each and not once per sample, and the first layer's share of state and time is taken once per chain.

    critic   a' = clip(chain(s') + 0.1 xi),  y = r + gamma min_i Q'_i(s', a'),  L = sum_i mean (Q_i(s, a) - y)^2
    actor    a_t = sqrt(abar_t) a + sqrt(1 - abar_t) eps,  L = mean (eps_theta(s, a_t, t) + M_q grad_a mean_i Q_i(s, a_t))^2
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.bodies import SPEC, Body

Tree = Any
STEPS, M_Q, TARGET_NOISE, TAU, LEARNING_RATE = 5, 50.0, 0.1, 0.005, 3e-4
FEATURES, TIME_HIDDEN = 64, 128


class State(NamedTuple):
    """Everything an update changes."""

    actor: Tree
    critics: Tree
    target: Tree
    actor_adam: Tree
    critic_adam: Tree
    key: jax.Array


def schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """beta and alpha_bar [T] of the variance-preserving schedule (beta_min 0.1, beta_max 10)."""
    t = np.arange(1, steps + 1)
    alpha = np.exp(-0.1 / steps - 0.5 * (10 - 0.1) * (2 * t - 1) / steps**2)
    return 1 - alpha, np.cumprod(alpha)


BETA, ALPHA_BAR = schedule(STEPS)


def dense(key: jax.Array, rows: int, columns: int, lead: tuple[int, ...] = ()) -> dict[str, jax.Array]:
    bound = math.sqrt(6 / (rows + columns))
    return {"w": jax.random.uniform(key, (*lead, rows, columns), minval=-bound, maxval=bound), "b": jnp.zeros((*lead, columns))}


def mish(x: jax.Array) -> jax.Array:
    """x tanh(softplus(x)) = x (1 - s^2) / (1 + s^2) with s = sigmoid(-x): exact, and cheaper under XLA too."""
    square = jnp.square(jax.nn.sigmoid(-x))
    return x * (1 - square) / (1 + square)


def new_actor(key: jax.Array, width: int) -> Tree:
    keys = jax.random.split(key, 6)
    inputs = SPEC.act_dim + SPEC.obs_dim + TIME_HIDDEN
    return {
        "frequency": 0.2 * jax.random.normal(keys[0], (FEATURES // 2,)),
        "time1": dense(keys[1], FEATURES, TIME_HIDDEN), "time2": dense(keys[2], TIME_HIDDEN, TIME_HIDDEN),
        "first": dense(keys[3], inputs, width), "second": dense(keys[4], width, width),
        "last": dense(keys[5], width, SPEC.act_dim),
    }  # fmt: skip


def new_critics(key: jax.Array, width: int) -> Tree:
    keys = jax.random.split(key, 3)
    return [
        dense(k, i, o, (2,))
        for k, i, o in zip(keys, (SPEC.obs_dim + SPEC.act_dim, width, width), (width, width, 1), strict=True)
    ]


def shared_part(actor: Tree, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first layer's share from the state [B, H] and from each time [T, H], bias included."""
    angle = 2 * jnp.pi * jnp.arange(STEPS, dtype=jnp.float32)[:, None] * actor["frequency"]
    x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    x = mish(x @ actor["time1"]["w"] + actor["time1"]["b"])
    x = x @ actor["time2"]["w"] + actor["time2"]["b"]
    weight, a, s = actor["first"]["w"], SPEC.act_dim, SPEC.obs_dim
    return obs @ weight[a : a + s], x @ weight[a + s :] + actor["first"]["b"]


def noise_predictor(actor: Tree, x: jax.Array, shared: jax.Array) -> jax.Array:
    hidden = mish(x @ actor["first"]["w"][: SPEC.act_dim] + shared)
    hidden = mish(hidden @ actor["second"]["w"] + actor["second"]["b"])
    return hidden @ actor["last"]["w"] + actor["last"]["b"]


def q_values(critics: Tree, obs: jax.Array, action: jax.Array) -> jax.Array:
    """[2, B]"""

    def one(layers: Tree) -> jax.Array:
        x = jnp.concatenate([obs, action], axis=-1)
        for layer in layers[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return (x @ layers[-1]["w"] + layers[-1]["b"])[:, 0]

    return jax.vmap(one)(critics)


def chain(actor: Tree, obs: jax.Array, x: jax.Array, z: jax.Array) -> jax.Array:
    """Actions [B, A]: x <- clip((x - beta / sqrt(1 - abar) eps) / sqrt(1 - beta) + sqrt(beta) z), unrolled.

    x [B, A]: its start; z [T-1, B, A]: the noise of its steps, the first one's first.
    """
    state, times = shared_part(actor, obs)
    for row, t in enumerate(range(STEPS - 1, -1, -1)):
        eps = noise_predictor(actor, x, state + times[t])
        x = (x - BETA[t] / math.sqrt(1 - ALPHA_BAR[t]) * eps) / math.sqrt(1 - BETA[t])
        x = jnp.clip(x + math.sqrt(BETA[t]) * z[row] if t else x, -1, 1)
    return x


def adam(parameters: Tree, gradient: Tree, moments: Tree) -> tuple[Tree, Tree]:
    mean, square, step = moments
    step = step + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
    square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, gradient)
    rate, root = LEARNING_RATE / (1 - 0.9**step), jnp.sqrt(1 - 0.999**step)
    moved = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), parameters, mean, square)
    return moved, (mean, square, step)


def fresh(parameters: Tree) -> Tree:
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.zeros(())


def draw(key: jax.Array, n: int) -> dict[str, jax.Array]:
    """The random numbers of one update."""
    keys, shape = jax.random.split(key, 5), (n, SPEC.act_dim)
    return {
        "x_T": jax.random.normal(keys[0], shape), "z": jax.random.normal(keys[1], (STEPS - 1, *shape)),
        "action": jax.random.normal(keys[2], shape), "t": jax.random.randint(keys[3], (n,), 0, STEPS),
        "eps": jax.random.normal(keys[4], shape),
    }  # fmt: skip


def learn(state: State, batch: tuple[jax.Array, ...], noise: dict[str, jax.Array]) -> tuple[State, dict[str, jax.Array]]:
    """One update, a pure function of the state, the batch (obs, action, reward, discount, next_obs) and the noise."""
    obs, action, reward, discount, next_obs = batch
    sampled = chain(state.actor, next_obs, noise["x_T"], noise["z"])
    next_action = jnp.clip(sampled + TARGET_NOISE * noise["action"], -1, 1)
    y = reward + discount * q_values(state.target, next_obs, next_action).min(axis=0)

    def critic_loss(critics: Tree) -> jax.Array:
        return jnp.square(q_values(critics, obs, action) - y).mean(axis=1).sum()

    loss, gradient = jax.value_and_grad(critic_loss)(state.critics)
    critics, critic_adam = adam(state.critics, gradient, state.critic_adam)
    target = jax.tree.map(lambda old, new: old + TAU * (new - old), state.target, critics)

    bar = jnp.asarray(ALPHA_BAR, jnp.float32)[noise["t"]][:, None]
    noised = jnp.sqrt(bar) * action + jnp.sqrt(1 - bar) * noise["eps"]
    score = jax.grad(lambda a: q_values(critics, obs, a).mean(axis=0).sum())(noised)

    def actor_loss(actor: Tree) -> jax.Array:
        part, times = shared_part(actor, obs)
        return jnp.square(noise_predictor(actor, noised, part + times[noise["t"]]) + M_Q * score).mean()

    matching, gradient = jax.value_and_grad(actor_loss)(state.actor)
    actor, actor_adam = adam(state.actor, gradient, state.actor_adam)
    info = {"critic_loss": loss, "actor_loss": matching}
    return State(actor, critics, target, actor_adam, critic_adam, state.key), info


@functools.partial(jax.jit, donate_argnums=0)
def update(state: State, batch: tuple[jax.Array, ...]) -> tuple[State, dict[str, jax.Array]]:
    """Noise and update in one compiled function."""
    key, now = jax.random.split(state.key)
    return learn(state._replace(key=key), batch, draw(now, len(batch[0])))


def new_state(width: int) -> State:
    actor_key, critic_key, key = jax.random.split(jax.random.PRNGKey(0), 3)
    actor, critics = new_actor(actor_key, width), new_critics(critic_key, width)
    target = jax.tree.map(jnp.copy, critics)
    return State(actor, critics, target, fresh(actor), fresh(critics), key)


def random_batch(n: int) -> tuple[jax.Array, ...]:
    generator = np.random.default_rng(0)
    obs, next_obs = generator.standard_normal((2, n, SPEC.obs_dim), dtype=np.float32)
    action = generator.uniform(-1, 1, (n, SPEC.act_dim)).astype(np.float32)
    reward = generator.standard_normal(n, dtype=np.float32)
    return tuple(map(jnp.asarray, (obs, action, reward, np.full(n, 0.99, np.float32), next_obs)))


def benchmarks(batch: int = 256, width: int = 256) -> dict[str, Body]:
    """One body, an update on a batch at hand; the noise is drawn inside, as it is in ours."""
    held, data = {"state": new_state(width)}, random_batch(batch)

    def run() -> None:
        held["state"], info = update(held["state"], data)
        info["actor_loss"].block_until_ready()
        held["state"].actor["last"]["w"].block_until_ready()

    about = {
        "algo": "qsm@jax", "name": "update", "kind": "peer", "against": "qsm", "batch": batch, "width": width, "depth": 2,
        "T": STEPS, "device": "cpu", "mode": "jit",
    }  # fmt: skip
    return {"qsm@jax/update": Body(run, 1, about)}
