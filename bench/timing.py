"""`python -m bench timing`: what updates, phases and actions cost on one core of this machine.

Every library and revision that is timed lives in its own process (bodyserver.py) on the same core with one thread. In each
round every body gets a slice of time, peers right after each other and in turns, and the machine is calibrated; results are
medians over rounds, also as a share of the machine's own matrix-product rate in the same round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import provenance
from bench.typed import UsageError
from reports.records import BUSY

ROOT = Path(__file__).resolve().parents[1]
DEFINITIONS = "bench/bodies.py"  # from the root of a checkout
PEERS = ROOT / "tests" / "timing" / "peers"
RATES = ("fp32_gflops", "copy_gbs", "small_op_us")  # of a calibration
PEER_SETTINGS = (  # label, file, what it needs installed, its settings besides the shapes
    ("sb3", "sb3.py", "stable_baselines3", {"precision": "highest"}),
    ("sb3-onednn", "sb3.py", "stable_baselines3", {"precision": "medium"}),
    ("sbx", "sbx_agents.py", "sbx", {}),
    ("jax", "jax_qsm.py", "jax", {}),
)


class BodiesFailed(Exception):
    """A process with bodies could not load, build or run them; the text is its last word."""


class BodyServer:
    """A process that holds the bodies of a definitions file and times them; `about` says what they are, by name.

    Its working directory is `here`, whose conf/ counts as the user's: None leaves the caller's. Raises UsageError where the
    definitions refuse their settings, BodiesFailed where they do not run.
    """

    def __init__(
        self, definitions: Path, settings: dict[str, Any], core: int, tree: Path = ROOT, here: Path | None = None
    ):
        behind = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]  # where plug-ins lie
        order = {"tree": str(tree), "path": behind, "definitions": str(definitions), "settings": settings, "core": core}
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | one | {"PYTHONHASHSEED": "0"}
        script = str(Path(__file__).with_name("bodyserver.py"))
        self.process = subprocess.Popen(
            [sys.executable, "-P", script, json.dumps(order)], cwd=here, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.started = False
        self.about: dict[str, dict[str, Any]] = {}

    def wait(self) -> BodyServer:
        """Until the bodies are built and warm. Several servers may start side by side."""
        if not self.started:
            self.about, self.started = self._read(), True
        return self

    def _read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise BodiesFailed(f"the process ended with code {self.process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise UsageError(reply["error"]) if reply["usage"] else BodiesFailed(reply["error"])
        return reply["value"]

    def ask(self, **request: Any) -> Any:
        with contextlib.suppress(BrokenPipeError):  # a dead process has left its last word, or none
            self.process.stdin.write(json.dumps(request) + "\n")
        return self._read()

    def close(self) -> None:
        if not self.started:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def serving(*servers: BodyServer) -> Iterator[None]:
    """All of them started, and closed at the end."""
    try:
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.close()


Slot = tuple[BodyServer, str]


def one_round(groups: Iterable[list[Slot]], backwards: bool, seconds: float) -> Iterator[tuple[Slot, tuple[float, float]]]:
    """Milliseconds of every slot, of the clock and of the processor. What is to be compared stands in one group and is
    timed back to back."""
    for group in groups:
        for server, name in reversed(group) if backwards else group:
            yield (server, name), tuple(server.ask(time=name, seconds=seconds))


def rounds_shown(rounds: range) -> Iterator[int]:
    """The rounds, with a bar in a terminal, else a line for each fifth of them; on the error output."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(rounds, "timing", console=Console(stderr=True))
        return
    for number in rounds:
        yield number
        if (number + 1) % max(len(rounds) // 5, 1) == 0:
            print(f"timing: round {number + 1} of {len(rounds)}", file=sys.stderr, flush=True)


def default_core() -> int:
    """The last core this process may use: the first one serves most interrupts."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


# -- the command -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Options:
    """What `python -m bench timing` was asked for; `settings` go to the definitions (bodies.benchmarks)."""

    settings: dict[str, Any]
    rounds: int = 10
    seconds: float = 0.05  # of each body in each round
    core: int | None = None
    peers: bool = False


def check(options: Options) -> None:
    """Raises UsageError for what no measurement can be made of."""
    if options.rounds < 1:
        raise UsageError(f"--rounds {options.rounds}: it takes a number from 1")
    if not 0 < options.seconds <= 60:
        raise UsageError(f"--seconds {options.seconds:g}: it takes a number above 0, at most 60")
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    if options.core is not None and options.core not in usable:
        raise UsageError(f"--core {options.core}: this process may use {', '.join(map(str, usable))}")
    if options.settings.get("mode") == "cudagraph" and options.settings.get("device") != "cuda":
        raise UsageError("--mode cudagraph needs --device cuda")
    for name in ("T", "batch", "width"):
        values = options.settings.get(name) or []
        if any(value < 1 for value in values) or len(set(values)) < len(values):
            raise UsageError(f"--{name} {','.join(map(str, values))}: it takes different numbers from 1")
    if options.peers:
        if any(len(options.settings.get(name) or [0]) > 1 for name in ("batch", "width")):
            raise UsageError("--peers compares at one --batch and one --width")
        if options.settings.get("device", "cpu") != "cpu":
            raise UsageError("--peers compares on the CPU; leave --device out")
        if options.settings.get("T") or set("(=") & set(options.settings.get("algos") or ""):
            raise UsageError("--peers compares algorithms at their own settings; leave --T, labels and (key=value) out")
        if not PEERS.is_dir():
            raise UsageError(f"--peers needs a checkout of the repository: there is no {PEERS}")


def peer_servers(options: Options, core: int, say) -> dict[str, BodyServer]:
    """A process for each peer that is installed; the others are named."""
    shapes = {name: values[0] for name in ("batch", "width") if (values := options.settings.get(name))}
    out = {}
    for label, file, package, settings in PEER_SETTINGS:
        if importlib.util.find_spec(package) is None:
            say(f"peer {label} is left out: {package} is not installed (pip install -e '.[peers]' -c constraints.txt)")
        else:
            out[label] = BodyServer(PEERS / file, shapes | settings, core)
    return out


def grouped(servers: dict[str, BodyServer]) -> list[list[Slot]]:
    """Slots in the order of the first server's bodies, each with the peers' bodies that do the same."""
    ours, *others = servers.values()
    peers = defaultdict(list)
    for server in others:
        for name, about in server.about.items():
            peers[about["against"], about["name"]].append((server, name))
    seen: set[tuple[str, str]] = set()
    groups = []
    for name, about in ours.about.items():
        key = (about["algo"], about["name"])
        groups.append([(ours, name), *(peers.get(key, []) if key not in seen else [])])
        seen.add(key)
    return groups


def measure(options: Options, say=print, progress=iter) -> dict[str, Any]:
    """timing.json's content: `machine` with its calibration, `results`, one row a body, and `ratios` to peers.

    say(text) hears what is left out; progress(rounds) may wrap the sequence of rounds. Raises UsageError for bad settings.
    """
    check(options)
    core = default_core() if options.core is None else options.core
    ours = BodyServer(ROOT / DEFINITIONS, options.settings, core)
    servers = {"": ours} | (peer_servers(options, core, say) if options.peers else {})
    try:
        with serving(*servers.values()):
            groups, device = grouped(servers), options.settings.get("device", "cpu")
            laps: dict[Slot, list[tuple[float, float]]] = defaultdict(list)
            calibrations = []
            for number in progress(range(options.rounds)):
                calibrations.append(ours.ask(calibrate={"device": device}))
                for slot, times in one_round(groups, number % 2 == 1, options.seconds):
                    laps[slot].append(times)
            results = [
                row(slot, laps[slot], slot[0].ask(work=slot[1]), calibrations) for group in groups for slot in group
            ]
    except BodiesFailed as failure:
        raise UsageError(f"the bodies do not run: {failure}") from failure
    ratios = [ratio(group[0], peer, laps) for group in groups for peer in group[1:]]
    busy = statistics.median(r["median_ms"] / r["cpu_ms"] for r in results if r["cpu_ms"])
    if device == "cpu" and busy > BUSY:
        say(f"others use this core: the clock shows {busy:.2f} times the processor time; trust only cpu_ms and its ratios")
    return {"machine": machine(device, core, calibrations) | {"busy": busy}, "results": results, "ratios": ratios}


def row(slot: Slot, laps: list[tuple], work: dict[str, float], calibrations: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of timing.json. share: of the product rate of the same round; products: the time in 256^3 products; both of
    the processor's time on a CPU, which others who use the core do not change."""
    server, name = slot
    flops, (clock, processor) = work.get("flops"), zip(*laps, strict=True)
    gflops = [c["fp32_gflops"] for c in calibrations]
    about = server.about[name]
    spent = list(zip(processor if about["device"] == "cpu" else clock, gflops, strict=True))
    shares = [flops / (1e6 * ms * rate) for ms, rate in spent] if flops else None
    products = [ms * rate / (2 * 256**3 / 1e6) for ms, rate in spent]
    return about | {
        "median_ms": statistics.median(clock), "iqr_ms": spread(clock), "rounds": len(clock),
        "cpu_ms": statistics.median(processor),
        **{key: work.get(key) for key in ("flops", "bytes", "operations")},
        "share": statistics.median(shares) if shares else None, "products": statistics.median(products),
    }  # fmt: skip


def spread(values: Sequence[float]) -> float:
    """Interquartile range; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def ratio(ours: Slot, peer: Slot, laps: dict[Slot, list[tuple[float, float]]]) -> dict[str, Any]:
    """Our time over the peer's, paired round by round, on the clock and of the processor."""
    paired = list(zip(laps[ours], laps[peer], strict=True))
    pairs = [mine[0] / other[0] for mine, other in paired]
    mine, other = ours[0].about[ours[1]], peer[0].about[peer[1]]
    return {
        "algo": mine["algo"], "name": mine["name"], "peer": other["algo"],
        "ratio": statistics.median(pairs), "iqr": spread(pairs), "rounds": len(pairs),
        "cpu_ratio": statistics.median(mine[1] / other[1] for mine, other in paired) if all(o[1] for _, o in paired) else None,
    }  # fmt: skip


def machine(device: str, core: int, calibrations: list[dict[str, float]]) -> dict[str, Any]:
    medians = {key: statistics.median(c[key] for c in calibrations) for key in RATES}
    name = calibrations[0].get("device_name")
    return {
        **provenance.machine(), "device": f"cuda: {name}" if name else device, "id": name or provenance.cpu_name(),
        "core": core, **medians,
        "matmul_precision": calibrations[0]["matmul_precision"], "torch": importlib.metadata.version("torch"),
        "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip
