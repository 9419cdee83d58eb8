"""Benchmarks whose time is made up, so that what the gate says of them is exact and takes no time.

The definitions replace the process's clock by one that only the bodies move, each by what the tree's work.py says a call
costs. They run in the same server processes as the real ones.
"""

from __future__ import annotations

DEFINITIONS = '''
import itertools, time
from types import SimpleNamespace

import work as tree

now = [0.0]
time.perf_counter = lambda: now[0]
time.process_time = lambda: now[0] / 2

def benchmarks(algos=None, **settings):
    def body(name, milliseconds):
        turns = itertools.cycle(milliseconds if isinstance(milliseconds, list) else [milliseconds])
        def run():
            now[0] += next(turns) / 1e3
        about = {"algo": "a", "name": name, "kind": name, "batch": 1, "width": 1, "depth": 1, "T": None}
        about |= {"device": "cpu", "mode": "eager"}
        return SimpleNamespace(run=run, per_call=tree.PER_CALL, about=about | tree.ABOUT.get(name, {}))
    return {name: body(name, ms) for name, ms in tree.COSTS.items()}

def work(body):
    return {"flops": 1e6, "bytes": 1e6, "operations": 100}

def calibrate(device):
    return {"fp32_gflops": 2.0, "copy_gbs": 1.0, "small_op_us": 1.0, "matmul_precision": "highest"}
'''


def work(costs: dict, about: dict | None = None, per_call: int = 1) -> str:
    """work.py of a tree: milliseconds of a call of each body, or a list to go through; additions to `about`."""
    return f"COSTS = {costs!r}\nABOUT = {about or {}!r}\nPER_CALL = {per_call}\n"
