"""One long-lived process that holds the benchmark bodies of one tree and times them on command.

    python -P bench/bodyserver.py '{"tree": DIR, "definitions": FILE, "settings": {...}, "core": 1}'

Standard library only, so that it can serve any tree and any library. It pins itself to a core, puts `tree` first on the
path and `path` last, loads the definitions file (`benchmarks(**settings)` -> {name: body with run, per_call, about}), runs
every body twice, and answers lines of JSON on stdin with lines of JSON on stdout. It ends when stdin does.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import statistics
import sys
import time

FEWEST = 3  # calls in one measurement
WARM = 2  # calls of every body before anything is measured


def load(path: str):
    spec = importlib.util.spec_from_file_location("timed_definitions", path)
    module = sys.modules["timed_definitions"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def milliseconds(body, seconds: float) -> tuple[float, float]:
    """Medians over calls, for at least `seconds`, of the milliseconds that one unit of the body's work takes: on the clock,
    and of the processor. Where others use the core, only the second says what the work costs."""
    body.run()  # brings its data back into the caches after another body's turn
    laps, used, clock, processor = [], [], time.perf_counter, time.process_time
    gc.collect()  # little is left to look at: see `start`
    gc.disable()
    try:
        end = clock() + seconds
        while len(laps) < FEWEST or clock() < end:
            start, before = clock(), processor()
            body.run()
            used.append(processor() - before)
            laps.append(clock() - start)
    finally:
        gc.enable()
    return tuple(1e3 * statistics.median(values) / body.per_call for values in (laps, used))


def answer(definitions, bodies: dict, request: dict) -> object:
    if "time" in request:
        return milliseconds(bodies[request["time"]], request["seconds"])
    if "work" in request:
        return definitions.work(bodies[request["work"]]) if hasattr(definitions, "work") else {}
    return definitions.calibrate(**request["calibrate"])


def main(order: dict) -> None:
    if order.get("core") is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {order["core"]})  # before torch or jax count the cores
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not stand between the replies
    sys.path[:] = [order["tree"], *sys.path, *order.get("path", [])]

    def reply(function, *arguments) -> bool:
        try:
            value = {"value": function(*arguments)}
        except Exception as error:
            usage = type(error).__name__ == "UsageError"
            last = str(error).strip().splitlines()[-1:] or [""]
            value = {"error": last[0] if usage else f"{type(error).__name__}: {last[0]}", "usage": usage}
        replies.write(json.dumps(value) + "\n")
        return "value" in value

    held: dict = {}

    def start() -> dict:
        held["definitions"] = load(order["definitions"])
        held["bodies"] = held["definitions"].benchmarks(**order["settings"])
        for body in held["bodies"].values():
            for _ in range(WARM):
                body.run()
        gc.collect()
        gc.freeze()  # the libraries' own objects, which a collection between two bodies need not visit
        return {name: body.about for name, body in held["bodies"].items()}

    if not reply(start):
        return
    for line in sys.stdin:
        reply(answer, held["definitions"], held["bodies"], json.loads(line))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
