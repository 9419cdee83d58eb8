"""One full update against the recorded updates of the reference implementations.

The recordings hold weights, a batch, every random draw and all results; they go through the public `update` of the named
configurations, with only widths overridden (and TD3's delay, 1 in the recording). Tolerances: outputs, losses and
gradients within 1e-5 of the array's largest value; parameters within 1e-2 of one learning-rate step plus 1e-6 relative.
SAC's log-density is the stable form of tanh's log-determinant, which differs legitimately from the recorded
log(1 - a^2 + 1e-6) by up to 1e-4 in everything that depends on it, at the actions recorded.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import algos
from algos.agent import Batch
from bench.compose import agent_config, algo_values

DATA = Path(__file__).parent.parent / "data"
WIDE = [64, 64]


class Case:
    """A recording, the agent that must reproduce it, and the key map between them."""

    def __init__(self, file: str, config: str, overrides: dict):
        self.data = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(DATA / f"{file}.npz").items()}
        values = algo_values(config) | overrides
        spec = SimpleNamespace(
            id="golden", obs_dim=17, act_dim=6, action_low=(-1.0,) * 6, action_high=(1.0,) * 6, horizon=1000, discount=None
        )
        cls = algos.agent_class(values["agent"])
        self.agent = cls(spec, agent_config(values), torch.Generator().manual_seed(0))

    def batch(self) -> Batch:
        part = {k: self.data[f"batch/{k}"] for k in ("observations", "actions", "rewards", "masks", "next_observations")}
        gamma = float(self.data.get("hp/discount", self.data.get("hp/gamma")))
        return Batch(
            part["observations"], part["actions"], part["rewards"], gamma * part["masks"], part["next_observations"]
        )

    def split_first(self, kinds, names, kernel, sizes, flax=False):
        """Cut recorded first-layer weights into one for each input: `<key>#0`, `<key>#1`, ..."""
        for kind in kinds:
            for name in names:
                key = f"{kind}/{name}{'/' if flax else '.'}{kernel}"
                if key in self.data:
                    for i, part in enumerate(self.data[key].split(sizes, dim=0 if flax else 1)):
                        self.data[f"{key}#{i}"] = part

    def load(self, pairs):
        """pairs: (our parameter, recorded key under init/, member of an ensemble or None, transpose)."""
        with torch.no_grad():
            for parameter, key, member, transpose in pairs:
                value = self.data[f"init/{key}"]
                value = value.T if transpose and value.dim() == 2 else value
                target = parameter if member is None else parameter[member]
                target.copy_(value.reshape(target.shape))

    def close(self, name, found, key, limit=1e-5):
        wanted = self.data[key].float()
        error = (found.float().reshape(wanted.shape) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)
        assert error <= limit, f"{name} against {key}: {error:.1e} of the largest value"

    def compare(self, pairs, lr, grads=True, limit=1e-5):
        optimizers = self.agent.optimizers().values()
        own = {id(p): g for o in optimizers for p, g in zip(o.own, o.grads, strict=True)}
        for parameter, key, member, transpose in pairs:
            found = parameter if member is None else parameter[member]
            wanted = self.data[f"after1/{key}"]
            wanted = (wanted.T if transpose and wanted.dim() == 2 else wanted).reshape(found.shape)
            error = (found.detach() - wanted).abs() - 1e-6 * wanted.abs()
            assert error.max() <= 1e-2 * lr, f"after1/{key}: {error.max():.1e}"
            if grads:
                grad = own[id(parameter)] if member is None else own[id(parameter)][member]
                wanted = self.data[f"grad/{key}"]
                wanted = (wanted.T if transpose and wanted.dim() == 2 else wanted).reshape(grad.shape)
                scale = wanted.abs().max().clamp_min(1e-30)
                assert ((grad - wanted).abs().max() / scale) <= limit, f"grad/{key}"


KINDS = ("init", "after1", "grad")


def mlp(net, keys, member=None, flax=False):
    """Pairs for a network whose first layer has one weight for each of its inputs."""
    kernel, sep = ("kernel", "/") if flax else ("weight", ".")
    inputs = len(net.weights) - len(net.biases) + 1
    names = [f"{keys[0]}{sep}{kernel}" + (f"#{i}" if inputs > 1 else "") for i in range(inputs)]
    names += [f"{key}{sep}{kernel}" for key in keys[1:]]
    pairs = [(w, name, member, not flax) for w, name in zip(net.weights, names, strict=True)]
    return pairs + [(b, f"{key}{sep}bias", member, False) for b, key in zip(net.biases, keys, strict=True)]


def torch_critics(critics, root, names, layers):
    return [p for i, n in enumerate(names) for p in mlp(critics, [f"{root}/{n}.{k}" for k in layers], member=i)]


@pytest.fixture(autouse=True)
def _plain_fp32():
    torch.set_float32_matmul_precision("highest")


def test_qsm_official():
    case = Case("qsm", "qsm_official", {"actor_hidden": WIDE, "critic_hidden": WIDE})
    agent, d = case.agent, case.data
    case.split_first(KINDS, ["actor/MLP_1/Dense_0"], "kernel", [6, 17, 128], flax=True)
    case.split_first(KINDS, [f"{c}/MLP_0/Dense_0" for c in ("c1", "c2", "tc1", "tc2")], "kernel", [17, 6], flax=True)
    actor = [(agent.predictor.time.w, "actor/FourierFeatures_0/kernel", None, True)]
    actor += mlp(agent.predictor.time_mlp, [f"actor/MLP_0/Dense_{i}" for i in range(2)], flax=True)
    actor += mlp(agent.predictor.body, [f"actor/MLP_1/Dense_{i}" for i in range(3)], flax=True)

    def critics(net, names):
        layers = ("MLP_0/Dense_0", "MLP_0/Dense_1", "Dense_0")
        return [p for i, n in enumerate(names) for p in mlp(net, [f"{n}/{k}" for k in layers], member=i, flax=True)]

    online, targets = critics(agent.critics, ("c1", "c2")), critics(agent.target_critics, ("tc1", "tc2"))
    case.load(actor + online + targets)
    noise = {
        "critic": {"x_T": d["draw/xT"], "z": d["draw/z"][:-1], "action": d["draw/target_noise_std_normal"]},
        "target": {},
        "actor": {"t": d["draw/t"].long(), "eps": d["draw/eps"]},
    }
    info = agent.update(case.batch(), noise)
    case.close("target Q", info["target_q"], "out/target_q")
    case.close("next actions", info["next_actions"], "out/next_actions")
    case.close("Q1", info["q"][0], "out/q1")
    case.close("Q2", info["q"][1], "out/q2")
    total = d["out/critic_loss_1"] + d["out/critic_loss_2"]
    assert abs(info["critic_loss"] - total) <= 1e-5 * total
    case.close("actor loss", info["actor_loss"], "out/actor_loss")
    case.close("noise prediction", info["eps"], "out/eps_pred")
    case.close("action gradient", info["action_gradient"], "out/dQda_mean")
    case.compare(actor + online, 3e-4)
    case.compare(targets, 3e-4 * 0.005, grads=False)


def test_dql_official():
    case = Case("dql", "dql_official", {"actor_hidden": [64] * 3, "critic_hidden": [64] * 3})
    agent, d = case.agent, case.data
    for key in [k for k in d if k.endswith("mid_layer.0.weight")]:  # recorded order of the input [x, time, s]
        d[f"{key}#0"], d[f"{key}#2"], d[f"{key}#1"] = d[key].split([6, 16, 17], dim=1)
    critics = [f"{c}/{q}_model.0" for c in ("critic", "critic_target") for q in ("q1", "q2")]
    case.split_first(KINDS, critics, "weight", [17, 6])

    def predictor(net, name):
        return mlp(net.time_mlp, [f"{name}/time_mlp.1", f"{name}/time_mlp.3"]) + mlp(
            net.body, [f"{name}/mid_layer.{i}" for i in (0, 2, 4)] + [f"{name}/final_layer"]
        )

    actor, averaged = predictor(agent.predictor, "actor"), predictor(agent.averaged, "ema_actor")
    online = torch_critics(agent.critics, "critic", ("q1_model", "q2_model"), (0, 2, 4, 6))
    targets = torch_critics(agent.target_critics, "critic_target", ("q1_model", "q2_model"), (0, 2, 4, 6))
    case.load(actor + averaged + online + targets)
    agent.load_state_dict(agent.state_dict() | {"updates": int(d["hp/step"])})
    noise = {
        "critic": {"x_T": d["draw/target_chain/xT"], "z": d["draw/target_chain/z"][:-1]},
        "actor": {
            "x_T": d["draw/actor_chain/xT"],
            "z": d["draw/actor_chain/z"][:-1],
            "bc_t": d["draw/bc/t"],
            "bc_eps": d["draw/bc/noise"],
            "coin": d["draw/coin"].float().reshape(1),
        },
        "average": {},
        "target": {},
    }
    info = agent.update(case.batch(), noise)
    for found, key in (
        (info["target_q"], "target_q"), (info["next_actions"], "next_actions"), (info["q"][0], "q1"), (info["q"][1], "q2"),
        (info["critic_loss"], "critic_loss"), (info["bc_loss"], "bc_loss"), (info["q_loss"], "q_loss"),
        (info["actor_loss"], "actor_loss"), (info["actions"], "new_actions"),
    ):  # fmt: skip
        case.close(key, found, f"out/{key}")
    case.compare(actor + online, 3e-4)
    case.compare(averaged + targets, 3e-4 * 0.005, grads=False)


def split_sb3(case):
    case.split_first(KINDS, [f"{c}/{q}.0" for c in ("critic", "critic_target") for q in ("qf0", "qf1")], "weight", [17, 6])


def test_sac():
    case = Case("sac", "sac_sb3", {"actor_hidden": WIDE, "critic_hidden": WIDE})
    agent, d = case.agent, case.data
    head = ("mu", "log_std")
    d["init/actor/head.weight"] = torch.cat([d[f"init/actor/{h}.weight"] for h in head])
    d["init/actor/head.bias"] = torch.cat([d[f"init/actor/{h}.bias"] for h in head])
    for kind in ("after1", "grad"):
        for part in ("weight", "bias"):
            d[f"{kind}/actor/head.{part}"] = torch.cat([d[f"{kind}/actor/{h}.{part}"] for h in head])
    split_sb3(case)
    actor = mlp(agent.policy.body, ["actor/latent_pi.0", "actor/latent_pi.2", "actor/head"])
    online = torch_critics(agent.critics, "critic", ("qf0", "qf1"), (0, 2, 4))
    targets = torch_critics(agent.target_critics, "critic_target", ("qf0", "qf1"), (0, 2, 4))
    alpha = [(agent.temperature.log_alpha, "log_ent_coef", None, False)]
    case.load(actor + online + targets + alpha)
    noise = {"critic": {"eps": d["draw/eps_next"]}, "actor": {"eps": d["draw/eps_pi"]}, "target": {}}
    info = agent.update(case.batch(), noise)
    loose = 1e-4  # see the note on the log-determinant above
    case.close("actions", info["actions"], "out/actions_pi")
    case.close("next actions", info["next_actions"], "out/next_actions")
    case.close("Q1", info["q"][0], "out/q1")
    case.close("temperature", info["temperature"], "out/ent_coef")
    case.close("log density", -info["entropy"], "out/log_prob_pi", loose)
    case.close("target Q", info["target_q"], "out/target_q", loose)
    case.close("critic loss", info["critic_loss"], "out/critic_loss", loose)
    case.close("actor loss", info["actor_loss"], "out/actor_loss", loose)
    assert abs(float(info["temperature_loss"]) - float(d["out/ent_coef_loss"])) < 1e-6
    case.compare(actor + online + alpha, 3e-4, limit=loose)
    case.compare(targets, 3e-4 * 0.005, grads=False)


def test_td3():
    case = Case("td3", "td3_sb3", {"actor_hidden": WIDE, "critic_hidden": WIDE, "delay": 1})
    agent, d = case.agent, case.data
    split_sb3(case)
    layers = (0, 2, 4)
    actor = mlp(agent.policy, [f"actor/mu.{i}" for i in layers])
    target_actor = mlp(agent.target_policy, [f"actor_target/mu.{i}" for i in layers])
    online = torch_critics(agent.critics, "critic", ("qf0", "qf1"), layers)
    targets = torch_critics(agent.target_critics, "critic_target", ("qf0", "qf1"), layers)
    case.load(actor + target_actor + online + targets)
    noise = {"critic": {"action": d["draw/target_noise_std_normal"]}, "actor": {}, "target": {}}
    info = agent.update(case.batch(), noise)
    for found, key in (
        (info["next_actions"], "next_actions"), (info["target_q"], "target_q"), (info["q"][0], "q1"), (info["q"][1], "q2"),
        (info["critic_loss"], "critic_loss"), (info["actor_loss"], "actor_loss"), (info["actions"], "actions_pi"),
    ):  # fmt: skip
        case.close(key, found, f"out/{key}")
    case.compare(actor + online, 1e-3)
    case.compare(target_actor + targets, 1e-3 * 0.005, grads=False)
