"""The computational graph of a transformer: who writes to the residual stream and who reads it.

Pure bookkeeping: names, order and the edges the architecture allows. Knows no model library.

A *writer* (source) adds to the residual stream: `embed`, every head `a{l}.h{h}`, every MLP `m{l}`.
A *reader* (destination) takes its input from the stream, before its norm: `a{l}.h{h}.q`,
`a{l}.h{h}.k`, `a{l}.h{h}.v`, `m{l}` and `logits`. Where heads share keys and values (grouped-query
attention) there is one k and one v reader per group: `a{l}.g{g}.k`, `a{l}.g{g}.v`.
Where what a head writes is multiplied by a gate, that gate is a reader too: `a{l}.h{h}.gate`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from patching.graph_nodes import Node, look_up

_SIZES = ("n_layers", "n_heads", "n_kv_heads")
_KINDS = ("attention_only", "gated")
_MOST_CELLS = 10**9  # of a matrix that a file describes; the largest models have a third


@dataclass(frozen=True)
class Graph:
    """All writers, readers and possible edges of one architecture.

    With `attention_only`, layers have no MLPs: their places on the axes stay, without an edge.

    >>> graph = Graph(n_layers=12, n_heads=12, n_kv_heads=12)
    >>> int(graph.exists.sum())  # GPT-2 small
    32491
    >>> graph.source_index("a3.h1"), graph.dest_index("m0")
    (41, 36)
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    parallel: bool = False
    attention_only: bool = False
    gated: bool = False

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1:
            raise ValueError(f"a graph needs at least one layer and one head, got {self}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} heads cannot share {self.n_kv_heads} key-value heads evenly"
            )

    @cached_property
    def sources(self) -> tuple[Node, ...]:
        """All writers, in the order of the first axis of every score matrix."""
        nodes = [Node("embed", 0, -1)]
        for layer in range(self.n_layers):
            order = 2 * layer + 1
            nodes += [Node(f"a{layer}.h{h}", order, layer) for h in range(self.n_heads)]
            nodes.append(Node(f"m{layer}", self._mlp_order(layer), layer))
        return tuple(nodes)

    @cached_property
    def destinations(self) -> tuple[Node, ...]:
        """All readers, in the order of the second axis of every score matrix."""
        nodes = []
        for layer in range(self.n_layers):
            names = [f"a{layer}.h{h}.q" for h in range(self.n_heads)]
            names += [f"a{layer}.{shared}.k" for shared in self._key_value_names]
            names += [f"a{layer}.{shared}.v" for shared in self._key_value_names]
            names += [f"a{layer}.h{h}.gate" for h in range(self.n_heads if self.gated else 0)]
            nodes += [Node(name, 2 * layer + 1, layer) for name in names]
            nodes.append(Node(f"m{layer}", self._mlp_order(layer), layer))
        nodes.append(Node("logits", 2 * self.n_layers + 1, self.n_layers))
        return tuple(nodes)

    @cached_property
    def exists(self) -> Bool[Tensor, "source dest"]:
        """Which edges the architecture allows: the writer comes strictly before the reader."""
        wrote = torch.tensor([node.order for node in self.sources])
        read = torch.tensor([node.order for node in self.destinations])
        exists = wrote[:, None] < read[None, :]
        for layer in range(self.n_layers) if self.attention_only else ():
            exists[self.mlp_source(layer)] = exists[:, self.mlp_reader(layer)] = False
        return exists

    @cached_property
    def inner(self) -> tuple[str, ...]:
        """The heads and MLPs, in their order."""
        writes = self.exists.any(dim=1).tolist()
        return tuple(node.name for node, can in zip(self.sources, writes, strict=True) if can)[1:]

    @property
    def ungrouped(self) -> "Graph":
        """The graph in which every query head has keys and values of its own."""
        return replace(self, n_kv_heads=self.n_heads)

    @cached_property
    def feeds(self) -> Bool[Tensor, "dest source"]:
        """Which writers each reader is an input of: `a3.g0.k` feeds every head of its group."""
        feeds = torch.zeros(len(self.destinations), len(self.sources), dtype=torch.bool)
        group = self.n_heads // self.n_kv_heads
        for layer in range(self.n_layers):
            for h in range(self.n_heads):
                head = self.head_sources(layer).start + h
                feeds[self.q_readers(layer).start + h, head] = True
                feeds[self.k_readers(layer).start + h // group, head] = True
                feeds[self.v_readers(layer).start + h // group, head] = True
            feeds[self.mlp_reader(layer), self.mlp_source(layer)] = True
            if self.gated:
                own = torch.eye(self.n_heads, dtype=torch.bool)
                feeds[self.gate_readers(layer), self.head_sources(layer)] = own
        return feeds

    @property
    def n_edges(self) -> int:
        """How many edges the architecture allows."""
        return int(self.exists.sum())

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all names and edges: equal for equal graphs."""
        names = [[node.name for node in nodes] for nodes in (self.sources, self.destinations)]
        names += [["attention only"]] if self.attention_only else []
        digest = hashlib.sha256(json.dumps(names).encode())
        digest.update(self.exists.numpy().tobytes())
        return digest.hexdigest()[:16]

    def head_sources(self, layer: int) -> slice:
        """The heads of a layer on the source axis."""
        start = 1 + layer * (self.n_heads + 1)
        return slice(start, start + self.n_heads)

    def mlp_source(self, layer: int) -> int:
        """The MLP of a layer on the source axis."""
        return self.head_sources(layer).stop

    def q_readers(self, layer: int) -> slice:
        """The query readers of a layer on the destination axis."""
        start = layer * self._readers_per_layer
        return slice(start, start + self.n_heads)

    def k_readers(self, layer: int) -> slice:
        """The key readers (one per key-value head) of a layer on the destination axis."""
        start = self.q_readers(layer).stop
        return slice(start, start + self.n_kv_heads)

    def v_readers(self, layer: int) -> slice:
        """The value readers (one per key-value head) of a layer on the destination axis."""
        start = self.k_readers(layer).stop
        return slice(start, start + self.n_kv_heads)

    def gate_readers(self, layer: int) -> slice:
        """The readers of a layer's gates on the destination axis: none where heads have none."""
        start = self.v_readers(layer).stop
        return slice(start, start + (self.n_heads if self.gated else 0))

    def projected_readers(self, layer: int) -> tuple[slice, ...]:
        """The query, key, value and, where there are any, gate readers of a layer."""
        spans = (self.q_readers(layer), self.k_readers(layer), self.v_readers(layer))
        return (*spans, self.gate_readers(layer)) if self.gated else spans

    def attention_readers(self, layer: int) -> slice:
        """All readers of a layer's attention on the destination axis."""
        return slice(self.q_readers(layer).start, self.gate_readers(layer).stop)

    def mlp_reader(self, layer: int) -> int:
        """The MLP reader of a layer on the destination axis."""
        return self.gate_readers(layer).stop

    def sources_before_attention(self, layer: int) -> int:
        """How many writers a layer's attention can read: they are the first ones."""
        return self.head_sources(layer).start

    def sources_before_mlp(self, layer: int) -> int:
        """How many writers a layer's MLP can read: they are the first ones."""
        heads = self.head_sources(layer)
        return heads.start if self.parallel else heads.stop

    def source_index(self, name: str) -> int:
        """The position of a writer on the source axis.

        Raises:
            ValueError: if no writer has this name.
        """
        return look_up(self._source_positions, name, "source")

    def dest_index(self, name: str) -> int:
        """The position of a reader on the destination axis.

        Raises:
            ValueError: if no reader has this name.
        """
        return look_up(self._dest_positions, name, "destination", self._shared_reader(name))

    def edge_index(self, source: str, dest: str) -> tuple[int, int]:
        """The position of the edge `source->dest` in a score matrix.

        Raises:
            ValueError: if a node is unknown or the writer does not come before the reader.
        """
        edge = self.source_index(source), self.dest_index(dest)
        if not self.exists[edge]:
            why = f"{source} writes to the residual stream only after {dest} has read it"
            if self.attention_only and "m" in (source[0], dest[0]):
                why = "this graph is of attention only, without MLPs"
            raise ValueError(f"no edge {source}->{dest}: {why}")
        return edge

    def to_dict(self) -> dict[str, object]:
        """The graph as plain values for a file."""
        said: dict[str, object] = {name: getattr(self, name) for name in (*_SIZES, "parallel")}
        said |= {name: True for name in _KINDS if getattr(self, name)}
        return {**said, "fingerprint": self.fingerprint}

    @staticmethod
    def from_dict(values: object) -> "Graph":
        """The graph that `to_dict` described.

        Raises:
            ValueError: if it is no description, lacks a field, or has another graph's fingerprint.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"not the description of a graph: {json.dumps(values)[:200]}")
        missing = [name for name in _SIZES if name not in values]
        if missing:
            raise ValueError(f"the description of the graph lacks {', '.join(missing)}")
        sizes = [values[name] for name in _SIZES]
        kinds = [values.get(name, False) for name in ("parallel", *_KINDS)]
        if {type(size) for size in sizes} != {int} or {type(kind) for kind in kinds} != {bool}:
            raise ValueError(f"not the description of a graph: {json.dumps(dict(values))[:200]}")
        _refuse_huge(*sizes)
        graph = Graph(*sizes, *kinds)
        if values.get("fingerprint", graph.fingerprint) != graph.fingerprint:
            raise ValueError(
                f"the graph's fingerprint is {graph.fingerprint}, the file says "
                f"{str(values['fingerprint'])[:40]}: it was altered or written for other node names"
            )
        return graph

    def describe(self) -> str:
        """The graph in a few words, for messages."""
        kind = "parallel" if self.parallel else "sequential"
        blocks = "layers of attention only" if self.attention_only else f"{kind} layers"
        heads = f"{self.n_heads} {'gated ' if self.gated else ''}heads"
        heads += f", {self.n_kv_heads} key-value heads"
        return f"{self.n_layers} {blocks}, {heads}"

    def require_same(self, other: "Graph", what: str) -> None:
        """Refuse something of another graph; `what` is what is of it, with its verb.

        Raises:
            ValueError: saying how the two graphs differ.
        """
        here, there = self.describe(), other.describe()
        if other != self:
            raise ValueError(f"{what} of another graph ({there}) than the one here ({here})")

    def _shared_reader(self, name: str) -> str | None:
        """The shared reader that a head's own name for its keys or values stands for, if any."""
        head, _, letter = name.rpartition(".")
        if letter not in ("k", "v") or head not in self._source_positions:
            return None
        layer, _, number = head.partition(".h")
        return f"{layer}.g{int(number) // (self.n_heads // self.n_kv_heads)}.{letter}"

    def _mlp_order(self, layer: int) -> int:
        return 2 * layer + (1 if self.parallel else 2)

    @property
    def _readers_per_layer(self) -> int:
        return self.n_heads * (2 if self.gated else 1) + 2 * self.n_kv_heads + 1

    @property
    def _key_value_names(self) -> list[str]:
        letter = "h" if self.n_kv_heads == self.n_heads else "g"
        return [f"{letter}{i}" for i in range(self.n_kv_heads)]

    @cached_property
    def _source_positions(self) -> dict[str, int]:
        return {node.name: i for i, node in enumerate(self.sources)}

    @cached_property
    def _dest_positions(self) -> dict[str, int]:
        return {node.name: i for i, node in enumerate(self.destinations)}


def _refuse_huge(n_layers: int, n_heads: int, n_kv_heads: int) -> None:
    if n_layers**2 * (n_heads + 1) * (n_heads + 2 * n_kv_heads + 1) > _MOST_CELLS:
        heads = f"{n_heads} heads and {n_kv_heads} key-value heads"
        raise ValueError(f"no model has {n_layers} layers of {heads}")
