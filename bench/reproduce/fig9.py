"""Figure 9 of the QSM paper: deeper diffusion on a harder task."""

from __future__ import annotations

from bench.reproduce import Context, Study
from bench.reproduce.grids import SAYS, SMALL, Grid, Results
from reports.html import Section, Table
from reports.reproduction import Claim, Findings, gated, larger
from reports.words import NOTHING, number

DEPTHS, LEARNED = (5, 10, 20, 50), 0.2
ALGOS = ",".join(f"T{depth}=qsm(T={depth})" for depth in DEPTHS)


def run(budget: Grid, context: Context) -> Findings:
    results = budget.train(context)
    deep, shallow = (f"T{depth}" for depth in (DEPTHS[-1], DEPTHS[0]))
    found = larger(results.tasks(deep), results.tasks(shallow), f"T = {DEPTHS[-1]} minus T = {DEPTHS[0]}, normalised")
    verdicts = {"depth": gated(results.learned(LEARNED), found)}
    return Findings(verdicts, results.numbers(), [results.curves(), cost(results)])


def cost(results: Results) -> Section:
    labels = [f"T{depth}" for depth in DEPTHS]
    columns = [results.times(column, *labels) for column in ("ms_actor", "ms_per_update")]
    rows = [
        [str(depth), *(number(times.mean()) if len(times) else NOTHING for times in found)]
        for depth, *found in zip(DEPTHS, *columns, strict=True)
    ]
    kind = "Seconds of the processor" if results.collection.shares else "Wall-clock"
    note = (
        f"{kind}, from the runs themselves, where one set-up timed them all. The actor's update does not depend on T; the "
        "critic's target and acting take T forward passes."
    )
    table = Table(["T", "ms, actor's update", "ms, whole update"], rows, "Update time", note)
    return Section("cost", "What depth costs", [table])


STUDY = Study(
    title="Deeper diffusion on a harder task",
    source="arXiv 2312.11752, appendix A, Figure 9",
    setup="The paper's text does not name its harder tasks; walker-run, or quadruped-run and humanoid-walk at full, and the "
    "depths are chosen here.",
    claims=(
        Claim(
            "depth",
            "On more complex tasks QSM profits from a deeper diffusion policy.",
            f"Holds if the 95 % interval of the final score with T = {DEPTHS[-1]} minus that with T = {DEPTHS[0]} lies above "
            f"0; does not hold if it lies below. Not decidable unless one depth reaches {LEARNED} of the range.",
        ),
    ),
    budgets={
        "quick": Grid(ALGOS, "dmc/walker-run", 3,
                      ("steps=6000", "warmup=1040", "eval_every=3000", "eval.episodes=3", *SMALL), note=SAYS),
        "long": Grid(ALGOS, "dmc/walker-run", 3, ("steps=80000", "env.action_repeat=8", "eval.episodes=5")),
        "full": Grid(ALGOS, "dmc/quadruped-run,dmc/humanoid-walk", 10, ("algo.m_q=120",), preset="paper"),
    },
    run=run,
)  # fmt: skip
