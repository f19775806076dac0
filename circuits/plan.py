"""How to put together each reader's input in a pass over several circuits. Knows no model.

A reader's input is the stream with each removed edge's writer replaced:

    x_j = live stream + sum_s removed[s, j] * missing_s        missing_s = replacement_s - live_s
        = corrupt stream + sum_s (removed[s, j] - 1) * missing_s

Where replacements come from a corrupt run, each circuit and reader starts from the end with fewer
terms.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.graph import Graph


@dataclass(frozen=True)
class Plan:
    """Terms of every reader's input, for circuits run together.

    `coefficient` multiplies `missing_s`; the sum starts from the corrupt stream where
    `from_corrupt`, else from the live one. A reader is `untouched` where no circuit removes
    anything, `replaced` where every circuit removes everything; all others are `computed`.
    """

    graph: Graph
    coefficient: Float[Tensor, "circuit source dest"]
    from_corrupt: Bool[Tensor, "circuit dest"]
    untouched: Bool[Tensor, " dest"]
    replaced: Bool[Tensor, " dest"]

    @cached_property
    def computed(self) -> Bool[Tensor, " dest"]:
        """Readers whose input is put together."""
        return ~self.untouched & ~self.replaced

    @cached_property
    def used(self) -> Int[Tensor, " used"]:
        """Writers that some reader's sum needs, ascending."""
        needs_sum = self.coefficient[:, :, ~self.untouched]
        return (needs_sum != 0).any(dim=2).any(dim=0).nonzero().squeeze(1)

    @cached_property
    def first_layer(self) -> int | None:
        """The layer of the first touched reader (all layers, if only the logits); None: no one."""
        touched = (~self.untouched).nonzero()
        return self.graph.destinations[int(touched[0])].layer if len(touched) else None

    @cached_property
    def n_shared(self) -> int:
        """How many of the used writers write before the first layer, alike in all circuits."""
        if self.first_layer is None:
            return 0
        last = self.first_layer == self.graph.n_layers
        n = len(self.graph.sources) if last else self.graph.head_sources(self.first_layer).start
        return int((self.used < n).sum())

    def used_in(self, sources: slice) -> tuple[slice, Int[Tensor, " some"]]:
        """Where the used writers of a span stand among the used ones, and which they are."""
        first, last = (int((self.used < end).sum()) for end in (sources.start, sources.stop))
        return slice(first, last), self.used[first:last] - sources.start


def make_plan(
    removed: Float[Tensor, "circuit source dest"], graph: Graph, *, have_corrupt_run: bool = True
) -> Plan:
    """Choose for each circuit and reader where to start, and find what need not be computed."""
    exists = graph.exists.to(removed.device)
    kept = torch.where(exists, 1 - removed, torch.zeros_like(removed))
    from_corrupt = (kept != 0).sum(dim=1) < (removed != 0).sum(dim=1)
    replaced = (kept == 0).all(dim=1).all(dim=0)
    if not have_corrupt_run:
        from_corrupt, replaced = torch.zeros_like(from_corrupt), torch.zeros_like(replaced)
    return Plan(
        graph=graph,
        coefficient=torch.where(from_corrupt[:, None], -kept, removed),
        from_corrupt=from_corrupt,
        untouched=(removed == 0).all(dim=1).all(dim=0),
        replaced=replaced,
    )
