"""`bench timing`: the arithmetic of its results on made-up times (conftest.py), and one run of the real thing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from clockwork import DEFINITIONS, work

import reports.wall_clock
from bench import baselines, bodies, cli, provenance, timing
from bench.cost import count_period
from bench.timing_tables import as_markdown, chain_tables, floor_rows
from bench.typed import UsageError

TURNS = [100.0] * 2 + [2.0] * 4 + [4.0] * 4 + [6.0] * 4  # two calls warm up, then four in each of three rounds


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A checkout whose bodies and one peer have made-up times."""
    peer = DEFINITIONS.replace("import work as tree", "import peer as tree")
    for name, text in {
        "bench/bodies.py": DEFINITIONS, "peers/peer.py": peer, "work.py": work({"update": TURNS, "act": 0.1}),
        "peer.py": work({"theirs": [4 * ms for ms in TURNS]}, {"theirs": {"algo": "a@p", "name": "update", "against": "a"}}, 2),
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(timing, "ROOT", tmp_path)
    monkeypatch.setattr(timing, "PEERS", tmp_path / "peers")
    monkeypatch.setattr(timing, "PEER_SETTINGS", (("p", "peer.py", "json", {}), ("q", "q.py", "no_such_package", {})))
    server = timing.BodyServer
    monkeypatch.setattr(timing, "BodyServer", lambda definitions, settings, core: server(definitions, settings, core, tmp_path))


def test_results_are_medians_over_rounds_beside_the_calibration_and_the_peers(made_up):
    said: list[str] = []
    content = timing.measure(timing.Options({}, rounds=3, seconds=0.001, peers=True), say=said.append)
    update, peer, act = content["results"]
    assert (update["name"], peer["algo"], act["name"]) == ("update", "a@p", "act")
    assert update["median_ms"] == pytest.approx(4)
    assert update["iqr_ms"] == pytest.approx(2)
    assert (update["rounds"], update["cpu_ms"]) == (3, pytest.approx(2))
    assert peer["median_ms"] == pytest.approx(8), "16 ms a call of two updates"
    assert update["share"] == pytest.approx(1e6 / (2e-3 * 2e9))  # 1 MFLOP in 2 ms on a machine of 2 GFLOP/s
    assert update["products"] == pytest.approx(2e-3 / (2 * 256**3 / 2e9))
    (ratio,) = content["ratios"]
    assert (ratio["algo"], ratio["peer"], ratio["ratio"], ratio["cpu_ratio"], ratio["iqr"]) == ("a", "a@p", 0.5, 0.5, 0)
    assert content["machine"]["fp32_gflops"] == 2.0
    assert len(said) == 2
    assert "no_such_package" in said[0]
    assert "the clock shows 2.00 times the processor time" in said[1]


def test_bodies_that_fail_are_told_in_one_line(made_up, tmp_path):
    (tmp_path / "work.py").write_text("raise ImportError('no module named\\nfoo')")
    with pytest.raises(UsageError, match=r"the bodies do not run: ImportError: foo$"):
        timing.measure(timing.Options({}, rounds=1))


def test_a_baseline_binds_on_like_hardware_and_advises_on_other(made_up, tmp_path, capsys):
    file, out = tmp_path / "baselines.json", tmp_path / "timing.json"
    asked = ["timing", "--rounds", "3", "--seconds", "0.001", "--out", str(out)]
    assert cli.main([*asked, "--save-baseline", str(file)]) == 0
    assert cli.main([*asked, "--baseline", str(file)]) == 0
    (tmp_path / "work.py").write_text(work({"update": [1.3 * ms for ms in TURNS], "act": 0.1}))
    capsys.readouterr()
    assert cli.main([*asked, "--baseline", str(file)]) == 1
    assert "slower: a update takes 1.30 times its baseline\n" in capsys.readouterr().out
    ((hardware, entry),) = json.loads(file.read_text()).items()
    for other in ({"torch": "1.0"}, {"matmul_precision": "another"}):
        file.write_text(json.dumps({hardware: entry | other}))
        assert cli.main([*asked, "--baseline", str(file)]) == 0
        assert "advice only, this is" in capsys.readouterr().out
    file.write_text(json.dumps({"a GPU": entry | {"products": {"another body": 1.0}}, "another machine": entry}))
    assert cli.main([*asked, "--baseline", str(file)]) == 0
    said = capsys.readouterr().out
    assert "advice: a update takes 1.30 times its baseline\n" in said
    assert cli.main([*asked, "--save-baseline", str(file)]) == 0
    assert set(baselines.read(file)) == {"a GPU", "another machine", provenance.cpu_name()}
    (tmp_path / "work.py").write_text(work({"sample": 0.2, "act": 0.1}))
    capsys.readouterr()
    assert cli.main([*asked, "--baseline", str(file), "--markdown"]) == 0
    assert "| a sample | not there |" in capsys.readouterr().out
    assert cli.main([*asked, "--save-baseline", str(file)]) == 0
    kept = [name.split()[1] for name in baselines.read(file)[provenance.cpu_name()]["products"]]
    assert kept == ["name=update", "name=act", "name=sample"]  # what was not timed this time stays


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "0"], "--rounds 0: it takes a number from 1"),
        (["--seconds", "0"], "--seconds 0: it takes a number above 0"),
        (["--core", "999"], "--core 999: this process may use"),
        (["--T", "5,5"], "--T 5,5: it takes different numbers from 1"),
        (["--T", "five"], "'five' is no list of numbers such as 5,10,20"),
        (["--peers", "--batch", "64,128"], "--peers compares at one --batch and one --width"),
        (["--peers", "--T", "10"], "--peers compares algorithms at their own settings"),
        (["--peers", "--algos", "qsm(T=20)"], "--peers compares algorithms at their own settings"),
        (["--out", "no/such/timing.json"], "cannot be written: no/such is not a directory"),
        (["--baseline", "bad.json"], "bad.json is no baseline file"),
        (["--save-baseline", "bad.json"], "bad.json is no baseline file"),
        (["--baseline", "zero.json"], "zero.json is no baseline file"),
        (["--mode", "cudagraph"], "--mode cudagraph needs --device cuda"),
        (["--out", "link.json"], "link.json cannot be written: it is no plain file"),
        (["--baseline", "none.json"], "there is no baseline in none.json"),
        (["--out", "t.json", "--save-baseline", "./t.json"], "--out t.json is the baseline file too"),
        (["--out", "/proc/timing.json"], "/proc/timing.json cannot be written"),
        (["--algos", "qsm(m_q=10)", "--save-baseline", "b.json"], "give qsm(m_q=10) one of its own, as in mine=qsm(m_q=10)"),
        (["--algos", "my:Own(lr=1)", "--baseline", "b.json"], "give my:Own(lr=1) one of its own, as in mine=my:Own(lr=1)"),
        (["steps=5"], "timing takes no settings"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_timed(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text('{"machine": 5}')
    (tmp_path / "zero.json").write_text('{"machine": {"torch": "1", "matmul_precision": "x", "products": {"a": 0.0}}}')
    (tmp_path / "link.json").symlink_to("/dev/null")
    monkeypatch.setattr(timing, "BodyServer", None)
    try:
        code = cli.main(["timing", *words])
    except SystemExit as end:  # argparse
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    "settings",
    [{"algos": "nonsense"}, {"algos": "sac(nonsense=1)"}, {"mode": "fast"}, {"device": "cuda:7"}, {"algos": "qsm", "T": [0]}],
)
def test_definitions_refuse_what_they_do_not_know(settings):
    with pytest.raises(UsageError):
        bodies.benchmarks(**settings)


def test_variants_carry_their_settings_and_those_without_one_come_once():
    found = dict(bodies.variants("sac,hot=qsm(m_q=120)", [5, 10], [64], None))
    assert list(found) == ["sac[batch=64]", "hot[T=5,batch=64]", "hot[T=10,batch=64]"]
    hot = found["hot[T=10,batch=64]"]
    assert (hot["m_q"], hot["T"], hot["batch_size"], hot["actor_hidden"]) == (120, 10, 64, [256, 256])
    ((_, wide),) = bodies.variants("qsm", None, None, [32])
    assert wide["actor_hidden"] == wide["critic_hidden"] == [32, 32]


def test_the_table_over_t_gives_ratios_to_the_first_algorithm():
    base = {"name": "actor", "batch": 1, "width": 1}
    results = [base | {"algo": algo, "T": t, "device": "cpu", "cpu_ms": ms, "median_ms": 1.0, "flops": flops * 1e9}
               for algo, t, ms, flops in (("a", 5, 2, 1), ("b", 5, 3, 2), ("a", 10, 2, 1), ("b", 10, 8, 3))]  # fmt: skip
    (table,) = chain_tables(results)
    assert [row[4:] for row in table.rows] == [["1.00", "1.00"]] * 2 + [["1.50", "2.00"], ["4.00", "3.00"]]
    assert as_markdown(table).splitlines()[-1] == "| b | 10 | 8.00 | 3.000 | 4.00 | 3.00 |"
    on_a_gpu = [r | {"device": "cuda", "median_ms": r["cpu_ms"], "cpu_ms": 1.0, "flops": None} for r in results]
    (table,) = chain_tables(on_a_gpu)
    assert [row[3:] for row in table.rows] == [["", "1.00", ""]] * 2 + [["", "1.50", ""], ["", "4.00", ""]]


def test_the_floor_adds_products_bytes_and_dispatch():
    machine = {"fp32_gflops": 100.0, "copy_gbs": 10.0, "small_op_us": 2.0}
    size = {"T": 5, "batch": 64, "width": 8}
    update = size | {"algo": "a", "name": "update", "flops": 1e9, "bytes": 2e7, "operations": 500.0, "cpu_ms": 26.0}
    (row,) = floor_rows(machine, [update])
    assert [row[0] for row in floor_rows(machine, [update, update | {"batch": 256}])] == ["a batch 64", "a batch 256"]
    assert row == ["a", "5", "1.000", "20.0", "500", "10.00", "2.00", "1.00", "13.00", "26.00", "2.00"]


def test_a_real_run_writes_what_the_report_reads(tmp_path):
    """From the command to a figure of the report; FLOPs are those of the exact counts."""
    small = "qsm(actor_hidden=[16],critic_hidden=[16],batch_size=8)"
    (tmp_path / "mine.py").write_text("from algos.td3 import TD3\n\n\nclass Mine(TD3):\n    pass\n")  # as a plug-in
    mine = "mine=mine:Mine(actor_hidden=[16],critic_hidden=[16],batch_size=8)"
    words = ["--algos", f"{small},{mine}", "--T", "2,3", "--rounds", "2", "--seconds", "0.001"]
    words += ["--out", "t.json", "--figures", "drawn"]
    done = subprocess.run([sys.executable, "-m", "bench", "timing", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Actor update against the denoising steps T" in done.stdout
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"floor.png", "steps.png"}
    content = json.loads((tmp_path / "t.json").read_text())
    assert {r["algo"] for r in content["results"]} == {"qsm", "mine"}
    assert {r["name"] for r in content["results"]} == {"update", "train", "critic", "target", "actor", "act", "sample"}
    assert all(r["median_ms"] > 0 and r["device"] == "cpu" and r["mode"] == "eager" for r in content["results"])
    assert content["machine"]["fp32_gflops"] > 0
    ((_, values), _) = bodies.variants(small, [2, 3], None, None)
    config = bodies.agent_config(values)
    counted = count_period(bodies.registry.agent_class("qsm")(bodies.SPEC, config, bodies.torch.Generator()))
    (update,) = (r for r in content["results"] if r["name"] == "update" and r["T"] == 2)
    assert all(update[key] == counted[key] for key in ("flops", "bytes", "operations"))
    assert update["changed"] == {"actor_hidden": [16], "critic_hidden": [16], "batch_size": 8, "T": 2}
    figure = reports.wall_clock.steps_of_denoising([r | {"machine": "m"} for r in content["results"]], ["qsm"])
    assert figure is not None
    alone = [r | {"machine": "m"} for r in content["results"] if r["T"] == 2]
    assert reports.wall_clock.steps_of_denoising(alone, ["qsm"]) is None
