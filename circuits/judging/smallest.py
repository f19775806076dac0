"""Size by goal: the smallest circuit that keeps as much of the behaviour as asked.

Sizes are tried in sections, several at once in one batched pass: a round of sizes that lie evenly
on a logarithmic axis, then one between the smallest that is enough and the next smaller that is
not. Faithfulness need not grow with size; what is found is the smallest size tried that is enough,
and the next smaller one tried is not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from circuits.circuit import Circuit
from circuits.running.trial import Trial, prepare, require_gap
from circuits.running.trial import run as run_circuits
from circuits.scores import Ranking, Scores
from circuits.select import top_n
from patching.ablations import Ablation, resample
from patching.metrics import Metric
from patching.model import Model
from patching.paths import Direction
from patching.span_graph import kept_apart, plain_of, spans_of
from patching.tasks.task import Task
from patching.work import Run

ENOUGH = 0.8
"""The share of the clean-corrupt gap that a circuit is asked to keep, unless told otherwise."""

AT_ONCE = 8
"""Sizes of one round."""

STEP = 0.02
"""Sizes nearer to each other than this share are not told apart."""


@runtime_checkable
class Selector(Protocol):
    """What makes a circuit of some size from scores: `top_n`, `greedy`, or one's own."""

    def __call__(self, scores: Scores, n: int, *, ranking: Ranking, prune: bool) -> Circuit:
        """The circuit of n edges, or of what pruning leaves of them."""
        ...


@dataclass(frozen=True)
class Goal:
    """How much of the gap a circuit is to keep, and of which circuits the smallest is wanted.

    `faithfulness` is a share of the clean-corrupt gap, of means over prompts, above 0 and at most
    1. `wrong_sign` accepts a task where corrupt prompts do better than clean ones.

    Raises:
        ValueError: if the share is not above 0 and at most 1.
    """

    ranking: Ranking
    faithfulness: float = ENOUGH
    select: Selector = top_n
    prune: bool = True
    ablation: Ablation = resample
    direction: Direction = "noising"
    wrong_sign: bool = False

    def __post_init__(self) -> None:
        check_share(self.faithfulness)


def smallest(
    model: Model,
    task: Task,
    scores: Scores,
    metric: Metric,
    goal: Goal,
    *,
    batch_size: int = 16,
    run: Run | None = None,
) -> Circuit:
    """The smallest circuit of the best edges that keeps the share of the gap that is asked for.

    On these prompts, to 2 % of its size: judge it on others. `provenance["selection"]` says what it
    reached here (`reached`), and how many circuits were run for it (`tried`), some 20 to 30.

    >>> from circuits.scoring import eap_ig
    >>> from patching.metrics import logit_diff
    >>> from patching.models import induction
    >>> model, known = Model.load("truth/induction"), induction(n=6)
    >>> scores = eap_ig(model, known.task, logit_diff)
    >>> circuit = smallest(model, known.task, scores, logit_diff, Goal("absolute", 0.9))
    >>> circuit.size == len(known.active_edges)
    True

    Raises:
        ValueError: if the scores are of another graph, or clean and corrupt do not differ or
            corrupt does better.
    """
    model.graph.require_same(plain_of(scores.graph), "these scores are")
    task = task.with_spans_of(spans_of(scores.graph))
    trial = prepare(
        model,
        task,
        metric,
        ablation=goal.ablation,
        direction=goal.direction,
        batch_size=batch_size,
        kept_in=run,
    )

    def choose(n: int) -> Circuit:
        return goal.select(scores, n, ranking=goal.ranking, prune=goal.prune)

    return smallest_of(trial, choose, goal.faithfulness, wrong_sign=goal.wrong_sign)


def smallest_of(
    trial: Trial,
    choose: Callable[[int], Circuit],
    faithfulness: float,
    *,
    wrong_sign: bool = False,
) -> Circuit:
    """`smallest` of whatever `choose` makes of a number of edges; all of them keep everything.

    Raises:
        ValueError: if the share is not above 0 and at most 1, or clean and corrupt do not differ or
            corrupt does better.
    """
    check_share(faithfulness)
    low, high = 0, kept_apart(trial.model.graph, trial.task.apart).n_edges  # not enough, enough
    best, reached, tried = choose(high), 1.0, 0
    while sizes := between(low, high):
        circuits = [choose(n) for n in sizes]
        found = run_circuits(trial, circuits)
        require_gap(found, trial.metric, wrong_sign=wrong_sign)
        tried += len(sizes)
        kept = found.faithfulness.tolist()
        enough = [i for i, share in enumerate(kept) if share >= faithfulness]
        if enough:
            high, best, reached = sizes[enough[0]], circuits[enough[0]], kept[enough[0]]
        low = max((n for n in sizes if n < high), default=low)
    said = {"goal": faithfulness, "reached": reached, "tried": tried}
    return with_selection(best, said)


def between(low: int, high: int) -> list[int]:
    """Sizes to try between two that are told apart, evenly on a logarithmic axis.

    >>> between(0, 100)
    [1, 2, 3, 5, 8, 13, 22, 36, 60]
    >>> between(97, 98)
    []
    """
    if high - low <= max(1, STEP * high):
        return []
    steps = np.geomspace(max(low, 1), high, AT_ONCE + 2).round().astype(int).tolist()
    return sorted({*steps} - {low, high})


def check_share(faithfulness: float) -> None:
    """Check that a circuit can be asked to keep so much.

    Raises:
        ValueError: if the share is not above 0 and at most 1.
    """
    if not 0 < faithfulness <= 1:
        raise ValueError(
            f"a circuit is asked to keep a share above 0 and at most 1 of the gap, such as "
            f"{ENOUGH}, got {faithfulness}"
        )


def with_selection(circuit: Circuit, said: dict[str, object]) -> Circuit:
    """A circuit whose provenance says more of how its edges were chosen."""
    before = circuit.provenance.get("selection")
    selection = {**(before if isinstance(before, dict) else {}), **said}
    return replace(circuit, provenance={**circuit.provenance, "selection": selection})
