"""FeatureGraph: what influences what on one prompt, feature by feature. Knows no model.

Weights are indexed `[target, source]`: how much of what a target reads a source writes. Every row
adds up to what its target read: kept weights, the rest that was not kept, and what is constant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.files.brief import briefly
from patching.files.tensors import read_tensors, require_names, write_tensors

FEATURE, ERROR, EMBEDDING, LOGIT = range(4)
KINDS = ("feature", "error", "embedding", "logit")
_FORMAT = "feature graph 1"


@briefly
@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes in the order features (by layer, position, index), errors, embeddings, logits.

    `kinds` number `KINDS`. An embedding lies in layer -1 and a logit above the last; `indices` are
    those of features, token ids of embeddings and logits (-1: a logit difference), and -1 of
    errors. `values` are activations, logits (less the mean logit), and sizes (L2) of others.
    `weights` are what a graph explains: probabilities at the logits, 0 elsewhere. `influences`
    are shares of that which pass a node, over all paths (`influence`).
    """

    kinds: Int[Tensor, " node"]
    layers: Int[Tensor, " node"]
    positions: Int[Tensor, " node"]
    indices: Int[Tensor, " node"]
    values: Float[Tensor, " node"]
    weights: Float[Tensor, " node"]
    influences: Float[Tensor, " node"]

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, chosen: Bool[Tensor, " node"]) -> "Nodes":
        return Nodes(*(getattr(self, name)[chosen] for name in _NODES))

    def of(self, kind: int) -> Bool[Tensor, " node"]:
        """Which ones are of a kind."""
        return self.kinds == kind


_NODES = ("kinds", "layers", "positions", "indices", "values", "weights", "influences")
_EDGES = ("targets", "sources", "weights")
_ROWS = ("reads", "constants", "rests", "rest_sizes")


@briefly
@dataclass(frozen=True, eq=False)
class FeatureGraph:
    """An attribution graph of one prompt.

    Edge e says that `weights[e]` of what node `targets[e]` reads is written by node `sources[e]`,
    sorted by target, then source. `reads` is what a target reads in all: a feature its value
    before the activation function less its bias, a logit itself less the mean logit. `constants`
    is the part that biases write, `rests` the sum of all weights that were not kept, `rest_sizes`
    that of their absolute values; all zero where a node reads nothing.

    `facts` hold the prompt, scores, validity and provenance, in values that fit into JSON.
    """

    tokens: Int[Tensor, " pos"]
    nodes: Nodes
    targets: Int[Tensor, " edge"]
    sources: Int[Tensor, " edge"]
    weights: Float[Tensor, " edge"]
    reads: Float[Tensor, " node"]
    constants: Float[Tensor, " node"]
    rests: Float[Tensor, " node"]
    rest_sizes: Float[Tensor, " node"]
    facts: Mapping[str, object]

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def n_edges(self) -> int:
        """How many edges were kept."""
        return len(self.weights)

    @property
    def replacement(self) -> float:
        """Of all influence that begins somewhere, the part that begins in embeddings."""
        return self._score("replacement")

    @property
    def completeness(self) -> float:
        """The part of what nodes read that comes from no error, weighted by influence."""
        return self._score("completeness")

    @property
    def texts(self) -> list[str]:
        """The text of every token, or its id where no text is known."""
        texts = self.facts.get("texts")
        return [str(text) for text in (texts if isinstance(texts, list) else self.tokens.tolist())]

    @property
    def prompt(self) -> str:
        """The prompt; words that a tokenizer gives without spaces are kept apart."""
        texts = self.texts
        between = "" if any(" " in text for text in texts) else " "
        return between.join(texts).strip()

    def _score(self, name: str) -> float:
        scores = self.facts.get("scores")
        value = scores.get(name) if isinstance(scores, Mapping) else None
        return float(value) if isinstance(value, float | int) else float("nan")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all nodes: `m3.f17@5`, `m3.error@5`, `embed@5`, `logit.388@19`."""
        letter = str(self.facts.get("letter", "f"))
        columns = (self.nodes.kinds, self.nodes.layers, self.nodes.positions, self.nodes.indices)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return tuple(_name(letter, *row) for row in rows)

    def index(self, name: str) -> int:
        """The number of a node.

        Raises:
            ValueError: if there is none of this name.
        """
        if name not in self._numbers:
            near = ", ".join(self.names[:3])
            raise ValueError(
                f"no node named {name!r} in this graph of {len(self)} nodes, such as {near}; it "
                "may have been pruned"
            )
        return self._numbers[name]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def of(self, source: str, target: str) -> float:
        """The weight of an edge, 0 where there is none.

        Raises:
            ValueError: if there is no such node.
        """
        s, t = self.index(source), self.index(target)
        return float(self.weights[(self.sources == s) & (self.targets == t)].sum())

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k features and errors of most influence, with it."""
        inner = (self.nodes.kinds == FEATURE) | (self.nodes.kinds == ERROR)
        order = self.nodes.influences.where(inner, -1).argsort(descending=True, stable=True)
        best = order[: min(k, int(inner.sum()))].tolist()
        return [(self.names[i], float(self.nodes.influences[i])) for i in best]

    def incoming(self) -> Float[Tensor, " node"]:
        """Kept weights, rest and constant of every node: what it reads."""
        sums = torch.zeros_like(self.reads).index_add(0, self.targets, self.weights)
        return sums + self.rests + self.constants

    def kept(self, nodes: Bool[Tensor, " node"], edges: Bool[Tensor, " edge"]) -> "FeatureGraph":
        """The graph of some nodes and the edges chosen between them; all else goes to the rest."""
        edges = edges & nodes[self.targets] & nodes[self.sources]
        lost = self.targets[~edges], self.weights[~edges]
        rests = self.rests.index_add(0, *lost)
        sizes = self.rest_sizes.index_add(0, lost[0], lost[1].abs())
        number = nodes.cumsum(0) - 1
        return FeatureGraph(
            self.tokens,
            self.nodes[nodes],
            number[self.targets[edges]],
            number[self.sources[edges]],
            self.weights[edges],
            self.reads[nodes],
            self.constants[nodes],
            rests[nodes],
            sizes[nodes],
            self.facts,
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a checksum, which `load_graph` reads."""
        tensors = {f"node.{name}": getattr(self.nodes, name) for name in _NODES}
        tensors |= {f"edge.{name}": getattr(self, name) for name in _EDGES}
        tensors |= {f"row.{name}": getattr(self, name) for name in _ROWS}
        write_tensors(path, {"tokens": self.tokens, **tensors}, _FORMAT, self.facts)


def read_graph(path: str | Path) -> FeatureGraph:
    """Read what `FeatureGraph.save` wrote.

    Raises:
        ValueError: if the file is damaged, altered, or holds no graph of features.
    """
    tensors, facts = read_tensors(path, _FORMAT)
    keys = [f"node.{name}" for name in _NODES], [f"edge.{name}" for name in _EDGES]
    rows = [f"row.{name}" for name in _ROWS]
    names = ["tokens", *keys[0], *keys[1], *rows]
    require_names(path, tensors, names)
    absent = [name for name in names if name not in tensors]
    if absent:
        raise ValueError(f"{path} lacks the tensor {absent[0]!r} of a graph of features")
    nodes = Nodes(*(tensors[name] for name in keys[0]))
    edges = [tensors[name] for name in keys[1]]
    more = {name: tensors[f"row.{name}"] for name in _ROWS}
    graph = FeatureGraph(tensors["tokens"], nodes, *edges, **more, facts=facts)
    try:
        check_graph(graph)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return graph


def check_graph(graph: FeatureGraph) -> None:
    """Refuse tables that do not fit each other.

    Raises:
        ValueError: saying what is wrong.
    """
    nodes, n = graph.nodes, len(graph.nodes)
    columns = [*(getattr(nodes, name) for name in _NODES), *(getattr(graph, x) for x in _ROWS)]
    edges = [getattr(graph, name) for name in _EDGES]
    if {len(column) for column in columns} != {n} or len({len(edge) for edge in edges}) != 1:
        raise ValueError("its tables of nodes and edges are of unequal lengths")
    ends = torch.cat([graph.targets, graph.sources])
    if len(ends) and not 0 <= int(ends.min()) <= int(ends.max()) < n:
        raise ValueError(f"an edge ends at node {int(ends.max())}; it has {n} nodes, from 0")
    if n and not 0 <= int(nodes.kinds.min()) <= int(nodes.kinds.max()) < len(KINDS):
        raise ValueError(f"a node is of kind {int(nodes.kinds.max())}; 0 to {len(KINDS) - 1} exist")
    inside = (nodes.positions >= 0) & (nodes.positions < len(graph.tokens))
    if not bool(inside.all()):
        raise ValueError(f"a node lies outside the prompt's {len(graph.tokens)} positions")
    if not all(bool(x.isfinite().all()) for x in (*columns, *edges) if x.is_floating_point()):
        raise ValueError("a number in it is not finite")


def _name(letter: str, kind: int, layer: int, position: int, index: int) -> str:
    if kind == FEATURE:
        return f"m{layer}.{letter}{index}@{position}"
    if kind == ERROR:
        return f"m{layer}.error@{position}"
    if kind == EMBEDDING:
        return f"embed@{position}"
    return f"logit.{index}@{position}" if index >= 0 else f"logit difference@{position}"
