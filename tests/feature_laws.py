"""The laws of an attribution graph, by interventions on the model with all held."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from circuits.features.aims import Wanted, find_targets
from circuits.features.graph import EMBEDDING, ERROR, LOGIT, FeatureGraph
from circuits.features.held import Readings, read_held
from circuits.features.influence import influence, shares
from circuits.features.linear import LinearRun, run_linear
from circuits.features.rows import Tracing, make_graph, rows_of
from circuits.features.units import Features
from circuits.features.writers import Writers, find_writers
from patching.dictionaries import Dictionaries, Dictionary
from patching.model import Model

TOKENS = (5, 9, 33, 60)


def synthetic(model: Model, n: int = 12, k: int = 3, end: str = "") -> Dictionaries:
    """Random transcoders: those of even layers write to later ones too, others have a skip.

    With `end=".out"` they write before a norm that follows MLPs.
    """
    generator = torch.Generator().manual_seed(0)
    n_layers, d = len(model.blocks), model.blocks[0].w_o.shape[-1]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    members = []
    for i in range(n_layers):
        later = {f"m{j}{end}": 0.2 * draw(n, d) for j in range(i + 1, n_layers) if i % 2 == 0}
        members.append(
            Dictionary(
                f"random {i}",
                f"m{i}.in",
                f"m{i}{end}",
                draw(d, n),
                0.1 * draw(n),
                0.2 * draw(n, d),
                0.3 * draw(d),
                torch.zeros(n, dtype=torch.float64),
                k=k,
                skip=0.1 * draw(d, d) if i % 2 else None,
                later=later,
            )
        )
    return Dictionaries("random", tuple(members))


@dataclass(frozen=True)
class Subject:
    """A graph with all that it was made of, its weights as one matrix `[node node]`."""

    run: LinearRun
    features: Features
    writers: Writers
    graph: FeatureGraph
    matrix: torch.Tensor
    vectors: tuple[torch.Tensor, ...]
    directions: torch.Tensor

    def readings(self, seen: Readings) -> torch.Tensor:
        """What every target reads in each row, `[row target]`: units, then logits."""
        parts = [
            torch.einsum("bnd,nd->bn", seen.inputs[units.layer][:, units.positions], vectors)
            for units, vectors in zip(self.writers.units, self.vectors, strict=True)
        ]
        return torch.cat([*parts, seen.final[:, -1] @ self.directions.T], dim=1)

    @property
    def targets(self) -> torch.Tensor:
        """The numbers of all nodes that read."""
        n = self.writers.n_units
        return torch.cat([torch.arange(n), (self.graph.nodes.kinds == LOGIT).nonzero()[:, 0]])


def subject(
    model: Model, features: Features, tokens: Sequence[int] = TOKENS, aim: Wanted = None
) -> Subject:
    parts, points = features.parts(), features.points(model)
    run = run_linear(
        model, torch.tensor(list(tokens)), parts=parts, points=points, passing=features.passing
    )
    targets = find_targets(run, aim, most=4, share=1.0)
    units = [features.active(run, i) for i in range(len(model.blocks))]
    whole = features.complete
    writers = find_writers(run, features, units, drop_first=False, whole=whole)
    tracing = Tracing(run, features, writers, targets)
    chunks = range(len(tracing.chunks))
    graph = make_graph(tracing, (rows_of(tracing, i, keep=1.0) for i in chunks))
    matrix = torch.zeros(len(graph), len(graph), dtype=graph.weights.dtype)
    matrix[graph.targets, graph.sources] = graph.weights
    vectors = tuple(features.reads(run, some) for some in units)
    directions = targets.directions.to(run.final)
    return Subject(run, features, writers, graph, matrix, vectors, directions)


class Writes:
    """What MLPs write in rows where one unit each is `factor` times as strong.

    Others are held, or, with `answer`, follow what they read.
    """

    def __init__(self, of: Subject, chosen: list[int], factor: float, *, answer: bool) -> None:
        self.of, self.answer = of, answer
        self.less: tuple[int, int] | None = None  # the error that the second row lacks
        self.changes = torch.zeros(len(chosen), of.writers.n_units, dtype=of.matrix.dtype)
        self.changes[torch.arange(len(chosen)), chosen] = factor - 1

    def __call__(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        of = self.of
        if self.answer:
            self._follow(layer, x)
        base = of.run.outputs[layer].detach()
        still = [one.detach() for one in of.run.inputs[: layer + 1]]
        out = base.expand(len(x), -1, -1).clone()
        sigma = of.run.frozen.sigma_after(layer)
        passed = of.features.passing(layer, [x], x, sigma)
        before = of.features.passing(layer, still, base, sigma)
        if passed is not None and before is not None:
            out = out + passed - before
        for rows in of.writers.rows[layer]:
            there = slice(rows.first, rows.first + len(rows.units))
            more = self.changes[:, there, None] * rows.vectors
            out = out.index_add(1, rows.units.positions, more)
        if self.less is not None and self.less[0] == layer and of.writers.errors is not None:
            out[1, self.less[1]] -= of.writers.errors[self.less]
        return out

    def _follow(self, layer: int, x: torch.Tensor) -> None:
        of, units = self.of, self.of.writers.units[layer]
        first = sum(len(some) for some in of.writers.units[:layer])
        moved = (x - of.run.inputs[layer].detach())[:, units.positions]
        answers = torch.einsum("bnd,nd->bn", moved, of.vectors[layer])
        self.changes[:, first : first + len(units)] += answers / units.values


def held(of: Subject, chosen: list[int], factor: float, *, answer: bool = False) -> torch.Tensor:
    rows = of.run.embedding.detach().expand(len(chosen), -1, -1)
    write = Writes(of, chosen, factor, answer=answer)
    return of.readings(read_held(of.run.frozen, rows, write))


def misses(of: Subject, chosen: list[int]) -> Iterator[tuple[str, float]]:
    """By how much each law is missed, as a share of what is largest."""
    graph, n, targets = of.graph, of.writers.n_units, of.targets
    size = float(graph.reads.abs().max())
    yield "1 sums", float((graph.incoming() - graph.reads).abs().max()) / size
    base = held(of, chosen[:1], 1.0)
    inputs = tuple(x.detach() for x in of.run.inputs)
    plain = of.readings(Readings(inputs, of.run.final.detach()))
    yield "2 nothing changed", float((base - plain).abs().max()) / size
    for factor in (0.0, 3.0):
        change = held(of, chosen, factor) - base
        expected = (factor - 1) * of.matrix[targets][:, chosen].T
        yield f"3 times {factor:g}", _miss(change, expected)
    values = graph.nodes.values[:n]
    paths = of.matrix[:n, :n] / values
    through = torch.linalg.inv(torch.eye(n, dtype=paths.dtype) - paths)
    ends = of.matrix[targets[n:], :n] / values
    change = (held(of, chosen, 0.0, answer=True) - held(of, chosen, 1.0, answer=True))[:, n:]
    yield "4 answers", _miss(change, -values[chosen, None] * (ends @ through[:, chosen]).T)
    yield from _influences(of)


def _influences(of: Subject) -> Iterator[tuple[str, float]]:
    graph = of.graph
    share, p = shares(graph), graph.nodes.weights
    found = influence(graph, share)
    matrix = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    matrix[graph.targets, graph.sources] = share
    eye = torch.eye(len(graph), dtype=torch.float64)
    direct = torch.linalg.solve((eye - matrix).T, p) - p
    yield "5 series", float((found - direct).abs().max())
    kinds = graph.nodes.kinds
    silent = (kinds == ERROR) | (kinds == EMBEDDING)
    yield "5 sum", abs(float(found[silent].sum() - p.sum()))


def _miss(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def some_units(of: Subject, n: int = 4) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return torch.randperm(of.writers.n_units, generator=generator)[:n].tolist()


def edge_with_heads_held(
    of: Subject, graph: FeatureGraph, source: str, heads: list[tuple[int, int]]
) -> float:
    """What a source changes at the first logit, where some heads mix what they did without."""
    model, base = of.run.model, of.run.embedding.detach()
    i = of.graph.index(source)
    n, rows = of.writers.n_units, torch.cat([base, base]).clone()
    if i < n:
        write = Writes(of, [i, i], 0.0, answer=False)
        write.changes[0] = 0
    else:
        write, nodes = Writes(of, [0, 0], 1.0, answer=False), of.graph.nodes
        layer, position = int(nodes.layers[i]), int(nodes.positions[i])
        if int(nodes.kinds[i]) == ERROR:
            write.less = layer, position
        else:
            rows[1, position] = 0
    hooks = [(model.blocks[layer].z, partial(_as_first, head)) for layer, head in heads]
    with model.hooked(hooks):
        seen = read_held(of.run.frozen, rows, write)
    change = of.readings(seen)[:, n]
    return float(change[0] - change[1])


def _as_first(head: int, z: torch.Tensor) -> torch.Tensor:
    out = z.clone()
    out[:, :, head] = z[:1, :, head]
    return out
