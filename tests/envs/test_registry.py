"""Ids, settings, scores, and what is imported when."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import measure, scores, toy

ROOT = Path(__file__).parents[2]


def run(code, **chosen):
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"} | chosen
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_envs_imports_no_engine():
    heavy = {"dm_control", "mujoco", "torch", "gymnasium"}
    assert not heavy & set(run("import sys, envs; print(*sys.modules)"))


@pytest.mark.parametrize("chosen", [{}, {"MUJOCO_GL": "osmesa"}], ids=["none chosen", "osmesa"])
def test_stepping_imports_no_opengl_and_leaves_the_users_environment_alone(chosen):
    code = f"""
import os, sys, numpy, envs
for id in ("dmc/cheetah-run", "gym/HalfCheetah-v5"):
    env, spec = envs.make(id, 0)
    env.reset()
    env.step(numpy.zeros((1, 6)))
    assert os.environ.get("MUJOCO_GL") == {chosen.get("MUJOCO_GL")!r}
print(*sys.modules)
"""
    modules = run(code, **chosen)
    assert "dm_control" in modules
    # gymnasium itself imports the glfw module, which opens nothing until it is initialised.
    assert not [m for m in modules if m.split(".")[0] == "OpenGL" or m in ("mujoco.egl", "mujoco.osmesa", "mujoco.glfw")]
    assert "torch" not in modules


def test_every_listed_id_is_found_and_every_family_is_listed():
    listed = envs.names()
    assert {id.split("/")[0] for id in listed} == set(envs.FAMILIES)
    assert len(set(listed)) == len(listed)
    for id in ("dmc/ball_in_cup-catch", "dmc/cartpole-swingup_sparse", "gym/Pendulum-v1", "toy/four-modes"):
        assert id in listed
    assert not [id for id in listed if "lqr" in id]


@pytest.mark.parametrize(
    ("id", "settings", "complaint"),
    [
        ("dmc/cartpole-swinup", {}, "unknown environment 'dmc/cartpole-swinup'; did you mean dmc/cartpole-swingup"),
        ("cheetah-run", {}, r"did you mean dmc/cheetah-run\?"),
        ("toy/qqq", {}, "there are toy/interior, toy/corner"),
        ("dmc/cheetah-run", {"action_repat": 2}, "setting of the dmc environments.*did you mean action_repeat"),
        ("dmc/cheetah-run", {"action_repeat": 0}, "whole number >= 1, found 0"),
        ("dmc/cheetah-run", {"action_repeat": 2.0}, "whole number >= 1, found 2.0"),
        ("toy/interior", {"curvature": -1.0}, "number > 0, found -1.0"),
    ],
)
def test_what_is_unknown_is_named_in_one_line(id, settings, complaint):
    for use in (lambda: envs.check(id, settings), lambda: envs.make(id, 0, **settings)):
        with pytest.raises(ValueError, match=complaint) as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("id", ["dmc/cartpole-swingup", "toy/multigoal", "generation/gmm1d"])
def test_a_spec_survives_json(id):
    _, spec = envs.make(id, 0)
    assert envs.EnvSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert hash(spec) == hash(envs.EnvSpec.from_dict(spec.to_dict()))


def test_every_listed_environment_has_a_measured_low_score():
    measured = {(row["id"], row["action_repeat"]) for row in scores.read()}
    exact = {*(f"toy/{name}" for name in toy.BANDITS), *envs.names("generation")}
    assert {(id, 1) for id in envs.names() if id not in exact} <= measured


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dmc/cartpole-swinup"], "cartpole-swingup"),
        (["generation/gmm1d"], "unbounded"),
        (["toy/interior", "--episodes", "1"], "2 or more"),
    ],
)
def test_a_measurement_that_cannot_be_made_writes_nothing(monkeypatch, capsys, words, said):
    monkeypatch.setattr(measure, "write", lambda *_: pytest.fail("something was written"))
    monkeypatch.setattr("sys.argv", ["measure", *words])
    with pytest.raises(SystemExit) as left:
        measure.main()
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_score_that_was_not_measured_at_this_action_repeat_says_so():
    exact, at_1, at_5 = (envs.make("dmc/cartpole-swingup", 0, action_repeat=k)[1].score for k in (8, 1, 5))
    assert exact.low != at_1.low == at_5.low
    assert "episodes at action repeat 8;" in exact.source
    assert "at action repeat 1 (not measured at 5)" in at_5.source
    assert at_1.high == 1000.0
    assert scores.random_policy("dmc/none-such", 1)[0] is None


def test_the_measurement_of_a_random_policy_is_right_where_it_is_known():
    _, spec = envs.make("toy/interior", 0)
    returns = measure.random_returns("toy/interior", 1000, action_repeat=1, seed=0)
    assert abs(returns.mean() - spec.score.low) < 4 * returns.std() / np.sqrt(1000)


def test_a_measurement_that_is_kept_is_made_again_by_its_own_numbers():
    """Fails on another stream of actions, for instance, or on episodes that begin otherwise than when it was made."""
    (row,) = (row for row in scores.read() if (row["id"], row["action_repeat"]) == ("toy/multigoal", 1))
    returns = measure.random_returns(row["id"], row["episodes"], 1, row["seed"])
    assert (returns.mean(), returns.std(ddof=1)) == pytest.approx((row["mean"], row["std"]), rel=1e-5)


def test_a_new_measurement_replaces_its_own_line_and_no_other(tmp_path):
    file = tmp_path / "scores.yaml"
    rows = [{"id": id, "action_repeat": k, "mean": 1e-5} for id, k in (("b", 1), ("a", 2), ("a", 1))]
    measure.write(rows, file)
    measure.write([{"id": "a", "action_repeat": 1, "mean": 3.0}], file)
    assert scores.read(file) == [
        {"id": "a", "action_repeat": 1, "mean": 3.0},
        {"id": "a", "action_repeat": 2, "mean": 1e-5},
        {"id": "b", "action_repeat": 1, "mean": 1e-5},
    ]


def test_a_task_of_ones_own_is_measured_into_ones_own_conf(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = scores.FILE.read_bytes()
    monkeypatch.setattr(measure, "random_returns", lambda *_: np.array([1.0, 2.0]))
    monkeypatch.setattr("sys.argv", ["measure", "gym/mine:Task-v0", "--episodes", "2"])
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "scores.yaml").touch()  # an empty one is none
    scores._measured.cache_clear()
    try:
        measure.main()
        assert scores.random_policy("gym/mine:Task-v0", 1)[0] == 1.5
        (tmp_path / "conf" / "scores.yaml").unlink()
        (tmp_path / "conf").rmdir()
        (tmp_path / "conf").touch()
        with pytest.raises(SystemExit):
            measure.main()
    finally:
        scores._measured.cache_clear()
    assert capsys.readouterr().err.endswith("File exists: 'conf'\n")
    assert scores.FILE.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {id: 'gym/mine:Task-v0', mean: 1.0}", "is no measurement with id, action_repeat, episodes, mean"),
        ("- {id: toy/interior, action_repeat: 1, episodes: 2, mean: 1.0}", "is one of the benchmark's own"),
        ("a: [", "is no YAML"),
        ("3", "3 is no measurement"),
    ],
)
def test_measurements_of_ones_own_that_are_none_are_refused_in_a_line(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "scores.yaml").write_text(text)
    scores._measured.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"^conf/scores\.yaml") as refused:
            scores.random_policy("toy/interior", 1)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
        (tmp_path / "conf" / "scores.yaml").write_text("")
        assert scores.random_policy("dmc/cartpole-swingup", 1)[0] > 0
    finally:
        scores._measured.cache_clear()
