"""How to put together each reader's input in a circuit. Knows no model.

A reader's input is the stream with each removed edge's writer replaced:

    x_j = live stream + sum_s removed[s, j] * missing_s        missing_s = replacement_s - live_s
        = replaced stream + sum_s (removed[s, j] - 1) * missing_s

The replaced stream is what is left where every writer is replaced (see `starts`). Each reader
starts from the end with fewer terms: what is taken off again is only rounding, and a norm that has
little else to read would blow that up. Two runs are loud at the same places; constants are quiet,
so that one loud writer taken off the live stream is enough, and only few terms are. What cannot
matter is left alone: readers of nodes from which no kept edge leads to the logits, and (if there is
a corrupt run) of nodes to which none leads from the embedding, whose writes are then the corrupt
run's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.graph import Graph
from patching.span_graph import reads_elsewhere

STARTS = 2
"""Streams that a sum can start from: the live one, and the replaced one."""

FEW = 16
"""Where constants replace writers: sums start at the live stream if so many times more is kept."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Terms of every reader's input in one circuit.

    `coefficient` multiplies `missing_s`; the sum starts from the replaced stream where
    `from_replaced`, else from the live one. A reader is `replaced` where everything is removed and
    what it makes of the replaced stream is known, `computed` where its input is put together; all
    others are left alone. Writers that are not `active` may write anything: it cancels. Where
    circuits keep spans apart, terms are those of a token's span, and a reader is put together if it
    is at any; `at` says which are, of `replaced`, `computed` and `active`, at each.
    """

    graph: Graph
    coefficient: Float[Tensor, "source dest *span"]
    from_replaced: Bool[Tensor, " dest *span"]
    replaced: Bool[Tensor, " dest"]
    computed: Bool[Tensor, " dest"]
    active: Bool[Tensor, " source"]
    at: tuple[Bool[Tensor, "_ _"], ...] = ()

    @cached_property
    def parts(self) -> list["Plan"]:
        """What it is at each span, as the plan of a circuit without any; or itself alone."""
        if not self.at:
            return [self]
        numbers = self.coefficient.unbind(-1), self.from_replaced.unbind(-1)
        columns = zip(*numbers, *(part.unbind(-1) for part in self.at), strict=True)
        return [Plan(self.graph, *some) for some in columns]

    @cached_property
    def used(self) -> Int[Tensor, " used"]:
        """Writers that some reader's sum needs, ascending."""
        return (self.coefficient[:, self.computed] != 0).flatten(1).any(dim=1).nonzero().squeeze(1)

    @cached_property
    def first_layer(self) -> int | None:
        """The layer of the first touched reader (all layers, if only the logits); None: no one."""
        touched = (self.replaced | self.computed).nonzero()
        return self.graph.destinations[int(touched[0])].layer if len(touched) else None

    @property
    def is_corrupt(self) -> bool:
        """Whether the logits are those of the corrupt run."""
        return bool(self.replaced[-1])


def make_plans(
    removed: Float[Tensor, "circuit source dest *span"],
    graph: Graph,
    *,
    paired: bool,
    coupled: Sequence[bool],
) -> list[Plan]:
    """A plan for each circuit; `removed` is 1 for removed edges, 0 for kept ones and non-edges.

    `paired` says that there is a corrupt run, `coupled` in which layers a norm over all heads (of
    queries, of keys, or of their sum) makes one's write depend on all: none is left alone there.
    """
    exists = graph.exists.view(*graph.exists.shape, *[1] * (removed.ndim - 3))
    kept = torch.where(exists, 1 - removed, torch.zeros_like(removed))
    led = (kept != 0) if kept.ndim > 3 else (kept != 0)[..., None]
    active = _reached(led, graph, coupled) if paired else torch.ones_like(led[:, :, 0])
    active &= _reaching(led, graph, coupled)
    needed = _read_by(active, graph, slice(None), slice(None))
    needed[:, -1] = True
    if paired:
        kept = kept * active[:, :, None].view(*kept.shape[:2], 1, *kept.shape[3:])
    return [
        _make_plan(*rows, graph=graph, paired=paired)
        for rows in zip(kept, needed, active, strict=True)
    ]


def plan_everywhere(removed: Float[Tensor, "source dest"], graph: Graph) -> Plan:
    """A plan that puts every reader together from which an edge is removed, from what is kept.

    No sum takes anything off the live stream, where a loud writer would leave its rounding behind.
    """
    kept = torch.where(graph.exists, 1 - removed, torch.zeros_like(removed))
    touched = (graph.exists & (kept != 1)).any(dim=0)
    return Plan(
        graph=graph,
        coefficient=torch.where(touched, -kept, torch.zeros_like(kept)),
        from_replaced=touched,
        replaced=torch.zeros_like(touched),
        computed=touched,
        active=torch.ones(len(graph.sources), dtype=torch.bool),
    )


def _make_plan(
    kept: Float[Tensor, "source dest *span"],
    needed: Bool[Tensor, "dest one_or_spans"],
    active: Bool[Tensor, "source one_or_spans"],
    *,
    graph: Graph,
    paired: bool,
) -> Plan:
    removed = graph.exists.to(kept).view(*graph.exists.shape, *[1] * (kept.ndim - 2)) - kept
    n_kept, n_removed = (kept != 0).sum(dim=0), (removed != 0).sum(dim=0)
    from_replaced = n_kept < (n_removed if paired else FEW * n_removed)
    touched = needed & (n_removed.view(len(needed), -1) > 0)
    nothing = n_kept.view(len(needed), -1) == 0
    if not paired:  # heads make the same of it in all circuits; MLPs and logits are run
        nothing &= _of_attention(graph)[:, None]
    replaced = touched.any(dim=1) & nothing.all(dim=1)
    return Plan(
        graph=graph,
        coefficient=torch.where(from_replaced, -kept, removed),
        from_replaced=from_replaced,
        replaced=replaced,
        computed=touched.any(dim=1) & ~replaced,
        active=active.any(dim=1),
        at=(touched & nothing, touched & ~nothing, active) if kept.ndim > 2 else (),
    )


def _of_attention(graph: Graph) -> Bool[Tensor, " dest"]:
    """Which readers are queries, keys and values."""
    found = torch.ones(len(graph.destinations), dtype=torch.bool)
    found[[graph.mlp_reader(layer) for layer in range(graph.n_layers)]] = False
    found[-1] = False
    return found


def _reached(
    kept: Bool[Tensor, "circuit source dest span"], graph: Graph, coupled: Sequence[bool]
) -> Bool[Tensor, "circuit source span"]:
    """Writers to which kept edges lead from the embedding, at each span."""
    reached = torch.zeros_like(kept[:, :, 0])
    reached[:, 0] = True
    for layer in range(graph.n_layers):
        heads, mlp = graph.head_sources(layer), graph.mlp_source(layer)
        readers = graph.attention_readers(layer)
        read = _read(kept, reached, slice(0, graph.sources_before_attention(layer)), readers)
        reached[:, heads] = _fed(read, graph, readers, heads) | coupled[layer]
        readers = slice(graph.mlp_reader(layer), graph.mlp_reader(layer) + 1)
        before = slice(0, graph.sources_before_mlp(layer))
        reached[:, mlp] = _read(kept, reached, before, readers)[:, 0]
    return reached


def _read(
    kept: Bool[Tensor, "circuit source dest span"],
    reached: Bool[Tensor, "circuit source span"],
    sources: slice,
    readers: slice,
) -> Bool[Tensor, "circuit some span"]:
    return (kept[:, sources, readers] & reached[:, sources, None]).any(dim=1)


def _reaching(
    kept: Bool[Tensor, "circuit source dest span"], graph: Graph, coupled: Sequence[bool]
) -> Bool[Tensor, "circuit source span"]:
    """Writers from which kept edges lead to the logits, at each span."""
    needed = torch.zeros_like(kept[:, 0])
    needed[:, -1] = True
    reaching = torch.zeros_like(kept[:, :, 0])
    for layer in reversed(range(graph.n_layers)):
        heads, mlp = graph.head_sources(layer), graph.mlp_source(layer)
        reaching[:, mlp] = (kept[:, mlp] & needed).any(dim=1)
        needed[:, graph.mlp_reader(layer)] = reaching[:, mlp]
        found = (kept[:, heads] & needed[:, None]).any(dim=2)
        reaching[:, heads] = found | coupled[layer]
        readers = graph.attention_readers(layer)
        needed[:, readers] = _read_by(reaching[:, heads], graph, readers, heads)
    reaching[:, 0] = (kept[:, 0] & needed).any(dim=1)
    return reaching


def _fed(
    read: Bool[Tensor, "circuit reader span"], graph: Graph, readers: slice, sources: slice
) -> Bool[Tensor, "circuit source span"]:
    """Writers that one of these readers is an input of: at its span, or (keys, values) at all."""
    elsewhere = reads_elsewhere(graph)[readers, None]
    read = torch.where(elsewhere, read.any(dim=2, keepdim=True), read)
    return (graph.feeds[readers, sources].float().T @ read.float()) > 0


def _read_by(
    used: Bool[Tensor, "circuit source span"], graph: Graph, readers: slice, sources: slice
) -> Bool[Tensor, "circuit reader span"]:
    """Readers that are an input of one of these writers: at its span, or (keys, values) at any."""
    found = (graph.feeds[readers, sources].float() @ used.float()) > 0
    elsewhere = reads_elsewhere(graph)[readers, None]
    return torch.where(elsewhere, found.any(dim=2, keepdim=True), found)
