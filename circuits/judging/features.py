"""Judging feature circuits: how faithful those of growing size are, and what their rest still does.

Circuits are the nodes of largest effect, run exactly, beside random ones of equal size. What is
kept of the clean-empty gap is the faithfulness, and that of everything else the completeness: near
0 if nothing that matters is left out. Marks et al. 2024, arXiv:2403.19647.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.features.circuit import FeatureCircuit
from circuits.features.replacing import Handling
from circuits.features.running import FeatureRuns, run_feature_circuits
from circuits.judging.completeness import NOTHING
from circuits.judging.feature_curves import FeatureCurve, FeatureSweep
from circuits.judging.minimality import Minimality, worth
from circuits.judging.recovery import Recovery, told_apart
from patching.attribution.features import FeatureEffects, FeatureNodes
from patching.attribution.features.sites import Coders, facts_of
from patching.intervals import check_draws
from patching.metrics import Metric
from patching.model import Model
from patching.tasks.task import Task
from patching.work import Run

if TYPE_CHECKING:
    import pandas


def feature_curve(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    effects: FeatureEffects,
    sweep: FeatureSweep = FeatureSweep(),  # noqa: B008 - a frozen value
    *,
    run: Run | None = None,
) -> FeatureCurve:
    """Circuits of the nodes of largest effect at every size, their complements and random ones.

    `effects` ranks the nodes; `task` may be other prompts, of the same length where positions are
    kept. With errors kept or removed only features count as nodes. All circuits are run at once,
    equal ones only once.

    Raises:
        Interrupted: if somebody interrupts.
        ValueError: if effects, dictionaries, model and task do not fit together, or there are too
            few examples for intervals.
    """
    check_draws(sweep.n_bootstrap, len(task))
    if sweep.handling.errors != "nodes":
        effects = effects[~effects.nodes.are_errors]
    _require_same(effects.provenance, dictionaries)
    nodes, n = effects.nodes, len(effects)
    if not n:
        raise ValueError("there are no nodes to make circuits of: no feature differs anywhere")
    sizes = tuple(max(1, int(share * n)) for share in sweep.shares)
    best = torch.stack([_first(effects.order, size, n) for size in sizes])
    drawn = _random(nodes, best, sweep)
    kept = torch.cat([best, ~best, *drawn])
    found = run_feature_circuits(
        model, task, metric, dictionaries, nodes, kept, handling=sweep.handling, run=run
    )
    k = len(sizes)
    by_chance = found.faithfulness[2 * k :].unflatten(0, (2, k, -1)) if sweep.n_random else None
    none = torch.zeros(k, 0, dtype=torch.float64)
    options = {"shares": list(sweep.shares), "n_random": sweep.n_random, "seed": sweep.seed}
    return FeatureCurve(
        sizes,
        n,
        found.values[:k],
        found.values[k : 2 * k],
        found.clean,
        found.empty,
        none if by_chance is None else by_chance[0],
        none if by_chance is None else by_chance[1],
        sweep,
        {**found.provenance, "sweep": options, "effects": dict(effects.provenance)},
    )


def judge_features(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    circuits: Sequence[FeatureCircuit] | FeatureCircuit,
    handling: Handling | None = None,
    *,
    run: Run | None = None,
) -> FeatureRuns:
    """Run feature circuits of any kind side by side; `faithfulness` is in what comes back.

    Everything outside a circuit is replaced. Errors are handled as the first circuit says, unless
    `handling` is given.

    Raises:
        Interrupted: if somebody interrupts.
        ValueError: if there is no circuit, or circuits, dictionaries, model and task do not fit.
    """
    circuits = [circuits] if isinstance(circuits, FeatureCircuit) else circuits
    if not circuits:
        raise ValueError("there is no circuit to run: give one at least")
    for circuit in circuits:
        _require_same(circuit.provenance, dictionaries)
    handling = Handling(errors=circuits[0].errors) if handling is None else handling
    table = circuits[0]
    for circuit in circuits[1:]:
        table = table | circuit
    kept = torch.stack([table.nodes.within(circuit.nodes) for circuit in circuits])
    return run_feature_circuits(
        model, task, metric, dictionaries, table.nodes, kept, handling=handling, run=run
    )


def feature_minimality(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    circuit: FeatureCircuit,
    handling: Handling | None = None,
    *,
    run: Run | None = None,
) -> Minimality:
    """What each node of a circuit is worth to it: the circuit's metric less that without the node.

    Raises:
        Interrupted: if somebody interrupts.
        ValueError: as `judge_features`.
    """
    _require_same(circuit.provenance, dictionaries)
    handling = Handling(errors=circuit.errors) if handling is None else handling
    n = len(circuit)
    kept = torch.ones(n + 1, n, dtype=torch.bool)
    kept[torch.arange(n), torch.arange(n)] = False
    found = run_feature_circuits(
        model, task, metric, dictionaries, circuit.nodes, kept, handling=handling, run=run
    )
    gap = float(found.clean.mean() - found.empty.mean())
    return worth(circuit.names, (NOTHING,), found.values[-1] - found.values[:-1], gap)


def feature_recovery(effects: FeatureEffects, known: Sequence[str]) -> Recovery:
    """How well sizes of effects tell the nodes that are known to be right from the others.

    Raises:
        ValueError: if there is no node of a name.
    """
    is_known = torch.zeros(len(effects), dtype=torch.bool)
    is_known[[effects.nodes.index(name) for name in known]] = True
    return told_apart(effects.mean.abs(), is_known, "{} nodes judged {} are known to be right")


def compare_feature_circuits(
    circuits: Mapping[str, FeatureCircuit],
) -> "tuple[pandas.DataFrame, pandas.DataFrame]":
    """Jaccard overlap of every two circuits, of nodes and of edges: shared over all they have.

    Raises:
        ValueError: if there are fewer than two, or their nodes cannot be the same.
    """
    import pandas  # slow to import, and seldom needed

    if len(circuits) < 2:
        raise ValueError(f"a comparison is of two or more circuits, got {len(circuits)}")
    parts: list[list[set[object]]] = [
        [set(circuit.names) for circuit in circuits.values()],
        [{edge[:2] for edge in circuit.edges} for circuit in circuits.values()],
    ]
    first = next(iter(circuits.values()))
    for circuit in circuits.values():
        first.require_like(circuit)
    tables = [[[_jaccard(a, b) for b in sets] for a in sets] for sets in parts]
    names = list(circuits)
    nodes, edges = (pandas.DataFrame(t, index=names, columns=names) for t in tables)
    return nodes, edges


def _require_same(said: Mapping[str, object], dictionaries: Coders) -> None:
    """Refuse nodes of other dictionaries, whose features of equal names are other features.

    Raises:
        ValueError: naming both.
    """
    known, given = said.get("dictionaries"), facts_of(dictionaries)
    if isinstance(known, Mapping) and known != given.get("dictionaries", known):
        raise ValueError(
            f"these nodes are of the features of {said.get('features')!r}, and not of those of "
            f"{given['features']!r}, which are others"
        )


def _jaccard(a: set[object], b: set[object]) -> float:
    return len(a & b) / len(a | b) if a | b else float("nan")


def _first(order: Tensor, size: int, n: int) -> Bool[Tensor, " node"]:
    out = torch.zeros(n, dtype=torch.bool)
    out[order[:size]] = True
    return out


def _random(
    nodes: FeatureNodes, best: Bool[Tensor, "circuit node"], sweep: FeatureSweep
) -> list[Bool[Tensor, "circuits node"]]:
    """Circuits as large as each, of any nodes; then with as many at every place.

    Those of one draw are nested.
    """
    n = best.shape[1]
    generator = torch.Generator().manual_seed(sweep.seed)
    orders = [torch.randperm(n, generator=generator) for _ in range(sweep.n_random)]
    uniform = [_first(order, int(one.sum()), n) for one in best for order in orders]
    matched = [_like(nodes, one, order) for one in best for order in orders]
    return [torch.stack(rows) for rows in (uniform, matched) if rows]


def _like(nodes: FeatureNodes, one: Tensor, order: Tensor) -> Bool[Tensor, " node"]:
    """As many nodes of each place as a circuit has, the first in an order."""
    out = torch.zeros_like(one)
    sites = nodes.sites[order]
    for site, count in zip(*np.unique(nodes.sites[one].numpy(), return_counts=True), strict=True):
        out[order[sites == int(site)][: int(count)]] = True
    return out
