"""FeatureCircuit: which features and errors do a task, and through which edges. Knows no model.

Nodes are those of `patching.attribution.features`: of one place each, at a position or at all.
Edges are direct: what of a source's effect passes no other place of the circuit before its target.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.attribution.features import FeatureEffects, FeatureNodes
from patching.attribution.features.results import facts_of, read_nodes
from patching.files.brief import briefly
from patching.files.tensors import read_tensors, require_names, write_tensors

METRIC = "metric"
"""The name of what all edges lead to in the end."""

Errors = Literal["nodes", "kept", "removed"]
"""Errors are nodes like others, or are all left as they are, or are all taken out."""

ERRORS: tuple[Errors, ...] = ("nodes", "kept", "removed")

_FORMAT = "feature circuit 1"
_NODES = ("sites", "positions", "features")
_OTHERS = ("effects", "sources", "targets", "weights")


def check_word(what: str, word: str, known: Sequence[str]) -> None:
    """Refuse a word that is none of those known.

    Raises:
        ValueError: naming them.
    """
    if word not in known:
        raise ValueError(f"{what} are one of {', '.join(map(repr, known))}; got {word!r}")


@briefly
@dataclass(frozen=True, eq=False)
class FeatureCircuit:
    """Features and errors with their mean effects, and edges between them.

    Edge e leads from node `sources[e]` to node `targets[e]` (the number of nodes stands for the
    metric itself); its weight is how much of the source's effect passes it directly, in units of
    the metric. Positive: it helps in the clean run. `errors` says what becomes of them when the
    circuit is run: nodes like others, or all kept, or all removed.
    """

    nodes: FeatureNodes
    effects: Float[Tensor, " node"]
    sources: Int[Tensor, " edge"]
    targets: Int[Tensor, " edge"]
    weights: Float[Tensor, " edge"]
    errors: Errors
    provenance: Mapping[str, object]

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return len(self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all nodes: `r3.post.f17@5`, `m3.n17`, `r3.post.error@5`."""
        return self.nodes.names

    @cached_property
    def edges(self) -> tuple[tuple[str, str, float], ...]:
        """Source, target and weight of each edge; the last target is `metric`."""
        names = (*self.names, METRIC)
        ends = zip(self.sources.tolist(), self.targets.tolist(), self.weights.tolist(), strict=True)
        return tuple((names[source], names[target], weight) for source, target, weight in ends)

    def top(self, k: int) -> list[tuple[str, float]]:
        """Names and effects of the k nodes of largest absolute effect, largest first."""
        best = self.effects.abs().argsort(descending=True, stable=True)[:k].tolist()
        return [(self.names[i], float(self.effects[i])) for i in best]

    def of(self, source: str, target: str) -> float:
        """The weight of an edge, 0 where there is none; the target may be `metric`.

        Raises:
            ValueError: if there is no such node.
        """
        end = len(self) if target == METRIC else self.nodes.index(target)
        chosen = (self.sources == self.nodes.index(source)) & (self.targets == end)
        return float(self.weights[chosen].sum())

    def only(self, names: Iterable[str]) -> "FeatureCircuit":
        """The circuit of some nodes and the edges between them, and to the metric.

        Raises:
            ValueError: if there is no such node.
        """
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[[self.nodes.index(name) for name in names]] = True
        return self._kept(chosen)

    def __and__(self, other: "FeatureCircuit") -> "FeatureCircuit":
        """Nodes and edges that both have, with the numbers of the first."""
        self.require_like(other)
        made = self._kept(self.nodes.within(other.nodes))
        theirs = {edge[:2] for edge in other.edges}
        return made._with(torch.tensor([edge[:2] in theirs for edge in made.edges]).bool())

    def __sub__(self, other: "FeatureCircuit") -> "FeatureCircuit":
        """Nodes that the other lacks, and edges between them."""
        self.require_like(other)
        return self._kept(~self.nodes.within(other.nodes))

    def __or__(self, other: "FeatureCircuit") -> "FeatureCircuit":
        """Nodes and edges of both, with the numbers of the first where both have them."""
        self.require_like(other)
        more = ~other.nodes.within(self.nodes)
        keys = torch.cat([self.nodes.keys, other.nodes.keys[more]])
        order = keys.argsort()
        parts = {
            name: torch.cat([getattr(self.nodes, name), getattr(other.nodes, name)[more]])[order]
            for name in _NODES
        }
        effects = torch.cat([self.effects, other.effects[more]])[order]
        nodes = replace(self.nodes, **parts)
        edges = {edge[:2]: edge[2] for edge in (*other.edges, *self.edges)}
        number = {name: i for i, name in enumerate((*nodes.names, METRIC))}
        ends = sorted((number[target], number[source]) for source, target in edges)
        names = (*nodes.names, METRIC)
        weights = [edges[names[source], names[target]] for target, source in ends]
        return replace(
            self,
            nodes=nodes,
            effects=effects,
            sources=torch.tensor([source for _, source in ends], dtype=torch.long),
            targets=torch.tensor([target for target, _ in ends], dtype=torch.long),
            weights=torch.tensor(weights, dtype=self.weights.dtype),
        )

    def __le__(self, other: "FeatureCircuit") -> bool:
        """Whether all nodes and edges are the other's too."""
        within = bool(self.nodes.within(other.nodes).all())
        return within and {e[:2] for e in self.edges} <= {e[:2] for e in other.edges}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a checksum, which `load_feature_circuit` reads."""
        tensors = {name: getattr(self.nodes, name) for name in _NODES}
        tensors |= {f"circuit.{name}": getattr(self, name) for name in _OTHERS}
        facts = {**facts_of(self.nodes), "errors": self.errors, **self.provenance}
        write_tensors(path, tensors, _FORMAT, facts)

    def _kept(self, nodes: Tensor) -> "FeatureCircuit":
        there = torch.cat([nodes, torch.ones(1, dtype=torch.bool)])
        number = torch.cat([nodes.cumsum(0) - 1, nodes.sum()[None]])
        edges = there[self.sources] & there[self.targets]
        return replace(
            self,
            nodes=self.nodes[nodes],
            effects=self.effects[nodes],
            sources=number[self.sources[edges]],
            targets=number[self.targets[edges]],
            weights=self.weights[edges],
        )

    def _with(self, edges: Tensor) -> "FeatureCircuit":
        parts = {name: getattr(self, name)[edges] for name in ("sources", "targets", "weights")}
        return replace(self, **parts)

    def require_like(self, other: "FeatureCircuit") -> None:
        """Refuse circuits whose nodes cannot be the same.

        Raises:
            ValueError: if positions are kept in one and summed in the other, or errors differ.
        """
        if self.errors != other.errors:
            raise ValueError(
                f"errors are {self.errors} in one circuit, {other.errors} in the other"
            )
        both = self.nodes, other.nodes
        if all(len(nodes) for nodes in both) and both[0].by_position != both[1].by_position:
            raise ValueError("one of these circuits keeps positions apart, and one does not")


def without_edges(effects: FeatureEffects, errors: Errors = "nodes") -> FeatureCircuit:
    """All nodes of a table of effects as a circuit; without errors, unless they are nodes."""
    chosen = effects if errors == "nodes" else effects[~effects.nodes.are_errors]
    none = torch.zeros(0, dtype=torch.long)
    weights = torch.zeros(0, dtype=torch.float64)
    return FeatureCircuit(chosen.nodes, chosen.mean, none, none, weights, errors, chosen.provenance)


def load_feature_circuit(path: str | Path) -> FeatureCircuit:
    """Read what `FeatureCircuit.save` wrote.

    Raises:
        ValueError: if the file is damaged, altered, or holds no circuit of features.
    """
    tensors, facts = read_tensors(path, _FORMAT)
    require_names(path, tensors, (*_NODES, *(f"circuit.{name}" for name in _OTHERS)))
    nodes, errors = read_nodes(path, tensors, facts), facts.pop("errors", None)
    parts = [tensors.get(f"circuit.{name}") for name in _OTHERS]
    known = [part for part in parts if part is not None]
    if errors not in ERRORS or len(known) < len(_OTHERS):
        raise ValueError(f"{path} lacks parts of a circuit of features")
    effects, sources, targets, weights = known
    if effects.shape != (len(nodes),) or not sources.shape == targets.shape == weights.shape:
        raise ValueError(f"{path}: its effects and edges do not fit its {len(nodes)} nodes")
    for ends, most in ((sources, len(nodes) - 1), (targets, len(nodes))):
        if len(ends) and not (int(ends.min()) >= 0 and int(ends.max()) <= most):
            raise ValueError(f"{path}: an edge ends at no node; it has {len(nodes)}")
    return FeatureCircuit(nodes, effects, sources, targets, weights, errors, facts)
