"""What an explorer's page knows: edges in order, as compact lists of numbers, and names.

Edges are pairs of indices into names, so that 32,000 of them take 8 bytes each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.circuit import Circuit, kind_of, node_of
from circuits.judging.uncertain import Uncertain
from circuits.scores import Ranking, Scores, ranked_by
from patching.graph import Graph
from patching.views.page import packed

MOST_EDGES = 40_000
"""More edges than this do not go into a page; the best do, and the page says so."""


@dataclass(frozen=True, eq=False)
class Ordered:
    """Edges of one graph, best first: the page shows the first n of them.

    `edges` are flat indices into the matrix of scores, at most `MOST_EDGES` of `total`; `start` is
    how many are shown at first.
    """

    graph: Graph
    edges: Int[Tensor, " edge"]
    total: int
    scores: Float[Tensor, "source dest"] | None
    start: int
    provenance: Mapping[str, object]

    def prefix(self, n: int) -> Circuit:
        """The first n edges."""
        mask = torch.zeros_like(self.graph.exists)
        mask.view(-1)[self.edges[:n]] = True
        return Circuit(mask, self.graph, self.scores)


def ordered(result: Circuit | Scores, scores: Scores | None, ranking: Ranking) -> Ordered:
    """The edges of a circuit by score, then those of `scores` that it lacks; or all by score.

    Ties, and circuits without scores, keep the row-major order.

    Raises:
        ValueError: if scores and circuit are of different graphs.
    """
    graph = result.graph
    if scores is not None:
        graph.require_same(scores.graph, "the scores are")
    matrix = scores.matrix if scores is not None else _matrix(result)
    mask = result.mask if isinstance(result, Circuit) else graph.exists
    held = graph.exists if scores is not None else mask
    size = int(mask.sum())
    edges = _by_score(mask, matrix, graph, ranking)
    if scores is not None:
        edges = torch.cat([edges, _by_score(held & ~mask, matrix, graph, ranking)])
    start = size if isinstance(result, Circuit) and size else min(50, len(edges))
    total, edges = len(edges), edges[:MOST_EDGES]
    return Ordered(graph, edges, total, matrix, min(start, len(edges)), result.provenance)


def names(graph: Graph) -> dict[str, object]:
    """All nodes and readers; a reader is [name, its node], a link [key-value head, head]."""
    nodes = {node_of(node.name): node.layer for node in graph.destinations}
    nodes = {node.name: node.layer for node in graph.sources} | nodes
    index = {name: i for i, name in enumerate(nodes)}
    readers = [[node.name, index[node_of(node.name)]] for node in graph.destinations]
    links = [
        [readers[dest][1], index[graph.sources[source].name]]
        for dest, source in graph.feeds.nonzero().tolist()
        if kind_of(node_of(graph.destinations[dest].name)) == "group"
        and graph.destinations[dest].name.endswith(".k")
    ]
    return {
        "nodes": [[name, kind_of(name), layer] for name, layer in nodes.items()],
        "readers": readers,
        "sources": [index[node.name] for node in graph.sources],
        "links": links,
    }


def edge_list(name: str, order: Ordered, uncertain: Uncertain | None = None) -> dict[str, object]:
    """One list of edges as the page reads it: packed columns of equal length."""
    n_dests = order.graph.exists.shape[1]
    edges = order.edges.numpy()
    columns: dict[str, Tensor | None] = {"score": order.scores}
    if uncertain is not None:
        columns |= {
            "error": uncertain.standard_error,
            "stability": uncertain.sign_stability,
            "inclusion": uncertain.inclusion,
        }
    return {
        "name": name,
        "total": order.total,
        "source": packed(edges // n_dests, "uint16"),
        "reader": packed(edges % n_dests, "uint16"),
        **{key: _column(values, edges) for key, values in columns.items()},
    }


def _column(values: Tensor | None, edges: np.ndarray) -> str | None:
    return None if values is None else packed(values.flatten()[edges].numpy(), "float32")


def _matrix(result: Circuit | Scores) -> Float[Tensor, "source dest"] | None:
    return result.matrix if isinstance(result, Scores) else result.scores


def _by_score(
    mask: Tensor, matrix: Float[Tensor, "source dest"] | None, graph: Graph, ranking: Ranking
) -> Int[Tensor, " edge"]:
    edges = mask.flatten().nonzero().squeeze(1)
    if matrix is None:
        return edges
    merit = ranked_by(Scores(matrix, graph, {}), ranking).flatten()[edges]
    return edges[merit.sort(descending=True, stable=True).indices]
