"""Section 4.3 of the QSM paper: tabular Q-score matching in a gridworld, and what alpha does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from algos.tabular import (
    MDP,
    Iteration,
    entropy,
    evaluate,
    optimal_value,
    q_score_matching,
    soft_policy_iteration,
    state_value,
)
from bench.reproduce import Context, Study
from reports.figures import Panel, draw, lines, looks
from reports.html import INK, WHITE, Figure, Section, Table, Text
from reports.reproduction import Claim, Findings, Verdict, decided, heatmaps, line
from reports.words import number

MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # up, right, down, left, in (row, column)
SIZE, START, GOAL, TRAP = 6, (0, 0), (5, 5), (2, 3)
ITERATIONS = {"Q-score matching": q_score_matching, "soft policy iteration": soft_policy_iteration}
DECIDES = np.array([(row, column) not in (GOAL, TRAP) for row in range(SIZE) for column in range(SIZE)])
LN4 = float(np.log(4))


@dataclass(frozen=True)
class Budget:
    """Inverse temperatures, and the number of random starting policies at each."""

    alphas: tuple[float, ...] = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
    starts: int = 20

    def __str__(self) -> str:
        return f"exact; {len(self.alphas)} values of alpha, each from the uniform and {self.starts} random policies."


def grid() -> MDP:
    """6 x 6 cells; the goal (+1) and the trap (-1) absorb, any other move costs 0.04, walls mean stay; gamma 0.95.

    The paper does not state its grid; this one is ours.
    """
    cells = [(row, column) for row in range(SIZE) for column in range(SIZE)]
    transition, reward = np.zeros((len(cells), 4, len(cells))), np.full((len(cells), 4), -0.04)
    for s, cell in enumerate(cells):
        for a, move in enumerate(MOVES):
            to = tuple(int(x) for x in np.clip(np.array(cell) + move, 0, SIZE - 1))
            transition[s, a, cells.index(to) if DECIDES[s] else s] = 1
            if not DECIDES[s]:
                reward[s, a] = 0
            elif to in (GOAL, TRAP):
                reward[s, a] = 1 if to == GOAL else -1
    return MDP(transition, reward, 0.95)


def measure(mdp: MDP, done: Iteration) -> dict[str, float]:
    """What an iteration ended with: updates, last change, mean entropy over the states that decide, V(start)."""
    return {
        "updates": done.updates,
        "change": done.change,
        "entropy": float(entropy(done.policy)[DECIDES].mean()),
        "value": float(state_value(mdp, done.policy)[0]),
    }


def spread_of_ends(mdp: MDP, alpha: float, starts: int) -> float:
    """Largest difference of Q^pi between the ends of q_score_matching from random policies and from the uniform one."""
    generator = np.random.default_rng(0)
    reference = evaluate(mdp, q_score_matching(mdp, alpha).policy)
    worst = 0.0
    for policy in generator.dirichlet(np.full(4, 0.3), size=(starts, SIZE * SIZE)):
        ended = q_score_matching(mdp, alpha, policy).policy
        worst = max(worst, float(np.abs(evaluate(mdp, ended) - reference).max()))
    return worst


def run(budget: Budget, context: Context) -> Findings:
    mdp = grid()
    policies = {name: [iterate(mdp, alpha) for alpha in budget.alphas] for name, iterate in ITERATIONS.items()}
    rows = {name: [measure(mdp, done) for done in group] for name, group in policies.items()}
    ends = [spread_of_ends(mdp, alpha, budget.starts) for alpha in budget.alphas]
    best = float(optimal_value(mdp)[0])
    numbers = {"alphas": list(budget.alphas), "optimal_value": best, "iterations": rows, "spread_of_ends": ends}
    sections = [figures(mdp, budget, policies, rows, best), table(budget, rows, ends)]
    return Findings(judge(budget.alphas, rows["Q-score matching"], ends, best), numbers, sections)


def judge(alphas: Sequence[float], rows: list[dict], ends: list[float], best: float) -> dict[str, Verdict]:
    """rows: what `measure` found at each alpha, from the smallest on; ends: `spread_of_ends` there; best: optimal V(start)."""
    entropies = [row["entropy"] for row in rows]
    falls = all(a > b for a, b in itertools.pairwise(entropies))
    settled = all(row["change"] <= 1e-10 for row in rows) and max(ends) <= 1e-6
    return {
        "entropy": decided(
            falls and entropies[0] >= 0.99 * LN4 and rows[-1]["value"] >= best - 1e-3,
            f"Mean entropy goes from {number(entropies[0], 4)} (ln 4 = {number(LN4, 4)}) at alpha {alphas[0]:g} to "
            f"{number(entropies[-1], 4)} at {alphas[-1]:g}, {'at each step down' if falls else 'not monotonically'}; "
            f"V(start) reaches {number(rows[-1]['value'], 4)} of {number(best, 4)}.",
        ),
        "converges": decided(
            settled,
            f"At most {max(row['updates'] for row in rows)} updates to a change below 1e-10; from random starts Q differs by "
            f"at most {max(ends):.1e}. This is an observation on one grid: no contraction is known for eq. 20.",
        ),
    }


def figures(mdp: MDP, budget: Budget, policies: dict, rows: dict, best: float) -> Section:
    look = looks([*rows, "optimal value"])
    x = np.log10(budget.alphas)

    def panel(title: str, key: str, levels=()) -> Panel:
        series = [line(name, x, [row[key] for row in group]) for name, group in rows.items()]
        return Panel(title, "log10 alpha", "", series, levels=levels)

    panels = [
        panel("mean entropy, nats", "entropy"),
        panel("value of the start", "value", [line("optimal value", x, np.full(len(x), best))]),
        panel("updates to 1e-10", "updates"),
    ]
    curves = draw(
        "gridworld-alpha", "What alpha does", "Entropy falls and value rises with alpha under both iterations.",
        lambda: lines(panels, look),
    )  # fmt: skip
    text = (
        "alpha acts as an inverse temperature under both iterations. Their fixed points differ in between: soft policy "
        "iteration counts the entropy of later decisions as reward, eq. 20 does not, and at medium alpha eq. 20 keeps more "
        "entropy and earns less. Its fixed point is not the maximum-entropy optimum. In the limit a residual entropy remains "
        "where several moves are equally good."
    )
    return Section("figures", "Entropy, value and policy", [Text(text), curves, *maps(mdp, budget, policies)])


def maps(mdp: MDP, budget: Budget, policies: dict) -> list[Figure]:
    shown = [i for i in range(len(budget.alphas)) if budget.alphas[i] in (1, 10, 100, 1000)] or [0]
    drawn = [policies["Q-score matching"][i].policy for i in shown]

    def panels(of: Callable[[np.ndarray], np.ndarray]) -> list[tuple[str, np.ndarray]]:
        cells = [of(policy).reshape(SIZE, SIZE) for policy in drawn]
        return [(f"alpha {budget.alphas[i]:g}", matrix) for i, matrix in zip(shown, cells, strict=True)]

    def arrows(axis, i: int) -> None:
        mean = (drawn[i] @ MOVES).reshape(SIZE, SIZE, 2)
        mean[tuple(np.array([GOAL, TRAP]).T)] = 0
        rows, columns = np.mgrid[:SIZE, :SIZE]
        axis.quiver(columns, rows, mean[..., 1], -mean[..., 0], color=WHITE, scale=9, width=0.012, pivot="middle")
        names(axis, i)

    def names(axis, i: int) -> None:
        for text, (row, column) in (("G", GOAL), ("T", TRAP)):
            axis.text(column, row, text, ha="center", va="center", color=INK, fontsize=9, weight="bold",
                      bbox={"facecolor": WHITE, "boxstyle": "circle,pad=0.15", "lw": 0})  # fmt: skip

    value = draw(
        "gridworld-maps", "Value and mean move under tabular Q-score matching",
        "Value maps with arrows: hardly any direction at alpha 1, straight paths to the goal at alpha 1000.",
        lambda: heatmaps(panels(lambda policy: state_value(mdp, policy)), paint=arrows, label="V"),
        how="Colour is V without entropy bonus; an arrow is the mean move, long where the policy is sure. G goal, T trap.",
    )  # fmt: skip
    unsure = draw(
        "gridworld-entropy", "Entropy of the policy in each cell",
        "Entropy maps: everywhere nearly ln 4 at alpha 1; at alpha 1000 only where two moves are equally good.",
        lambda: heatmaps(panels(lambda policy: np.where(DECIDES, entropy(policy), np.nan)), paint=names, label="nats"),
        how="ln 4 = 1.39 is a uniform policy, ln 2 = 0.69 two moves that are equally good. G and T end an episode.",
    )  # fmt: skip
    return [value, unsure]


def table(budget: Budget, rows: dict, ends: list[float]) -> Section:
    body = []
    for i, alpha in enumerate(budget.alphas):
        both = [(str(r["updates"]), number(r["entropy"], 4), number(r["value"])) for r in (group[i] for group in rows.values())]
        body.append([f"{alpha:g}", *itertools.chain(*both), f"{ends[i]:.0e}"])
    columns = ["alpha", "eq. 20: updates", "entropy", "V(start)", "soft PI: updates", "entropy", "V(start)", "start matters by"]
    note = "Entropy: mean over the 34 states that decide. Start matters by: largest difference of Q between starting policies."
    return Section("numbers", "Numbers", [Table(columns, body, "Fixed points at each alpha", note)])


STUDY = Study(
    title="Tabular Q-score matching in a gridworld",
    source="arXiv 2312.11752, section 4.3, eq. 20, Figure 2",
    setup="The paper does not state its grid. Here it has 6 x 6 cells; start and goal (+1) lie in opposite corners, a trap "
    "(-1) in the third row and fourth column; both end the episode. Any other move costs 0.04, one against a wall "
    "stays where it is, and gamma is 0.95.",
    claims=(
        Claim(
            "entropy",
            "alpha is an inverse entropy regularisation: the lower it is, the higher the entropy of the converged policy.",
            "Holds if the mean entropy falls strictly with alpha, from at least 0.99 ln 4 at the smallest, and V(start) at the "
            "largest alpha lies within 0.001 of the optimum.",
        ),
        Claim(
            "converges",
            "The update pi' = softmax(alpha Q^pi) converges to one policy.",
            "Holds if at every alpha the change falls below 1e-10 within 10,000 updates, and the ends from random starting "
            "policies differ by at most 1e-6 in Q.",
        ),
    ),
    budgets={"quick": Budget(), "long": Budget(starts=200), "full": Budget(starts=200)},
    run=run,
)
