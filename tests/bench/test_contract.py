"""An author's slip is refused in one line before anything is written, and what the line asks for is right."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import algos
from algos import sac
from bench import bodies, conformance, provenance
from bench.grid import plan

SLIPS = """
import random
import numpy as np
import torch
from dataclasses import dataclass
from torch import nn
from algos.agent import Agent, Batch, Phase, Replay, Rollout
from algos.optimizer import Adam, polyak
from algos import ctq, sac


class NoAct(Agent):
    Config = sac.Config

    def draws(self, phase, n):
        return {}


class Words(sac.SAC):
    phases = ("critic", "actor")


class OnePhase(sac.SAC):
    phases = Phase("critic")


class NoPhase(sac.SAC):
    phases = ()


class Twice(sac.SAC):
    phases = (Phase("critic"), Phase("critic", every=2))


class Timed(sac.SAC):
    phases = (Phase("critic"), Phase("eval"))


class Mode(sac.SAC):
    phases = (Phase("critic"), Phase("own"))


class Misspelt(sac.SAC):
    phases = (Phase("critic"), Phase("actr"))


class Late(sac.SAC):
    phases = (Phase("critic"), Phase("actor", start=90))


class NoOwn(sac.SAC):
    def draws(self, phase, n):
        if phase == "own":
            raise KeyError(phase)
        return super().draws(phase, n)


class Tensors(sac.SAC):
    def draws(self, phase, n):
        return {name: torch.zeros(draw.shape) for name, draw in super().draws(phase, n).items()}


class Careless(sac.SAC):
    def act(self, obs, noise, mode):
        return super().act(obs, noise[mode], mode)


class Nothing(sac.SAC):
    def explore(self, obs, noise):
        return self.act(obs, noise, "explore"), None


class Temperature(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.weight = torch.zeros((), requires_grad=True)
        self.weight_optimizer = Adam([self.weight], 1e-3)


class Undiscounted(sac.SAC):
    def replay_need(self):
        return Replay(8, 100, 1, None)


class Pair(sac.SAC):
    def act(self, obs, noise, mode):
        return super().act(obs, noise, mode), {}


class Wide(sac.SAC):
    def act(self, obs, noise, mode):
        return super().act(obs, noise, mode).repeat(1, 2)


class Graph(sac.SAC):
    def act(self, obs, noise, mode):
        return super().act(obs, noise, mode) * nn.Parameter(torch.ones(()))


class Beyond(sac.SAC):
    def act(self, obs, noise, mode):
        return torch.full_like(super().act(obs, noise, mode), 1.5)


class Alone(sac.SAC):
    def explore(self, obs, noise):
        return self.act(obs, noise, "explore")


class Scalar(sac.SAC):
    def explore(self, obs, noise):
        return self.act(obs, noise, "explore"), {"log_prob": torch.zeros(())}


class Dictionary(sac.SAC):
    def replay_need(self):
        return {"batch_size": 8}


class Copies(sac.SAC):
    def replay_need(self):
        return Rollout(length=4, envs=2, epochs=1, gamma=0.99)


class NoLength(sac.SAC):
    def replay_need(self):
        return Rollout(length=0, envs=2, epochs=1, gamma=0.99)


class Listed(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.more = [nn.Linear(2, 2)]


class Bare(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.log_alpha = nn.Parameter(torch.zeros(()))


class Torch(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.optimizer = torch.optim.AdamW(self.policy.parameters())


class Raises(sac.SAC):
    def __init__(self, spec, *given, **named):
        raise ValueError("needs 10 or more observations")


class Breaks(sac.SAC):
    def __init__(self, spec, *given, **named):
        raise RuntimeError("no such weights")


@dataclass(frozen=True)
class AssertConfig(sac.Config):
    beta: float = 0.5

    def __post_init__(self):
        if self.beta == 3:
            raise ValueError
        assert self.beta <= 1, "beta is at most 1"


class Asserts(sac.SAC):
    Config = AssertConfig


@dataclass(frozen=True)
class TextConfig(sac.Config):
    actor_lr: float = "3e-4"


class Text(sac.SAC):
    Config = TextConfig


@dataclass(frozen=True)
class NameConfig(sac.Config):
    name: str = "mine"


class Named(sac.SAC):
    Config = NameConfig


class Shifted(sac.SAC):
    '''Acts by a statistic that its state_dict has.'''

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.shift = torch.zeros(())

    def critic(self, batch, noise):
        self.shift += 0.01 * batch.reward.mean()
        return super().critic(batch, noise)

    def act(self, obs, noise, mode):
        return (super().act(obs, noise, mode) + self.shift).clamp(-1, 1)

    def state_dict(self):
        return super().state_dict() | {"shift": self.shift}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.shift.copy_(state["shift"])


class OfTime(ctq.ContinuousQ):
    def explore(self, obs, noise):
        assert 0 <= obs[:, 0].min(), "the time left, which is never negative"
        return super().explore(obs, noise)


class Edge(sac.SAC):
    def act(self, obs, noise, mode):
        return torch.full_like(super().act(obs, noise, mode), 1.0000001)


class Decays(sac.SAC):
    def schedule(self):
        self.actor_optimizer.lr *= 0.9


class Aliases(sac.SAC):
    '''Names what it has a second time.'''

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.both, self.weights = [self.policy, self.critics], list(self.policy.parameters())
        self.every = {"actor": self.actor_optimizer}


class Halves(sac.SAC):
    def draws(self, phase, n):
        assert phase in ("explore", "own", "sample") or n % 8 == 0
        return super().draws(phase, n)


class Steps(sac.SAC):
    '''Four steps of the critics and of their targets in each update.'''
    phases = (Phase("critic"), Phase("actor"))

    def replay_need(self):
        return Replay(4 * self.config.batch_size, self.config.capacity, 1, self.gamma)

    def critic(self, batch, noise):
        for part in range(4):
            own = slice(part, None, 4)
            info = super().critic(Batch(*(field[own] for field in batch)), {name: draw[own] for name, draw in noise.items()})
            polyak(self.target_critics, self.critics, self.config.tau)
        return info


class OwnInit(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.head = nn.Linear(2, 2)


class Head(nn.Linear):
    def get_extra_state(self):
        return {"version": 1}


class OwnLayers(sac.SAC):
    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        self.head = Head(2, 2).requires_grad_(False)
        self.head.register_buffer("untold", torch.tensor(torch.nan))


class Drawing(sac.SAC):
    def critic(self, batch, noise):
        tau = self.config.tau
        self.drawn = torch.rand(()) if tau < 0.5 else random.random() if tau < 1 else np.random.rand()
        return super().critic(batch, noise)


@dataclass(frozen=True)
class EnvsConfig(sac.Config):
    envs: int = 1


class Envs(sac.SAC):
    Config = EnvsConfig


class Rarely(sac.SAC):
    phases = (Phase("critic"), Phase("actor", every=10_000), Phase("target"))


@dataclass(frozen=True)
class UntypedConfig(sac.Config):
    extra = 3.0


class Untyped(sac.SAC):
    Config = UntypedConfig


@dataclass(frozen=True)
class BufferedConfig(sac.Config):
    envs: int = 2


class Buffered(sac.SAC):
    Config = BufferedConfig

    def replay_need(self):
        return Rollout(4, 2, 1, 0.99)


class OneRow(sac.SAC):
    def draws(self, phase, n):
        return super().draws(phase, 1 if phase == "sample" else n)


class KeptGraph(sac.SAC):
    def explore(self, obs, noise):
        return self.act(obs, noise, "explore"), {"mean": self.policy(obs)[0]}


class Both(sac.SAC):
    def value(self, obs, action):
        return self.target_critics(obs, action)


class OwnDraws(sac.SAC):
    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        self.streams = [np.random.default_rng(0)]


class Held:
    def __init__(self, parameters):
        self.optimizer = Adam(parameters, 1e-3)


class Inside(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.held = Held(self.policy)


class Shared(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.more_optimizer = Adam(self.policy, 1e-3)


class Loss(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise)["critic_loss"]


class Number(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise) | {"one": 1.0}


class Graphed(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise) | {"mean": self.policy(batch.obs)[0]}


class SameName(sac.SAC):
    def actor(self, batch, noise):
        return super().actor(batch, noise) | {"q": batch.reward}


class LogsItself(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise) | {"env_step": batch.reward.mean()}


class InPlace(sac.SAC):
    def critic(self, batch, noise):
        batch.reward.sub_(1)
        return super().critic(batch, noise)


class Rows(sac.SAC):
    def critic(self, batch, noise):
        self.critic_optimizer.minimise(self.critics(batch.obs, batch.action))
        return {}


class Key(sac.SAC):
    def critic(self, batch, noise):
        return {"critic_loss": noise["draw"]}


@dataclass(frozen=True)
class OverridesConfig(sac.Config):
    n_step = 3


class Overrides(sac.SAC):
    Config = OverridesConfig


class UndecoratedConfig(sac.Config):
    extra: float = 1.0


class Undecorated(sac.SAC):
    Config = UndecoratedConfig


class OneDraw(sac.SAC):
    def draws(self, phase, n):
        return super().draws(phase, n)["eps"] if phase == "critic" else super().draws(phase, n)


class Second(sac.SAC):
    phases = (Phase("critic"), Phase("later", every=2), Phase("actor", start=7))

    def later(self, batch, noise):
        raise KeyError("late")

    def draws(self, phase, n):
        return {} if phase == "later" else super().draws(phase, n)


class Mute(sac.SAC):
    def diagnose(self, info):
        return None


class Spread(sac.SAC):
    # looks at how its data are spread, and at a metric of a phase that is not always due
    phases = (Phase("critic"), Phase("actor", every=3), Phase("target", start=7))

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.random, self.loss = random, Plain()

    def critic(self, batch, noise):
        torch.distributions.Normal(batch.obs.mean(0), batch.obs.std(0))
        return super().critic(batch, noise)

    def value(self, obs, action):
        return super().value(obs.view(-1).view(len(obs), -1), action)

    def diagnose(self, info):
        return super().diagnose(info) | {"again": info["actor_loss"]}


class Plain:
    def __init__(self):
        self.mse = nn.MSELoss()


class Discounts(sac.SAC):
    def replay_need(self):
        return Replay(self.config.batch_size, self.config.capacity, 1, 0.97)
"""
TOLD = {
    "NoAct": "has no act(obs, noise, mode)",
    "Words": "it is one or more algos.agent.Phase",
    "OnePhase": "it is one or more algos.agent.Phase",
    "NoPhase": "it is one or more algos.agent.Phase",
    "Twice": "has two phases 'critic'",
    "Timed": "has a phase 'eval': act, ",
    "Mode": "has a phase 'own': act, ",
    "Misspelt": "has a phase 'actr' and no method of that name",
    "Late": "would never come to actor: steps=100 frames give 84 updates, and 90 come before; set steps=107 or more",
    "NoOwn": "says nothing of the random numbers of 'own' (draws('own', 2) raises KeyError",
    "Tensors": "has a Tensor in draws('critic', 8): it is {name: algos.agent.normal(n, ...), uniform or integers}",
    "Pair": "gives tuple as actions of mode",
    "Wide": "of shape (1, 4) as actions of mode 'explore': here they are a float32 tensor [1, 2]",
    "Graph": "decorate act with @torch.no_grad()",
    "Beyond": "gives actions beyond [-1, 1] in mode 'explore'",
    "Careless": "a on toy/multigoal: Careless cannot act in mode 'explore': KeyError: 'explore' (slips.py, line ",
    "Nothing": "has an explore that returns tuple: it is (actions, {name: what a rollout keeps})",
    "Temperature": "trains in weight_optimizer a tensor of no module",
    "Undiscounted": "has data with gamma=None: it is a discount in [0, 1]",
    "Alone": "has an explore that returns Tensor",
    "Scalar": "keeps 'log_prob' without a row for each observation",
    "Dictionary": "it is an algos.agent.Replay or Rollout",
    "Envs": "has a replay and a field Config.envs: that name is a rollout's number of copies",
    "Copies": "has rollouts of 2 copies and Config.envs = None",
    "NoLength": "Rollout.length=0 is out of range: it takes 1 or more",
    "Listed": "in the list more, which no checkpoint keeps",
    "OwnInit": "has weights that do not come from its `generator` (head.weight)",
    "Bare": "has a bare parameter in log_alpha",
    "Torch": "has a torch optimizer in optimizer",
    "Raises": "a cannot be made for toy/multigoal: needs 10 or more observations",
    "Breaks": "a cannot be made for toy/multigoal: RuntimeError: no such weights (slips.py, line ",
    "Asserts(beta=2)": "slips.AssertConfig: AssertionError: beta is at most 1 (slips.py, line ",
    "Asserts(beta=3)": "slips.AssertConfig: ValueError:  (slips.py, line ",
    "Untyped": "has a Config.extra without a type, which makes it no setting: extra: float = 3.0",
    "Buffered": "learns from rollouts and has the settings of a replay: its Config extends NetworkConfig or ChainConfig",
    "Overrides": "has a Config.n_step without a type, which makes it no setting: n_step: int = 3 (or ClassVar",
    "Undecorated": "has a Config whose 'extra' is no setting: @dataclass(frozen=True) before the class makes it one",
    "OneDraw": "has a Draw in draws('critic', 8): it is {name: algos.agent.normal(n, ...)",
    "Second": "phase 'later' fails on data at random: KeyError: 'late' (slips.py, line ",
    "Mute": "has a diagnose that gives something else than {name: scalar tensor}",
    "OneRow": "has 'eps' of one shape in draws('sample', n) for every n",
    "KeptGraph": "keeps 'mean' with a graph behind it: decorate explore with @torch.no_grad()",
    "Both": "has a value that gives a tensor of shape [2, 3] for 3 observations: it is one number for each",
    "OwnDraws": "has a random generator in streams, which no checkpoint keeps",
    "Inside": "has modules, parameters or optimizers in the Held held, which no checkpoint keeps",
    "Shared": "trains a parameter both in actor_optimizer and in more_optimizer",
    "Loss": "phase 'critic' returned a Tensor; it returns its detached tensors by name",
    "Number": "phase 'critic' returns 'one' as a float: a detached tensor is wanted",
    "Graphed": "phase 'critic' returns 'mean' with a graph behind it: a detached tensor is wanted",
    "SameName": "phase 'actor' returns 'q', as one before it does; give it another name",
    "LogsItself": "returns 'env_step', a name of the log's own",
    "InPlace": "phase 'critic' changes its batch in place: .clone() what it changes",
    "Rows": "fails on data at random: ValueError: minimise takes a scalar loss, found one of shape [2, 8]: take its mean",
    "Key": "phase 'critic' fails on data at random: KeyError: 'draw' (slips.py, line ",
    "Text": "slips.TextConfig: TypeError: ",
    "Named": "no setting can be called 'name' (name, agent, tuned are taken)",
}  # fmt: skip


@pytest.fixture
def slips(tmp_path, monkeypatch):
    (tmp_path / "slips.py").write_text(SLIPS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "slips", raising=False)


SMALL = (
    "--envs", "toy/multigoal", "steps=100", "warmup=16", "algo.batch_size=8", "algo.actor_hidden=[8]", "algo.critic_hidden=[8]"
)  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_a_slip_is_one_line(command, slips, name):
    done = command("run", "--algos", f"a=slips:{name}", *SMALL)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert TOLD[name] in done.err
    assert not Path("runs").exists()


def test_the_discount_is_the_one_that_the_task_states(command, slips):
    words = ("--envs", "generation/gmm1d", *SMALL[2:])
    done = command("run", "--algos", "a=slips:Discounts", *words)
    assert done.code == 2
    assert "discounts by 0.97, and generation/gmm1d states 1: give its data self.gamma" in done.err


@pytest.mark.parametrize(("tau", "whose"), [(0.005, "torch"), (0.75, "Python"), (1, "NumPy")])
def test_a_run_draws_from_no_global_generator(command, slips, tau, whose):
    words = (*SMALL, "--seeds", "1", "log_every=40", f"algo.tau={tau}", "--no-report")
    done = command("run", "--algos", "a=slips:Drawing", *words)
    assert done.code == 1
    assert f"ValueError: {whose}'s global generator was drawn from or seeded before frame 40: " in done.out


def test_the_code_of_two_plug_ins_of_a_package_is_each_one_s_own(tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    for file, text in {"__init__": "", "one": "from algos.sac import SAC", "two": "from algos.sac import SAC"}.items():
        (tmp_path / "pack" / f"{file}.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    algos.agent_class("pack.one:SAC")
    alone = provenance.source_hash("pack.one:SAC")
    algos.agent_class("pack.two:SAC")
    assert provenance.source_hash("pack.one:SAC") == alone


def test_a_run_under_changed_code_is_named(command, slips, tmp_path):
    words = ("run", "--name", "x", "--algos", "sac,a=slips:Decays", *SMALL)
    assert command(*words, "--seeds", "1", "--no-report").code == 0
    assert "has changed" not in command(*words, "--seeds", "1", "--no-report").out
    (tmp_path / "slips.py").write_text(SLIPS + "\n# another\n")
    again = command(*words, "--seeds", "2")
    assert (again.code, again.out.count("has changed")) == (0, 1), again.out
    assert "the code of slips:Decays has changed since 1 run of it here began" in again.out
    assert "**a** ran as 2 versions of its code" in Path("runs/x/report/report.md").read_text()


@pytest.mark.parametrize("name", ["Shifted", "Decays", "Steps", "Aliases", "Halves"])
def test_what_the_guide_allows_conforms(slips, tmp_path, name):
    for test in (
        conformance.test_declarations_are_complete,
        conformance.test_every_trained_parameter_moves_and_targets_follow,
        conformance.test_state_dict_continues_bit_for_bit,
    ):
        test(f"slips:{name}")
    conformance.test_a_run_ends_and_its_policy_loads(f"slips:{name}", tmp_path / "run")


@pytest.mark.parametrize(
    ("algos", "env"),
    [("slips:OfTime", "generation/gmm1d"), ("dpok(pretrain=0)", "generation/gmm1d"), ("slips:Edge", "toy/multigoal"),
     ("slips:OwnLayers", "toy/multigoal"), ("slips:Spread", "toy/multigoal")],
)
def test_what_is_legitimate_is_planned(slips, algos, env):
    """An agent that reads its observations as what they are; no pretraining; an action that is 1 but for its rounding; layers
    of torch's own, made from the run's seed."""
    settings = ["algo.actor_hidden=[8]", "algo.critic_hidden=[8]"]
    assert len(plan("quick", f"a={algos}", env, "1", settings)[0]) == 1


ODD = """
import gymnasium
import numpy as np


class Well(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (2,)), gymnasium.spaces.Box(-1, 1, (1,))
    episodes, reward, size = 0, 0.0, 2

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episodes += 1
        return self.np_random.normal(size=self.size).astype(np.float32), {}

    def step(self, action):
        return self.np_random.normal(size=2).astype(np.float32), self.reward, False, False, {}


class NoSeed(Well):
    def reset(self):
        return super().reset()


class Bare(Well):
    def reset(self, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Long(Well):
    size = 3


class Four(Well):
    def step(self, action):
        return super().step(action)[:4]


class Column(Well):
    reward = np.zeros(3)


class Curriculum(Well):
    def step(self, action):
        return np.full(2, self.episodes, np.float32), 0.0, False, False, {}


class Unseeded(Well):
    def __init__(self):
        self.own = np.random.default_rng()

    def step(self, action):
        return self.own.normal(size=2).astype(np.float32), 0.0, False, False, {}


for kind in (Well, NoSeed, Bare, Long, Four, Column, Curriculum, Unseeded):
    gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=30)
gymnasium.register("own/Well-v0", Well, max_episode_steps=30)
"""
ODD_TOLD = {
    "NoSeed": "cannot be stepped: TypeError: NoSeed.reset() got an unexpected keyword argument 'seed'",
    "Bare": "cannot be stepped: an episode begins with an observation of shape (), and the space says (2,)",
    "Long": "begins with an observation of shape (3,), and the space says (2,)",
    "Four": "cannot be stepped: not enough values to unpack (expected 5, got 4)",
    "Column": "cannot be stepped: TypeError: only ",
    "Curriculum": "its episode 0 is another one after an episode 1",
    "Unseeded": "its episode 0 is another one after an episode 1. Its random numbers come from self.np_random",
}


@pytest.mark.parametrize("name", ["Well", *ODD_TOLD])
def test_an_environment_from_outside_is_played_before_a_run(command, tmp_path, monkeypatch, name):
    (tmp_path / "odd_tasks.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    task = f"gym/odd_tasks:{'own/' if name == 'Well' else ''}{name}-v0"
    done = command("run", "--algos", "sac", "--envs", task, *SMALL[2:], "--plan-only")
    if name in ODD_TOLD:
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert f"gym/odd_tasks:{name}-v0" in done.err
        assert ODD_TOLD[name] in done.err
    else:
        assert done.code == 0, done.err
        first = provenance.source_hash(task)
        Path(sys.modules["odd_tasks"].__file__).write_text(f"{ODD}\n")
        assert None not in (first, provenance.source_hash(task))
        assert provenance.source_hash(task) != first


def test_an_update_of_a_long_period_is_timed_in_parts(slips):
    found = bodies.benchmarks(algos="slips:Rarely(batch_size=8,actor_hidden=[8],critic_hidden=[8])")
    assert {body.per_call for name, body in found.items() if name.endswith(("/update", "/train"))} == {bodies.MOST}
    next(body for name, body in found.items() if name.endswith("/update")).run()


def test_truth_values_and_whole_numbers_are_logged_by_their_mean():
    agent = sac.SAC.__new__(sac.SAC)
    info = {"ended": torch.tensor([True, False]), "rank": torch.tensor([1, 2])}
    assert agent.diagnose(info) == {"ended_mean": 0.5, "rank_mean": 1.5}


def test_the_code_of_an_algorithm_from_outside_is_known_by_a_hash(slips, tmp_path, monkeypatch):
    algos.agent_class("slips:Decays")
    first = provenance.source_hash("slips:Decays")
    assert len(first) == 16
    assert provenance.source_hash("sac") is None
    (tmp_path / "slips.py").write_text(SLIPS + "\n")
    second = provenance.source_hash("slips:Decays")
    assert second != first
    (tmp_path / "helper.py").write_text("scale = 1.0\n")
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    helper = importlib.import_module("helper")
    assert provenance.source_hash("slips:Decays") == second, "loaded, and not by it"
    sys.modules["slips"].helper = helper  # as if it began with `import helper`
    third = provenance.source_hash("slips:Decays")
    (tmp_path / "helper.py").write_text("scale = 0.1\n")
    assert len({second, third, provenance.source_hash("slips:Decays")}) == 3
    sys.modules["slips"].sampler, sys.modules["slips"].digest = algos, importlib.import_module("json")
    (tmp_path / "helper.py").write_text("scale = 1.0\n")
    assert provenance.source_hash("slips:Decays") == third, "neither the benchmark nor the library is its code"

