"""Circuit: a set of edges of one graph, with set algebra, files and networkx both ways.

Knows no model library.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType

import networkx as nx
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.naming import kind_of, node_of, nodes_of, plain_name
from circuits.scores import check_matrix
from patching.files.brief import as_table
from patching.files.parsing import number, provenance_json, read_json, require_keys, shown
from patching.files.whole import write_text
from patching.graph import Graph
from patching.metrics import respelled
from patching.span_graph import AT, graph_of, plain_of, spans_of

_VERSIONS = (1, 2)
"""Of the format: the later one is of circuits that keep spans apart."""


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A set of edges of `graph`.

    `scores` holds one number per edge of the circuit and 0 elsewhere; other entries are dropped.
    Equality and `<=` compare edges and graph only.

    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> circuit = Circuit.from_edges(graph, [("embed", "m0"), ("m0", "logits")])
    >>> circuit.size, ("embed", "m0") in circuit, circuit <= Circuit.full(graph)
    (2, True, True)
    """

    mask: Bool[Tensor, "source dest"]
    graph: Graph
    scores: Float[Tensor, "source dest"] | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        exists = self.graph.exists
        if (self.mask.shape, self.mask.dtype) != (exists.shape, torch.bool) or self.mask.is_cuda:
            raise ValueError(
                f"a mask of this graph is boolean, on the CPU, of shape {tuple(exists.shape)}; "
                f"got {self.mask.dtype} on {self.mask.device} of shape {tuple(self.mask.shape)}"
            )
        for source, dest in (self.mask & ~exists).nonzero()[:1].tolist():
            self.graph.edge_index(
                self.graph.sources[source].name, self.graph.destinations[dest].name
            )
        if self.scores is not None:
            check_matrix(self.scores, self.graph)
            object.__setattr__(self, "scores", self.scores.where(self.mask, 0.0))

    @staticmethod
    def full(graph: Graph) -> "Circuit":
        """All edges of the graph."""
        return Circuit(graph.exists.clone(), graph)

    @staticmethod
    def empty(graph: Graph) -> "Circuit":
        """No edge at all."""
        return Circuit(torch.zeros_like(graph.exists), graph)

    @staticmethod
    def from_edges(graph: Graph, edges: Iterable[tuple[str, str]]) -> "Circuit":
        """The circuit of the named edges.

        Raises:
            ValueError: if the graph has no such edge, or one is named twice.
        """
        rows = [(f"edge {i}", source, dest, None) for i, (source, dest) in enumerate(edges)]
        return from_rows(graph, rows, {})

    @property
    def size(self) -> int:
        """The number of edges."""
        return int(self.mask.sum())

    @property
    def edges(self) -> list[tuple[str, str]]:
        """All edges as (source, destination), in row-major order."""
        sources, dests = self.graph.sources, self.graph.destinations
        return [(sources[s].name, dests[d].name) for s, d in self.mask.nonzero().tolist()]

    @property
    def nodes(self) -> list[str]:
        """The nodes that an edge begins or ends at, in the order of the forward pass."""
        used = {name for edge in self.edges for name in nodes_of(*edge)}
        plain, spans = plain_of(self.graph), spans_of(self.graph)
        order = {node_of(node.name): node.order for node in plain.destinations}
        order |= {node.name: node.order for node in plain.sources}
        places = {name: (n, i) for i, (name, n) in enumerate(order.items())}
        at = {f"{AT}{span}": i for i, span in enumerate(spans)} | {"": 0}
        return sorted(used, key=lambda name: (*places[(n := plain_name(name))], at[name[len(n) :]]))

    def scored_edges(self) -> list[tuple[str, str, float | None]]:
        """All edges as (source, destination, score or None), in row-major order."""
        if self.scores is None:
            return [(source, dest, None) for source, dest in self.edges]
        values = self.scores[self.mask].tolist()
        return [(*edge, score) for edge, score in zip(self.edges, values, strict=True)]

    def __len__(self) -> int:
        return self.size

    def __contains__(self, edge: tuple[str, str]) -> bool:
        return bool(self.mask[self.graph.edge_index(*edge)])

    def __repr__(self) -> str:
        return f"Circuit({self.size} of {self.graph.n_edges} edges; {self.graph.describe()})"

    def _repr_html_(self) -> str:
        import pandas

        edges = sorted(self.scored_edges(), key=lambda edge: -abs(edge[2] or 0.0))[:10]
        frame = pandas.DataFrame(edges, columns=["source", "dest", "score"])
        return as_table(f"{self!r}, the strongest edges:", frame)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.graph == other.graph and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.graph, self.mask.numpy().tobytes()))

    def __le__(self, other: "Circuit") -> bool:
        return not self._other_mask(other).logical_not().logical_and(self.mask).any()

    def __lt__(self, other: "Circuit") -> bool:
        return self <= other and self != other

    def __or__(self, other: "Circuit") -> "Circuit":
        """Edges of either; scores survive if both have some and agree on shared edges."""
        mask = self.mask | self._other_mask(other)
        return Circuit(mask, self.graph, _union(self, other), _made_by("|", self, other))

    def __and__(self, other: "Circuit") -> "Circuit":
        """Edges of both, with the scores of the left one."""
        mask = self.mask & self._other_mask(other)
        return Circuit(mask, self.graph, self.scores, _made_by("&", self, other))

    def __sub__(self, other: "Circuit") -> "Circuit":
        """Edges of the left one only, with its scores."""
        mask = self.mask & ~self._other_mask(other)
        return Circuit(mask, self.graph, self.scores, _made_by("-", self, other))

    def __invert__(self) -> "Circuit":
        """All other edges of the graph, without scores."""
        return Circuit(self.graph.exists & ~self.mask, self.graph, None, _made_by("~", self))

    def save(self, path: str | Path) -> None:
        """Write the circuit as a JSON file that `load_circuit` reads.

        Raises:
            ValueError: if the provenance does not fit into JSON.
        """
        write_text(path, to_json(self))

    def to_networkx(self) -> nx.MultiDiGraph:
        """The circuit for networkx: one node per embedding, head, MLP and logits, keyed edges.

        An edge into `a3.h1.q` ends at the node `a3.h1` and has the attribute `reader`. A shared
        key or value reader ends at the node `a3.g0` of its key-value head, which no edge leaves.
        All attributes are plain values, so that every writer of networkx accepts the graph.
        """
        result = nx.MultiDiGraph(
            graph=json.dumps(self.graph.to_dict()), provenance=provenance_json(self.provenance)
        )
        layers = {node_of(node.name): node.layer for node in self.graph.destinations}
        for name in self.nodes:
            span = {"span": at[1:]} if (at := name[len(plain_name(name)) :]) else {}
            result.add_node(name, kind=kind_of(name), layer=layers.get(name, -1), **span)
        for source, dest, score in self.scored_edges():
            scored = {} if score is None else {"score": score}
            ends = nodes_of(source, dest)
            result.add_edge(*ends, f"{source}->{dest}", reader=dest, **scored)
        return result

    def _other_mask(self, other: "Circuit") -> Bool[Tensor, "source dest"]:
        if self.graph != other.graph:
            raise ValueError(
                f"the two circuits are of different graphs: "
                f"{self.graph.describe()} and {other.graph.describe()}"
            )
        return other.mask


def to_json(circuit: Circuit) -> str:
    """The circuit as JSON text, one edge a line."""
    rows = ",\n".join("  " + json.dumps(edge) for edge in circuit.scored_edges())
    version = _VERSIONS[bool(spans_of(circuit.graph))]
    text = (
        f'{{\n"version": {version},\n"graph": {json.dumps(circuit.graph.to_dict())},\n'
        f'"provenance": {provenance_json(circuit.provenance)},\n"edges": [\n{rows}\n]'
    )
    return f'{text},\n"checksum": "{_checksum(json.loads(text + "}"))}"\n}}\n'


def load_circuit(path: str | Path) -> Circuit:
    """Read what `Circuit.save` wrote.

    Raises:
        ValueError: if the file is damaged or altered, or names edges its graph does not have.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("edges"), list):
        raise ValueError(f"{path} is no circuit: it should hold version, graph and edges")
    if content.get("version") not in _VERSIONS:
        told = f"{path} has version {shown(content.get('version'))} of the format"
        raise ValueError(f"{told}; this program reads versions 1 and 2")
    try:
        require_keys(content, ("version", "graph", "edges"), ("provenance", "checksum"))
        if content.get("checksum", _checksum(content)) != _checksum(content):
            told = "it was altered after it was written: its checksum does not fit"
            raise ValueError(f"{told} (to change a circuit by hand, take the checksum out)")
        return _from_content(path, content)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None


def _from_content(path: str | Path, content: Mapping[str, object]) -> Circuit:
    rows, provenance = content["edges"], content.get("provenance", {})
    assert isinstance(rows, list), "seen by the caller"
    named = [(f"row {i} of {path}", row) for i, row in enumerate(rows)]
    for where, row in named:
        if not _is_row(row):
            raise ValueError(
                f"{where} is {json.dumps(row)[:99]}; "
                "[source, destination, score or null] would be right"
            )
    if not isinstance(provenance, dict):
        raise ValueError(f"the provenance is {shown(provenance)}; an object would be right")
    graph = graph_of(content["graph"])
    return from_rows(graph, [(where, *row) for where, row in named], respelled(provenance))


def _checksum(content: Mapping[str, object]) -> str:
    """A hash of what a circuit's JSON says, however it is spaced and ordered."""
    said = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def from_rows(
    graph: Graph,
    rows: Iterable[tuple[str, str, str, object]],
    provenance: Mapping[str, object],
) -> Circuit:
    """The circuit of rows: where each stands (for messages), source, destination, score or None.

    Raises:
        ValueError: if an edge does not exist or is there twice, or a score is no finite number or
            missing where others are there.
    """
    mask, scores = torch.zeros_like(graph.exists), graph.exists.double() * 0
    with_score = None
    for where, source, dest, score in rows:
        try:
            edge = graph.edge_index(source, dest)
            value = 0.0 if score is None else number(score)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if mask[edge]:
            raise ValueError(f"{where}: the edge {source}->{dest} was there before")
        if with_score not in (None, score is not None):
            raise ValueError(f"{where}: either all edges have a score or none has")
        mask[edge], scores[edge], with_score = True, value, score is not None
    return Circuit(mask, graph, scores if with_score else None, provenance)


def _is_row(row: object) -> bool:
    if not isinstance(row, list) or len(row) != 3:
        return False
    names_fit = isinstance(row[0], str) and isinstance(row[1], str)
    return names_fit and type(row[2]) in (int, float, NoneType)


def _union(a: Circuit, b: Circuit) -> Float[Tensor, "source dest"] | None:
    if a.scores is None or b.scores is None:
        return None
    shared = a.mask & b.mask
    agree = torch.equal(a.scores[shared], b.scores[shared])
    return a.scores.where(a.mask, b.scores) if agree else None


def _made_by(operation: str, *circuits: Circuit) -> Mapping[str, object]:
    return {"operation": operation, "of": [dict(c.provenance) for c in circuits]}
