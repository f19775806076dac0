"""The computational graph with readers kept apart by span: an edge is writer, reader and span.

In the stream both ends of an edge are at one token, so that the span is said once, by the reader:
`a0.h1->m3@IO`. Between spans only attention moves anything, inside a head: what its keys and values
read at any span reaches what it writes at the span of its query. Knows no model library.

Haklay et al. 2025 (PEAP), arXiv:2502.04577, where edges that cross positions are edges of their
own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from patching.graph import Graph, Node

AT = "@"
"""What stands between a reader's name and its span."""

_NAME = re.compile(r"[^\s@>\"]{1,40}")
_MOST = 1000


@dataclass(frozen=True)
class SpanGraph(Graph):
    """A graph whose readers are there once a span, one after another: `m0@IO`, `m0@S1`, ...

    Writers have no span of their own on the first axis: an edge is where its reader is.

    >>> graph = SpanGraph.of(Graph(n_layers=1, n_heads=1, n_kv_heads=1), ("rest", "end"))
    >>> [node.name for node in graph.destinations][:2], graph.n_edges == 2 * graph.plain.n_edges
    (['a0.h0.q@rest', 'a0.h0.q@end'], True)
    """

    spans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        sound = all(isinstance(s, str) and _NAME.fullmatch(s) for s in self.spans)
        if not sound or not 0 < len({*self.spans}) == len(self.spans) <= _MOST:
            raise ValueError(
                f"a graph keeps 1 to {_MOST} spans apart, each with a name of its own that has no "
                f"space, quote, > or {AT}; got {', '.join(map(str, self.spans))[:200] or 'none'}"
            )

    @staticmethod
    def of(graph: Graph, spans: Sequence[str]) -> "SpanGraph":
        """The graph with these spans."""
        return _made(plain_of(graph), tuple(spans))

    @property
    def plain(self) -> Graph:
        """The graph without spans."""
        return Graph(*(getattr(self, field.name) for field in fields(Graph)))

    @property
    def n_spans(self) -> int:
        """How many spans are kept apart."""
        return len(self.spans)

    @cached_property
    def destinations(self) -> tuple[Node, ...]:
        """All readers at all spans, in the order of the second axis."""
        readers = self.plain.destinations
        return tuple(replace(r, name=f"{r.name}{AT}{s}") for r in readers for s in self.spans)

    @cached_property
    def exists(self) -> Bool[Tensor, "source dest"]:
        """Which edges there are: at every span the same."""
        return self.plain.exists.repeat_interleave(self.n_spans, dim=1)

    @cached_property
    def feeds(self) -> Bool[Tensor, "dest source"]:
        """Which writers each reader is an input of, at its own span or (k, v) at any."""
        return self.plain.feeds.repeat_interleave(self.n_spans, dim=0)

    def q_readers(self, layer: int) -> slice:
        """The query readers of a layer, at all spans."""
        return self._at_spans(self.plain.q_readers(layer))

    def k_readers(self, layer: int) -> slice:
        """The key readers of a layer, at all spans."""
        return self._at_spans(self.plain.k_readers(layer))

    def v_readers(self, layer: int) -> slice:
        """The value readers of a layer, at all spans."""
        return self._at_spans(self.plain.v_readers(layer))

    def gate_readers(self, layer: int) -> slice:
        """The readers of a layer's gates, at all spans."""
        return self._at_spans(self.plain.gate_readers(layer))

    def source_index(self, name: str) -> int:
        """The position of a writer, named with a span or without."""
        writer, at, span = name.partition(AT)
        return super().source_index(writer if at and span in self.spans else name)

    def edge_index(self, source: str, dest: str) -> tuple[int, int]:
        """The position of the edge `source->dest`, where `dest` says the span.

        Raises:
            ValueError: if a node is unknown, the two are of different spans, or the writer does
                not come before the reader.
        """
        _, at, span = source.partition(AT)
        if at and not dest.endswith(f"{AT}{span}"):
            raise ValueError(
                f"no edge {source}->{dest}: in the stream nothing moves from span to span; heads "
                "move what their keys and values read"
            )
        return super().edge_index(source, dest)

    def to_dict(self) -> dict[str, object]:
        """The graph as plain values for a file."""
        return {**super().to_dict(), "spans": list(self.spans)}

    def describe(self) -> str:
        """The graph in a few words, for messages."""
        return f"{super().describe()}, spans {', '.join(self.spans)}"

    def _at_spans(self, readers: slice) -> slice:
        return slice(readers.start * self.n_spans, readers.stop * self.n_spans)


@lru_cache(maxsize=16)
def _made(graph: Graph, spans: tuple[str, ...]) -> SpanGraph:
    return SpanGraph(*(getattr(graph, field.name) for field in fields(Graph)), spans=spans)


def plain_of(graph: Graph) -> Graph:
    """The graph itself, or the one that it keeps spans of apart."""
    return graph.plain if isinstance(graph, SpanGraph) else graph


def spans_of(graph: Graph) -> tuple[str, ...]:
    """The spans that a graph keeps apart: none, mostly."""
    return graph.spans if isinstance(graph, SpanGraph) else ()


def require_whole(graph: Graph, who: str) -> None:
    """Refuse a graph that keeps spans apart, for `who` cannot show them.

    Raises:
        ValueError: saying what would do.
    """
    if spans_of(graph):
        raise ValueError(
            f"{who} knows no spans; give what circuits.spans.collapsed makes of it (edges that are "
            "there at any span), or at_span"
        )


def kept_apart(graph: Graph, spans: Sequence[str]) -> Graph:
    """The graph with these spans, or without any as it is."""
    return SpanGraph.of(graph, spans) if spans else graph


def spans_last(matrix: Shaped[Tensor, "..."], graph: Graph) -> Shaped[Tensor, "..."]:
    """Values of edges, readers last, with an axis of their own for spans; as they are without."""
    spans = spans_of(graph)
    return matrix.unflatten(-1, (-1, len(spans))) if spans else matrix


@lru_cache(maxsize=16)
def reads_elsewhere(graph: Graph) -> Bool[Tensor, " dest"]:
    """Which readers of a graph without spans are keys and values: what they read is moved."""
    found = torch.zeros(len(graph.destinations), dtype=torch.bool)
    for layer in range(graph.n_layers):
        found[graph.k_readers(layer).start : graph.v_readers(layer).stop] = True
    return found


def graph_of(values: object) -> Graph:
    """The graph that a file describes, with spans or without.

    Raises:
        ValueError: as `Graph.from_dict`, and if spans are no list of sound names.
    """
    if not isinstance(values, dict) or "spans" not in values:
        return Graph.from_dict(values)
    rest = {key: value for key, value in values.items() if key not in ("spans", "fingerprint")}
    plain, spans = Graph.from_dict(rest), values["spans"]
    if not isinstance(spans, list) or not all(isinstance(name, str) for name in spans):
        raise ValueError("the spans of a graph are a list of names")
    graph = SpanGraph.of(plain, spans)
    if values.get("fingerprint", graph.fingerprint) != graph.fingerprint:
        raise ValueError(
            f"the graph's fingerprint is {graph.fingerprint}, the file says "
            f"{str(values['fingerprint'])[:40]}: it was altered or written for other node names"
        )
    return graph


def on_graph(values: Float[Tensor, " edge"], graph: Graph) -> Float[Tensor, "source dest"]:
    """Numbers of all edges, in row-major order, as a matrix; 0 where there is no edge."""
    matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
    matrix[graph.exists] = values
    return matrix


def alive(mask: Bool[Tensor, "source dest"], graph: Graph) -> Bool[Tensor, "source dest"]:
    """The edges that are left when nodes without input or output have lost theirs."""
    plain = plain_of(graph)
    moved = plain.feeds & reads_elsewhere(plain)[:, None]
    feeds = [part.float() for part in (plain.feeds & ~moved, moved)]
    by_span = mask.unflatten(1, (len(plain.destinations), -1))
    while True:
        read, wrote = by_span.any(dim=0), by_span.any(dim=1)
        has_input = _reached([part.T for part in feeds], read)
        has_input[plain.source_index("embed")] = True
        is_used = _reached(feeds, wrote)
        is_used[plain.dest_index("logits")] = True
        left = by_span & has_input[:, None] & is_used[None, :]
        if torch.equal(left, by_span):
            return left.flatten(1)
        by_span = left


def _reached(
    feeds: list[Float[Tensor, "to from"]], here: Bool[Tensor, "from span"]
) -> Bool[Tensor, "to span"]:
    """What a node or a reader is joined to: at its own span, or (the second) at any."""
    same, moved = feeds
    anywhere = here.any(dim=1, keepdim=True).expand_as(here)
    return (same @ here.float() + moved @ anywhere.float()) > 0


def readers_of(graph: Graph, source: int, span: int) -> set[int]:
    """The readers whose input reaches what a writer writes at a span."""
    if not spans_of(graph):
        return set(graph.feeds[:, source].nonzero().flatten().tolist())
    plain, n = plain_of(graph), len(spans_of(graph))
    readers, elsewhere = plain.feeds[:, source].nonzero().flatten(), reads_elsewhere(plain)
    return {
        n * reader + at
        for reader in readers.tolist()
        for at in (range(n) if elsewhere[reader] else (span,))
    }
