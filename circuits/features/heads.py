"""Which attention heads carry an edge: exactly, as all is linear once patterns are held.

The part through a head is what the source changes in the head's mixed values, weighted by the
target's gradient there. A path through several heads counts at each; what passes a layer beside its
heads, in the stream, is the rest of the edge.
"""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.features.aims import Targets, aim_of, find_targets
from circuits.features.graph import EMBEDDING, ERROR, FEATURE, LOGIT, FeatureGraph
from circuits.features.held import read_held
from circuits.features.linear import LinearRun, run_linear
from circuits.features.trace import Traced, ready, strongest
from circuits.features.units import Features, Units
from circuits.features.writers import find_writers
from patching.model import Model


def heads_through(
    model: Model, graph: FeatureGraph, features: Traced, *, source: str, target: str
) -> Float[Tensor, "layer head"]:
    """The part of the edge from `source` to `target` that passes each head, in the edge's unit.

    Names are those of `graph.names`; the edge need not have been kept. Two runs and one backward;
    for an error, what units write is found as in `trace` first.

    Raises:
        ValueError: if there is no such node, the source is a logit or is not active here, the
            target reads nothing, or features do not fit the model.
    """
    features = ready(model, features)
    points = [block.z for block in model.blocks]
    run = run_linear(
        model,
        graph.tokens.to(model.device),
        parts=features.parts(),
        points=[*points, *features.points(model)],
        passing=features.passing,
    )
    targets = find_targets(run, aim_of(graph), most=1, share=1.0)
    slopes = _slopes(run, graph, features, target, targets)
    moved = _moved(run, graph, features, source, targets)
    parts = [
        (slopes[name] * (moved[name][1:] - moved[name][:1]).to(slopes[name])).sum(dim=(0, 1, 3))
        for name in points
    ]
    return torch.stack(parts).cpu()


def _slopes(
    run: LinearRun, graph: FeatureGraph, features: Features, target: str, targets: Targets
) -> dict[str, Float[Tensor, "1 pos head d_head"]]:
    """The target's gradient at every head's mixed values.

    Raises:
        ValueError: if it reads nothing, or is not active.
    """
    kind, layer, position, index = _node(graph, target)
    at = run.final
    if kind == FEATURE:
        at = run.inputs[layer]
        vector = features.reads(run, _one(run, features, target, (layer, position, index)))[0]
    elif kind == LOGIT:
        first = int((graph.nodes.kinds == LOGIT).nonzero()[0, 0])
        vector = targets.directions[graph.index(target) - first]
    else:
        raise ValueError(f"{target!r} reads nothing; a target is a feature or a logit")
    seed = torch.zeros_like(at)
    seed[0, position] = vector.to(seed)
    names = [block.z for block in run.model.blocks]
    found = torch.autograd.grad(
        at, [run.seen[name] for name in names], seed, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, found, strict=True))


def _moved(
    run: LinearRun, graph: FeatureGraph, features: Features, source: str, targets: Targets
) -> dict[str, Float[Tensor, "2 pos head d_head"]]:
    """Mixed values of all heads in two rows: nothing but constants, and the source besides.

    Raises:
        ValueError: if the source writes nothing.
    """
    kind, layer, position, index = _node(graph, source)
    rows = torch.cat([run.positions, run.positions]).clone()
    writes: dict[int, Tensor] = {}
    if kind == EMBEDDING:
        rows[1, position] += (run.embedding - run.positions)[0, position].detach()
    elif kind == FEATURE:
        unit = _one(run, features, source, (layer, position, index))
        for to in features.reached(layer):
            writes[to] = features.writes(run, unit, to)[0]
    elif kind == ERROR:
        writes[layer] = _errors(run, graph, features, targets)[layer, position]
    else:
        raise ValueError(f"{source!r} writes nothing; a source is a feature, error or embedding")
    write = partial(_write, run, features, writes, position)
    return dict(read_held(run.frozen, rows, write, seen=[b.z for b in run.model.blocks]).seen)


def _errors(
    run: LinearRun, graph: FeatureGraph, features: Features, targets: Targets
) -> Float[Tensor, "layer pos d_model"]:
    """What MLPs write and no unit of the graph does, as it was before pruning."""
    told = graph.facts.get("convention")
    most = told.get("most") if isinstance(told, Mapping) else None
    found = [features.active(run, layer) for layer in range(len(run.outputs))]
    most = most if isinstance(most, int) else sum(map(len, found))
    units = strongest(run, features, found, targets, most)
    errors = find_writers(run, features, units, drop_first=False, whole=False).errors
    assert errors is not None, "errors were asked for"
    return errors


def _write(
    run: LinearRun,
    features: Features,
    writes: dict[int, Tensor],
    position: int,
    layer: int,
    x: Tensor,
) -> Tensor:
    passed = features.passing(layer, [x], x, run.frozen.sigma_after(layer))
    out = torch.zeros_like(x) if passed is None else passed.to(x)
    if layer in writes:
        out = out.clone()
        out[1, position] += writes[layer].to(out)
    return out


def _one(run: LinearRun, features: Features, name: str, where: tuple[int, int, int]) -> Units:
    """One unit of the run.

    Raises:
        ValueError: if it is not active.
    """
    layer, position, index = where
    units = features.active(run, layer)
    one = units[(units.positions == position) & (units.indices == index)]
    if not len(one):
        raise ValueError(f"{name!r} is not active here; give the model and features of the graph")
    return one


def _node(graph: FeatureGraph, name: str) -> tuple[int, int, int, int]:
    i, nodes = graph.index(name), graph.nodes
    columns = (nodes.kinds, nodes.layers, nodes.positions, nodes.indices)
    kind, layer, position, index = (int(column[i]) for column in columns)
    return kind, layer, position, index
