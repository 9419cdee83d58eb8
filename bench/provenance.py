"""Where numbers come from: revision, packages, machine, precision, load."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from bench.config import RunConfig

INSTALLED = {"site-packages", "dist-packages"}  # directories of everybody's code
OWN = {"algos", "bench", "envs", "reports"}
PACKAGES = ("torch", "numpy", "gymnasium", "dm-control", "mujoco", "hydra-core")


@functools.cache
def git_revision() -> tuple[str | None, bool | None]:
    """(sha, whether the tree has changes) of the checkout this code runs from; (None, None) for an installed wheel."""
    here = Path(__file__).resolve().parent.parent
    try:
        ask = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, timeout=10, check=True)
        ask(["git", "ls-files", "--error-unmatch", "bench/provenance.py"])  # fails where this file is not tracked
        sha = ask(["git", "rev-parse", "HEAD"]).stdout.strip()
        return sha, bool(ask(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None, None


def source_hash(name: str) -> str | None:
    """sha256 (16 digits) of the code of what comes from outside, an algorithm "module:Class" or an environment
    "gym/module:id": of the files of its module and of those that this one names in turn, without the standard library, what is
    installed beside it, and the benchmark. None for the benchmark's own, whose code the revision says."""
    if ":" not in name:
        return None
    module, _, id = name.removeprefix("gym/").partition(":")
    first = [module, *_entry_point(id)] if name.startswith("gym/") else [module]
    files, open_ = {}, list(first)
    while open_:
        at = open_.pop()
        file = getattr(sys.modules.get(at), "__file__", None)
        if at in files or file is None or not _outside(at, file, first):
            continue
        files[at] = Path(file)
        open_ += [at.rpartition(".")[0]]
        for value in list(vars(sys.modules[at]).values()):
            named = str(getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", ""))
            # a package's own submodules are in it once somebody has imported them: those that are named elsewhere count
            open_ += [] if isinstance(value, ModuleType) and named.rpartition(".")[0] == at else [named]
    code = b"".join(file.read_bytes() for _, file in sorted(files.items()))
    return hashlib.sha256(code).hexdigest()[:16] if files else None


def _entry_point(id: str) -> list[str]:
    """The module of a registered gymnasium environment's class."""
    entry = getattr(gymnasium.registry.get(id), "entry_point", None)
    return [entry.partition(":")[0] if isinstance(entry, str) else str(getattr(entry, "__module__", ""))]


def _outside(module: str, file: str, first: list[str]) -> bool:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in OWN or not Path(file).is_file():
        return False
    return not INSTALLED & {*Path(file).parts} or top in {name.partition(".")[0] for name in first}


def packages() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def cpu_name() -> str:
    """The processor's name with its family and model numbers: virtual machines call several generations by one name."""
    try:
        found = described(Path("/proc/cpuinfo").read_text())
    except OSError:
        found = ""
    return found or platform.processor() or platform.machine()


def described(cpuinfo: str) -> str:
    """The first processor of a /proc/cpuinfo; '' where it has no name, as on Arm."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    said = {key.strip(): value.strip() for key, _, value in lines}
    if "model name" not in said:
        return ""
    numbers = [f"{word} {said[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in said]
    return ", ".join([said["model name"], *([" ".join(numbers)] if numbers else [])])


def machine() -> dict[str, Any]:
    return {"cpu": cpu_name(), "cores": usable_cores(), "platform": platform.platform()}


def usable_cores() -> int:
    """Cores that this process may run on; where the system does not say (macOS), all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def session(
    config: RunConfig, device: str, matmul_precision: str, jobs: int, command: list[str], cell_command: str
) -> dict[str, Any]:
    """One session (start or continuation) of a run."""
    sha, dirty = git_revision()
    outside = {"source": source_hash(config.algo["agent"]), "env_source": source_hash(config.env["id"])}
    return {key: found for key, found in outside.items() if found} | {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git": sha,
        "dirty": dirty,
        "packages": packages(),
        "python": platform.python_version(),
        **machine(),
        "host": socket.gethostname(),
        "device": device,
        "threads": config.threads,
        "matmul_precision": matmul_precision,
        "jobs": jobs,
        "load": round(os.getloadavg()[0], 2),
        "command": command or sys.argv,
        "cell_command": cell_command,
    }


def peak_memory_mb() -> float:
    """Largest resident set of this process so far, in MB.

    From /proc where there is one: what `getrusage` says on Linux begins with the peak of the process that started this one.
    """
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
