"""Graph files of EAP-IG and of MIB's circuit-localisation track: their layout, and writing them.

The layout is that of `Graph.to_json` and `Graph.to_pt` in hannamw/EAP-IG (src/eap/graph.py, commit
4fad6c6): nodes `input`, `a3.h2`, `m5`, `logits`, edges `a0.h1->a3.h2<q>`. There keys and values are
never shared: a group's edge stands for one edge to each of its query heads, with the same mask and
an equal part of the score (what each head's own share is, a model that is loaded `Ungrouped` says).
Scores made there with `loss=True` have our sign: positive helps the metric in the clean run.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit import Circuit, node_of
from circuits.grouping import shared_readers
from circuits.scores import Scores
from patching.files.parsing import provenance_json
from patching.files.whole import write_bytes, write_text
from patching.graph import Graph
from patching.span_graph import require_whole


def to_mib_json(
    result: Scores | Circuit, path: str | Path, *, d_model: int, scores: Scores | None = None
) -> None:
    """Write scores or a circuit as EAP-IG's JSON; its reader needs the width of the stream.

    Beside a circuit, `scores` are those of all edges; without them the file has its edges' own.

    Raises:
        ValueError: if `d_model` is not positive, the scores are of another graph, or the
            provenance does not fit into JSON.
    """
    table = table_of(result, scores)
    names = [*nodes_of(table.graph), "logits"]
    in_graph = dict(zip(names, [*table.nodes.tolist(), True], strict=True))
    values, mask, at = table.scores.tolist(), table.mask.tolist(), edges_of(table.graph)
    content = {
        **_head(result, d_model),
        "nodes": {name: {"in_graph": kept} for name, kept in in_graph.items()},
        "edges": {e: {"score": values[s][d], "in_graph": mask[s][d]} for e, (s, d) in at.items()},
    }
    write_text(path, json.dumps(content))


def to_mib_pt(
    result: Scores | Circuit, path: str | Path, *, d_model: int, scores: Scores | None = None
) -> None:
    """Write scores or a circuit as EAP-IG's `.pt`: plain tensors, names and numbers.

    Raises:
        ValueError: as `to_mib_json`.
    """
    table = table_of(result, scores)
    content = {
        **_head(result, d_model),
        "src_nodes": nodes_of(table.graph),
        "dst_nodes": readers_of(table.graph),
        "edges_scores": table.scores,
        "edges_in_graph": table.mask,
        "nodes_in_graph": table.nodes,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


@dataclass(frozen=True)
class Table:
    """What a file holds: scores and mask of an ungrouped graph."""

    graph: Graph
    scores: Float[Tensor, "source dest"]
    mask: Bool[Tensor, "source dest"]

    @property
    def nodes(self) -> Bool[Tensor, " source"]:
        """Writers that an edge of the mask begins or ends at."""
        reads = (self.graph.feeds & self.mask.any(dim=0)[:, None]).any(dim=0)
        return reads | self.mask.any(dim=1)


def table_of(result: Scores | Circuit, scores: Scores | None = None) -> Table:
    """What is written of scores, or of a circuit with its own scores or those of all edges.

    Raises:
        ValueError: if the scores are of another graph, or the graph is of attention only, has
            gates or keeps spans apart.
    """
    graph = result.graph
    require_whole(graph, "EAP-IG's form")
    if graph.attention_only:
        raise ValueError("EAP-IG's graphs have an MLP in every layer, and this one has none")
    if graph.gated:
        raise ValueError("EAP-IG's graphs know no gates of heads, and this one has them")
    if scores is not None:
        graph.require_same(scores.graph, "the scores are")
        values: Tensor | None = scores.matrix
    else:
        values = result.matrix if isinstance(result, Scores) else result.scores
    values = graph.exists.double() * 0 if values is None else values
    mask = torch.zeros_like(graph.exists) if isinstance(result, Scores) else result.mask
    shared = shared_readers(graph)
    return Table(graph.ungrouped, values[:, shared] / shared.bincount()[shared], mask[:, shared])


def nodes_of(graph: Graph) -> list[str]:
    """Writers, as EAP-IG names them."""
    return ["input", *(node.name for node in graph.sources[1:])]


def readers_of(graph: Graph) -> list[str]:
    """Readers, as EAP-IG names them."""
    names = [node.name for node in graph.destinations]
    return [name if node_of(name) == name else f"{node_of(name)}<{name[-1]}>" for name in names]


def edges_of(graph: Graph) -> dict[str, tuple[int, int]]:
    """Where each edge is, by the name that EAP-IG gives it."""
    nodes, readers = nodes_of(graph), readers_of(graph)
    return {f"{nodes[s]}->{readers[d]}": (s, d) for s, d in graph.exists.nonzero().tolist()}


def cfg_of(g: Graph) -> dict[str, int | bool]:
    """What a file says of its graph."""
    return {"n_layers": g.n_layers, "n_heads": g.n_heads, "parallel_attn_mlp": g.parallel}


def _head(result: Scores | Circuit, d_model: int) -> dict[str, object]:
    if d_model < 1:
        raise ValueError(f"d_model is the width of the stream, 1 or more; got {d_model}")
    return {
        "cfg": {**cfg_of(result.graph), "d_model": d_model},
        "graph": result.graph.to_dict(),
        "kind": "scores" if isinstance(result, Scores) else "circuit",
        "provenance": json.loads(provenance_json(result.provenance)),
    }
