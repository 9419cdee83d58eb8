"""docs/results/remake.py: the tables of the committed results, from archives with everything there and from poorer ones."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import synthetic
from PIL import Image
from scipy import stats

import reports
from bench.config import from_plain, identity
from bench.grid import plan
from reports import archive, figures, load, words
from reports.reproduction import shrink

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
TASKS = ("dmc/cartpole-swingup", "dmc/walker-walk")
VARIANTS = {"qsm": (50.0, 5), "m10": (10.0, 5), "T20": (50.0, 20)}


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("remake", RESULTS / "remake.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def remake(tmp_path: Path, undrawn: None) -> ModuleType:
    """The script, at work on made-up results of two grids in a folder of its own."""
    module = script()
    module.HERE = tmp_path / "results"
    module.HERE.mkdir()
    size = {"seeds": 3, "steps": 100_000, "evaluations": 3}
    grids = {
        "dmc100k": (("qsm", "sac", "td3"), (*TASKS, "dmc/cheetah-run", "dmc/finger-spin")),
        "qsm100k": ((*VARIANTS, "later"), TASKS),
    }
    for preset, (labels, envs) in grids.items():
        root = synthetic.experiment(tmp_path / preset, labels=labels, envs=envs, **size)
        for config in root.rglob("config.yaml"):
            values = json.loads(config.read_text())
            if values["label"] in VARIANTS:
                values["algo"]["m_q"], values["algo"]["T"] = VARIANTS[values["label"]]
                config.write_text(json.dumps(values))
    for seed in (1, 2):  # an interval is gone, and so are one run's actions
        synthetic.unfinish(synthetic.run_dir(tmp_path / "qsm100k", TASKS[0], "m10", seed), state="failed")
    (synthetic.run_dir(tmp_path / "qsm100k", TASKS[0], "m10", 0) / "probes.npz").unlink()
    synthetic.unfinish(synthetic.run_dir(tmp_path / "dmc100k", TASKS[1], "sac", 0), state="failed")
    asked = tmp_path / "dmc100k" / "experiment.json"  # a cell that was not asked for yet
    content = json.loads(asked.read_text())
    later = [cell for cell in content["cells"] if (cell["env"], cell["label"]) == ("dmc/finger-spin", "td3")]
    content["cells"] = [cell for cell in content["cells"] if cell not in later]
    asked.write_text(json.dumps(content))
    for cell in later:
        shutil.rmtree(tmp_path / "dmc100k" / cell["dir"])
    for env in TASKS:
        for seed in range(3):
            synthetic.drop(synthetic.run_dir(tmp_path / "qsm100k", env, "later", seed))
    for preset in grids:
        archive.write(load.find([tmp_path / preset]), module.HERE / f"{preset}.jsonl")
        reports.write([module.HERE / f"{preset}.jsonl"], module.HERE / preset, allow_partial=True)
    return module


def rows_of(text: str, title: str) -> list[dict[str, str]]:
    """The table below a heading that begins with `title`."""
    part = next(part for part in text.split("\n## ") if part.startswith(title))
    lines = [line.replace("\\", "").split("|")[1:-1] for line in part.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def finals(root: Path, env: str, label: str, seeds: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    runs = [synthetic.run_dir(root, env, label, seed) for seed in seeds]
    last = [json.loads((run / "evals.jsonl").read_text().splitlines()[-1]) for run in runs]
    return np.array([np.mean(line["returns"]) for line in last])


def test_the_tables_say_what_the_runs_say(remake: ModuleType, tmp_path: Path) -> None:
    text = remake.tables()
    grid, variants = tmp_path / "dmc100k", tmp_path / "qsm100k"

    def first(cell: str) -> float:
        return float(cell.replace("−", "-").split()[0])

    for row in rows_of(text, "The algorithms"):
        for env in TASKS:
            seeds = (1, 2) if (env, row["algorithm"]) == (TASKS[1], "sac") else (0, 1, 2)
            assert first(row[env]) == pytest.approx(finals(grid, env, row["algorithm"], seeds).mean(), rel=5e-3)

    *_, td3 = rows_of(text, "The algorithms")
    assert (td3["seeds"], td3["dmc/finger-spin"]) == ("3", "–")

    cartpole, walker, *_ = rows_of(text, "SAC beside")
    assert (cartpole["SAC, pytorch_sac"], cartpole["range"]) == ("829 n = 1", "829 to 861")
    assert (cartpole["mean here"], cartpole["interval here"]) == ("below", "apart from it")
    assert walker["interval here"] == "–"  # of two seeds

    weights = {(row["task"], row["M_q"], row["T"]): row for row in rows_of(text, "QSM's score weight")}
    assert len(weights) == 6
    long = weights[TASKS[0], "50", "20"]
    gap = finals(variants, TASKS[0], "T20").mean() - finals(variants, TASKS[0], "qsm").mean()
    assert first(long["minus M_q = 50, T = 5"]) == pytest.approx(gap, rel=5e-3)
    poor = weights[TASKS[0], "10", "5"]
    assert (poor["seeds"], poor["on the bound"]) == ("1", "–")
    whole = weights[TASKS[1], "10", "5"]
    gap = finals(variants, TASKS[1], "m10").mean() - finals(variants, TASKS[1], "qsm").mean()
    assert first(whole["minus M_q = 50, T = 5"]) == pytest.approx(gap, rel=5e-3)
    bounds = [run.probes.on_bound[-1] for run in load.read([variants]).runs if (run.env, run.label) == (TASKS[1], "m10")]
    assert whole["on the bound"] == f"{100 * np.mean(bounds):.0f} %"


def test_runs_of_both_grids_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that are finished, and only those whose settings say that the same numbers would come out."""
    monkeypatch.chdir(tmp_path)
    first, other = ({cell.entry()["dir"]: cell.config for cell in plan(preset, None, None, None, [])[0]}
                    for preset in ("dmc100k", "qsm100k"))  # fmt: skip
    both = sorted(first.keys() & other.keys())
    assert len(both) == 6
    assert all(identity(first[place]) == identity(other[place]) for place in both)
    for place in first:
        run = Path("runs/dmc100k", place)
        run.mkdir(parents=True)
        if place != both[0]:
            (run / "DONE").touch()
    for _ in range(2):
        script().take_over("dmc100k", "qsm100k")
        found = sorted(str(path.parent.relative_to("runs/qsm100k")) for path in Path("runs/qsm100k").rglob("DONE"))
        assert found == both[1:]


@pytest.mark.parametrize("preset", ["dmc100k", "qsm100k"])
def test_the_committed_runs_are_those_of_the_preset(preset: str) -> None:
    """`python -m bench run --preset …` asks for every run that is published, with the settings that it was made with."""
    lines = [json.loads(line) for line in (RESULTS / f"{preset}.jsonl").read_text().splitlines()]
    runs = {line["run"]: line["config"] for line in lines if "run" in line}
    cells = {cell.entry()["dir"]: cell.config for cell in plan(preset, None, None, None, [])[0]}
    assert runs.keys() == cells.keys()
    for place, config in runs.items():
        settings = {key: value for key, value in config.items() if key not in ("auto", "changed", "spec")}
        assert identity(from_plain(settings)) == identity(cells[place].resolved()), place


def test_the_committed_headline_can_be_recomputed_from_every_episode() -> None:
    finals: dict[tuple[str, str], list[float]] = {}
    for line in (RESULTS / "dmc100k.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run.get("state") == "done":
            last = run["evals"][-1]
            assert last["env_step"] == 100_000
            finals.setdefault((run["config"]["env"]["id"], run["config"]["label"]), []).append(np.mean(last["returns"]))
    text = (RESULTS / "tables.md").read_text()
    rows = rows_of(text, "The algorithms")
    pairs = ((env, row["algorithm"], cell) for row in rows for env, cell in row.items() if env.startswith("dmc/"))
    told = {(env, label): cell for env, label, cell in pairs if cell != "–"}
    assert told.keys() == finals.keys()
    for cell, values in finals.items():
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
        expected = [np.mean(values), np.mean(values) - half, np.mean(values) + half]
        digits = re.sub(r"(?<=\d)\s(?=\d{3})", "", told[cell].replace("−", "-"))  # 1 390
        found = [float(number) for number in re.findall(r"-?[\d.]+", digits)]
        assert found == pytest.approx(expected, rel=5e-3, abs=0.6)
    assert text == script().tables()


@pytest.mark.parametrize("rare", range(len(figures.COLORS)))
def test_a_smaller_drawing_keeps_every_colour(tmp_path: Path, rare: int) -> None:
    """A few points of one colour among the soft edges of all others, as in a plane of sampled actions."""
    rng = np.random.default_rng(0)
    colors = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in figures.COLORS])
    soft, pixels = rng.random((60, 400, 1)) ** 2, np.full((400, 400, 3), 255)
    others = np.delete(colors, rare, axis=0)[rng.integers(len(colors) - 1, size=(60, 400))]
    pixels[:60] = (1 - soft) * others + soft * 255
    pixels[100, :21] = colors[rare]
    file = tmp_path / "drawing.png"
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    before = file.stat().st_size
    shrink(file)
    found = np.array(Image.open(file).convert("RGB")).astype(int)
    assert (found[100, :21] == colors[rare]).all()
    assert np.abs(found - pixels).max() < 16
    assert file.stat().st_size < before


def test_the_readme_says_what_the_pages_say() -> None:
    text = (ROOT / "README.md").read_text().split("## What comes out so far")[1].split("\n## ")[0]
    page = (ROOT / "docs" / "reproduction" / "fig8" / "report.md").read_text()
    tables, results = ((RESULTS / name).read_text() for name in ("tables.md", "README.md"))
    means = {row["algorithm"]: row for row in rows_of(tables, "The algorithms")}
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|")
    assert [row[0] for row in rows] == list(means)
    for label, *cells in rows:
        assert cells == [means[label][f"dmc/{task}"].removesuffix("?") for task in head[1:]]
    both = [json.loads((RESULTS / name / "summary.json").read_text())["aggregates"] for name in ("dmc100k", "qsm100k")]
    aggregates = [one for found in both for own in found["labels"].values() for one in own["final"].values()]
    over = [f"{words.number(one['value'])} {words.interval(one)}" for one in aggregates]
    weights = rows_of(tables, "QSM's score weight") if "QSM's score weight" in tables else []
    cells = [cell for row in [*means.values(), *weights] for cell in row.values()]
    pairs = json.loads((RESULTS / "qsm100k" / "summary.json").read_text())["pairs"]
    differences = [f"{words.number(pair['difference']['value'])} {words.interval(pair['difference'])}" for pair in pairs]
    known = {" ".join(cell.removesuffix("?").split()) for cell in [*over, *cells, *differences]}
    prose, paper, own = (
        [" ".join(value.split()) for value in re.findall(r"−?[\d.]+\s\[−?[\d.]+,\s−?[\d.\u202f]+\]", part)]
        for part in ("\n".join(line for line in text.split("The claims of")[0].splitlines() if line[:1] != "|"),
                     text.split("The claims of")[1], results)
    )  # fmt: skip
    assert {*prose, *own} <= known
    assert own
    scores = {line.split(" | ")[1]: line.split(" | ")[5] for line in page.splitlines() if line.startswith("| dmc/")}
    assert paper == [" ".join(scores[label].removesuffix("?").split()) for label in ("qsm", "dql", "pg")]
    sac, td3 = rows_of(tables, "SAC beside"), rows_of(tables, "TD3 beside")
    assert [row["mean here"] for row in sac] == [*["in it"] * 3, "below"]
    *_, spin = equal = rows_of(tables, "SAC after")
    assert [row["mean here"] for row in equal] == ["above", "above", "in it", "in it"]
    between = f"{spin['SAC, pytorch_sac']} and {spin['SAC, SimBa repository']}"
    assert all(between in " ".join(page.split()) for page in (text, results))
    for told in (" ".join(page.split()) for page in (text, results)):
        assert all(row["range"] in told for row in sac)
    assert all(row["SpinningUp"] in " ".join(results.split()) for row in td3)
    for row in td3:  # within one standard deviation, as the page says
        mean, deviation = map(float, row["SpinningUp"].split(" ± "))
        assert abs(float(row["here"].split(" [")[0]) - mean) < deviation
    rows = rows_of(page.replace("**Policy update alone**", "\n## Times"), "Times")
    times = {row["T"]: float(row["dql / qsm"]) for row in rows}
    for ratio, chain in re.findall(r"([\d.]+) times (?:as\s+long )?at T = (\d+)", text):
        assert float(ratio) == pytest.approx(times.pop(chain), abs=0.051)
    assert list(times) == ["10"]
    cases = json.loads((ROOT / "docs" / "reproduction" / "boltzmann" / "summary.json").read_text())["samplers"]
    close = {(name, chain): [case["kl"] <= 0.1 for case in cases if (case["sampler"], case["T"]) == (name, chain)]
             for name in ("QSM", "exact denoiser") for chain in (5, 50, 200)}  # fmt: skip
    far = [not near for chain in (5, 50, 200) for near in close["QSM", chain]]
    flat = " ".join(text.split())
    assert f"{sum(far)} of {len(far)} cases" in flat
    for chain in (5, 50, 200):
        own = close["exact denoiser", chain]
        assert re.search(rf"in {sum(own)} of {len(own)}( cases)? at T = {chain}\b", flat)
