"""Graph files of EAP-IG and of MIB's circuit-localisation track, read; `mib` says their layout.

Our files say whether they are a circuit or scores, and of which graph; others are a circuit if an
edge is in the graph. Masks of nodes are not read: EAP-IG finds them from the edges.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.export.mib import Table, cfg_of, edges_of, nodes_of, readers_of
from circuits.grouping import join_circuit, join_scores
from circuits.scores import Scores
from patching.files.parsing import naming, number, provenance_json, read_json, shown
from patching.files.tensors import read_pt
from patching.graph import Graph


@dataclass(frozen=True)
class GraphFile:
    """What a file holds: scores of all edges, if there are any, and a circuit, if it is one."""

    scores: Scores | None
    circuit: Circuit | None

    @property
    def result(self) -> Scores | Circuit:
        """The circuit, or the scores where it is none."""
        found = self.scores if self.circuit is None else self.circuit
        assert found is not None, "a file holds one of them"
        return found


def from_mib_json(path: str | Path, graph: Graph | None = None) -> Scores | Circuit:
    """Read a JSON file of EAP-IG or MIB for a model with this graph.

    Edges that the file does not name have no score and are not in the circuit. Where keys and
    values are shared, scores of a group's query heads are summed, and a group's edge is in the
    circuit if it is for any of them; provenance counts the edges where they differ. Without a
    `graph`, it is the one that the file names: of a file from elsewhere, one with keys and values
    for every query head.

    Raises:
        ValueError: if the file is damaged, of another graph, or about nodes or neurons.
    """
    return _from_json(path, read_json(path), graph).result


def from_mib_pt(path: str | Path, graph: Graph | None = None) -> Scores | Circuit:
    """Read a `.pt` file of EAP-IG or MIB, as `from_mib_json`; nothing in the file is executed.

    Raises:
        ValueError: if the file is damaged, of another graph, about nodes or neurons, or holds
            more than plain tensors, names and numbers.
    """
    return _from_pt(path, graph).result


def read_mib(path: str | Path, graph: Graph | None = None) -> GraphFile | None:
    """All that a file of EAP-IG or MIB holds, by its suffix; None for JSON of another kind.

    Raises:
        ValueError: as `from_mib_json` and `from_mib_pt`.
    """
    if Path(path).suffix == ".pt":
        return _from_pt(path, graph)
    content = read_json(path)
    is_one = isinstance(content, dict) and isinstance(content.get("cfg"), dict)
    return _from_json(path, content, graph) if is_one else None


def _from_json(path: str | Path, found: object, graph: Graph | None) -> GraphFile:
    content, wide = _checked(path, found, graph, ("cfg", "nodes", "edges"))
    nodes, rows = content["nodes"], content["edges"]
    if not isinstance(nodes, dict) or not isinstance(rows, dict):
        raise ValueError(f"{path} is no graph file: nodes and edges should be tables of names")
    about = {key for node in nodes.values() if isinstance(node, dict) for key in node}
    where = edges_of(wide)
    for name, row in rows.items():
        if name not in where:
            raise ValueError(
                f"{path} has the edge {shown(name)}; this graph has {next(iter(where))} and so on"
            )
        _check_row(path, name, row)
    scores, mask = wide.exists.double() * 0, torch.zeros_like(wide.exists)
    index = torch.tensor([where[name] for name in rows], dtype=torch.long).view(-1, 2).unbind(1)
    with naming(path):
        scores[index] = scores.new_tensor([number(r.get("score") or 0) for r in rows.values()])
    mask[index] = mask.new_tensor([row["in_graph"] for row in rows.values()])
    _check_about_edges(path, "neurons" in about, "score" in about and not scores.any())
    return _file(path, Table(wide, scores, mask), graph, content)


def _from_pt(path: str | Path, graph: Graph | None) -> GraphFile:
    keys = ("cfg", "src_nodes", "dst_nodes", "edges_in_graph")
    content, wide = _checked(path, read_pt(path), graph, keys)
    for key, names in (("src_nodes", nodes_of(wide)), ("dst_nodes", readers_of(wide))):
        if not isinstance(content[key], list) or content[key] != names:
            raise ValueError(f"{path} has other {key} than this graph, {names[0]} and so on")
    mask = content["edges_in_graph"]
    scores = content.get("edges_scores", torch.zeros(wide.exists.shape))
    for key, tensor in (("edges_in_graph", mask), ("edges_scores", scores)):
        if not isinstance(tensor, Tensor) or tensor.shape != wide.exists.shape:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{path}: {key} is {got}, not of shape {tuple(wide.exists.shape)}")
        if tensor.is_complex() or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{path}: {key} holds no plain numbers, but {tensor.dtype}")
    scores_nodes = "nodes_scores" in content and not scores.any()
    _check_about_edges(path, "neurons_in_graph" in content, scores_nodes)
    return _file(path, Table(wide, scores.double(), mask.bool()), graph, content)


def _file(
    path: str | Path, table: Table, graph: Graph | None, content: Mapping[str, object]
) -> GraphFile:
    """Scores and circuit of a graph, or of the one that the file names.

    What stands where the graph has no edge is ignored, as EAP-IG does.

    Raises:
        ValueError: if a score is NaN or infinite.
    """
    wide, stated = table.graph, content.get("provenance")
    kind = content.get("kind", "circuit" if bool(table.mask.any()) else "scores")
    named: Mapping[str, object] = {"file": Path(path).name}
    provenance = stated if isinstance(stated, dict) else named
    matrix = table.scores.where(wide.exists, 0.0)
    try:
        provenance_json(provenance)
        if kind not in ("scores", "circuit"):
            raise ValueError(f"its kind is {shown(kind)}; scores or circuit would be right")
        graph = graph or _named_graph(content, wide)
        scores = join_scores(Scores(matrix, wide, provenance), graph)
        if kind == "scores":
            return GraphFile(scores, None)
        scored = matrix if matrix.any() else None
        circuit = Circuit(table.mask & wide.exists, wide, scored, provenance)
        return GraphFile(None if scored is None else scores, join_circuit(circuit, graph))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _named_graph(content: Mapping[str, object], wide: Graph) -> Graph:
    """The graph that our own files name; of others, the one with keys and values for every head."""
    return Graph.from_dict(content["graph"]) if "graph" in content else wide


def _checked(
    path: str | Path, content: object, graph: Graph | None, keys: Sequence[str]
) -> tuple[dict, Graph]:
    """A file's content, and the graph of all its edges.

    Raises:
        ValueError: if it is no graph file, or of another graph.
    """
    if not isinstance(content, dict) or not all(key in content for key in keys):
        raise ValueError(f"{path} is no graph file of EAP-IG: it should hold {', '.join(keys)}")
    cfg = content["cfg"] if isinstance(content["cfg"], dict) else {}
    if graph is None:
        sizes = {"n_layers": cfg.get("n_layers"), "n_heads": cfg.get("n_heads")}
        sizes |= {"n_kv_heads": cfg.get("n_heads"), "parallel": cfg.get("parallel_attn_mlp")}
        with naming(path):
            graph = Graph.from_dict(sizes)
    expected = cfg_of(graph)
    got = {key: cfg.get(key) for key in expected} if cfg else content["cfg"]
    if got != expected:
        raise ValueError(f"{path} is of another graph: cfg says {got!s:.99}, not {expected}")
    return content, graph.ungrouped


def _check_row(path: str | Path, name: str, row: object) -> None:
    values = row if isinstance(row, dict) else {}
    number = type(values.get("score")) in (int, float, NoneType)
    if not isinstance(values.get("in_graph"), bool) or not number:
        raise ValueError(
            f"{path}: the edge {name} is {json.dumps(row)[:99]}; in_graph (true or false) and "
            "score (a number, or left out) would be right"
        )


def _check_about_edges(path: str | Path, has_neurons: bool, scores_nodes: bool) -> None:
    if has_neurons or scores_nodes:
        what = "chooses neurons" if has_neurons else "scores nodes"
        raise ValueError(f"{path} {what}; only files about edges can be read")
