"""What a sweep leaves: sweep.json, the best configuration as a file of conf/algo, and its confirmation on fresh seeds."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bench.carry import carry, summary, unfinished
from bench.compose import algo_values
from bench.config import ALGO_META
from bench.grid import Cell
from bench.rundir import Experiment, RunDir, dump_json, read_sweep, replace_file
from bench.sweep.plan import SUFFIX, Plan
from bench.sweep.space import Space
from bench.sweep.storage import Opened, public
from bench.typed import UsageError
from bench.worker import IN_USE, locked, refuse_where_another_host_works

WRITING = 60.0  # seconds that another process gets to write sweep.json
FEWEST = 4  # complete trials from which the importance of parameters is looked at


def command(asked: Plan) -> list[str]:
    """The command line, without the password of the storage."""
    words = ["python", "-m", "bench", *sys.argv[1:]]
    return [word.replace(asked.storage, public(asked.storage)) if asked.storage else word for word in words]


def best(opened: Opened) -> FrozenTrial | None:
    """The complete trial with the largest value, the first of equal ones."""
    complete = [t for t in opened.trials() if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda t: (t.value, -t.number), default=None)


def budget(opened: Opened) -> dict[str, Any]:
    """What the search has cost: trials by their end, runs, environment frames, and hours of run processes."""
    trials = opened.trials()
    ends = {name.lower(): sum(t.state.name == name for t in trials) for name in ("COMPLETE", "PRUNED", "FAIL")}
    spent = {key: sum(t.user_attrs.get(key, 0) for t in trials) for key in ("runs", "env_steps", "hours")}
    return {"trials": sum(ends.values()), **ends, **spent, "hours": round(spent["hours"], 3)}


def tuned(asked: Plan, opened: Opened) -> dict[str, Any]:
    """What the run configurations of the winner say about how its settings were found; `before`: the same of the search
    that the algorithm came from, where it was a winner already."""
    found = budget(opened)
    where = {"envs": list(opened.asked.env_ids), "seeds": opened.asked.tuning_seeds, "trial": best(opened).number}
    earlier = algo_values(opened.asked.variant.algo, asked.preset).get("tuned")
    before = {} if earlier is None else {"before": earlier}
    return {"sweep": asked.path.name, "sampler": opened.asked.sampler, **found, **where, **before}


def winners(asked: Plan, opened: Opened, seeds: list[int]) -> list[Cell]:
    settings = opened.asked.space.settings(best(opened).params)
    return opened.asked.cells(settings, seeds, opened.asked.label + SUFFIX, tuned(asked, opened))


def config_file(asked: Plan, opened: Opened) -> str:
    """The winner as a file of conf/algo: what differs from the algorithm it starts from, and how it was found."""
    import yaml

    values, algo = winners(asked, opened, [0])[0].config.algo, opened.asked.variant.algo
    start = {} if ":" in algo else {"defaults": [algo]}
    known = {} if ":" in algo else algo_values(algo, asked.preset)
    changed = {key: value for key, value in values.items() if key != "name" and (key in ("tuned",) or known.get(key) != value)}
    found = changed["tuned"]
    head = (
        f"# Trial {found['trial']}, best of {found['trials']} of the sweep {found['sweep']} on {', '.join(found['envs'])}.\n"
        "# Copy it to conf/algo/ and name it in --algos; reports then say how it was tuned.\n"
    )
    return head + yaml.safe_dump(start | changed, sort_keys=False, allow_unicode=True)


def importance(opened: Opened) -> tuple[dict[str, float] | None, str]:
    """fANOVA importances (Hutter et al. 2014) of the parameters over the complete trials, or None and why there are none."""
    complete = [t for t in opened.trials() if t.state == TrialState.COMPLETE]
    if len(complete) < FEWEST or len({t.value for t in complete}) == 1 or len(opened.asked.space.parameters) < 2:
        return None, f"needs two parameters and {FEWEST} complete trials of different value or more, found {len(complete)}"
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.importance.get_param_importances(opened.study, evaluator=evaluator), ""
    except ImportError:
        return None, "needs scikit-learn; install this package with the extra `sweep`"
    except (RuntimeError, ValueError) as error:
        return None, str(error).splitlines()[0]


def snapshot(asked: Plan, studies: list[Opened]) -> None:
    """sweep.json, everything that the report shows, whichever storage the trials lie in; and the winners' files. What another
    process has written meanwhile stays: its other algorithms, and what it says of more trials."""
    own = {opened.asked.label: study_record(asked, opened) for opened in studies}
    with locked(asked.path / "sweep.lock", str(asked.path / "sweep.json"), WRITING):
        known = read_sweep(asked.path) or {
            "name": asked.path.name, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "studies": {},
        }  # fmt: skip
        there = known["studies"]
        own = {label: record for label, record in own.items() if label not in there or there[label]["asked"] <= record["asked"]}
        known |= {
            "storage": public(asked.storage), "preset": asked.preset, "confirm": asked.confirm, "command": command(asked),
            "studies": there | own,
        }  # fmt: skip
        replace_file(asked.path / "sweep.json", dump_json(known))
        for label, record in own.items():
            if record["config"]:
                replace_file(asked.path / "conf" / "algo" / f"{label}{SUFFIX}.yaml", record["config"].encode())


def study_record(asked: Plan, opened: Opened) -> dict[str, Any]:
    trials, winner = opened.trials(), best(opened)
    complete = not opened.unfinished()
    values, why = importance(opened) if complete else (None, "the sweep is not complete")
    text = config_file(asked, opened) if winner else None
    algo = opened.asked.base()[0].algo
    return {
        "asked": opened.asked.trials,
        "definition": opened.study.user_attrs["definition"],
        "git": opened.study.user_attrs.get("git"),
        "source": opened.asked.space.source,
        "defaults": {p.name: algo[p.sets[0]] for p in opened.asked.space.parameters},
        "budget": budget(opened),
        "best": winner and winner.number,
        "settings": winner and {k: v for k, v in winners(asked, opened, [0])[0].config.algo.items() if k not in ALGO_META},
        "config": text,
        "importance": values,
        "no_importance": why,
        "trials": [trial_record(trial, opened.asked.space) for trial in trials],
    }


def trial_record(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    names = ("env_steps", "hours", "runs", "error")
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        "params": {p.name: p.value(trial.params[p.name]) for p in space.parameters if p.name in trial.params},
        "curve": sorted(trial.intermediate_values.items()),
        **{name: trial.user_attrs[name] for name in names if name in trial.user_attrs},
    }


# -- the confirmation --------------------------------------------------------------------------------------------------


def confirm(asked: Plan, studies: list[Opened], retry_failed: bool) -> int:
    """Run the best configuration of each study and its defaults on the same fresh seeds, as an ordinary experiment; its
    failed runs again only if they are to be tried again.

    Returns 0, 1 where a run failed or a study has no winner, 3 where it was stopped or another process does it.
    """
    nothing = [opened.asked.label for opened in studies if best(opened) is None]
    for label in nothing:
        print(f"{label}: no trial is complete, so there is no best configuration; sweep.json says why each failed")
    won = [opened for opened in studies if best(opened) is not None]
    experiment = Experiment(asked.path, "confirm")
    if not won or not asked.confirm:
        return 1 if nothing else 0
    try:
        with locked(experiment.path / "lock", str(experiment.path)):
            cells = []
            for opened in won:
                seeds = seeds_of(experiment, opened.asked.label, asked.confirm)
                cells += [*opened.asked.cells({}, seeds), *winners(asked, opened, seeds)]
            for cell in cells:
                set_aside(asked.path, experiment.run_dir(cell.entry()), cell)
            indices = experiment.write(asked.preset, command(asked), [cell.entry() for cell in cells])
            outcome = carry(asked.engine, experiment, unfinished(experiment, indices, retry_failed))
            code = summary(experiment, indices, outcome)
    except UsageError as error:
        if IN_USE not in str(error):
            raise
        print(f"another process runs a confirmation ({experiment.path}); repeat the command when it is over")
        return 3
    return max(code, 1) if nothing and code != 3 else code


def seeds_of(experiment: Experiment, label: str, confirm: int) -> list[int]:
    """Those asked for, and those that the confirmation has of this search: runs of an earlier winner would be left beside."""
    known = [cell["seed"] for cell in experiment.cells() if cell["label"] == label + SUFFIX]
    more = max([confirm, *(seed + 1 for seed in known)])
    if more > confirm:
        print(f"{label}: confirmed on {more} seeds before, and so again, not on {confirm}")
    return list(range(more))


def set_aside(top: Path, directory: RunDir, cell: Cell) -> None:
    """A winner of fewer trials makes way for the new one; what was run is kept beside the confirmation. One that wins
    again stays, and says what the search has cost by now."""
    stored, search = directory.stored(), cell.config.algo.get("tuned", {})
    if stored is None or stored[0].algo.get("tuned", {}).get("trial") == search.get("trial"):
        directory.prepare(cell.config)  # refuses what cannot go on
        if stored is not None and stored[0].algo.get("tuned", {}) != search:
            old, values = stored
            old.algo["tuned"] = search
            directory.write_config(old, *(values[key] for key in ("auto", "changed", "spec")))
        return
    place = top / "replaced" / f"trial_{stored[0].algo['tuned']['trial']:04d}" / directory.path.relative_to(top / "confirm")
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory.path / "lock", str(directory.path)):
        refuse_where_another_host_works(directory)
        shutil.move(directory.path, place)
