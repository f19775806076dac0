"""Scores: one number per edge of one graph, with where they came from.

Positive: the edge helps the metric in the clean run. Knows no model library.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits import cautions
from patching.files.brief import as_table, briefly
from patching.files.parsing import parse_json, provenance_json, shown
from patching.files.tensors import (
    read_tensor_file,
    require_checksum,
    require_names,
    write_tensor_file,
)
from patching.graph import Graph
from patching.metrics import respelled
from patching.span_graph import graph_of, spans_of

if TYPE_CHECKING:
    import pandas

Ranking = Literal["absolute", "signed"]

MUST_AGREE = ("weights", "metric", "method", "options", "ablation", "dtype")
_OF_THE_MODEL = ("config", "inside")
"""What two results must share, beside the graph, before they may be added; the latter if named."""

_VERSIONS = ("1", "2")  # the later one is of scores that keep spans apart
_METADATA = ("version", "sources", "destinations", "graph", "provenance", "checksum")
_TENSORS = ("scores", "exists", "completeness", "by_prompt")


@briefly
@dataclass(frozen=True, eq=False)
class Scores:
    """One score per edge of `graph`, exactly 0 where the graph has no edge.

    `provenance` says how the scores were made, in values that fit into JSON. `completeness` is the
    completeness delta of a path method, one value per example, in units of the metric. `by_prompt`,
    where kept, is what each prompt alone scores, edges in row-major order; `matrix` is its mean.

    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    >>> scores = Scores(graph.exists.double(), graph, {"method": "by hand"})
    >>> scores.of("a0.h0", "logits")
    1.0
    """

    matrix: Float[Tensor, "source dest"]
    graph: Graph
    provenance: Mapping[str, object]
    completeness: Float[Tensor, " example"] | None = None
    by_prompt: Float[Tensor, "example edge"] | None = None

    def __post_init__(self) -> None:
        check_matrix(self.matrix, self.graph)
        outside = ((self.matrix != 0) & ~self.graph.exists).nonzero()
        if len(outside):
            source, dest = _names(self.graph, outside[0])
            raise ValueError(
                f"there is no edge {source}->{dest}, yet it has the score "
                f"{self.matrix[tuple(outside[0])]:g}; scores are 0 where the graph has no edge"
            )
        if self.by_prompt is not None:
            _check_mean(self.by_prompt, self.matrix[self.graph.exists])

    @property
    def completeness_error(self) -> float | None:
        """How far the embedding's scores are from adding up to the gap, as a share; if known."""
        if self.completeness is None:
            return None
        total, gap = self._sum_and_gap
        return abs((total - gap) / gap) if gap else float("inf")

    @property
    def caution(self) -> str | None:
        """What to be told where that share is more than `cautions.DOUBTFUL`."""
        return cautions.of_sums(self.completeness_error, *self._sum_and_gap)

    @property
    def signs_caution(self) -> str | None:
        """What to be told where edges are chosen by sign and it is above `DOUBTFUL_SIGNS`."""
        return cautions.of_signs(self.completeness_error, *self._sum_and_gap)

    @property
    def _sum_and_gap(self) -> tuple[float, float]:
        total, delta = float(self.matrix[0].sum()), self.completeness
        return total, total if delta is None else total - float(delta.mean())

    def of(self, source: str, dest: str) -> float:
        """The score of the edge `source->dest`.

        Raises:
            ValueError: if the graph has no such edge.
        """
        return float(self.matrix[self.graph.edge_index(source, dest)])

    def top(self, k: int, *, ranking: Ranking) -> list[tuple[str, str, float]]:
        """The k best edges (all, if there are fewer) as (source, destination, score).

        Raises:
            ValueError: if k is negative or the ranking unknown.
        """
        if k < 0:
            raise ValueError(f"cannot list {k} edges; k is 0 or more")
        best = rank(self, ranking)[:k]
        edges = torch.stack(torch.unravel_index(best, self.matrix.shape), dim=1)
        return [(*_names(self.graph, edge), float(self.matrix[tuple(edge)])) for edge in edges]

    def node_scores(self) -> Float[Tensor, " source"]:
        """The sum over the outgoing edges of every writer."""
        return self.matrix.sum(dim=1)

    def to_dataframe(self) -> "pandas.DataFrame":
        """All edges, in row-major order, with the columns source, dest and score."""
        import pandas  # slow to import, and seldom needed

        edges = self.graph.exists.nonzero()
        names = [_names(self.graph, edge) for edge in edges]
        frame = pandas.DataFrame(names, columns=["source", "dest"])
        frame["score"] = self.matrix[self.graph.exists].numpy()
        return frame

    def _repr_html_(self) -> str:
        """The strongest edges, for notebooks."""
        import pandas

        best = self.top(10, ranking="absolute")
        frame = pandas.DataFrame(best, columns=["source", "dest", "score"])
        said = f"{self.graph.n_edges:,} edges by {self.provenance.get('method', 'unnamed')} score"
        return as_table(f"{said}, the strongest:", frame)

    def save(self, path: str | Path) -> None:
        """Write the scores as a safetensors file that `load_scores` reads.

        Raises:
            ValueError: if the provenance does not fit into JSON.
        """
        tensors = {"scores": self.matrix.contiguous(), "exists": self.graph.exists}
        if self.completeness is not None:
            tensors["completeness"] = self.completeness.contiguous()
        if self.by_prompt is not None:
            tensors["by_prompt"] = self.by_prompt.contiguous()
        metadata = {
            "version": _VERSIONS[bool(spans_of(self.graph))],
            "sources": json.dumps([node.name for node in self.graph.sources]),
            "destinations": json.dumps([node.name for node in self.graph.destinations]),
            "graph": json.dumps(self.graph.to_dict()),
            "provenance": provenance_json(self.provenance),
        }
        write_tensor_file(path, tensors, metadata)


def rank(scores: Scores, ranking: Ranking) -> Int[Tensor, " edge"]:
    """All edges, best first, as flat indices into the matrix; ties in row-major order.

    Raises:
        ValueError: if the ranking is unknown.
    """
    edges = scores.graph.exists.flatten().nonzero().squeeze(1)
    merit = ranked_by(scores, ranking).flatten()[edges]
    return edges[merit.sort(descending=True, stable=True).indices]


def ranked_by(scores: Scores, ranking: Ranking) -> Float[Tensor, "source dest"]:
    """What a ranking compares: the scores themselves or their absolute values.

    Raises:
        ValueError: if the ranking is unknown.
    """
    if ranking not in ("absolute", "signed"):
        raise ValueError(f"no ranking named {ranking!r}; it is 'absolute' or 'signed'")
    return scores.matrix.abs() if ranking == "absolute" else scores.matrix


def load_scores(path: str | Path) -> Scores:
    """Read what `Scores.save` wrote, and check that nothing was altered.

    Raises:
        ValueError: if the file is damaged, altered or not a file of scores.
    """
    tensors, metadata = read_tensor_file(path)
    absent = [name for name in _METADATA if name not in metadata]
    absent += [name for name in ("scores", "exists") if name not in tensors]
    if absent:
        raise ValueError(f"{path} is no file of scores: it lacks {', '.join(absent)}")
    if metadata["version"] not in _VERSIONS:
        told = f"{path} has version {shown(metadata['version'])} of the format"
        raise ValueError(f"{told}; this program reads versions 1 and 2")
    require_checksum(path, tensors, metadata)
    require_names(path, tensors, _TENSORS)
    try:
        graph = graph_of(parse_json(metadata["graph"]))
        provenance = parse_json(metadata["provenance"])
        if not isinstance(provenance, dict) or not torch.equal(tensors["exists"], graph.exists):
            raise ValueError("its graph, edges and provenance do not fit each other")
        more = map(tensors.get, _TENSORS[2:])
        return Scores(tensors["scores"], graph, respelled(provenance), *more)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def merge(a: Scores, b: Scores) -> Scores:
    """The mean of two results over all their examples together.

    The number of examples of each is `provenance["n_examples"]`.

    Raises:
        ValueError: if the two were not made from the same weights, graph and method, or do not
            say how many examples they saw.
    """
    if a.graph != b.graph:
        graphs = f"{a.graph.describe()} and {b.graph.describe()}"
        raise ValueError(f"cannot merge scores that differ in graph: {graphs}")
    for field in (*MUST_AGREE, *_OF_THE_MODEL):
        known = field in MUST_AGREE
        first, second = (_stated(s, field) if known else s.provenance.get(field) for s in (a, b))
        if first != second:
            raise ValueError(f"cannot merge scores that differ in {field}: {first} and {second}")
    examples = _n_examples(a), _n_examples(b)
    total = sum(examples)
    matrix = (a.matrix * examples[0] + b.matrix * examples[1]) / total
    deltas = [s.completeness for s in (a, b) if s.completeness is not None]
    provenance = {
        **{field: a.provenance[field] for field in MUST_AGREE},
        **{field: a.provenance[field] for field in _OF_THE_MODEL if field in a.provenance},
        "n_examples": total,
        "merged_from": [*_parts(a), *_parts(b)],
    }
    rows = [s.by_prompt for s in (a, b) if s.by_prompt is not None]
    more = (torch.cat(parts) if len(parts) == 2 else None for parts in (deltas, rows))
    return Scores(matrix, a.graph, provenance, *more)


def check_matrix(matrix: Float[Tensor, "source dest"], graph: Graph) -> None:
    """Check that a matrix can hold the scores of a graph.

    Raises:
        ValueError: if shape, dtype or device are wrong, or an edge has no finite score.
    """
    if matrix.shape != graph.exists.shape:
        raise ValueError(
            f"scores of this graph have the shape {tuple(graph.exists.shape)} [source, dest], "
            f"got {tuple(matrix.shape)}"
        )
    if matrix.dtype != torch.float64 or matrix.device.type != "cpu":
        raise ValueError(
            f"scores are float64 on the CPU, got {matrix.dtype} on {matrix.device}; "
            f"use matrix.double().cpu()"
        )
    bad = (~matrix.isfinite()).nonzero()
    if len(bad):
        first = ", ".join("->".join(_names(graph, edge)) for edge in bad[:3])
        raise ValueError(
            f"{len(bad)} edges have a score that is NaN or infinite, first {first}; "
            f"most likely the weights or the metric hold NaN"
        )


def _check_mean(rows: Float[Tensor, "example edge"], mean: Float[Tensor, " edge"]) -> None:
    if rows.shape[1:] != mean.shape or not torch.allclose(rows.mean(dim=0), mean, atol=1e-6):
        told = "scores are the mean of those by prompt, one row a prompt, one number an edge; got"
        raise ValueError(f"{told} {tuple(rows.shape)} and {len(mean)} edges, or another mean")


def _names(graph: Graph, edge: Int[Tensor, "2"]) -> tuple[str, str]:
    return graph.sources[int(edge[0])].name, graph.destinations[int(edge[1])].name


def _stated(scores: Scores, field: str) -> str:
    if field not in scores.provenance:
        raise ValueError(f"cannot merge scores whose provenance does not state {field!r}")
    return json.dumps(scores.provenance[field], sort_keys=True)


def _n_examples(scores: Scores) -> int:
    n = scores.provenance.get("n_examples")
    if not isinstance(n, int) or n < 1:
        told = f"provenance['n_examples'] is {n!r}, a positive whole number would be right"
        raise ValueError(f"cannot merge scores without the number of examples behind them: {told}")
    return n


def _parts(scores: Scores) -> list[object]:
    parts = scores.provenance.get("merged_from")
    return list(parts) if isinstance(parts, list) else [dict(scores.provenance)]
