"""The rows of an attribution graph: what every source writes of what each target reads.

Rows are made in chunks of targets, each by itself, so that a run folder can keep what is done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.aims import Targets
from circuits.features.graph import EMBEDDING, ERROR, FEATURE, LOGIT, FeatureGraph, Nodes
from circuits.features.held import Readings, read_held
from circuits.features.linear import LinearRun
from circuits.features.sparse import SparseRows
from circuits.features.units import Features, Units
from circuits.features.writers import Writers, numbered
from patching.anatomy.norms import widen
from patching.lens.text import token_texts
from patching.memory import in_tiles
from patching.work import Parts

TARGETS_A_CHUNK = 256
EDGES = ("targets", "sources", "weights")
_WORST = {torch.float64: 1e-3, torch.float32: 1e-3}
_WORST_HALF = 0.1
"""How far a row's sum may be off, as a share of the largest; half precision is rough."""


@dataclass(frozen=True, eq=False)
class Tracing:
    """What rows are made of: a run, what writes in it, and what is explained."""

    run: LinearRun
    features: Features
    writers: Writers
    targets: Targets

    @cached_property
    def chunks(self) -> list[tuple[int, Units | None]]:
        """The number of the first target, and the units; None for logits, which come last."""
        found: list[tuple[int, Units | None]] = []
        for first, units in numbered(self.writers.units):
            for start in range(0, len(units), TARGETS_A_CHUNK):
                found.append((first + start, units[start : start + TARGETS_A_CHUNK]))
        return [*found, (self.writers.n_sources, None)]

    def lengths(self, number: int, name: str) -> Mapping[int, int | None]:
        """What a chunk's parts are long: one number a target, and edges as many as there are."""
        units = self.chunks[number][1]
        n = len(self.targets.ids) if units is None else len(units)
        return {0: None if name in EDGES else n}

    @cached_property
    def silent(self) -> Readings:
        """What all read when every source is silent: biases alone, carried forwards."""
        return read_held(self.run.frozen, self.run.positions, self._write_constants)

    def _write_constants(self, layer: int, x: Tensor) -> Tensor:
        constant, sigma = self.writers.constants[layer], self.run.frozen.sigma_after(layer)
        passed = self.features.passing(layer, [x], x, sigma)
        return constant if passed is None else constant + passed


def rows_of(tracing: Tracing, number: int, *, keep: float) -> Parts:
    """The rows of one chunk: edges, and for every target what it reads, constants and rests."""
    first, units = tracing.chunks[number]
    made = _logit_rows(tracing) if units is None else _unit_rows(tracing, units)
    reads, constants, (at, positions, vectors) = made
    numbers = torch.arange(first, first + len(vectors), device=at.device)
    rows = SparseRows(keep)
    _add_rows(tracing, rows, numbers, (at, positions, vectors))
    targets, sources, weights = rows.edges()
    rests, sizes = rows.rests()
    return {
        "targets": targets,
        "sources": sources,
        "weights": weights,
        "numbers": numbers.cpu(),
        "reads": reads.cpu(),
        "constants": constants.cpu(),
        "rests": rests,
        "rest_sizes": sizes,
    }


def make_graph(tracing: Tracing, done: Iterable[Parts]) -> FeatureGraph:
    """All rows, from those of every chunk in order, and the tables of nodes around them.

    Influences are still 0.

    Raises:
        ValueError: if rows do not add up to what targets read, as the model is not linear in what
            writes even with attention and norms held.
    """
    run, targets = tracing.run, tracing.targets
    nodes = _nodes(run, tracing.writers, targets)
    parts = [*done]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    edges = [whole[name] for name in EDGES]
    tables = {
        name: torch.zeros(len(nodes), dtype=edges[2].dtype).index_put(
            (whole["numbers"],), whole[name]
        )
        for name in ("reads", "constants", "rests", "rest_sizes")
    }
    asked = [token for token in targets.ids.tolist() if token >= 0]
    said = token_texts(run.model.tokenizer, asked)
    facts = {
        "letter": tracing.features.letter,
        "texts": [*token_texts(run.model.tokenizer, run.tokens.tolist())],
        "logits": dict(zip(map(str, asked), said, strict=True)),
    }
    graph = FeatureGraph(run.tokens.cpu(), nodes, *edges, **tables, facts=facts)
    if not tracing.writers.dropped:
        _require_whole(run, graph)
    return graph


def at_end(run: LinearRun, targets: Targets) -> Float[Tensor, "target 1 pos d_model"]:
    """One-hot rows of the logits' directions at the last position."""
    last = torch.full_like(targets.ids, len(run.tokens) - 1)
    return _seeds(run.final, last, targets.directions)


Readers = tuple[Tensor, Tensor, Tensor]
"""Where some targets read, at which positions, and by which vectors."""


def _unit_rows(tracing: Tracing, units: Units) -> tuple[Tensor, Tensor, Readers]:
    """What units read, the constant part of it, and by what."""
    at, vectors = tracing.run.inputs[units.layer], tracing.features.reads(tracing.run, units)
    vectors = widen(vectors)
    reads = (widen(at[0].detach()[units.positions]) * vectors).sum(dim=-1)
    constant = widen(tracing.silent.inputs[units.layer][0, units.positions])
    return reads, (constant * vectors).sum(dim=-1), (at, units.positions, vectors)


def _logit_rows(tracing: Tracing) -> tuple[Tensor, Tensor, Readers]:
    """The same of logits, in the dtype of the others."""
    targets, at = tracing.targets, tracing.run.final
    like = tracing.writers.embedding
    last = torch.full_like(targets.ids, len(tracing.run.tokens) - 1)
    written = targets.directions.to(like) @ tracing.silent.final[0, -1].to(like)
    constants = written + targets.biases.to(like)
    return targets.logits.to(like), constants, (at, last, targets.directions)


def _seeds(
    at: Float[Tensor, "1 pos d_model"],
    positions: Int[Tensor, " target"],
    vectors: Float[Tensor, "target d_model"],
) -> Float[Tensor, "target 1 pos d_model"]:
    seeds = at.new_zeros(len(vectors), *at.shape)
    seeds[torch.arange(len(vectors), device=at.device), 0, positions] = vectors.to(at)
    return seeds


def _add_rows(
    tracing: Tracing,
    rows: SparseRows,
    numbers: Int[Tensor, " target"],
    readers: Readers,
) -> None:
    """The rows of targets that read at one place, as many at once as memory allows."""
    run, (at, positions, vectors) = tracing.run, readers

    def add(some: slice) -> None:
        seeds = _seeds(at, positions[some], vectors[some])
        rows.add(numbers[some], tracing.writers.weigh(run.pull_back(at, seeds)))

    each = at.numel() * at.element_size() * (len(run.outputs) + 3)
    in_tiles(len(numbers), each, at.device, add)


def _nodes(run: LinearRun, writers: Writers, targets: Targets) -> Nodes:
    n_layers, n_pos, n_logits = len(run.outputs), len(run.tokens), len(targets.ids)
    here, ids = torch.arange(n_pos), targets.ids.cpu()
    units = [some for some in writers.units]
    errors = [] if writers.errors is None else [writers.errors.norm(dim=-1).flatten().cpu()]
    n_errors = sum(map(len, errors))
    layers = [torch.full((len(some),), some.layer) for some in units]
    if n_errors:
        layers.append(torch.arange(n_layers).repeat_interleave(n_pos))
    layers += [torch.full((n_pos,), -1), torch.full((n_logits,), n_layers)]
    positions = [some.positions.cpu() for some in units]
    positions += [here.repeat(n_layers)] if n_errors else []
    positions += [here, torch.full((n_logits,), n_pos - 1)]
    indices = [some.indices.cpu() for some in units]
    indices += [torch.full((n_errors,), -1), run.tokens.cpu(), ids]
    sizes = [FEATURE] * writers.n_units + [ERROR] * n_errors + [EMBEDDING] * n_pos
    kinds = torch.tensor([*sizes, *[LOGIT] * n_logits], dtype=torch.int8)
    like = writers.embedding.cpu()
    values = [some.values.cpu() for some in units] + errors
    values += [like.norm(dim=-1), targets.logits.cpu().to(like)]
    weights = torch.zeros(len(kinds), dtype=torch.float64)
    weights[-n_logits:] = targets.weights.cpu()
    return Nodes(
        kinds,
        torch.cat(layers),
        torch.cat(positions),
        torch.cat(indices),
        torch.cat([part.to(like) for part in values]),
        weights,
        torch.zeros(len(kinds), dtype=like.dtype),
    )


def _require_whole(run: LinearRun, graph: FeatureGraph) -> None:
    """Refuse rows that do not add up to what targets read.

    Raises:
        ValueError: naming the worst.
    """
    missed = (graph.incoming() - graph.reads).abs() / graph.reads.abs().max().clamp(min=1e-6)
    worst = int(missed.argmax())
    if not float(missed[worst]) <= _WORST.get(run.model.dtype, _WORST_HALF):
        raise ValueError(
            f"{run.model.name} has no attribution graph: with attention and norms held it is not "
            f"linear in what writes; {graph.names[worst]} reads {float(graph.reads[worst]):.4g}, "
            f"and all that it reads adds up to {float(graph.incoming()[worst]):.4g}"
        )
