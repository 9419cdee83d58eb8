"""Modes of execution, the matmul precision of a run, and the first non-finite loss."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import algos
from algos.agent import Agent, Trajectories, sample
from bench import run, speed
from bench.finite import FirstNonFinite, NonFinite
from bench.harness import batches, build, noise_of, spec_for
from bench.rundir import RunDir
from bench.speed import Compiled, Graphs, check_same_matmul
from bench.synthetic import random_data

UPDATES = 16
# what an update of these settings does beyond the default: a schedule, clipping, several optimizer steps
SETTINGS = {"qsm": {"actor_decay_updates": 10, "grad_clip": 0.5}, "pg": {"epochs": 2, "ppo_clip": 0.1}}


@pytest.fixture(autouse=True)
def _plain_fp32():
    """The tape's products are all taken at the precision in force at its replay; on CUDA it is always this one."""
    torch.set_float32_matmul_precision("highest")


class Tape(TorchDispatchMode):
    """A graph without a GPU: the operations of a capture with the very tensors they read and wrote, run again by `replay`.

    As in a CUDA graph, every Python number is the one of the capture, and results appear in the tensors of the capture.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            new = func(*args, **kwargs)
            pairs = zip(out, new, strict=True) if isinstance(out, tuple | list) else [(out, new)]
            for static, value in pairs:
                own = isinstance(static, torch.Tensor) and static.untyped_storage()._cdata != value.untyped_storage()._cdata
                if own:  # neither a view nor in place
                    static.copy_(value)


def tape_of(agent: Agent):
    """A `capture` for Graphs: what the recording itself changes is put back, since a capture runs nothing."""

    def capture(work):
        before = copy.deepcopy(agent.state_dict())
        with Tape() as tape:
            static = work()
        agent.load_state_dict(before)
        return static, tape.replay

    return capture


def make(name: str, device: str = "cpu") -> Agent:
    if device == "cpu" and name not in SETTINGS:
        return build(name)
    agent = build(name)
    values = {**vars(agent.config), **SETTINGS.get(name, {})}
    new = algos.agent_class(name)(spec_for(name), type(agent.config)(**values), torch.Generator().manual_seed(0), device)
    new.updates = agent.updates
    return new


def updates(agent: Agent, count: int, runner=None, seed: int = 1):
    out = []
    for batch, generator in batches(agent, count, seed):
        noise = {p.name: dict(noise_of(agent, p.name, batch.reward.numel(), generator)) for p in agent.due()}
        info = agent.update(*tree_map(lambda part: part.to(agent.device), (batch, noise)), runner)
        out.append({key: value.clone() for key, value in info.items()})
    return out


def assert_close(found, wanted, **tolerance) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            where = lambda text, key=key: f"{key}: {text}"  # noqa: E731
            torch.testing.assert_close(one[key], other[key], msg=where, **tolerance)


def parameters(agent: Agent) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value for name, net in agent.networks().items() for key, value in net.state_dict().items()}


@pytest.mark.parametrize("name", algos.AGENTS)
def test_a_replayed_phase_is_the_phase(name):
    """Sixteen updates with captured phases are the eager ones bit for bit, both with their learning rates in tensors.

    Fails on a batch or noise that is not copied in, a learning rate of the moment of the capture, an update that is lost
    or done twice at the capture, or results that are not those of the latest replay.
    """
    eager, graphed = make(name), make(name)
    graphs = Graphs(graphed, tape_of(graphed))
    for optimizer in eager.optimizers().values():
        optimizer.capturable()
    close = {"atol": 0, "rtol": 0}
    assert_close(updates(graphed, UPDATES, graphs), updates(eager, UPDATES), **close)
    done = range(eager.updates - UPDATES, eager.updates)
    assert set(graphs.captured) == {phase.name for phase in eager.phases if any(map(phase.due, done))}
    assert_close([parameters(graphed)], [parameters(eager)], **close)

    # a state that is loaded after the capture is the one that replays go on from
    state = copy.deepcopy(eager.state_dict())
    updates(graphed, 3, graphs, seed=7)
    graphed.load_state_dict(state)
    assert_close(updates(graphed, 4, graphs, seed=3), updates(eager, 4, seed=3), **close)
    wanted, found = ({k: v.grad_norm() for k, v in agent.optimizers().items()} for agent in (eager, graphed))
    assert_close([found], [wanted], **close)


def test_a_captured_phase_refuses_another_batch_size():
    """Fails if a batch of one row is spread over the static buffer."""
    agent = make("sac")
    graphs = Graphs(agent, tape_of(agent))
    updates(agent, 5, graphs)
    (batch, generator), phase = next(batches(agent, 1)), agent.phases[0]
    one_row = type(batch)(*(part[:1] for part in batch))
    with pytest.raises(ValueError, match=r"takes \(8, 3\), found \(1, 3\)"):
        graphs(phase, one_row, sample(agent.draws(phase.name, 1), generator))


@pytest.mark.parametrize("name", algos.AGENTS)
def test_what_is_timed_lies_on_the_agents_device(name):
    """`meta` refuses to mix devices as CUDA does. Fails on noise that is left where its generator drew it."""
    data = random_data(make(name, "meta"), torch.Generator().manual_seed(0))
    parts = (*data[:-1], *data.kept.values()) if isinstance(data, Trajectories) else data
    assert {part.device.type for part in parts} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", algos.AGENTS)
def test_cuda_graphs_are_the_phases(name):
    """The same on the device; the kernels are those of eager, so only atomics and the learning rate may differ."""
    eager, graphed = make(name, "cuda"), make(name, "cuda")
    graphs = Graphs(graphed)
    close = {"atol": 1e-5, "rtol": 1e-4}
    assert_close(updates(graphed, UPDATES, graphs), updates(eager, UPDATES), **close)
    assert_close([parameters(graphed)], [parameters(eager)], **close)


@pytest.mark.slow
@pytest.mark.parametrize("name", algos.AGENTS)
def test_compiled_phases_are_the_phases(name):
    """Eight updates to 1e-4: fused kernels sum in another order, and Adam's first steps amplify it."""
    eager, compiled = make(name), make(name)
    close = {"atol": 1e-5, "rtol": 1e-4}
    assert_close(updates(compiled, 8, Compiled(compiled)), updates(eager, 8), **close)
    assert_close([parameters(compiled)], [parameters(eager)], **close)


@pytest.mark.slow
def test_a_compiled_run_ends(small, tmp_path):
    assert run.run(small("td3", "speed=compile", "steps=60"), tmp_path) == "done"


def test_cuda_graphs_are_refused_on_the_cpu_in_one_line(command):
    refused = command("run", "--algos", "sac", "--envs", "toy/multigoal", "speed=cudagraph")
    assert refused.code == 2
    assert refused.err.strip().endswith("speed=cudagraph needs device=cuda, found device=cpu; take speed=eager there")
    assert command("run", "--algos", "sac", "--envs", "toy/multigoal", "speed=fast").err.count("eager, compile, cudagraph") == 1


def test_a_missing_compiler_is_named(small, tmp_path, monkeypatch, command):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"speed=compile needs a C\+\+ compiler on cpu, and no-such-compiler is not there"):
        run.run(small("sac", "speed=compile"), tmp_path / "run")


def test_the_way_phases_run_is_part_of_a_runs_identity(small, train, tmp_path):
    train(small("sac"), tmp_path)
    with pytest.raises(ValueError, match="speed: eager there, compile asked for"):
        run.run(small("sac", "speed=compile"), tmp_path)


def test_a_resume_at_another_matmul_precision_is_refused(small, train, tmp_path, monkeypatch):
    """Fails if such a run goes on, or if the refusal changes a file of it."""
    config = small("sac", "checkpoint_every=40")
    monkeypatch.setattr(run, "set_matmul", lambda *_: "medium")
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "_finish", lambda self: (_ for _ in ()).throw(run.Stopped))
        assert train(config, tmp_path) == "stopped"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(run, "set_matmul", lambda *_: "highest")
    with pytest.raises(ValueError, match="was run with matmul precision medium, and here highest is in force") as refused:
        run.run(config, tmp_path)
    assert "\n" not in str(refused.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(run, "set_matmul", lambda *_: "medium")
    assert run.run(config, tmp_path) == "done"


@pytest.mark.parametrize(
    ("choice", "device", "error", "precision"),
    [("auto", "cpu", 3e-7, "medium"), ("auto", "cpu", 2e-5, "highest"), ("highest", "cpu", 0.0, "highest"),
     ("auto", "cuda", 0.0, "highest")],
)  # fmt: skip
def test_the_fast_products_are_taken_only_where_they_are_exact(monkeypatch, choice, device, error, precision):
    monkeypatch.setattr(speed, "probe_matmul", lambda: error)
    before = torch.get_float32_matmul_precision()
    try:
        assert speed.set_matmul(choice, device) == torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_probe_measures_and_leaves_the_precision_as_it_was():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert 0 < speed.probe_matmul() < 1e-2
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_run_takes_the_threads_that_it_is_given(small, tmp_path):
    before = torch.get_num_threads()
    try:
        run.Run(small("td3", "threads=2"), RunDir(tmp_path / "run"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_first_session_has_no_precision_to_keep(tmp_path):
    check_same_matmul(tmp_path, [], "highest")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_non_finite_loss_is_named_though_later_ones_are_finite(bad):
    """Fails if the latest update, or another loss that followed, is named."""
    losses = FirstNonFinite(torch.device("cpu"))
    for update in range(10):
        critic = bad if update == 4 else 1.0
        info = {"critic_loss": torch.tensor(critic), "q": torch.tensor([bad])}
        if update % 2:
            info |= {"actor_loss": torch.tensor(bad if update == 5 else 1.0)}
        losses.note(info, update)
        if update < 4:
            losses.check()
    with pytest.raises(NonFinite, match="critic_loss became non-finite at update 4") as caught:
        losses.check()
    assert (caught.value.quantity, caught.value.update) == ("critic_loss", 4)


def test_freed_memory_is_kept():
    """Fails if the allocator hands every buffer of 4 MB back to the kernel: a thousand page faults each time."""
    program = (
        "import ctypes; ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)\n"  # no huge pages, which hide the faults
        "import resource, torch; from bench.speed import keep_freed_memory; keep_freed_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "take = lambda: [torch.ones(1 << 20) for _ in range(4)]\n"
        "for _ in range(5): take()\n"  # the heap grows to where it fits them, which may take more than one round
        "before = faults()\n"
        "for _ in range(10): take()\n"
        "print(faults() - before)"
    )
    if not os.confstr("CS_GNU_LIBC_VERSION"):
        pytest.skip("another C library")
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 8000, "of 40,960 if every buffer went back"
