"""Parts of circuits that a pass runs: each circuit at all tokens, or at those of each span.

A part is made like a circuit of its own, so that what one span does not need is skipped there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.running.pair import Pair
from circuits.running.plan import Plan
from circuits.running.sums import Sums, cuts


@dataclass(frozen=True, eq=False)
class Part:
    """One circuit at all tokens where anything can differ, or at those of one span.

    `span` is where they stand among the chosen tokens of the pair, `places` are their row and
    position. `asked` are the asked ones among them.
    """

    circuit: int
    sums: Sums
    span: slice
    places: tuple[Int[Tensor, " token"], Int[Tensor, " token"]]
    asked: Int[Tensor, " asked"]

    @property
    def plan(self) -> Plan:
        """What is done here."""
        return self.sums.plan

    @property
    def asked_places(self) -> tuple[Int[Tensor, " asked"], Int[Tensor, " asked"]]:
        """Row and position of the asked tokens."""
        rows, places = self.places
        return rows[self.asked], places[self.asked]


def make_parts(
    plans: Sequence[Plan],
    pair: Pair,
    is_asked: Bool[Tensor, "row pos"],
    like: Float[Tensor, "token d_model"],
    chosen: Int[Tensor, " token"] | slice,
) -> list[Part]:
    """The parts of all circuits, at the chosen ones of the pair's tokens; `like` is a write there.

    Spans without a token have none.
    """
    rows, places = (part[chosen] for part in pair.places)
    n_spans = len(plans[0].parts)
    spans = [slice(0, len(like))] if pair.span is None else cuts(pair.span[chosen], n_spans)
    asked = [is_asked[rows[span], places[span]].nonzero().squeeze(1) for span in spans]
    return [
        Part(i, Sums(part, like[span]), span, (rows[span], places[span]), some)
        for i, plan in enumerate(plans)
        for part, span, some in zip(plan.parts, spans, asked, strict=True)
        if span.start < span.stop
    ]


def room_for(parts: Sequence[Part], layers: Sequence[slice]) -> Float[Tensor, " room"]:
    """Memory for the inputs of one layer's readers in one part: fresh pages cost time."""
    sizes = [
        len(part.sums.computed(readers)) * part.sums.missing[0].numel()
        for part in parts
        for readers in layers
    ]
    return parts[0].sums.missing.new_empty(max(sizes))
