"""The rows of an attribution graph: what every source writes of what each target reads."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.aims import Targets
from circuits.features.graph import EMBEDDING, ERROR, FEATURE, LOGIT, FeatureGraph, Nodes
from circuits.features.held import Readings, read_held
from circuits.features.linear import LinearRun
from circuits.features.sparse import SparseRows
from circuits.features.units import Features
from circuits.features.writers import Writers, numbered
from patching.lens.text import token_texts
from patching.memory import in_tiles
from patching.progress import Progress

_WORST = {torch.float64: 1e-3, torch.float32: 1e-3}
_WORST_HALF = 0.1
"""How far a row's sum may be off, as a share of the largest; half precision is rough."""


def make_graph(
    run: LinearRun, features: Features, writers: Writers, targets: Targets, *, keep: float
) -> FeatureGraph:
    """All rows, and the tables of nodes around them; influences are still 0.

    Raises:
        ValueError: if rows do not add up to what targets read, as the model is not linear in what
            writes even with attention and norms held.
    """
    n_sources, n_logits = writers.n_sources, len(targets.ids)
    rows, silent = SparseRows(keep), read_constants(run, features, writers)
    reads = writers.embedding.new_zeros(n_sources + n_logits)
    constants = torch.zeros_like(reads)
    with Progress("tracing", writers.n_units + n_logits) as progress:
        for first, units in numbered(writers.units):
            at, vectors = run.inputs[units.layer], features.reads(run, units)
            numbers = torch.arange(first, first + len(units), device=at.device)
            _add_rows(run, writers, rows, numbers, (at, units.positions, vectors))
            reads[numbers] = (at[0].detach()[units.positions] * vectors).sum(dim=-1)
            constant = silent.inputs[units.layer][0, units.positions]
            constants[numbers] = (constant * vectors).sum(dim=-1)
            progress.at(first + len(units))
        numbers = torch.arange(n_sources, n_sources + n_logits, device=reads.device)
        last = torch.full_like(numbers, len(run.tokens) - 1)
        _add_rows(run, writers, rows, numbers, (run.final, last, targets.directions))
    reads[numbers] = targets.logits.to(reads)
    written = targets.directions.to(reads) @ silent.final[0, -1].to(reads)
    constants[numbers] = written + targets.biases.to(reads)
    nodes = _nodes(run, writers, targets)
    reads, constants = reads.cpu(), constants.cpu()
    asked = [token for token in targets.ids.tolist() if token >= 0]
    said = token_texts(run.model.tokenizer, asked)
    facts = {
        "letter": features.letter,
        "texts": [*token_texts(run.model.tokenizer, run.tokens.tolist())],
        "logits": dict(zip(map(str, asked), said, strict=True)),
    }
    rests = rows.rests(len(nodes))
    graph = FeatureGraph(run.tokens.cpu(), nodes, *rows.edges(), reads, constants, *rests, facts)
    if not writers.dropped:
        _require_whole(run, graph)
    return graph


def read_constants(run: LinearRun, features: Features, writers: Writers) -> Readings:
    """What all read when every source is silent: biases alone, carried forwards."""

    def write(layer: int, x: Tensor) -> Tensor:
        passed = features.passing(layer, [x], x)
        return writers.constants[layer] if passed is None else writers.constants[layer] + passed

    return read_held(run.frozen, run.positions, write)


def at_end(run: LinearRun, targets: Targets) -> Float[Tensor, "target 1 pos d_model"]:
    """One-hot rows of the logits' directions at the last position."""
    last = torch.full_like(targets.ids, len(run.tokens) - 1)
    return _seeds(run.final, last, targets.directions)


def _seeds(
    at: Float[Tensor, "1 pos d_model"],
    positions: Int[Tensor, " target"],
    vectors: Float[Tensor, "target d_model"],
) -> Float[Tensor, "target 1 pos d_model"]:
    seeds = at.new_zeros(len(vectors), *at.shape)
    seeds[torch.arange(len(vectors), device=at.device), 0, positions] = vectors.to(at)
    return seeds


Readers = tuple[Tensor, Tensor, Tensor]
"""Where some targets read, at which positions, and by which vectors."""


def _add_rows(
    run: LinearRun,
    writers: Writers,
    rows: SparseRows,
    numbers: Int[Tensor, " target"],
    readers: Readers,
) -> None:
    """The rows of targets that read at one place, as many at once as memory allows."""
    at, positions, vectors = readers

    def add(some: slice) -> None:
        seeds = _seeds(at, positions[some], vectors[some])
        rows.add(numbers[some], writers.weigh(run.pull_back(at, seeds)))

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
