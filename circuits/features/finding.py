"""Finding a feature circuit: effects of all nodes, the largest of them, and edges between these."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.circuit import ERRORS, Errors, FeatureCircuit, check_word, without_edges
from circuits.features.edges import direct_edges
from patching.attribution.features import FeatureEffects, Setting, feature_effects
from patching.attribution.features.sites import Coders
from patching.metrics import Metric
from patching.model import Model
from patching.paths import Path, at_clean
from patching.rules import Rule, plain
from patching.tasks.task import Task

_MOST = 4096  # nodes of which edges are found: a matrix of them


@dataclass(frozen=True)
class Choice:
    """Which nodes and edges make a circuit, by the size of effect and weight.

    Whole numbers are budgets (the so many largest), fractions are thresholds, in units of the
    metric; of edges, 0 leaves all out. Marks et al. 2024 take 0.1 to 0.2 for nodes and 0.01 to
    0.02 for edges. `errors`: nodes like others, or no nodes but all kept, or all removed.
    """

    nodes: int | float = 0.1
    edges: int | float = 0.01
    errors: Errors = "nodes"

    def __post_init__(self) -> None:
        if self.nodes < 0 or self.edges < 0:
            raise ValueError(
                f"budgets and thresholds are 0 or more, got nodes={self.nodes}, edges={self.edges}"
            )
        check_word("errors", self.errors, ERRORS)


def feature_circuit(
    model: Model,
    task: Task,
    metric: Metric,
    dictionaries: Coders,
    choice: Choice = Choice(),  # noqa: B008 - a frozen value
    *,
    rule: Rule = plain,
    path: Path = at_clean,
    setting: Setting = Setting(),  # noqa: B008 - a frozen value
) -> FeatureCircuit:
    """The features and errors of largest effect on a task, and the edges between them.

    Edges are those of Marks et al. 2024 (arXiv:2403.19647, appendix A.1): the effect of the source
    through the target alone, at the clean run, stopped at all other places between. Those to
    `metric` are the rest, so that a node's edges to all others add up to its effect where that is
    of the clean run (`at_clean`) and all nodes are in the circuit. What is done is kept in the
    setting's run, if it has one.

    >>> from patching import logit_diff, tasks
    >>> model = Model.load("toy-llama")
    >>> task = tasks.ioi(model.tokenizer, n=2, seed=0).of_length()
    >>> found = feature_circuit(model, task, logit_diff, "neurons", Choice(nodes=10, edges=5))
    >>> len(found), found.n_edges
    (10, 5)

    Raises:
        Interrupted: if somebody interrupts.
        ValueError: as `feature_effects`, or if more nodes are chosen than edges can be found of.
    """
    effects = feature_effects(
        model, task, metric, dictionaries, rule=rule, path=path, setting=setting
    )
    circuit = chosen_nodes(effects, choice)
    if choice.edges == 0 or not len(circuit):
        return circuit
    if len(circuit) > _MOST:
        raise ValueError(
            f"{len(circuit):,} nodes are chosen, and edges are found of {_MOST:,} at most: take a "
            "higher threshold or a smaller budget, or Choice(edges=0)"
        )
    matrix = direct_edges(
        model, task, metric, dictionaries, circuit.nodes, rule=rule, path=path, setting=setting
    )
    return chosen_edges(circuit, matrix, choice)


def chosen_nodes(effects: FeatureEffects, choice: Choice) -> FeatureCircuit:
    """The circuit of the nodes that are chosen, without edges."""
    whole = without_edges(effects, choice.errors)
    chosen = _largest(whole.effects, choice.nodes)
    nodes, sizes = whole.nodes[chosen], whole.effects[chosen]
    facts = {"nodes": choice.nodes, "edges": choice.edges, "errors": choice.errors}
    said = {**whole.provenance, "choice": facts, "of": len(whole)}
    none, weights = whole.sources, whole.weights
    return FeatureCircuit(nodes, sizes, none, none, weights, choice.errors, said)


def chosen_edges(
    circuit: FeatureCircuit, matrix: Float[Tensor, "target source"], choice: Choice
) -> FeatureCircuit:
    """The circuit with the edges that are chosen of all."""
    flat = matrix.flatten()
    chosen = _largest(flat, choice.edges)
    chosen = chosen[flat[chosen] != 0]
    targets, sources = chosen // matrix.shape[1], chosen % matrix.shape[1]
    return FeatureCircuit(
        circuit.nodes,
        circuit.effects,
        sources,
        targets,
        flat[chosen],
        circuit.errors,
        circuit.provenance,
    )


def _largest(values: Float[Tensor, " n"], wanted: int | float) -> Int[Tensor, " chosen"]:
    """Numbers of the values that are chosen, in their order."""
    sizes = values.abs()
    if isinstance(wanted, int):
        best = sizes.argsort(descending=True, stable=True)[:wanted]
        return torch.sort(best).values
    return (sizes >= wanted).nonzero()[:, 0]
