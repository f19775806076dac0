"""What circuits that run side by side share: one structure, made on the host before the pass.

A group puts together every reader, and keeps every writer, that one of its circuits needs; numbers
say per circuit what of it counts. All of it is sent to the device at once, so that a pass over many
circuits is as many operations as a pass over one, and none of them asks the device for a value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuits.running.plan import STARTS, Plan
from circuits.running.rewiring import Layout, lay_out
from patching.anatomy.blocks import FINAL_STREAM
from patching.model import Model

LIVE, REPLACED = 0, 1
"""The first rows of every circuit's writers: the streams that a reader's sum can start from."""


@dataclass(frozen=True, eq=False)
class Group:
    """The structure of a group; all but `used` lies on the device.

    `used` are the writers of all sums, ascending. `terms` hold, by the number of a reading, what
    multiplies the two streams to start from and the writers that are used by then. `heads` are, by
    layer, those whose writes are used. By hook point, `computed` says which circuits put which of
    the layout's readers together (nothing is said where all do), and `replaced` which readers of
    which circuits see nothing but replacements. Where spans are kept apart, `terms` have them
    first.
    """

    n_circuits: int
    first_layer: int
    used: Int[Tensor, " used"]
    layout: Layout
    terms: list[Float[Tensor, "*span circuit _ _"]]
    heads: list[Int[Tensor, " _"]]
    computed: dict[str, Bool[Tensor, "circuit 1 ..."]]
    replaced: dict[str, Bool[Tensor, "circuit 1 _ 1"]]

    def rows(self, sources: slice) -> slice:
        """Where the used writers of a span stand, after the two starts."""
        return slice(self.n_rows(sources.start), self.n_rows(sources.stop))

    def n_rows(self, n_sources: int) -> int:
        """How many rows there are for the graph's first writers, with the starts."""
        return _n_rows(self.used, n_sources)


def make_group(model: Model, plans: Sequence[Plan], dtype: torch.dtype) -> Group:
    """The group of these circuits, of which at least one touches something."""
    first_layer = min(plan.first_layer for plan in plans if plan.first_layer is not None)
    used = torch.cat([plan.used for plan in plans]).unique()
    layout = _lay_out(model, plans, used, first_layer)
    heads = [_some(used, model.graph.head_sources(i)) for i in range(model.graph.n_layers)]
    computed, replaced = _masks(model, plans)
    asked = [*(some for layer in layout.layers for some in layer.heads), *heads]
    numbers = _send(asked, model.device)
    n_heads = len(asked) - len(heads)
    parts = [tuple(numbers[i : i + 3]) for i in range(0, n_heads, 3)]
    layers = [replace(layer, heads=p) for layer, p in zip(layout.layers, parts, strict=True)]
    truths = iter(_send([*computed.values(), *replaced.values()], model.device))
    return Group(
        n_circuits=len(plans),
        first_layer=first_layer,
        used=used,
        layout=Layout(tuple(layers), layout.final),
        terms=_send(_terms(plans, used, layout, dtype), model.device),
        heads=numbers[n_heads:],
        computed=dict(zip(computed, truths, strict=False)),
        replaced=dict(zip(replaced, truths, strict=True)),
    )


def n_values(plans: Sequence[Plan]) -> int:
    """How many vectors a token of a circuit takes in a group of these: rows, and readers' inputs.

    Readers' inputs are there three times: as summed, in the order of readers, and normed.
    """
    used = int(torch.stack([_is_used(plan) for plan in plans]).any(dim=0).sum())
    graph = plans[0].graph
    read = torch.stack([plan.computed for plan in plans]).any(dim=0)
    layers = [read[graph.attention_readers(i)].sum() for i in range(graph.n_layers)]
    return STARTS + used + 3 * max(1, int(max(layers)))


def _is_used(plan: Plan) -> Bool[Tensor, " source"]:
    found = torch.zeros(len(plan.graph.sources), dtype=torch.bool)
    found[plan.used] = True
    return found


def _n_rows(used: Int[Tensor, " used"], n_sources: int) -> int:
    return STARTS + int((used < n_sources).sum())


def _some(used: Int[Tensor, " used"], sources: slice) -> Int[Tensor, " some"]:
    return used[(used >= sources.start) & (used < sources.stop)] - sources.start


def _lay_out(
    model: Model, plans: Sequence[Plan], used: Int[Tensor, " used"], first_layer: int
) -> Layout:
    """Readers that are put together, and used writers from the first layer on."""
    graph = model.graph
    readers = torch.stack([plan.computed for plan in plans]).any(dim=0)
    writers = torch.zeros(len(graph.sources), dtype=torch.bool)
    writers[used] = True
    last = first_layer == graph.n_layers
    writers[: len(graph.sources) if last else graph.sources_before_attention(first_layer)] = False
    return lay_out(graph, readers, writers)


def _terms(
    plans: Sequence[Plan], used: Int[Tensor, " used"], layout: Layout, dtype: torch.dtype
) -> list[Float[Tensor, "*span circuit _ _"]]:
    """What multiplies the rows in each reading of a layout, for each circuit."""
    coefficient = torch.stack([plan.coefficient[used] for plan in plans])
    from_replaced = torch.stack([plan.from_replaced for plan in plans])
    starts = torch.stack([~from_replaced, from_replaced], dim=1).to(coefficient)
    terms = torch.cat([starts, coefficient], dim=1).to(dtype).transpose(1, 2)
    terms = terms if terms.ndim == 3 else terms.permute(3, 0, 1, 2)
    found = []
    for reading in layout.readings:
        found.append(terms[..., reading.readers, : _n_rows(used, reading.n_sources)])
    return found


def _masks(
    model: Model, plans: Sequence[Plan]
) -> tuple[dict[str, Bool[Tensor, "circuit 1 ..."]], dict[str, Bool[Tensor, "circuit 1 _ 1"]]]:
    """`computed` and `replaced` of a group."""
    every = torch.stack([plan.computed for plan in plans])
    nothing = torch.stack([plan.replaced for plan in plans])
    computed: dict[str, Tensor] = {}
    replaced: dict[str, Tensor] = {}
    for name, span in _places(model):
        mine = every[:, span]
        mine = mine[:, mine.any(dim=0)]
        is_head = span.stop - span.start > 1 or name not in _without_heads(model)
        if not bool(mine.all()):
            computed[name] = mine[:, None, :, None] if is_head else mine[:, None]
        if is_head and bool(nothing[:, span].any()):
            replaced[name] = nothing[:, None, span, None]
    return computed, replaced


def _without_heads(model: Model) -> set[str]:
    return {FINAL_STREAM, *(block.mlp_in for block in model.blocks)}


def _places(model: Model) -> Iterator[tuple[str, slice]]:
    """Where readers' inputs are put, and which readers they are."""
    graph, last = model.graph, len(model.graph.destinations) - 1
    for block in model.blocks:
        i, mlp = block.index, graph.mlp_reader(block.index)
        yield from zip(block.projections, graph.projected_readers(i), strict=True)
        yield block.mlp_in, slice(mlp, mlp + 1)
    yield FINAL_STREAM, slice(last, last + 1)


def _send(parts: Sequence[Shaped[Tensor, "..."]], device: torch.device) -> list[Tensor]:
    """Tensors of one type to a device, all at once."""
    if not parts:
        return []
    whole = torch.cat([part.flatten() for part in parts]).to(device)
    pieces = whole.split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
