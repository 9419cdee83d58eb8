"""What pip installs: the pins that matter, and a wheel that works among decoys."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {r.name.lower(): r.specifier for r in map(Requirement, PROJECT["dependencies"])}
LOCKED = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text().lower().replace("_", "-"), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "refused"), [("mujoco", "4.0.0"), ("hydra-core", "1.4.0"), ("matplotlib", "3.13.0"), ("torch", "2.13.1")]
)
def test_versions_known_to_break_are_refused(name, refused):
    assert not REQUIREMENTS[name].contains(refused)
    assert REQUIREMENTS[name].contains(LOCKED[name])


def test_make_looks_for_the_pythons_that_the_project_takes():
    (fits,) = re.findall(r"^FITS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    takes = SpecifierSet(PROJECT["requires-python"])
    versions = [(3, minor) for minor in range(9, 16)]
    found = [eval(fits, {"sys": SimpleNamespace(version_info=(*version, 0))}) for version in versions]
    assert found == [takes.contains(".".join(map(str, version))) for version in versions]
    assert "Python 3.11 or 3.12 and make" in (ROOT / "README.md").read_text()


def test_torch_is_locked_to_one_version_everywhere():
    assert LOCKED["torch"] == "2.13.0"
    assert str(REQUIREMENTS["torch"]) == "==2.13.0"


def test_every_requirement_is_locked_within_its_bounds():
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in map(Requirement, extra)]
    wanted = REQUIREMENTS | {r.name.lower(): r.specifier for r in extras}
    for name, specifier in wanted.items():
        assert name in LOCKED, f"constraints.txt does not lock {name}"
        assert Version(LOCKED[name]) in specifier, f"constraints.txt locks {name} {LOCKED[name]}, pyproject wants {specifier}"


def test_a_dm_control_task_loads_with_the_mujoco_that_is_installed():
    """What breaks first when dm-control and mujoco do not fit together."""
    import envs

    env, spec = envs.make("dmc/cartpole-swingup", 0)
    obs, _ = env.reset()
    env.close()
    assert obs.shape == (1, spec.obs_dim) == (1, 5)


@pytest.mark.slow
def test_a_wheel_works_in_a_fresh_environment_among_decoys(tmp_path):
    def call(*argv, **options):
        done = subprocess.run(argv, capture_output=True, text=True, **options)
        assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    call(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)

    work = tmp_path / "work"
    for decoy in ("algos", "envs", "reports"):
        (work / decoy).mkdir(parents=True)
        (work / decoy / "__init__.py").write_text("raise RuntimeError('a decoy was imported')\n")
    (work / "conf.py").write_text("raise RuntimeError('a decoy was imported')\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    listed = call(python, "-m", "bench", "list", "algos", cwd=work, env=environment)
    assert {"qsm", "dql", "sac"} <= set(listed.split())
    small = "sac(actor_hidden=[16,16],critic_hidden=[16,16],batch_size=16)"
    words = ["--algos", small, "--envs", "toy/interior,dmc/cartpole-swingup", "--seeds", "1", "--name", "wheel", "steps=800",
             "warmup=200", "env.action_repeat=4", "eval.episodes=1"]  # fmt: skip
    call(python, "-m", "bench", "run", *words, cwd=work, env=environment)
    assert len(list((work / "runs" / "wheel").rglob("DONE"))) == 2
    assert (work / "runs" / "wheel" / "report" / "report.html").exists()
