"""What holds for the five agents: how targets move, what is bootstrapped, what is logged, which settings are refused; and for
all of the registry, that each setting reaches its own part."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

import algos
from algos.agent import Replay
from algos.networks import MLP
from bench.bodies import spec_of

AGENTS = ["qsm", "dql", "pg", "sac", "td3"]  # a new algorithm is covered by bench.conformance, with nothing to add here
FOLLOWS = {"target_critics": ("critics", 0.3), "target_policy": ("policy", 0.3), "averaged": ("predictor", 0.2)}

LOGGED = {
    "q_mean", "q_max", "target_q_mean", "critic_loss", "actor_loss", "critic_grad_norm", "actor_grad_norm",
    "next_actions_std", "next_actions_on_bound",
}  # fmt: skip
LOGGED_BY = {
    "qsm": {"alignment", "scaled_gradient"},
    "dql": {"actions_std", "actions_on_bound", "q_loss", "bound_loss"},
    "pg": {"actions_std", "actions_on_bound", "policy_q_mean", "log_density_mean"},
    "sac": {"actions_std", "actions_on_bound", "entropy_mean", "temperature", "temperature_loss"},
    "td3": {"actions_std", "actions_on_bound"},
}


SHARED = {
    "batch_size": 8, "capacity": 64, "n_step": 3, "actor_hidden": (12, 10), "critic_hidden": (9,), "init": "torch",
    "actor_lr": 1e-3, "critic_lr": 2e-3, "grad_clip": 0.7,
}  # fmt: skip


@pytest.mark.parametrize("name", algos.AGENTS)
def test_a_setting_that_several_agents_have_reaches_its_own_part(name):
    """Fails on the actor's learning rate or widths for the critics, and where a clip, an initialisation or n is left out."""
    cls = algos.agent_class(name)
    settings = {field.name: SHARED[field.name] for field in dataclasses.fields(cls.Config) if field.name in SHARED}
    agent = cls(spec_of(cls), cls.Config(**settings), torch.Generator().manual_seed(0))
    if isinstance(agent.data, Replay):
        assert agent.data == Replay(8, 64, 3, 0.99)
    for part in [part for part in ("actor", "critic") if f"{part}_lr" in settings]:
        optimizer = agent.optimizers()[f"{part}_optimizer"]
        assert (optimizer.lr, optimizer.clip) == (settings[f"{part}_lr"], settings.get("grad_clip", 0.0))
        own = set(map(id, optimizer.own))
        bodies = [getattr(net, "body", net) for net in agent.networks().values() if own & set(map(id, net.parameters()))]
        widths = {tuple(bias.shape[-1] for bias in body.biases)[:-1] for body in bodies}
        assert widths == {settings[f"{part}_hidden"]}
    for network in agent.networks().values():
        for layers in network.modules():
            if isinstance(layers, MLP):
                assert all(bias.any() for bias in layers.biases)  # which xavier leaves at 0


@pytest.mark.parametrize("name", AGENTS)
def test_targets_move_by_tau_exactly(make_agent, make_batch, update, name):
    """target <- (1 - tau) target + tau online, with the online networks as they are after their own step. Fails on swapped
    weights, tau for 1 - tau, a target moved before its network, or a network left out."""
    agent = make_agent(name, tau=0.3, **({"ema": 0.8} if name == "dql" else {}), **({"delay": 1} if name == "td3" else {}))
    nets, batch = agent.networks(), make_batch()
    for number in range(2):
        before = {target: [p.clone() for p in nets[target].parameters()] for target in FOLLOWS if target in nets}
        assert before
        update(agent, batch, number)
        for target, old in before.items():
            online, rate = FOLLOWS[target]
            for now, was, goal in zip(nets[target].parameters(), old, nets[online].parameters(), strict=True):
                torch.testing.assert_close(now, (1 - rate) * was + rate * goal.detach(), atol=1e-7, rtol=1e-6)
                assert not now.requires_grad


@pytest.mark.parametrize("name", AGENTS)
def test_only_the_discount_of_a_transition_bootstraps(make_agent, make_batch, draw, name):
    """y = r after a termination, and y - r grows with the transition's own gamma^k. Fails on a constant gamma, on a second
    factor gamma, or on a reward that is discounted."""
    agent, batch, noise = make_agent(name), make_batch(16), None
    noise, y = draw(agent, "critic", 16), {}
    for discount in (0.0, 0.5, 1.0):
        y[discount], _ = agent.target_q(batch._replace(discount=torch.full((16,), discount)), noise)
    torch.testing.assert_close(y[0.0], batch.reward)
    torch.testing.assert_close(y[0.5] - batch.reward, (y[1.0] - batch.reward) / 2, atol=1e-5, rtol=1e-4)
    assert (y[1.0] - batch.reward).abs().min() > 0


@pytest.mark.parametrize("name", ["qsm", "dql", "pg", "td3"])
def test_exploring_adds_the_noise_that_is_asked_for(make_agent, draw, name):
    """Fails on another scale, on noise that is clipped before it is added, or on an action that is not clipped after."""
    agent, obs = make_agent(name, explore_noise=0.6), torch.randn(64, 3, generator=torch.Generator().manual_seed(3))
    noise = draw(agent, "explore", 64)
    explored, own = (agent.act(obs, noise, mode) for mode in ("explore", "own"))
    torch.testing.assert_close(explored, (own + 0.6 * noise["action"]).clamp(-1, 1))
    assert (explored.abs() == 1).any()


def test_the_actor_follows_the_smaller_critic_or_the_mean(make_agent, make_batch, draw):
    batch = make_batch(64)
    for reduce, rule in (("min", lambda q: q.amin(dim=0)), ("mean", lambda q: q.mean(dim=0))):
        pg, sac = (make_agent(name, critic_reduce=reduce) for name in ("pg", "sac"))
        _, q = pg.advantage(batch.obs, 2 * batch.action)
        torch.testing.assert_close(q, rule(pg.critics(batch.obs, (2 * batch.action).clamp(-1, 1))))
        loss, action, log_prob = sac.actor_loss(batch, draw(sac, "actor", 64))
        torch.testing.assert_close(loss, (log_prob - rule(sac.critics(batch.obs, action))).mean())  # alpha is 1 at the start


@pytest.mark.parametrize("name", AGENTS)
def test_an_environment_states_its_own_discount(make_agent, name):
    agent = make_agent(name, gamma=0.9)
    assert agent.gamma == agent.data.gamma == 0.9
    agent.spec.discount = 1.0
    again = type(agent)(agent.spec, agent.config, torch.Generator())
    assert again.gamma == again.data.gamma == 1.0


@pytest.mark.parametrize("name", AGENTS)
def test_the_log_tells_a_divergence(make_agent, make_batch, update, name):
    """Fails if a loss, a Q statistic, a gradient norm or the spread of the actions is no longer logged, or is wrong."""
    batch, settings = make_batch(), {"delay": 1} if name == "td3" else {}
    agent, twin = make_agent(name, **settings), make_agent(name, **settings)
    info = update(agent, batch)
    log = agent.diagnose(info)
    assert LOGGED | LOGGED_BY[name] <= set(log)
    assert all(value.dim() == 0 and torch.isfinite(value) and not value.requires_grad for value in log.values())
    torch.testing.assert_close(log["q_max"], info["q"].max())
    torch.testing.assert_close(log["target_q_mean"], info["target_q"].mean())
    torch.testing.assert_close(log["next_actions_on_bound"], (info["next_actions"].abs() >= 0.99).float().mean())
    torch.testing.assert_close(log["next_actions_std"], info["next_actions"].std(dim=0, correction=0).mean())
    if name == "qsm":
        norms = info["action_gradient"].norm(dim=-1)
        torch.testing.assert_close(log["scaled_gradient"], agent.config.m_q * norms.mean())
    loss, _ = twin.critic_loss(batch, info["target_q"])
    grads = torch.autograd.grad(loss, list(twin.critics.parameters()))
    torch.testing.assert_close(log["critic_grad_norm"], torch.cat([g.flatten() for g in grads]).norm())


@pytest.mark.parametrize("name", AGENTS)
def test_best_of_n_goes_by_the_smaller_target_critic(make_agent, make_batch, name):
    """Fails on the online critics, the larger value, or a mean."""
    agent, other, batch = make_agent(name), make_agent(name, seed=3), make_batch()
    agent.target_critics.load_state_dict(other.critics.state_dict())
    wanted = torch.minimum(*other.critics(batch.obs, batch.action))
    torch.testing.assert_close(agent.value(batch.obs, batch.action), wanted.detach())


@pytest.mark.parametrize("name", AGENTS)
def test_unbounded_actions_are_refused_by_name(name):
    cls = algos.agent_class(name)
    spec = SimpleNamespace(id="gym/Boundless", obs_dim=3, act_dim=2, action_low=None, action_high=None, discount=None)
    with pytest.raises(ValueError, match=r"needs bounded actions; those of gym/Boundless are unbounded"):
        cls(spec, cls.Config(), torch.Generator())


ALL = [
    ("gamma", 1.5, "a value in [0, 1]"), ("tau", 0.0, "a value in (0, 1]"), ("n_step", 0, "1 or more"),
    ("batch_size", 0, "1 or more"), ("actor_lr", -1e-3, "0 or more"), ("grad_clip", -1.0, "0 (off) or more"),
    ("actor_hidden", (), "one or more widths"), ("critic_hidden", (64, 0), "one or more widths"),
    ("critic_activation", "gelu", "one of relu, mish, tanh"), ("init", "he", "one of xavier, torch"),
]  # fmt: skip
DIFFUSION = [
    ("T", 0, "1 or more denoising steps"), ("schedule", "sigmoid", "one of vp, cosine, linear"),
    ("kernel", "ddim", "one of ddpm, posterior"), ("temperature", -1.0, "0 or more"), ("time_features", 5, "an even number"),
    ("time_hidden", (0,), "one or more widths of 1 or more"),
    ("time_embedding", "learned", "one of fourier, sinusoidal"), ("explore_noise", -0.1, "0 or more"),
]  # fmt: skip
OWN = {
    "qsm": [
        ("m_q", 0.0, "a positive number"), ("critic_reduce", "max", "one of mean, min"), ("explore_stop", 5, "0 to T-1=4"),
        ("gradient_at", "raw", "one of noised, clean"), ("target_scale", "t", "one of none, sigma"),
        ("target_noise", -0.1, "0 or more"), ("actor_decay_updates", -1, "0 (constant) or more"),
    ],
    "dql": [
        ("eta", -1.0, "0 or more"), ("bc", -1.0, "0 or more"), ("ema", 1.0, "a decay in [0, 1)"),
        ("candidates", 0, "1 or more"), ("bound_penalty", -1.0, "0 (off) or more"), ("max_q_actions", 0, "1 or more"),
        ("ema_start", -1, "0 or more"), ("ema_every", 0, "1 or more"),
    ],
    "pg": [
        ("sigma_min", 0.0, "a positive floor"), ("chains", 1, "2 or more with a baseline"), ("epochs", 0, "1 or more"),
        ("epochs", 4, "1 unless ppo_clip is positive"), ("denoising_discount", 0.0, "a value in (0, 1]"),
        ("bound_penalty", -1.0, "0 (off) or more"), ("ppo_clip", -0.1, "0 (off) or more"),
    ],
    "sac": [("initial_temperature", 0.0, "a positive number"), ("temperature_lr", -1.0, "0 (fixed temperature)"),
            ("target_entropy_scale", -0.7, "more than -0.693")],
    "td3": [("delay", 0, "1 or more"), ("target_noise_clip", -0.5, "0 or more"), ("explore_noise", -0.1, "0 or more")],
}  # fmt: skip
CASES = [(n, *case) for n in AGENTS for case in ALL + (DIFFUSION if n in ("qsm", "dql", "pg") else []) + OWN[n]]


@pytest.mark.parametrize(("name", "key", "value", "right"), CASES)
def test_a_bad_setting_is_named_with_what_would_be_right(name, key, value, right):
    """Fails if a range is not checked, or if the message leaves out the key, the value or the range."""
    with pytest.raises(ValueError, match="out of range") as caught:
        algos.agent_class(name).Config(**{key: value})
    message = str(caught.value)
    assert message.startswith(f"{key}={value!r}")
    assert right in message
    assert "\n" not in message


def test_a_batch_larger_than_the_replay_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=256 is out of range: it takes at most the capacity 100"):
        algos.agent_class("sac").Config(capacity=100)
