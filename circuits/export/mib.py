"""Graph files of EAP-IG and of MIB's circuit-localisation track, both ways.

The layout is that of `Graph.to_json` and `Graph.to_pt` in hannamw/EAP-IG (src/eap/graph.py, commit
4fad6c6): nodes `input`, `a3.h2`, `m5`, `logits`, edges `a0.h1->a3.h2<q>`. There keys and values are
never shared: a group's edge stands for one edge to each of its query heads, with the same mask and
an equal part of the score, and MIB's percentages count those. Scores made there with `loss=True`
have our sign: positive helps the metric in the clean run.

Our files say whether they are a circuit or scores; others are a circuit if an edge is in the graph.
Masks of nodes are not read: EAP-IG finds them from the edges.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.circuit import Circuit, node_of
from circuits.scores import Scores, provenance_json
from patching.files.parsing import naming, number, read_json, shown
from patching.files.tensors import read_pt
from patching.files.whole import write_bytes, write_text
from patching.graph import Graph

PERCENTAGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Of all edges of the ungrouped graph: the sizes of circuits in a submission."""

CELLS = (
    *("ioi_gpt2", "ioi_qwen2.5", "ioi_gemma2", "ioi_llama3"),
    *("mcqa_qwen2.5", "mcqa_gemma2", "mcqa_llama3"),
    *("arithmetic-addition_llama3", "arithmetic-subtraction_llama3"),
    *("arc-easy_gemma2", "arc-easy_llama3", "arc-challenge_llama3"),
)
"""Task and model of every cell of the leaderboard (mttk/MIB-circuit-track-autoeval, utils.py)."""


def ungrouped(graph: Graph) -> Graph:
    """The graph in which every query head has keys and values of its own."""
    return Graph(graph.n_layers, graph.n_heads, graph.n_heads, graph.parallel)


def to_mib_json(result: Scores | Circuit, path: str | Path, *, d_model: int) -> None:
    """Write scores or a circuit as EAP-IG's JSON; its reader needs the width of the stream.

    Raises:
        ValueError: if `d_model` is not positive, or the provenance does not fit into JSON.
    """
    table = _table(result)
    in_graph = dict(zip(_nodes(table.graph), table.nodes.tolist(), strict=True)) | {"logits": True}
    scores, mask, at = table.scores.tolist(), table.mask.tolist(), _edges(table.graph)
    content = {
        **_head(result, table.graph, d_model),
        "nodes": {name: {"in_graph": kept} for name, kept in in_graph.items()},
        "edges": {e: {"score": scores[s][d], "in_graph": mask[s][d]} for e, (s, d) in at.items()},
    }
    write_text(path, json.dumps(content))


def to_mib_pt(result: Scores | Circuit, path: str | Path, *, d_model: int) -> None:
    """Write scores or a circuit as EAP-IG's `.pt`: plain tensors, names and numbers.

    Raises:
        ValueError: if `d_model` is not positive, or the provenance does not fit into JSON.
    """
    table = _table(result)
    content = {
        **_head(result, table.graph, d_model),
        "src_nodes": _nodes(table.graph),
        "dst_nodes": _readers(table.graph),
        "edges_scores": table.scores,
        "edges_in_graph": table.mask,
        "nodes_in_graph": table.nodes,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def from_mib_json(path: str | Path, graph: Graph) -> Scores | Circuit:
    """Read a JSON file of EAP-IG or MIB for a model with this graph.

    Edges that the file does not name have no score and are not in the circuit. Where keys and
    values are shared, scores of a group's query heads are summed, and a group's edge is in the
    circuit if it is for any of them; provenance counts the edges where they differ.

    Raises:
        ValueError: if the file is damaged, of another graph, or about nodes or neurons.
    """
    content = _checked(path, read_json(path), graph, ("cfg", "nodes", "edges"))
    nodes, rows = content["nodes"], content["edges"]
    if not isinstance(nodes, dict) or not isinstance(rows, dict):
        raise ValueError(f"{path} is no graph file: nodes and edges should be tables of names")
    about = {key for node in nodes.values() if isinstance(node, dict) for key in node}
    where = _edges(wide := ungrouped(graph))
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
    return _grouped(path, _Table(wide, scores, mask), graph, content)


def from_mib_pt(path: str | Path, graph: Graph) -> Scores | Circuit:
    """Read a `.pt` file of EAP-IG or MIB, as `from_mib_json`; nothing in the file is executed.

    Raises:
        ValueError: if the file is damaged, of another graph, about nodes or neurons, or holds
            more than plain tensors, names and numbers.
    """
    content = _checked(
        path, read_pt(path), graph, ("cfg", "src_nodes", "dst_nodes", "edges_in_graph")
    )
    wide = ungrouped(graph)
    for key, names in (("src_nodes", _nodes(wide)), ("dst_nodes", _readers(wide))):
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
    return _grouped(path, _Table(wide, scores.double(), mask.bool()), graph, content)


def write_submission(
    result: Scores | Sequence[Circuit], folder: str | Path, cell: str, *, d_model: int
) -> list[Path]:
    """Write one task and model of a submission to MIB's circuit-localisation track.

    `folder/cell` then holds either one file with the scores of all edges, or nine circuits with at
    most 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of the ungrouped graph's edges, smallest first. A
    submission needs two tasks and two models, and is uploaded to the Hugging Face hub. README of
    the track, as stored in yanivnik/MIB-shared-task.

    Raises:
        ValueError: if there is no such cell, there are not nine circuits or one is too large, or
            the cell's folder holds other graph files.
    """
    if cell not in CELLS:
        raise ValueError(f"no task and model named {cell!r}; the track has {', '.join(CELLS)}")
    home = Path(folder) / cell
    if isinstance(result, Scores):
        files: dict[Path, Scores | Circuit] = {home / "importances.pt": result}
    else:
        _check_sizes(result)
        names = [home / f"circuit_{percent:g}.pt" for percent in PERCENTAGES]
        files = dict(zip(names, result, strict=True))
    others = sorted({*home.glob("*.pt"), *home.glob("*.json")} - set(files))
    if others:
        raise ValueError(f"{others[0]} is in the way: the track would take it for a circuit")
    for path, part in files.items():
        to_mib_pt(part, path, d_model=d_model)
    return list(files)


@dataclass(frozen=True)
class _Table:
    """What a file holds: scores and mask of an ungrouped graph."""

    graph: Graph
    scores: Float[Tensor, "source dest"]
    mask: Bool[Tensor, "source dest"]

    @property
    def nodes(self) -> Bool[Tensor, " source"]:
        """Writers that an edge of the mask begins or ends at."""
        reads = (self.graph.feeds & self.mask.any(dim=0)[:, None]).any(dim=0)
        return reads | self.mask.any(dim=1)


def _table(result: Scores | Circuit) -> _Table:
    graph, wide, shared = result.graph, ungrouped(result.graph), _shared_reader(result.graph)
    scores = result.matrix if isinstance(result, Scores) else result.scores
    scores = graph.exists.double() * 0 if scores is None else scores
    mask = torch.zeros_like(graph.exists) if isinstance(result, Scores) else result.mask
    return _Table(wide, scores[:, shared] / shared.bincount()[shared], mask[:, shared])


def _grouped(
    path: str | Path, table: _Table, graph: Graph, content: Mapping[str, object]
) -> Scores | Circuit:
    """Scores summed and masks joined over the query heads of each group.

    What stands where the graph has no edge is ignored, as EAP-IG does.

    Raises:
        ValueError: if a score is NaN or infinite.
    """
    shared, exists, zeros = _shared_reader(graph), table.graph.exists, graph.exists.double() * 0
    scores = zeros.index_add(1, shared, table.scores.where(exists, 0.0))
    n_kept = zeros.index_add(1, shared, (table.mask & exists).double())
    stated, named = content.get("provenance"), {"file": Path(path).name}
    kind = content.get("kind", "circuit" if bool(table.mask.any()) else "scores")
    provenance = dict[str, object](stated if isinstance(stated, dict) else named)
    n_split = int(((n_kept > 0) & (n_kept < shared.bincount())).sum())
    if n_split:
        provenance["edges kept for some heads of a group"] = n_split
    try:
        provenance_json(provenance)
        if kind not in ("scores", "circuit"):
            raise ValueError(f"its kind is {shown(kind)}; scores or circuit would be right")
        if kind == "scores":
            return Scores(scores, graph, provenance)
        return Circuit(n_kept > 0, graph, scores if scores.any() else None, provenance)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _shared_reader(graph: Graph) -> Int[Tensor, " ungrouped_dest"]:
    """Which reader of the graph each reader of the ungrouped one is."""
    heads, n_shared = torch.arange(graph.n_heads), graph.n_kv_heads
    keys = graph.n_heads + heads // (graph.n_heads // n_shared)
    layer = torch.cat([heads, keys, keys + n_shared, torch.tensor([graph.mlp_reader(0)])])
    starts = torch.tensor([graph.q_readers(i).start for i in range(graph.n_layers)])
    logits = torch.tensor([len(graph.destinations) - 1])
    return torch.cat([(starts[:, None] + layer).flatten(), logits])


def _nodes(graph: Graph) -> list[str]:
    return ["input", *(node.name for node in graph.sources[1:])]


def _readers(graph: Graph) -> list[str]:
    names = [node.name for node in graph.destinations]
    return [name if node_of(name) == name else f"{node_of(name)}<{name[-1]}>" for name in names]


def _edges(graph: Graph) -> dict[str, tuple[int, int]]:
    nodes, readers = _nodes(graph), _readers(graph)
    return {f"{nodes[s]}->{readers[d]}": (s, d) for s, d in graph.exists.nonzero().tolist()}


def _cfg(g: Graph) -> dict[str, int | bool]:
    return {"n_layers": g.n_layers, "n_heads": g.n_heads, "parallel_attn_mlp": g.parallel}


def _head(result: Scores | Circuit, graph: Graph, d_model: int) -> dict[str, object]:
    if d_model < 1:
        raise ValueError(f"d_model is the width of the stream, 1 or more; got {d_model}")
    return {
        "cfg": {**_cfg(graph), "d_model": d_model},
        "kind": "scores" if isinstance(result, Scores) else "circuit",
        "provenance": json.loads(provenance_json(result.provenance)),
    }


def _checked(path: str | Path, content: object, graph: Graph, keys: Sequence[str]) -> dict:
    if not isinstance(content, dict) or not all(key in content for key in keys):
        raise ValueError(f"{path} is no graph file of EAP-IG: it should hold {', '.join(keys)}")
    expected, cfg = _cfg(graph), content["cfg"]
    got = {key: cfg.get(key) for key in expected} if isinstance(cfg, dict) else cfg
    if got != expected:
        raise ValueError(f"{path} is of another graph: cfg says {got!s:.99}, not {expected}")
    return content


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


def _check_sizes(circuits: Sequence[Circuit]) -> None:
    if len(circuits) != len(PERCENTAGES):
        raise ValueError(f"got {len(circuits)} circuits; a submission has {len(PERCENTAGES)}")
    for percent, circuit in zip(PERCENTAGES, circuits, strict=True):
        table = _table(circuit)
        size, most = int(table.mask.sum()), int(percent / 100 * table.graph.n_edges)
        if size > most:
            raise ValueError(
                f"the circuit for {percent:g} % has {size} ungrouped edges; {most} is the most"
            )
