"""At which spans of the prompt edges are, for an explorer's page, whose edges are without."""

from jaxtyping import Bool
from torch import Tensor

from circuits.circuit import Circuit
from circuits.explorer.content import Ordered
from circuits.scores import Scores
from patching.span_graph import plain_of, spans_of
from patching.views.page import packed


def span_keys(apart: Circuit | Scores, order: Ordered) -> dict[str, object] | None:
    """Names of spans, and of each the places in the list of the edges that are there.

    An edge of a circuit is at its own spans; one of scores where it scores most, by size. Edges
    that a circuit lacks are at none.
    """
    names = spans_of(apart.graph)
    if not names:
        return None
    at = _at_spans(apart).flatten(0, 1)[order.edges]
    return {
        "names": list(names),
        "at": [packed(some.nonzero()[:, 0].numpy(), "uint16") for some in at.T],
    }


def _at_spans(apart: Circuit | Scores) -> Bool[Tensor, "source dest span"]:
    cut = len(plain_of(apart.graph).destinations), -1
    if isinstance(apart, Circuit):
        return apart.mask.unflatten(1, cut)
    sizes = apart.matrix.abs().unflatten(1, cut)
    most = sizes.amax(dim=2, keepdim=True)
    return (sizes == most) & (most > 0)
