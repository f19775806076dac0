"""Faithfulness curves: how much circuits of every size keep, and how sure that is.

Runs all circuits of a curve, random ones included, in one call. What a curve holds is in `points`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.chance import (
    layer_matched_circuits,
    layer_matched_nodes,
    uniform_circuits,
    uniform_nodes,
)
from circuits.judging.points import Conditions, Curve
from circuits.judging.smallest import Selector
from circuits.nodes import top_nodes
from circuits.provenance import describe
from circuits.running.evaluation import Evaluation
from circuits.running.trial import Trial, prepare, require_gap, run_all
from circuits.scores import Ranking, Scores
from circuits.select import prune, top_n
from patching.ablations import Ablation, resample
from patching.graph import Graph
from patching.intervals import check_draws, interval, ratio_of_means
from patching.metrics import Metric, accuracy, kl, name_of
from patching.model import Model
from patching.paths import Direction
from patching.span_graph import plain_of, spans_of
from patching.tasks.task import Task
from patching.work import Run

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Sizes of the MIB benchmark, as shares of all edges. Mueller et al. 2025, arXiv:2504.13151."""


@dataclass(frozen=True)
class Sweep:
    """Which circuits make a curve, and how many random ones and draws say how sure it is.

    `sizes` are numbers of edges before pruning, `MIB_SHARES` of the graph's edges if not given.
    `prune` drops edges on no path from `embed` to `logits`, of random circuits too; under zero or
    mean ablation this changes what a circuit does. `n_random` is per size and kind (uniform,
    layer-matched). `n_bootstrap` draws of examples make the intervals; 0 leaves them out.
    `wrong_sign` accepts a task where corrupt prompts do better than clean ones. `select` makes a
    circuit of edges from scores.

    With `granularity` nodes, sizes are numbers of heads and MLPs, chosen by the sum of their
    edges' scores, and nothing is pruned. `ablated` inside takes the circuit itself out and leaves
    the rest. For `direction`, see `evaluate`.
    """

    ranking: Ranking
    sizes: Sequence[int] | None = None
    prune: bool = True
    n_random: int = 10
    n_bootstrap: int = 1000
    seed: int = 0
    ablation: Ablation = resample
    wrong_sign: bool = False
    granularity: Literal["edges", "nodes"] = "edges"
    ablated: Literal["outside", "inside"] = "outside"
    direction: Direction = "noising"
    select: Selector = top_n


def curve(
    model: Model,
    task: Task,
    scores: Scores,
    metric: Metric,
    sweep: Sweep,
    *,
    batch_size: int = 16,
    run: Run | None = None,
) -> Curve:
    """Circuits of the best edges at every size, run on a task beside random circuits.

    Faithfulness is (circuit - corrupt) / (clean - corrupt), of means over examples: 1 is the whole
    model, 0 the empty circuit (under resampling the corrupt run), and nothing keeps it between.
    Every distinct circuit is run once, in a `run` as by `evaluate`.

    Raises:
        ValueError: if the scores are of another graph, a size is out of range, clean and corrupt
            do not differ or corrupt does better, or there are too few examples for intervals.
    """
    _check(model, task, scores, sweep)
    task = task.with_spans_of(spans_of(scores.graph))
    shares, requested = _sizes(sweep, scores.graph)
    whole = [_choose(scores, n, sweep) for n in requested]
    circuits = [prune(circuit) for circuit in whole] if _prunes(sweep) else whole
    runs = [*circuits, *_random_circuits(whole, sweep)]
    trial = prepare(
        model,
        task,
        metric,
        ablation=sweep.ablation,
        direction=sweep.direction,
        batch_size=batch_size,
        kept_in=run,
    )
    runs = [~circuit for circuit in runs] if sweep.ablated == "inside" else runs
    found = run_all(trial, runs, (metric, kl, accuracy))
    require_gap(found[0], metric, wrong_sign=sweep.wrong_sign)
    return _curve(trial, scores, sweep, circuits, found, shares, requested)


def _prunes(sweep: Sweep) -> bool:
    return sweep.prune and sweep.granularity == "edges"


def _curve(
    trial: Trial,
    scores: Scores,
    sweep: Sweep,
    circuits: Sequence[Circuit],
    runs: Sequence[Evaluation],
    shares: tuple[float, ...],
    requested: tuple[int, ...],
) -> Curve:
    """Put together from runs of the circuits, then of the random ones, by each metric."""
    n, (found, by_kl, by_accuracy) = len(circuits), runs
    kept = found.faithfulness[n:].reshape(n, 2, sweep.n_random)
    return Curve(
        circuits=tuple(circuits),
        shares=shares,
        requested=requested,
        ranking=sweep.ranking,
        values=found.values[:n],
        clean=found.clean,
        corrupt=found.corrupt,
        kl=by_kl.values[:n],
        accuracy=by_accuracy.values[:n],
        intervals=_intervals(found.values[:n], found, sweep),
        uniform=kept[:, 0],
        layer_matched=kept[:, 1],
        pruned=_prunes(sweep),
        n_bootstrap=sweep.n_bootstrap,
        seed=sweep.seed,
        conditions=conditions(trial, sweep),
        provenance=_provenance(trial, scores, sweep),
    )


def conditions(trial: Trial, sweep: Sweep) -> Conditions:
    """What a faithfulness number from this trial says."""
    graph = trial.model.graph
    noising = "noising: the clean prompt runs, removed edges carry the ablation"
    denoising = "denoising: the corrupt prompt runs, edges of the circuit carry the clean writes"
    parts = {
        "edges": "edges between writers and readers of the residual stream"
        + (", at each span" if trial.task.apart else ""),
        "nodes": "nodes: whole heads and MLPs",
    }
    sets = {
        "outside": "every edge outside the circuit",
        "inside": "every edge of the circuit (what is left is its complement)",
    }
    return Conditions(
        granularity=parts[sweep.granularity],
        components=f"embedding, heads (q, k, v apart), MLPs, logits: {graph.describe()}",
        ablation=trial.ablation.name,
        positions=f"by span: {', '.join(spans)}" if (spans := trial.task.apart) else "all tokens",
        direction=noising if trial.direction == "noising" else denoising,
        ablated_set=sets[sweep.ablated],
        metric=name_of(trial.metric),
        averaging="ratio of means over examples (per-example ratios beside it)",
    )


def _choose(scores: Scores, n: int, sweep: Sweep) -> Circuit:
    if sweep.granularity == "nodes":
        return top_nodes(scores, n, ranking=sweep.ranking)
    return sweep.select(scores, n, ranking=sweep.ranking, prune=False)


def _random_circuits(whole: Sequence[Circuit], sweep: Sweep) -> Iterator[Circuit]:
    """By size, then kind, then number."""
    for circuit in whole:
        if sweep.granularity == "nodes":
            for draw in (uniform_nodes, layer_matched_nodes):
                yield from draw(circuit, sweep.n_random, seed=sweep.seed)
            continue
        for draw in (uniform_circuits, layer_matched_circuits):
            yield from draw(circuit, sweep.n_random, seed=sweep.seed, pruned=sweep.prune)


def _intervals(
    values: Float[Tensor, "circuit example"], found: Evaluation, sweep: Sweep
) -> Float[Tensor, "circuit 2"]:
    runs = values, found.clean, found.corrupt
    ends = interval(ratio_of_means, *runs, n=sweep.n_bootstrap, seed=sweep.seed)
    return torch.from_numpy(np.stack(ends, axis=1))


def _sizes(sweep: Sweep, graph: Graph) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Shares and numbers of edges or nodes; MIB cuts fractions of an edge off."""
    total = _total(sweep, graph)
    if sweep.sizes is None:
        return MIB_SHARES, tuple(int(share * total) for share in MIB_SHARES)
    return tuple(n / total for n in sweep.sizes), tuple(sweep.sizes)


def _total(sweep: Sweep, graph: Graph) -> int:
    """How many edges, or heads and MLPs, there are."""
    return graph.n_edges if sweep.granularity == "edges" else len(graph.sources) - 1


def _check(model: Model, task: Task, scores: Scores, sweep: Sweep) -> None:
    model.graph.require_same(plain_of(scores.graph), "these scores are")
    if spans_of(scores.graph) and sweep.granularity == "nodes":
        raise ValueError("whole nodes have no span; take granularity='edges', or collapsed scores")
    check_draws(sweep.n_bootstrap, len(task))
    if sweep.n_random < 0:
        raise ValueError(f"cannot draw {sweep.n_random} random circuits; 0 leaves them out")
    if sweep.sizes is None:
        return
    sizes, total = list(sweep.sizes), _total(sweep, scores.graph)
    if not sizes:
        raise ValueError("a curve needs at least one size, got none")
    if sizes != sorted(sizes):
        raise ValueError(f"the sizes of a curve go from small to large, got {sizes}")
    wrong = [n for n in sizes if not 0 <= n <= total]
    if wrong:
        raise ValueError(
            f"no circuit can have {wrong[0]} {sweep.granularity}; this graph has {total}, 0 least"
        )


def _provenance(trial: Trial, scores: Scores, sweep: Sweep) -> dict[str, object]:
    options = {
        "ranking": sweep.ranking,
        "prune": sweep.prune,
        "granularity": sweep.granularity,
        "n_random": sweep.n_random,
        "n_bootstrap": sweep.n_bootstrap,
        "seed": sweep.seed,
    }
    if sweep.select is not top_n:
        options["selector"] = getattr(sweep.select, "__name__", "one's own")
    said = asdict(conditions(trial, sweep))
    method, ablation = "faithfulness curve", str(said["ablation"])
    made = describe(trial.model, trial.task, trial.metric, method, options, ablation=ablation)
    return {**made, **said, "scores": dict(scores.provenance)}
