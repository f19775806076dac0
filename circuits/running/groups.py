"""What a pass over circuits knows before it begins: one structure for one circuit, or for many.

A group puts together every reader, and keeps every writer, that one of its circuits needs; numbers
say per circuit what of it counts. All of it is made on the host and sent to the device at once, so
that a pass over many circuits is as many operations as a pass over one, and none of them asks the
device for a value. A group of one leaves out all that its circuit does not need, here and, where
spans are kept apart, at the tokens of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuits.running.pair import Pair
from circuits.running.plan import STARTS, Plan
from circuits.running.rewiring import Layout, Members, lay_out
from patching.anatomy.blocks import FINAL_STREAM
from patching.graph import Graph
from patching.model import Model
from patching.tasks.task import Batch

LIVE, REPLACED = 0, 1
"""The first rows of every circuit's writers: the streams that a reader's sum can start from."""

Places = dict[str, tuple[Int[Tensor, " _"], ...]]
"""By hook point, numbers of some circuits and, where it has heads, of a head for each of them."""


@dataclass(frozen=True, eq=False)
class Group:
    """The structure of some circuits of a pass; all but `used` lies on the device.

    `tokens`, counted through the batch, are where anything can differ; they stand at `where` among
    the pair's. At the `asked` ones alone the last layer works, where they are known. `terms` hold,
    by the number of a reading, what multiplies the two streams to start from and the writers that
    are used by then. `heads` are, by layer, those whose writes are used, and `runs` says whether
    the MLP is needed. By hook point, `computed` says for which circuits which of the layout's
    readers are put together (nothing is said where all are), and `replaced` which readers of which
    circuits see nothing but replacements. Where spans are kept apart, `terms` have them first, and
    `spans` are the tokens of each.
    """

    circuits: slice
    where: slice
    tokens: Int[Tensor, " token"]
    asked: Int[Tensor, " asked"] | None
    used: Members
    layout: Layout
    terms: list[Float[Tensor, "*span circuit _ _"]]
    heads: list[Int[Tensor, " _"]]
    runs: list[bool]
    computed: Places
    replaced: Places
    spans: list[slice]

    @property
    def skips(self) -> bool:
        """Whether it leaves out what its one circuit does not need."""
        return self.asked is not None

    def rows(self, sources: slice) -> slice:
        """Where the used writers of a span stand, after the two starts."""
        span = self.used.span(sources)
        return slice(STARTS + span.start, STARTS + span.stop)


def make_groups(
    model: Model, batch: Batch, pair: Pair, plans: Sequence[Plan], *, together: bool
) -> list[Group]:
    """All these circuits in one group; or each in its own, or in one for each span with tokens."""
    layer = first_layer(plans)
    rows, places = pair.places
    tokens = rows * pair.tokens.shape[1] + places
    if together:
        return [_make(model, pair, layer, plans, (0, slice(0, len(tokens)), tokens, None))]
    spans = [slice(0, len(tokens))] if pair.span is None else _cuts(pair.span, plans[0])
    is_asked = batch.is_asked[pair.places]
    asked = [is_asked[span].nonzero().squeeze(1) for span in spans]
    return [
        _make(model, pair, layer, [part], (i, span, tokens[span], some))
        for i, plan in enumerate(plans)
        for part, span, some in zip(plan.parts, spans, asked, strict=True)
        if span.start < span.stop
    ]


def members(graph: Graph, some: Sequence[Int[Tensor, " _"]]) -> Members:
    """All writers that are among some."""
    chosen = torch.zeros(len(graph.sources), dtype=torch.bool)
    chosen[torch.cat([*some])] = True
    return Members.of(chosen)


def first_layer(plans: Sequence[Plan]) -> int:
    """The first layer that one of these circuits touches; at least one does."""
    return min(plan.first_layer for plan in plans if plan.first_layer is not None)


def _cuts(span: Int[Tensor, " token"], plan: Plan) -> list[slice]:
    """Where each span of a plan stands among tokens that are in their order."""
    ends = span.bincount(minlength=len(plan.parts)).cumsum(0).tolist()
    return [slice(*both) for both in pairwise([0, *ends])]


def n_values(plans: Sequence[Plan]) -> int:
    """How many vectors a token of a circuit takes in a group of these: rows, and readers' inputs.

    Readers' inputs are there three times: as summed, in the order of readers, and normed.
    """
    graph = plans[0].graph
    used = len(members(graph, [plan.used for plan in plans]).numbers)
    read = torch.stack([plan.computed for plan in plans]).any(dim=0)
    layers = [read[graph.attention_readers(i)].sum() for i in range(graph.n_layers)]
    return STARTS + used + 3 * max(1, int(max(layers)))


def _make(
    model: Model,
    pair: Pair,
    layer: int,
    plans: Sequence[Plan],
    at: tuple[int, slice, Int[Tensor, " token"], Int[Tensor, " asked"] | None],
) -> Group:
    """A group of a pass that begins at a layer: its first circuit, and its tokens."""
    (first, where, tokens, asked), graph = at, model.graph
    used = members(graph, [plan.used for plan in plans])
    every = torch.stack([plan.computed for plan in plans])
    every[:, -1] |= torch.stack([plan.replaced[-1] for plan in plans])  # a sum without terms
    layout = _lay_out(model, every.any(dim=0), used, layer)
    heads = [used.among(graph.head_sources(i)) for i in range(graph.n_layers)]
    nothing = torch.stack([plan.replaced for plan in plans])
    places = _computed(model, every), _replaced(model, nothing)
    numbers = [some for one in layout.layers for some in one.heads] + heads
    numbers += [some for kind in places for one in kind.values() for some in one]
    sent = iter(_send(numbers, model.device))
    layers = [replace(one, heads=tuple(next(sent) for _ in one.heads)) for one in layout.layers]
    mlps = [graph.mlp_source(i) for i in range(graph.n_layers)]
    return Group(
        circuits=slice(first, first + len(plans)),
        where=where,
        tokens=tokens,
        asked=asked,
        used=used,
        layout=Layout(tuple(layers), layout.final),
        terms=_send(_terms(plans, used, layout, pair.replaced.embed.dtype), model.device),
        heads=[next(sent) for _ in heads],
        runs=plans[0].active[mlps].tolist(),
        computed={name: tuple(next(sent) for _ in one) for name, one in places[0].items()},
        replaced={name: tuple(next(sent) for _ in one) for name, one in places[1].items()},
        spans=[] if pair.span is None or asked is not None else _cuts(pair.span, plans[0]),
    )


def _lay_out(model: Model, readers: Bool[Tensor, " dest"], used: Members, layer: int) -> Layout:
    """Readers that are put together, and used writers from the first layer on."""
    graph = model.graph
    writers = torch.zeros(len(graph.sources), dtype=torch.bool)
    writers[used.numbers] = True
    writers[: n_before(model, layer)] = False
    return lay_out(graph, readers, writers)


def n_before(model: Model, layer: int) -> int:
    """How many writers write before a pass that begins at a layer."""
    graph = model.graph
    every = len(graph.sources)
    return every if layer == graph.n_layers else graph.sources_before_attention(layer)


def _terms(
    plans: Sequence[Plan], used: Members, layout: Layout, dtype: torch.dtype
) -> list[Float[Tensor, "*span circuit _ _"]]:
    """What multiplies the rows in each reading of a layout, for each circuit."""
    coefficient = torch.stack([plan.coefficient[used.numbers] for plan in plans])
    from_replaced = torch.stack([plan.from_replaced for plan in plans])
    starts = torch.stack([~from_replaced, from_replaced], dim=1).to(coefficient)
    terms = torch.cat([starts, coefficient], dim=1).to(dtype).transpose(1, 2)
    terms = terms if terms.ndim == 3 else terms.permute(3, 0, 1, 2)
    return [
        terms[..., reading.readers, : STARTS + used.n_before[reading.n_sources]]
        for reading in layout.readings
    ]


def _computed(model: Model, chosen: Bool[Tensor, "circuit dest"]) -> Places:
    """Where not all circuits ask for the same: which, their heads among the asked, and of all."""
    circuits, pairs = _pairs(chosen)
    asked, found = Members.of(chosen.any(dim=0)), Places()
    rank = chosen.any(dim=0).cumsum(0) - 1
    for name, span, has_heads in _points(model):
        mine, n_before = pairs.span(span), asked.n_before[span.start]
        n_asked = asked.n_before[span.stop] - n_before
        if mine.stop - mine.start < len(chosen) * n_asked:
            heads = rank[pairs.numbers[mine]] - n_before, pairs.among(span)
            found[name] = (circuits[mine], *heads) if has_heads else (circuits[mine],)
    return found


def _replaced(model: Model, chosen: Bool[Tensor, "circuit dest"]) -> Places:
    """Where heads of some circuits see nothing but replacements: which circuits and heads."""
    circuits, pairs = _pairs(chosen)
    spans = {name: span for name, span, has_heads in _points(model) if has_heads}
    return {
        name: (circuits[pairs.span(span)], pairs.among(span))
        for name, span in spans.items()
        if pairs.any(span)
    }


def _pairs(chosen: Bool[Tensor, "circuit dest"]) -> tuple[Int[Tensor, " pair"], Members]:
    """The circuits of all that is chosen, and the readers, which may be there more than once."""
    readers, circuits = chosen.T.nonzero().unbind(1)
    return circuits, Members(readers, [0, *chosen.sum(dim=0).cumsum(0).tolist()])


def _points(model: Model) -> Iterator[tuple[str, slice, bool]]:
    """Where readers' inputs are put, which readers they are, and whether these are heads'."""
    graph, last = model.graph, len(model.graph.destinations) - 1
    for block in model.blocks:
        i, mlp = block.index, graph.mlp_reader(block.index)
        for name, span in zip(block.projections, graph.projected_readers(i), strict=True):
            yield name, span, True
        yield block.mlp_in, slice(mlp, mlp + 1), False
    yield FINAL_STREAM, slice(last, last + 1), False


def _send(parts: Sequence[Shaped[Tensor, "..."]], device: torch.device) -> list[Tensor]:
    """Tensors of one type to a device, all at once."""
    if not parts:
        return []
    whole = torch.cat([part.flatten() for part in parts]).to(device)
    pieces = whole.split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
