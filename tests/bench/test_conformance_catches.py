"""Each conformance test fails on the mistake that it is there for, and says so."""

from __future__ import annotations

import inspect

import pytest

from bench import conformance, harness
from bench.typed import UsageError

BROKEN = """
import collections
import torch
from dataclasses import dataclass
from algos.agent import Phase, normal
from algos.optimizer import Adam
from algos import sac, td3


@dataclass
class Loose:
    tau: float = 0.5


class Mutable(sac.SAC):
    Config = Loose


@dataclass(frozen=True)
class Careless(sac.Config):
    def __post_init__(self):
        pass


class NoValidation(sac.SAC):
    Config = Careless


class UnboundedActions(sac.SAC):
    def act(self, obs, noise, mode):
        return 1.01 * super().act(obs, noise, mode)


class WrongShape(sac.SAC):
    def act(self, obs, noise, mode):
        return super().act(obs, noise, mode).squeeze(0)


class HiddenDraw(sac.SAC):
    def act(self, obs, noise, mode):
        return (super().act(obs, noise, mode) + 0.01 * torch.randn(len(obs), self.spec.act_dim)).clamp(-1, 1)


class HiddenUpdateDraw(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, {"eps": torch.randn_like(noise["eps"])})


class UndeclaredDraw(sac.SAC):
    def draws(self, phase, n):
        return {} if phase == "critic" else super().draws(phase, n)


class Counts(sac.SAC):
    def critic(self, batch, noise):
        self.critic_optimizer.lr = 1e-3 / (1 + self.updates)
        return super().critic(batch, noise)


class Anneals(sac.SAC):
    def schedule(self):
        self.bonus = 1.0 / (1 + self.updates)

    def critic(self, batch, noise):
        return super().critic(batch._replace(reward=batch.reward + self.bonus), noise)


class UnusedDraw(sac.SAC):
    def draws(self, phase, n):
        return super().draws(phase, n) | ({"more": normal(n)} if phase == "actor" else {})


class Attached(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise) | {"again": self.critics(batch.obs, batch.action)}


class Reads(sac.SAC):
    def critic(self, batch, noise):
        info = super().critic(batch, noise)
        return info if info["critic_loss"].item() >= 0 else {}


class ReadsAll(sac.SAC):
    def critic(self, batch, noise):
        info = super().critic(batch, noise)
        return info if info["critic_loss"].tolist() >= 0 else {}


class Masks(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise) | {"positive": batch.reward[batch.reward > 0].mean()}


class NoMethod(sac.SAC):
    phases = (*sac.SAC.phases, Phase("polish"))


class Stops(sac.SAC):
    def act(self, obs, noise, mode):
        if mode == "explore" and self.updates > 2:
            raise RuntimeError("enough")
        return super().act(obs, noise, mode)


class NoLoss(td3.TD3):
    def critic(self, batch, noise):
        super().critic(batch, noise)
        return {}

    def actor(self, batch, noise):
        super().actor(batch, noise)
        return {}


class Nan(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise) | {"ratio": torch.zeros(()) / 0}


class EveryUpdate(td3.TD3):
    def due(self):
        return list(self.phases)


class Bootstraps(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch._replace(discount=torch.full_like(batch.discount, 0.99)), noise)


class Remembers(sac.SAC):
    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        self.seen = collections.deque(maxlen=100)

    def critic(self, batch, noise):
        self.seen.append(batch.reward.mean())
        return super().critic(batch, noise)


class CountsEvaluations(sac.SAC):
    calls = 0

    def act(self, obs, noise, mode):
        self.calls += 1
        return super().act(obs, noise, mode)


class SharedNoise(sac.SAC):
    def draws(self, phase, n):
        return super().draws(phase, 1 if phase == "sample" else n)


class Flattens(sac.SAC):
    '''Reads its noise, which is right, by items, copies and unions.'''

    def critic(self, batch, noise):
        return super().critic(batch, {name: value.flatten(0, -1).view(value.shape) for name, value in noise.items()})

    def actor(self, batch, noise):
        return super().actor(batch, dict(**noise.copy()) | {})


class Misspelt(td3.TD3):
    small = {"dealy": 3}


class Broken(sac.SAC):
    def critic(self, batch, noise):
        return batch.reward.nosuch


class Seeded(sac.SAC):
    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        self.seed = int(torch.randint(2**62, (), generator=generator))


class Slow(td3.TD3):
    small = {"delay": 3, "actor_hidden": (8, 8)}

    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, generator, device)
        assert config.delay == 3


class LeftOut(sac.SAC):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.critic_optimizer = Adam(list(self.critics.parameters())[:-1], 1e-3)


class Frozen(sac.SAC):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.critic_optimizer = Adam(self.critics, 0.0)


class Drifts(sac.SAC):
    def target(self, batch, noise):
        with torch.no_grad():
            self.target_critics.weights[0].add_(0.01)
        return super().target(batch, noise)


class DeadTarget(sac.SAC):
    def target(self, batch, noise):
        return {}


class BeginsElsewhere(sac.SAC):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            self.target_critics.weights[0].add_(0.01)


class Copies(BeginsElsewhere):
    def target(self, batch, noise):
        self.target_critics.load_state_dict(self.critics.state_dict())
        return {}


class LeakyGradient(sac.SAC):
    def actor(self, batch, noise):
        self.target_critics.requires_grad_(True)
        self.target_critics(batch.obs, batch.action).mean().backward()
        return super().actor(batch, noise)


class SameWeights(sac.SAC):
    def __init__(self, spec, config, generator, device="cpu"):
        super().__init__(spec, config, torch.Generator().manual_seed(0), device)


class Forgets(sac.SAC):
    def optimizers(self):
        return {name: value for name, value in super().optimizers().items() if name != "critic_optimizer"}


class Momentum(sac.SAC):
    '''Keeps a statistic outside its state_dict.'''
    scale = 1.0

    def critic(self, batch, noise):
        self.scale = 0.9 * self.scale
        return super().critic(batch._replace(reward=batch.reward * self.scale), noise)


class OnTheSide(sac.SAC):
    '''Scales its actions by a statistic that its state_dict does not have.'''
    seen = 0.0

    def critic(self, batch, noise):
        self.seen += 1.0
        return super().critic(batch, noise)

    def act(self, obs, noise, mode):
        return super().act(obs, noise, mode) / (1.0 + self.seen)


class WritesBatch(sac.SAC):
    def critic(self, batch, noise):
        batch.reward.mul_(0.5)
        return super().critic(batch, noise)


class ActLearns(sac.SAC):
    def act(self, obs, noise, mode):
        with torch.no_grad():
            self.policy.body.biases[0].add_(1e-3)
        return super().act(obs, noise, mode)


class ExploresByItself(sac.SAC):
    def explore(self, obs, noise):
        return self.act(obs, noise, "own"), {}


class TwoValues(sac.SAC):
    def value(self, obs, action):
        return self.target_critics(obs, action)


class VectorMetric(sac.SAC):
    def diagnose(self, info):
        return super().diagnose(info) | {"all_q": info["q"]}


class Tracker:
    def __init__(self):
        self.seen = 0


class Explores(sac.SAC):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.tracker = Tracker()

    def explore(self, obs, noise):
        self.tracker.seen += 1
        return super().explore(obs, noise)


class Grows(sac.SAC):
    def act(self, obs, noise, mode):
        return super().act(obs, noise, mode) * (1 + self.updates)


class LogsItself(sac.SAC):
    def critic(self, batch, noise):
        return super().critic(batch, noise) | {"env_step": batch.reward.mean()}


class TakesUnbounded(sac.SAC):
    def __init__(self, spec, config, generator, device="cpu"):
        self.bounded_actions = False
        super().__init__(spec, config, generator, device)
"""
CAUGHT = [
    ("Mutable", "test_config_is_a_frozen_dataclass_of_plain_values", "frozen"),
    ("NoValidation", "test_config_refuses_what_makes_no_sense", "raises a ValueError that names the setting, not ''"),
    ("TakesUnbounded", "test_unbounded_actions_are_refused_by_agents_that_need_bounds", "DID NOT RAISE"),
    ("UnboundedActions", "test_actions_have_the_shape_and_the_bounds", r"leaves \[-1, 1\]"),
    ("WrongShape", "test_actions_have_the_shape_and_the_bounds", r"not \(1, 2\)"),
    ("HiddenDraw", "test_act_is_a_pure_function_of_obs_and_noise", "of the same obs and noise, twice"),
    ("ActLearns", "test_act_is_a_pure_function_of_obs_and_noise", "obs and noise, twice|parameters after act"),
    ("HiddenUpdateDraw", "test_update_is_a_pure_function_of_parameters_batch_and_noise", "what update returned"),
    ("UndeclaredDraw", "test_phases_use_the_draws_they_declare_and_no_others", r"'critic' uses noise\['eps'\]"),
    ("UnusedDraw", "test_phases_use_the_draws_they_declare_and_no_others", r"'actor' declares \['more'\]"),
    ("Attached", "test_phases_return_finite_detached_tensors", "again is attached"),
    ("Nan", "test_phases_return_finite_detached_tensors", "ratio is not finite"),
    ("NoLoss", "test_phases_return_finite_detached_tensors", r"no phase returns a \*_loss"),
    ("Reads", "test_phases_read_no_value_on_the_host", "reads a tensor's value"),
    ("ReadsAll", "test_phases_read_no_value_on_the_host", "reads a tensor's value"),
    ("Masks", "test_phases_read_no_value_on_the_host", "as many values as a mask has"),
    ("NoMethod", "test_declarations_are_complete", "has a phase 'polish' and no method"),
    ("Stops", "test_a_run_ends_and_its_policy_loads", "RuntimeError: enough"),
    ("OnTheSide", "test_a_run_ends_and_its_policy_loads", "the actions of the loaded policy"),
    ("Counts", "test_phases_leave_the_update_counter_to_the_schedule", r"'critic' reads self.updates"),
    ("Anneals", "test_phases_leave_the_update_counter_to_the_schedule", r"'critic' reads self.bonus.*in a tensor"),
    ("EveryUpdate", "test_phases_run_when_they_are_due", "due were"),
    ("WritesBatch", "test_update_leaves_the_batch_alone", "the batch after phase 'critic'.reward"),
    ("Bootstraps", "test_what_is_bootstrapped_stops_at_terminations", "depends on batch.next_obs and not on batch.discount"),
    ("LeftOut", "test_every_trained_parameter_moves_and_targets_follow", "critics.biases.2 never moves"),
    ("Frozen", "test_every_trained_parameter_moves_and_targets_follow", "critics.weights.0 is in an optimizer and did not"),
    ("Drifts", "test_every_trained_parameter_moves_and_targets_follow", "target_critics is in no optimizer and moved"),
    ("DeadTarget", "test_every_trained_parameter_moves_and_targets_follow", "target_critics.weights.0 never moves"),
    ("BeginsElsewhere", "test_targets_begin_where_their_networks_do", "target_critics follows critics and begins elsewhere"),
    ("LeakyGradient", "test_optimizers_hold_no_gradient_of_others", "target_critics.weights.0 is not trained and has"),
    ("SameWeights", "test_same_seed_same_parameters_other_seed_others", "two seeds start from the same weights"),
    ("Forgets", "test_state_dict_continues_bit_for_bit", "what update returned after loading|after training on"),
    ("Momentum", "test_state_dict_continues_bit_for_bit", "after loading and training on, self.scale"),
    ("Explores", "test_state_dict_continues_bit_for_bit", "after loading and training on, self.tracker"),
    ("Grows", "test_actions_have_the_shape_and_the_bounds", r"leaves \[-1, 1\]"),
    ("LogsItself", "test_diagnose_gives_finite_scalars", "names of the log's own"),
    ("Remembers", "test_state_dict_continues_bit_for_bit", "belongs into state_dict; after loading and training on, self.seen"),
    ("CountsEvaluations", "test_act_is_a_pure_function_of_obs_and_noise", "which evaluation calls too, self.calls"),
    ("SharedNoise", "test_act_is_a_pure_function_of_obs_and_noise", "has 'eps' of one shape for every n"),
    ("ExploresByItself", "test_exploring_takes_the_action_of_the_mode_explore", "explore plays another action"),
    ("TwoValues", "test_value_has_one_number_per_row", r"\(2, 5\) for 5 rows"),
    ("VectorMetric", "test_diagnose_gives_finite_scalars", "all_q.* is no scalar"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("broken")
    (path / "broken_agents.py").write_text(BROKEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        yield "broken_agents"


@pytest.mark.parametrize(("name", "test", "says"), CAUGHT, ids=[name for name, _, _ in CAUGHT])
def test_caught(broken, request, name, test, says):
    given = {"mode": "sample", "n": 1}
    names = inspect.signature(getattr(conformance, test)).parameters.keys() - {"algo"}
    arguments = {key: given[key] if key in given else request.getfixturevalue(key) for key in names}
    with pytest.raises((AssertionError, pytest.fail.Exception, UsageError), match=says):
        getattr(conformance, test)(f"{broken}:{name}", **arguments)


def test_a_target_that_is_copied_at_once_may_begin_elsewhere(broken):
    conformance.test_targets_begin_where_their_networks_do(f"{broken}:Copies")


@pytest.mark.parametrize("name", ["Flattens", "Slow"])
def test_what_is_right_passes(broken, name):
    """Noise that is read in other ways than by key, and settings that the class names for its tests."""
    for test in ("use_the_draws_they_declare_and_no_others", "run_when_they_are_due"):
        getattr(conformance, f"test_phases_{test}")(f"{broken}:{name}")


def test_what_no_update_changes_need_not_be_kept(broken):
    conformance.test_state_dict_continues_bit_for_bit(f"{broken}:Seeded")


def test_settings_for_the_tests_go_into_a_run_too(broken, tmp_path):
    conformance.test_a_run_ends_and_its_policy_loads(f"{broken}:Slow", tmp_path)
    with pytest.raises(AssertionError, match="small names 'dealy', which is no field"):
        conformance.test_phases_run_when_they_are_due(f"{broken}:Misspelt")


def test_an_attribute_that_is_missing_is_no_matter_of_the_schedule(broken):
    with pytest.raises(AttributeError, match="nosuch"):
        conformance.test_phases_leave_the_update_counter_to_the_schedule(f"{broken}:Broken")


def test_a_period_too_long_to_test_asks_for_smaller_settings(monkeypatch):
    monkeypatch.setitem(harness.SMALL, "delay", 10_000)
    with pytest.raises(AssertionError, match=r"repeat after 10000 updates.*class attribute `small`"):
        conformance.test_phases_run_when_they_are_due("td3")


def test_each_conformance_test_catches_something():
    assert {test for _, test, _ in CAUGHT} == {name for name in vars(conformance) if name.startswith("test_")}
