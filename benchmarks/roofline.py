"""What a pass would take on a card that is not at hand: an estimate, and labelled as one.

The largest of three times: launching every operation one after another, moving every byte once, and
multiplying at the card's full rate. Nothing of a cache, of overlap or of small shapes is in it, so
that the truth lies above; which of the three is largest says what a card would wait for.
"""

from dataclasses import dataclass

from benchmarks.operations import Operations


@dataclass(frozen=True)
class Card:
    """A card by its data sheet: bytes and multiplications (without sparsity) a second.

    `launch` is what one operation of PyTorch takes until it is queued, in seconds, and `read_back`
    what waiting for one value adds.
    """

    name: str
    bandwidth: float
    flops: float
    launch: float = 7e-6
    read_back: float = 2e-5


CARDS = {
    "a100": Card("NVIDIA A100 80 GB, TF32", bandwidth=2.04e12, flops=1.56e14),
    "h100": Card("NVIDIA H100 SXM, TF32", bandwidth=3.35e12, flops=4.95e14),
    "rtx4090": Card("NVIDIA RTX 4090, TF32", bandwidth=1.01e12, flops=8.26e13),
}


@dataclass(frozen=True)
class Estimate:
    """Seconds that launches, bytes and multiplications would take, each alone."""

    launches: float
    bytes_moved: float
    flops: float

    @property
    def seconds(self) -> float:
        """The largest of the three: a lower bound."""
        return max(self.launches, self.bytes_moved, self.flops)

    @property
    def bound(self) -> str:
        """What the card would wait for."""
        times = {"launches": self.launches, "bytes": self.bytes_moved, "flops": self.flops}
        return max(times, key=times.__getitem__)


def estimate(operations: Operations, card: Card) -> Estimate:
    """What some operations would take on a card."""
    return Estimate(
        operations.launches * card.launch + operations.read_backs * card.read_back,
        operations.bytes_moved / card.bandwidth,
        operations.flops / card.flops,
    )
