"""Which attention heads carry an edge: exactly, as all is linear once patterns are held.

The part through a head is what the source changes in the head's mixed values, weighted by the
target's gradient there. A path through several heads counts at each; what passes a layer beside its
heads, in the stream, is the rest of the edge.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.features.aims import find_targets
from circuits.features.graph import EMBEDDING, FEATURE, LOGIT, FeatureGraph
from circuits.features.held import read_held
from circuits.features.linear import LinearRun, run_linear
from circuits.features.trace import Traced, ready
from circuits.features.units import Features, Units
from patching.model import Model


def heads_through(
    model: Model, graph: FeatureGraph, features: Traced, *, source: str, target: str
) -> Float[Tensor, "layer head"]:
    """The part of the edge from `source` to `target` that passes each head, in the edge's unit.

    Names are those of `graph.names`; the edge need not have been kept. Two runs and one backward.

    Raises:
        ValueError: if there is no such node, the source is an error or reads nothing here, the
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
    slopes = _slopes(run, graph, features, target)
    moved = _moved(run, graph, features, source)
    parts = [
        (slopes[name] * (moved[name][1:] - moved[name][:1]).to(slopes[name])).sum(dim=(0, 1, 3))
        for name in points
    ]
    return torch.stack(parts).cpu()


def _slopes(
    run: LinearRun, graph: FeatureGraph, features: Features, target: str
) -> dict[str, Float[Tensor, "1 pos head d_head"]]:
    """The target's gradient at every head's mixed values.

    Raises:
        ValueError: if it reads nothing, or is no single token's logit.
    """
    kind, layer, position, index = _node(graph, target)
    at = run.final
    if kind == FEATURE:
        at = run.inputs[layer]
        vector = features.reads(run, _one(run, features, target, (layer, position, index)))[0]
    elif kind == LOGIT:
        aim = index if index >= 0 else None
        if aim is None:
            raise ValueError(f"{target!r} is a difference; name a token's logit")
        vector = find_targets(run, aim, most=1, share=1.0).directions[0]
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
    run: LinearRun, graph: FeatureGraph, features: Features, source: str
) -> dict[str, Float[Tensor, "2 pos head d_head"]]:
    """Mixed values of all heads in two rows: nothing but constants, and the source besides.

    Raises:
        ValueError: if the source is no feature and no embedding.
    """
    kind, layer, position, index = _node(graph, source)
    rows = torch.cat([run.positions, run.positions]).clone()
    writes: dict[int, Tensor] = {}
    if kind == EMBEDDING:
        rows[1, position] += (run.embedding - run.positions)[0, position].detach()
    elif kind == FEATURE:
        unit = _one(run, features, source, (layer, position, index))
        for to in features.reached(layer):
            writes[to] = features.writes(unit.indices, layer, to)[0] * unit.strengths[0]
    else:
        raise ValueError(f"{source!r} is no feature and no embedding, whose writes can be told")
    write = partial(_write, run, features, writes, position)
    return dict(read_held(run.frozen, rows, write, seen=[b.z for b in run.model.blocks]).seen)


def _write(
    run: LinearRun,
    features: Features,
    writes: dict[int, Tensor],
    position: int,
    layer: int,
    x: Tensor,
) -> Tensor:
    passed = features.passing(layer, [x], x)
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
