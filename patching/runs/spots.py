"""At which positions sweeps patch: each one alone, named spans of them, or all.

All of it is worked out on the host, from what was read of a batch once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from patching.tasks.asked import indices
from patching.tasks.task import Batch


@dataclass(frozen=True)
class Spots:
    """Where to patch, whatever the layer: some positions of one example in every row.

    `where` is the row's number on the axis of positions or spans (0 where there is none).
    """

    example: Int[Tensor, " spot"]
    where: Int[Tensor, " spot"]
    cells: Bool[Tensor, "spot pos"]

    def __len__(self) -> int:
        return len(self.example)

    def __getitem__(self, chosen: Bool[Tensor, " spot"] | Int[Tensor, " row"]) -> "Spots":
        return Spots(self.example[chosen], self.where[chosen], self.cells[chosen])


@dataclass(frozen=True)
class Reach:
    """What patches of a batch can reach, on the host.

    `places` is each token's number in its row, `span` that of its span where the task keeps some
    apart, `differs` says where the two runs can differ and
    reach the answer, `is_answer` where that is predicted: in one of an example's rows, if it has
    several, which begin at one column. `n_rows` are the rows of each example. `two_way` models see
    what follows.
    """

    places: Int[Tensor, "example pos"]
    differs: Bool[Tensor, "example pos"]
    is_answer: Bool[Tensor, "example pos"]
    n_rows: Int[Tensor, " example"]
    two_way: bool
    span: Int[Tensor, "example pos"] | None = None

    @staticmethod
    def of(batch: Batch, differs: Bool[Tensor, "row pos"]) -> "Reach":
        """Of a batch; the device is asked once."""
        places, n_rows = batch.places, torch.ones_like(batch.answer_pos)
        if batch.several is not None:
            assert not batch.left_padded, "rows of an example begin at one column"
            columns = torch.arange(differs.shape[1], device=differs.device)
            places, n_rows = columns.expand(len(batch), -1), batch.several.rows
        somewhere = [batch.by_example(x.long()).clamp(max=1) for x in (differs, batch.is_asked)]
        told = torch.stack([places, *somewhere, n_rows[:, None].expand_as(places)]).cpu()
        differs, answers, n_rows = told[1].bool(), told[2].bool(), told[3, :, 0]
        span = None if batch.span is None else batch.span.cpu()[n_rows.cumsum(0) - n_rows]
        return Reach(told[0], differs, answers, n_rows, batch.two_way, span)

    def by_row(self, spots: Spots) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """The rows in which patches are made: which of the spots each is for, and its number."""
        counts = self.n_rows[spots.example]
        return (
            torch.arange(len(spots)).repeat_interleave(counts),
            indices(self.n_rows, spots.example),
        )

    def touched(self, spots: Spots) -> Bool[Tensor, "spot pos"]:
        """Tokens that patches can change: their own, and those that see them."""
        differs = self.differs[spots.example]
        if self.two_way:
            return differs
        return spots.cells.int().cummax(dim=1).values.bool() & differs

    def at_answer(self, spots: Spots) -> Spots:
        """Those of the spots that hold the answer's position."""
        return spots[(spots.cells & self.is_answer[spots.example]).any(dim=1)]


@dataclass(frozen=True)
class Where:
    """The axis of positions or spans, and the spots of a batch: example by example along it."""

    labels: tuple[str, ...]
    spots: Callable[[Reach], Spots]


def by_position(n: int) -> Where:
    """Each position alone, counted from the first real token."""

    def spots(reach: Reach) -> Spots:
        example, column = reach.differs.nonzero(as_tuple=True)
        columns = torch.arange(reach.differs.shape[1])
        return Spots(example, reach.places[example, column], column[:, None] == columns)

    return Where(tuple(map(str, range(n))), spots)


def by_span(spans: Mapping[str, range], n: int) -> Where:
    """All positions of a named span at once.

    Raises:
        ValueError: if there are no spans, or one is empty or reaches beyond the prompts.
    """
    require_spans(spans, n)

    def spots(reach: Reach) -> Spots:
        inside = [
            torch.isin(reach.places, torch.tensor(list(span))) & reach.differs
            for span in spans.values()
        ]
        cells = torch.stack(inside, dim=1)
        example, where = cells.any(dim=2).nonzero(as_tuple=True)
        return Spots(example, where, cells[example, where])

    return Where(tuple(spans), spots)


def by_own_spans(names: Sequence[str]) -> Where:
    """All positions of a span at once, of the spans that a task keeps apart."""

    def spots(reach: Reach) -> Spots:
        assert reach.span is not None, "the task keeps spans apart"
        inside = reach.span[:, None] == torch.arange(len(names))[:, None]
        cells = inside & reach.differs[:, None]
        example, where = cells.any(dim=2).nonzero(as_tuple=True)
        return Spots(example, where, cells[example, where])

    return Where(tuple(names), spots)


def require_spans(spans: Mapping[str, range], n: int) -> None:
    """Refuse spans that hold no position, or one beyond the first `n`.

    Raises:
        ValueError: if there are no spans, or one is empty or reaches beyond.
    """
    if not spans:
        raise ValueError("got no spans; name at least one, such as {'subject': range(1, 3)}")
    for name, span in spans.items():
        if not len(span) or min(span) < 0 or max(span) >= n:
            raise ValueError(
                f"the span {name!r} is {span}; a span holds at least one of the positions 0 to "
                f"{n - 1}"
            )


def everywhere() -> Where:
    """All positions at once."""

    def spots(reach: Reach) -> Spots:
        example = reach.differs.any(dim=1).nonzero(as_tuple=True)[0]
        return Spots(example, torch.zeros_like(example), reach.differs[example])

    return Where(("all",), spots)
