"""How fast the same arithmetic is run: the precision of matrix products, the allocator, and the way a phase is executed.

`phase_runner` is the one place that knows of modes; agents, the loop and the timing of phases do not.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils._triton import has_triton

from algos.agent import Agent, Batch, Phase, Trajectories
from bench.typed import UsageError

MATMUL_TOLERANCE = 1e-5  # largest relative error at which the fast path still counts as fp32


def probe_matmul() -> float:
    """Relative error of a 256 x 256 x 256 product under the setting "medium" against float64, on this CPU.

    "medium" sends fp32 products through oneDNN. On most CPUs that is still fp32 arithmetic; with AMX it may be bf16.
    """
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    try:
        torch.set_float32_matmul_precision("medium")
        error = (a @ b).double() - a.double() @ b.double()
    finally:
        torch.set_float32_matmul_precision(before)
    return float(error.norm() / (a.double() @ b.double()).norm())


def set_matmul(choice: str, device: str) -> str:
    """Apply `matmul=auto|highest`; returns the precision in force, which belongs to a run's provenance.

    auto on CPU: "medium" where the probe shows it exact to 1e-5, else "highest". On CUDA: always "highest" (no TF32).
    """
    fast = choice == "auto" and device == "cpu" and probe_matmul() <= MATMUL_TOLERANCE
    precision = "medium" if fast else "highest"
    torch.set_float32_matmul_precision(precision)
    return precision


def check_same_matmul(path: Path, sessions: Sequence[Mapping[str, Any]], precision: str) -> None:
    """Raises UsageError where the run's last session multiplied matrices at another precision than the one in force."""
    before = sessions[-1]["matmul_precision"] if sessions else precision
    if before != precision:
        raise UsageError(
            f"{path} was run with matmul precision {before}, and here {precision} is in force (matmul=auto goes by a probe "
            "of the machine): continue it on a machine of its own type, or choose another --name"
        )


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 32 << 20  # bytes; the largest threshold that glibc takes for the second


def keep_freed_memory() -> None:
    """Let glibc's allocator keep blocks below 32 MB instead of handing them back to the kernel at every free.

    An update frees and takes the same few buffers of 0.25 to 5 MB over and over; each hand-back costs a page fault for
    every 4 kB when the buffer is next touched. Does nothing under another C library.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 16 * KEPT)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, KEPT)


# -- modes -------------------------------------------------------------------------------------------------------------

Info = dict[str, Tensor]
Noise = Mapping[str, Tensor]
Data = Batch | Trajectories


def phase_runner(agent: Agent, speed: str) -> Callable[[Phase, Data, Noise], Info]:
    """What `Agent.update` calls for each phase, in the mode `speed`: eager | compile | cudagraph.

    Raises UsageError where the mode cannot work on this machine.
    """
    if speed == "compile":
        compiler = os.environ.get("CXX", "g++")
        if agent.device.type == "cpu" and shutil.which(compiler) is None:
            raise UsageError(f"speed=compile needs a C++ compiler on cpu, and {compiler} is not there; take speed=eager")
        if agent.device.type == "cuda" and not has_triton():
            raise UsageError("speed=compile on cuda needs triton and a GPU that it knows; take speed=eager")
        return Compiled(agent)
    if speed == "cudagraph":
        return Graphs(agent)
    return agent.run_phase


class Compiled:
    """Phases through torch.compile: losses and their backward passes become fused kernels.

    An optimizer's step stays outside: it is one fused kernel already, and the gradient is taken there.
    On a CPU it does not pay (at batch 256 and 2 x 256 about 1.0 times eager's time for QSM and 1.5 for SAC): products
    dominate, and entering compiled code costs more than the passes that it saves.
    """

    def __init__(self, agent: Agent, backend: str = "inductor"):
        for optimizer in agent.optimizers().values():
            optimizer.minimise = torch.compiler.disable(optimizer.minimise)
        compile_one = torch.compile(backend=backend, dynamic=False)
        self.phases = {phase.name: compile_one(getattr(agent, phase.name)) for phase in agent.phases}

    def __call__(self, phase: Phase, batch: Data, noise: Noise) -> Info:
        return self.phases[phase.name](batch, noise)


def cuda_graph(work: Callable[[], Info]) -> tuple[Info, Callable[[], None]]:
    """Capture `work` without running it: the tensors that every replay writes its results to, and the replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static = work()
    return static, graph.replay


class Graphs:
    """Phases captured as CUDA graphs, one graph for each with a memory pool of its own, and replayed.

    A phase's first updates run eagerly (libraries allocate, and small tables come to the device, in the first); then it
    is captured once and replayed for every later update. What may differ between two replays comes in by tensors: batch
    and noise are copied into static buffers (random numbers are drawn outside), and learning rates lie on the device.
    Loading a state copies into the same storages, so graphs stay valid. What a phase returns is overwritten by its next
    replay.

    capture: `cuda_graph`, or a stand-in of the same signature.
    """

    WARM = 3  # eager updates of a phase before its capture

    def __init__(self, agent: Agent, capture: Callable[[Callable[[], Info]], tuple[Info, Callable[[], None]]] = cuda_graph):
        self.agent, self.capture = agent, capture
        self.runs: dict[str, int] = {}
        self.captured: dict[str, Captured] = {}
        for optimizer in agent.optimizers().values():
            optimizer.capturable()

    def __call__(self, phase: Phase, batch: Data, noise: Noise) -> Info:
        captured = self.captured.get(phase.name)
        if captured is None:
            done = self.runs[phase.name] = self.runs.get(phase.name, 0) + 1
            if done <= self.WARM:
                return self.agent.run_phase(phase, batch, noise)
            captured = self.captured[phase.name] = Captured(self.agent, phase, batch, noise, self.capture)
        return captured.replay(batch, noise)


class Captured:
    """One phase as a graph over static inputs."""

    def __init__(self, agent: Agent, phase: Phase, batch: Data, noise: Noise, capture):
        given, structure = tree_flatten((batch, dict(noise)))
        self.inputs = [part.clone() for part in given]
        static = tree_unflatten(self.inputs, structure)
        self.info, self._replay = capture(lambda: agent.run_phase(phase, *static))

    def replay(self, batch: Data, noise: Noise) -> Info:
        given = tree_leaves((batch, dict(noise)))
        for static, value in zip(self.inputs, given, strict=True):
            if static.shape != value.shape:
                raise ValueError(f"a captured phase takes {tuple(static.shape)}, found {tuple(value.shape)}")
        torch._foreach_copy_(self.inputs, given)
        self._replay()
        return dict(self.info)
