"""What studies that train share: an ordinary experiment, run and resumed by the ordinary machinery, and read by the reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench import carry
from bench.engines.common import stop_requests
from bench.grid import parse_envs, parse_variants
from bench.reproduce import PRESETS, Context, Stopped
from bench.rundir import Experiment
from bench.typed import UsageError, user_error
from reports import clocks, load, plots, summary
from reports.figures import looks
from reports.html import Section, Table, Text
from reports.load import Collection, Run
from reports.merge import merge
from reports.reproduction import OPEN, Verdict
from reports.words import estimate, large, listing, number, plural

TINY = "actor_hidden=[64,64],critic_hidden=[64,64],batch_size=128"  # of the quick presets: four times cheaper
SMALL = ("algo.actor_hidden=[64,64]", "algo.critic_hidden=[64,64]", "algo.batch_size=128", "env.action_repeat=8")
COMPARATOR = (
    "Diffusion-QL is this benchmark's `dql`, whose actor follows the online critics, normalised, and not the online variant in "
    "the QSM paper's own code, which follows the smaller target critic as it is; docs/algorithms.md has the rest."
)
SAYS = "Networks of 2 x 64 and a few thousand frames at action repeat 8: made to show that all runs, and little else."


@dataclass(frozen=True)
class Grid:
    """A grid as `python -m bench run` takes it."""

    algos: str
    envs: str
    seeds: int
    settings: tuple[str, ...] = ()  # key=value
    preset: str = "quick"
    note: str = ""  # what a reader has to know of this budget

    def __str__(self) -> str:
        settings = " ".join([f"preset {self.preset}", *self.settings])
        text = f"{plural(self.seeds, 'seed')} of {self.algos} on {self.envs}, {settings}."
        return f"{text} {self.note}".strip()

    def train(self, context: Context) -> Results:
        """Run what is missing of it as <root>/reproduce-<study>-<preset>. Raises Stopped where it was interrupted."""
        name = f"reproduce-{context.name}-{context.preset}"
        device = [f"device={context.how.device}"] if context.how.device else []
        asked = (self.preset, self.algos, self.envs, str(self.seeds), [*self.settings, *device])
        with stop_requests() as stopping:
            try:
                code = carry.run_grid(*asked, root=context.root, name=name, how=context.how, report=False)
            except UsageError as error:  # of an experiment that is there: here its name is the study's, and its place one's own
                raise UsageError(str(error).replace("--name", "--root")) from error
        if stopping or code == 3:  # a signal may come when the runs are over; then no other grid is begun
            raise Stopped
        labels = {variant.label for variant in parse_variants(self.algos)}
        return Results(Experiment(context.root, name), context.preset, labels, set(parse_envs(self.envs)), self.seeds)


class Results:
    """A grid's runs as the reports see them: `collection`, a row for each seed, and the summary of all. What else lies in the
    experiment's directory, of a former grid of that name, is left out."""

    def __init__(self, experiment: Experiment, preset: str, labels: set[str], envs: set[str], seeds: int):
        self.name, self.preset = experiment.path.name, preset
        found = user_error(lambda: load.read([experiment.path]))
        for name in ("runs", "missing"):
            asked = [at for at in getattr(found, name) if at.env in envs and at.label in labels and at.seed < seeds]
            setattr(found, name, asked)
        self.collection: Collection = user_error(lambda: merge(found))
        clocks.leave_out_other_work(self.collection)
        self.rows = summary.per_seed(self.collection)
        self.summary = summary.summarise(self.collection, self.rows, allow_partial=True)
        self.look = looks(self.summary["labels"])

    @property
    def done(self) -> list[Run]:
        return [run for run in self.collection.runs if run.state == "done"]

    def runs(self, label: str, env: str | None = None) -> list[Run]:
        """The finished runs of a label, by seed."""
        found = [run for run in self.done if run.label == label and env in (None, run.env)]
        return sorted(found, key=lambda run: (run.env, run.seed))

    def values(self, column: str, label: str, env: str | None = None) -> np.ndarray:
        """A column of the rows of a label's finished runs [n]."""
        rows = [row for row in self.rows if row["label"] == label and env in (None, row["env"]) and row["scored"]]
        return np.array([row[column] for row in rows if row.get(column) is not None], dtype=np.float64)

    def times(self, column: str, *labels: str) -> list[np.ndarray]:
        """A column of times of each label's finished runs, [n] each, where these times compare the labels: of runs that were
        timed under one set-up, and none if they were under several."""
        rows = [row for row in self.rows if row["scored"] and row["label"] in labels and row["condition"]]
        if len({row["condition"] for row in rows}) > 1:
            rows = []
        return [np.array([row[column] for row in rows if row["label"] == label and row.get(column)]) for label in labels]

    def tasks(self, label: str, column: str = "final_normalised") -> list[np.ndarray]:
        """A column of a label for each environment, as reports.stats wants it."""
        return [self.values(column, label, env) for env in self.summary["envs"]]

    def learned(self, least: float, *labels: str, each: bool = False) -> Verdict | None:
        """None if one of the labels (of all, by default), or each of them, reached `least` in the mean of final normalised
        scores over tasks; otherwise an open verdict that says how far they came."""
        means = {}
        for label in labels or self.summary["labels"]:
            values = [task.mean() for task in self.tasks(label) if len(task)]
            means[label] = float(np.mean(values)) if values else 0.0
        asked = (min if each else max)(means, key=means.get)
        if means[asked] >= least:
            return None
        of = f" of {listing(labels)}" if labels else ""
        return Verdict(
            OPEN,
            f"Nothing has been learned that could be compared: the {'lowest' if each else 'highest'} mean final score{of} is "
            f"{number(means[asked])} of the normalised range ({asked}), and the rule asks for {least:g}. Runs of more frames "
            f"come first{larger_budget(self.preset)}.",
        )

    def numbers(self) -> dict:
        """Rows and summary for summary.json, without what depends on the machine's paths."""
        kept = ("env", "label", "seed", "state", "untrained", "final", "best", "auc", "final_normalised", "updates",
                "ms_per_update", "ms_actor", "condition")  # fmt: skip
        return {"runs": [{key: row.get(key) for key in kept} for row in self.rows], "pairs": self.summary["pairs"]}

    def curves(self, title: str = "Returns") -> Section:
        """Learning curves of each environment, the scores, and what is missing."""
        blocks: list = missing(self)
        scored = plots.scored_runs(self.collection, self.rows)
        for env in self.summary["envs"]:
            cells = [cell for cell in self.summary["cells"] if cell["env"] == env]
            blocks.append(plots.learning_curves(self.collection, env, scored, cells, self.look))
        spent = [run.clock.total[-1] for run in self.done if np.isfinite(run.clock.total[-1:]).any()]
        if spent:
            hours = number(sum(spent) / 3600, 2)
            blocks.append(Text(f"{plural(len(spent), 'finished run')}, {hours} hours if one had come after another."))
        rows = [
            [cell["env"], cell["label"], f"{cell['n']} of {cell['asked']}", large(cell["budget"]),
             *(estimate(cell[name]) for name in ("untrained", "final", "best", "auc"))]
            for cell in self.summary["cells"]
        ]  # fmt: skip
        columns = ["environment", "algorithm", "n", "frames", "untrained", "final", "best", "AUC"]
        note = "Means over finished seeds with 95 % t intervals; none below three seeds."
        return Section("returns", title, [*blocks, Table(columns, rows, "Scores", note)])


def larger_budget(preset: str) -> str:
    """What to ask for where a preset's budget is too small."""
    larger = PRESETS[PRESETS.index(preset) + 1 :]
    return f" (--preset {' or '.join(larger)})" if larger else ""


def missing(*grids: Results) -> list[Text]:
    """What has no finished run, if anything: a page says it before it draws on the others."""
    rows = [(found, row) for found in grids for row in found.rows if row["state"] != "done"]
    if not rows:
        return []
    place = {id(found): f"{found.name}/" if len(grids) > 1 else "" for found in grids}
    names = [f"{place[id(found)]}{row['env']}/{row['label']}/seed_{row['seed']} ({row['state']})" for found, row in rows[:6]]
    more = f" and {len(rows) - 6} more" if len(rows) > 6 else ""
    return [Text(f"Without {listing(names)}{more}.", "notice")]


def over_tasks(found: Mapping[tuple[str, int], float], tasks: Sequence[str]) -> np.ndarray:
    """Means over tasks [n] of values by task and seed, for each seed that every task has: none where a task has none. Seeds
    of different tasks have nothing in common, so that any pairing of them gives independent means."""
    seeds = sorted({seed for _, seed in found})
    whole = [seed for seed in seeds if all((env, seed) in found for env in tasks)]
    return np.array([np.mean([found[env, seed] for env in tasks]) for seed in whole])


def sampled(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """A run's probes: frames [E], and actions [E, P, M, A] drawn at the first states of P episodes."""
    with np.load(run.path / "probes.npz") as stored:
        return stored["env_step"].astype(float), stored["actions"].astype(np.float64)


def paired_seconds(functions: Sequence, repeats: int) -> np.ndarray:
    """Seconds [repeats, functions], taken in turn, so that what the machine does besides falls on all alike."""
    for function in functions:
        function()
    taken = np.empty((repeats, len(functions)))
    for i in range(repeats):
        for j, function in enumerate(functions):
            start = time.perf_counter()
            function()
            taken[i, j] = time.perf_counter() - start
    return taken
