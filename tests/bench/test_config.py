"""conf/ and the schema agree; the grid's grammar; what decides identity and names."""

from __future__ import annotations

import dataclasses
import re
import shlex

import pytest
import yaml

import algos
import envs
from bench.compose import CONF, GridConfig, agent_config, algo_values, available, changed_from_defaults, grid_defaults
from bench.config import EvalConfig, RunConfig, identity
from bench.grid import parse_seeds, parse_variants, plan, refuse_incomparable
from bench.options import parser
from bench.typed import UsageError, plain, typed

PLUGIN = """
from algos.sac import SAC


class Mine(SAC):
    pass
"""


@pytest.mark.parametrize("name", algos.AGENTS)
def test_yaml_holds_the_defaults_of_the_dataclass(name):
    values = yaml.safe_load((CONF / "algo" / f"{name}.yaml").read_text())
    assert values.pop("agent") == name
    assert values == plain(dataclasses.asdict(algos.agent_class(name).Config()))


@pytest.mark.parametrize("name", available("algo"))
def test_every_algorithm_composes_and_says_what_it_changed(name):
    values = algo_values(name)
    own = yaml.safe_load((CONF / "algo" / f"{name}.yaml").read_text())
    assert {key: values[key] for key in own if key != "defaults"} == {k: v for k, v in own.items() if k != "defaults"}
    changed = changed_from_defaults(values)
    defaults = plain(dataclasses.asdict(type(agent_config(values))()))
    assert set(changed) == {key for key in defaults if values[key] != defaults[key]}


@pytest.mark.parametrize("name", available("preset"))
def test_every_preset_makes_its_grid(name):
    cells, default = plan(name, None, None, None, [])
    wanted = grid_defaults(name)
    assert len(cells) == len(wanted.algos) * len(wanted.envs) * wanted.seeds
    assert default.startswith(f"{name}-")


def test_config_yaml_has_the_keys_of_the_dataclasses():
    values = yaml.safe_load((CONF / "config.yaml").read_text())
    values.pop("defaults")
    fields = {field.name: field for field in dataclasses.fields(RunConfig)}
    assert set(values) - {"grid"} == set(fields) - {"label", "algo", "seed"}
    assert set(values["eval"]) == {field.name for field in dataclasses.fields(EvalConfig)}
    assert set(values["grid"]) == {field.name for field in dataclasses.fields(GridConfig)}
    for name in set(values) - {"grid", "env", "eval"}:
        assert values[name] == fields[name].default, name
    assert typed(EvalConfig, values["eval"]) == EvalConfig()


def test_a_union_takes_each_of_its_types():
    @dataclasses.dataclass
    class Mine:
        scale: float | str | None = "auto"

    found = [typed(Mine, {"scale": value}).scale for value in ("auto", 2, None)]
    assert found == ["auto", 2.0, None]
    with pytest.raises(UsageError, match="scale=True has the wrong type"):
        typed(Mine, {"scale": True})


def test_an_automatic_warm_up_holds_a_batch():
    """10 % of the steps, at most 5,000, and at least 256 decisions of 8 frames for whoever samples from a replay."""
    asked = [("sac", "steps=30000", 3000), ("sac", "steps=100000", 5000), ("sac", "steps=3000", 2048),
             ("sac(batch_size=64)", "steps=3000", 512)]  # fmt: skip
    for algo, steps, warmup in asked:
        assert plan("quick", algo, "dmc/cartpole-swingup", "0-0", [steps])[0][0].config.resolved().warmup == warmup
    assert plan("quick", "ctq", "generation/gmm1d", "0-0", [])[0][0].config.first_batch == 0


@pytest.mark.parametrize("family", envs.FAMILIES)
def test_env_yaml_holds_the_defaults_of_its_family(family):
    values = yaml.safe_load((CONF / "env" / f"{family}.yaml").read_text())
    assert values == dataclasses.asdict(envs.config_class(family)())


# -- the grid ----------------------------------------------------------------------------------------------------------


def test_variants_have_labels_settings_and_plugins():
    text = "qsm,hot=qsm(m_q=120,actor_hidden=[8,8]),mine=my_pkg.agents:MyAgent,my_pkg.agents:Other(T=3)"
    found = [(v.label, v.algo, dict(v.settings)) for v in parse_variants(text)]
    assert found == [
        ("qsm", "qsm", {}),
        ("hot", "qsm", {"m_q": 120, "actor_hidden": [8, 8]}),
        ("mine", "my_pkg.agents:MyAgent", {}),
        ("Other", "my_pkg.agents:Other", {"T": 3}),
    ]


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("0-2", [0, 1, 2]), ("7-7", [7]), ("0,3,7", [0, 3, 7]), ("5-6,1", [5, 6, 1])]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


def test_a_grid_is_every_combination_and_each_cell_has_its_own_command():
    cells, _ = plan("quick", "qsm,hot=qsm(m_q=120)", "toy/interior,toy/corner", "2", ["steps=6000", "algo.T=3"])
    keys = [(c.config.env["id"], c.config.label, c.config.seed) for c in cells]
    assert len(set(keys)) == len(keys) == 8
    hot = next(c for c in cells if c.config.label == "hot")
    assert (hot.config.algo["m_q"], hot.config.algo["T"], hot.config.steps) == (120.0, 3, 6000)
    again, _ = plan("quick", "hot=qsm(m_q=120)", "toy/interior", "0-0", ["steps=6000", "algo.T=3"])
    assert again[0].config == hot.config
    assert "--algos 'hot=qsm(m_q=120)' --envs toy/interior --seeds 0-0 steps=6000 algo.T=3" in hot.command


def test_a_cell_is_made_again_by_its_command_where_others_have_more_keys():
    settings = ["algo.m_q=7", "algo.tau=0.5", "env.curvature=2.0", "eval.episodes=3"]
    cells, _ = plan("quick", "qsm,sac", "toy/interior,dmc/walker-walk", "1", settings)
    for cell in cells:
        words = shlex.split(cell.command)
        given = dict(zip(words[4:12:2], words[5:12:2], strict=True))
        again, _ = plan(given["--preset"], given["--algos"], given["--envs"], given["--seeds"], words[12:])
        assert [c.config for c in again] == [cell.config]
    assert cells[-1].command.endswith("--algos sac --envs dmc/walker-walk --seeds 0-0 algo.tau=0.5 eval.episodes=3")


def test_presets_set_an_environment_and_the_command_line_wins():
    cells, _ = plan("quick", "sac", "dmc/cartpole-swingup,dmc/walker-walk", "1", [])
    assert [c.config.env["action_repeat"] for c in cells] == [8, 4]
    cells, _ = plan("quick", "sac", "dmc/cartpole-swingup", "1", ["env.action_repeat=2"])
    assert cells[0].config.env["action_repeat"] == 2
    steps = {algo: plan("quick", algo, "generation/gmm1d", "1", [])[0][0].config.steps for algo in ("ctq", "td3")}
    assert steps == {"ctq": 10_240_000, "td3": 36_000}  # rollouts have a budget of their own


def test_algo_keys_reach_the_algorithms_that_have_them():
    cells, _ = plan("quick", "qsm,sac", "toy/interior", "1", ["algo.m_q=7", "algo.tau=0.5"])
    assert [(c.config.algo.get("m_q"), c.config.algo["tau"]) for c in cells] == [(7.0, 0.5), (None, 0.5)]


def test_a_plugin_brings_its_dataclass(tmp_path, monkeypatch):
    (tmp_path / "outside_agents.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    cells, _ = plan("quick", "mine=outside_agents:Mine(tau=0.1)", "toy/interior", "1", ["algo.gamma=0.5"])
    algo = cells[0].config.algo
    assert (algo["agent"], algo["tau"], algo["gamma"]) == ("outside_agents:Mine", 0.1, 0.5)
    assert changed_from_defaults(algo) == {"tau": [0.005, 0.1], "gamma": [0.99, 0.5]}


def test_a_users_conf_folder_is_searched(tmp_path, monkeypatch):
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    (tmp_path / "conf" / "algo" / "sharp.yaml").write_text("defaults: [qsm]\nm_q: 400.0\n")
    monkeypatch.chdir(tmp_path)
    assert "sharp" in available("algo")
    cells, _ = plan("quick", "sharp", "toy/interior", "1", [])
    assert cells[0].config.algo["m_q"] == 400.0


@pytest.mark.parametrize("name", ["été", "a,b", "copy (1)", "it's", "x=y", "a[1]", "ha#sh", "am&p", "semi;colon", "back\\'s"])
def test_a_users_conf_folder_may_lie_anywhere(tmp_path, monkeypatch, name):
    (tmp_path / name / "conf" / "algo").mkdir(parents=True)
    (tmp_path / name / "conf" / "algo" / "sharp.yaml").write_text("defaults: [qsm]\nm_q: 400.0\n")
    monkeypatch.chdir(tmp_path / name)
    assert plan("quick", "sharp", "toy/interior", "1", [])[0][0].config.algo["m_q"] == 400.0


@pytest.mark.parametrize(
    ("group", "content", "says"),
    [
        ("algo", "a: [", "cannot be composed"), ("algo", "defaults: [nosuch]", "nosuch"), ("algo", "[1]", "own"),
        ("algo", "", "says no `agent`"), ("algo", "m_q: 3", "says no `agent`"), ("algo", "agent: qsm\nm_q: ${nope}", "nope"),
        ("preset", "# @package _global_\ngrid: 3", "grid"), ("preset", "# @package _global_\neval: null", "eval"),
    ],
)  # fmt: skip
def test_a_users_conf_that_is_wrong_is_one_line(tmp_path, monkeypatch, group, content, says):
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / "own.yaml").write_text(content + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        plan(*(("quick", "own") if group == "algo" else ("own", "qsm")), "toy/interior", "1", [])
    assert "\n" not in str(caught.value)


def test_every_command_of_the_documents_has_a_grid():
    """As a reader copies them, but for those with a placeholder or a class that the text defines."""
    root = CONF.parent
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").glob("*.md")]
    lines = [line for page in pages for line in page.read_text().splitlines() if line.startswith("    python -m bench run")]
    taken = 0
    for line in lines:
        words = shlex.split(line, comments=True)[3:]
        if "…" not in words and "my_" not in line:
            args, rest = parser().parse_known_args(words)
            plan(args.preset, args.algos, args.envs, args.seeds, rest)
            taken += 1
    assert taken >= 4


# -- identity ----------------------------------------------------------------------------------------------------------


def test_identity_leaves_out_steps_and_operation_only():
    fields = {f.name for f in dataclasses.fields(RunConfig)}
    config = plan("quick", "sac", "toy/interior", "1", [])[0][0].config
    left_out = fields - {key.partition(".")[0] for key in identity(config)}
    assert left_out == {"steps", "checkpoint_every", "keep_replay", "logger"}


def test_default_name_follows_identity_but_not_algorithm_environment_seed_and_steps():
    def name(algo="sac", env="toy/interior", seeds="1", *overrides):
        return plan("quick", algo, env, seeds, list(overrides))[1]

    same = {name(), name("qsm"), name("sac", "toy/corner"), name("sac", "toy/interior", "4-4"),
            name("sac", "toy/interior", "1", "steps=9000"), name("sac", "toy/interior", "1", "logger=tensorboard"),
            name("sac", "generation/gmm1d,toy/interior")}  # fmt: skip
    assert len(same) == 1
    assert name("sac", "toy/interior", "1", "threads=2") not in same  # the last digits of a product depend on them
    assert name("sac", "toy/interior", "1", "eval.candidates=4") not in same


def test_automatic_intervals_follow_steps():
    config = plan("quick", "sac", "toy/interior", "1", ["steps=20000", "eval_every=null", "log_every=null"])[0][0].config
    resolved = config.resolved()
    assert (resolved.warmup, resolved.eval_every, resolved.log_every) == (2000, 1250, 312)


def test_a_mapping_sets_its_own_keys_alone():
    """Fails if the rest of the group falls back on the schema's defaults."""
    assert one("sac", "toy/interior", "eval={action: sample}").eval == EvalConfig(episodes=5, action="sample")


def test_the_command_of_a_cell_leaves_out_what_does_not_reach_it():
    first, second = (cell.command for cell in plan("quick", "sac(tau=0.1),td3", "toy/interior", "1", ["algo.tau=0.2"])[0])
    assert ("algo.tau" in first, "algo.tau" in second) == (False, True)


PRESETS = {
    "no seed": ("grid: {seeds: 0}", "grid.seeds=0 is out of range: it takes 1 or more"),
    "no environment": ("grid: {envs: []}", "grid.envs=[] is out of range"),
    "no mapping": ("grid: {env_settings: {toy/*: 3}}", "grid.env_settings.toy/*=3 is out of range: it takes a mapping"),
    "nor for rollouts": ("grid: {rollout_settings: {toy/*: 3}}", "grid.rollout_settings.toy/*=3"),
    "episodes": ("eval: {episodes: many}", "eval.episodes='many' has the wrong type: int is wanted"),
}


@pytest.mark.parametrize(("content", "says"), PRESETS.values(), ids=PRESETS)
def test_a_users_preset_that_cannot_be_is_refused(tmp_path, monkeypatch, content, says):
    (tmp_path / "conf" / "preset").mkdir(parents=True)
    (tmp_path / "conf" / "preset" / "mine.yaml").write_text(f"# @package _global_\nsteps: 3000\n{content}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(says)):
        plan("mine", "sac", None, None, [])


@pytest.mark.parametrize(("group", "name"), [("preset", "quick"), ("algo", "sac")])
def test_a_users_file_under_one_of_our_names_is_refused_unless_it_is_the_same(tmp_path, monkeypatch, group, name):
    own = tmp_path / "conf" / group / f"{name}.yaml"
    own.parent.mkdir(parents=True)
    own.write_bytes((CONF / group / f"{name}.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    plan("quick", "sac", "toy/interior", "1", [])
    own.write_text(own.read_text() + "\n# mine\n")
    with pytest.raises(UsageError, match=rf"conf/{group}/{name}.yaml has the name of a {group} that"):
        plan("quick", "sac", "toy/interior", "1", [])


def test_a_setting_of_the_wrong_type_names_both():
    with pytest.raises(UsageError, match=r"algo\.m_q='much' has the wrong type: float is wanted"):
        plan("quick", "qsm", "toy/interior", "1", ["algo.m_q=much"])


def one(algo, env, *overrides):
    return plan("quick", algo, env, "1", list(overrides))[0][0].config


def test_an_environment_raises_a_presets_episodes_and_gives_an_agent_the_actions_it_needs(capsys):
    sac, ctq = one("sac", "generation/gmm1d"), one("ctq", "generation/gmm1d")
    assert (sac.eval.episodes, one("sac", "toy/interior").eval.episodes) == (2048, 5)
    assert (sac.env["bounded"], ctq.env["bounded"]) == (True, False)
    with pytest.raises(UsageError, match="generation/gmm1d has unbounded actions, and sac declares"):
        plan("quick", "ctq,sac", "generation/gmm1d", "1", ["env.bounded=false"])
    assert capsys.readouterr().err == ""
    assert one("sac", "generation/gmm1d", "eval.episodes=7").eval.episodes == 7
    assert re.fullmatch(r"warning: generation/gmm1d .* takes 2048; eval.episodes=7 adds an error .*\n", capsys.readouterr().err)
    with pytest.raises(UsageError, match=r"eval.episodes=1: generation/gmm1d is scored by the law of its samples; give 2048"):
        one("ctq", "generation/gmm1d", "eval.episodes=1")
    with pytest.raises(UsageError, match=r"env.bounded=true would clip the actions of ctq, .*; leave env.bounded=null"):
        plan("quick", "sac,ctq", "generation/gmm1d", "1", ["env.bounded=true", "steps=16000"])
    one("ctq", "generation/gmm1d", "env.m=5")
    assert re.fullmatch(r"warning: generation/gmm1d: at the last step, 0.05 .*\n", capsys.readouterr().err)


def test_an_environment_is_looked_for_with_its_settings():
    with pytest.raises(ValueError, match="there is no file /none"):
        one("ctq", "generation/cifar10", "env.path=/none")


def test_single_actions_of_another_kind_are_not_compared_and_the_best_of_several_are_whatever_a_single_one_would_be():
    def cell(label: str, action: str, candidates: int) -> dict:
        config = {"env": {"id": "toy/corner"}, "eval": {"episodes": 5, "action": action, "candidates": candidates}}
        return {"env": "toy/corner", "dir": f"toy_corner/{label}/seed_0", "config": config}

    with pytest.raises(UsageError, match=r"eval\.action: own there, sample asked for"):
        refuse_incomparable([cell("a", "own", 1)], [cell("b", "sample", 1)])
    refuse_incomparable([cell("a", "own", 4)], [cell("b", "sample", 4)])
