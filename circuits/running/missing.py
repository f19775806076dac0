"""How far writers are from what replaces them: rows that grow as a run goes on, weighed together.

A reader's input is a weighed sum of all rows so far. Rows are kept in one block of memory, so that
each sum is one matrix product, forwards and backwards, however many writers there are.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


class Missing:
    """Rows `[token d_model]`, at most `room` of them; their sums can be differentiated once."""

    def __init__(self, room: int) -> None:
        self._room, self._n = room, 0
        self._rows: Tensor | None = None
        self._parts: list[tuple[tuple[int, int], Tensor]] = []

    def __len__(self) -> int:
        return self._n

    def add(self, part: Float[Tensor, "some token d_model"]) -> None:
        """Keep some more rows."""
        if self._rows is None:
            self._rows = part.detach().new_empty(self._room, *part.shape[1:])
        first, self._n = self._n, self._n + len(part)
        self._rows[first : self._n] = part.detach()
        if part.requires_grad:
            self._parts.append(((first, self._n), part))

    def weighed(
        self, weights: Float[Tensor, "... row reader"], sizes: Sequence[int] = ()
    ) -> Float[Tensor, "reader token d_model"]:
        """Sums of as many first rows as there are weights.

        Weights are the same for all tokens, or for each of several groups of tokens of equal size.
        With `sizes`, they are so in each of as many parts of the tokens, which come first.
        """
        assert self._rows is not None, "sums are of something"
        n = weights.shape[-2]
        live = [(span, part) for span, part in self._parts if span[1] <= n]
        spans = torch.tensor([span for span, _ in live])
        rows, parts = self._rows.data[:n], (part for _, part in live)
        made = _Weighed.apply(weights, rows, spans, torch.tensor(sizes, dtype=torch.long), *parts)
        assert isinstance(made, Tensor)
        return made


@runtime_checkable
class _Context(Protocol):
    """What a product keeps for its slope."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Weighed(torch.autograd.Function):
    """The product, by rows that are copies of the parts: more may be added before it goes back."""

    @staticmethod
    def forward(
        ctx: _Context,
        weights: Float[Tensor, "... row reader"],
        rows: Float[Tensor, "row token d_model"],
        spans: Shaped[Tensor, "..."],
        sizes: Int[Tensor, " part"],
        *parts: Float[Tensor, "_ token d_model"],
    ) -> Float[Tensor, "reader token d_model"]:
        ctx.save_for_backward(weights, rows, spans, sizes)
        if not len(sizes):
            return _sum(weights, rows)
        pairs = zip(weights, _apart(rows, sizes), strict=True)
        return torch.cat([_sum(mine, some) for mine, some in pairs], dim=1)

    @staticmethod
    def backward(
        ctx: _Context, *slopes: Float[Tensor, "reader token d_model"]
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ValueError(
                "runs with masks, or inside a circuit, can be differentiated once, not twice; "
                "curvature has second derivatives by edges"
            )
        (weights, rows, spans, sizes), (slope,) = ctx.saved_tensors, slopes
        by_weights, by_parts = None, [None] * len(spans)
        apart = bool(len(sizes))
        mine = weights if apart else weights[None]
        backs = [_grouped(part, one) for one, part in zip(mine, _apart(slope, sizes), strict=True)]
        if ctx.needs_input_grad[0]:
            seen = zip(mine, _apart(rows, sizes), backs, strict=True)
            found = [_grouped(part, one) @ back.mT for one, part, back in seen]
            by_weights = torch.stack(found) if apart else found[0]
        if any(ctx.needs_input_grad[4:]):
            found = [_ungrouped(one @ back, rows) for one, back in zip(mine, backs, strict=True)]
            by_rows = torch.cat(found, dim=1) if apart else found[0]
            by_parts = [by_rows[first:last] for first, last in spans.tolist()]
        return (by_weights, None, None, None, *by_parts)


def _sum(
    weights: Float[Tensor, "*group row reader"], rows: Float[Tensor, "row token d_model"]
) -> Float[Tensor, "reader token d_model"]:
    if weights.ndim == 2:
        return (weights.T @ rows.flatten(1)).unflatten(1, rows.shape[1:])
    made = torch.bmm(weights.transpose(1, 2), _grouped(rows, weights))
    return _ungrouped(made, rows)


def _apart(
    rows: Float[Tensor, "row token d_model"], sizes: Int[Tensor, " part"]
) -> Sequence[Float[Tensor, "row some d_model"]]:
    """The tokens of each part; all of them, where there are no parts."""
    return rows.split(sizes.tolist(), dim=1) if len(sizes) else [rows]


def _grouped(
    rows: Float[Tensor, "row token d_model"], weights: Float[Tensor, "*group _ reader"]
) -> Float[Tensor, "*group row _"]:
    """Rows as the weights are multiplied with them: by group, where there are groups."""
    if weights.ndim == 2:
        return rows.flatten(1)
    return rows.unflatten(1, (len(weights), -1)).flatten(2).transpose(0, 1)


def _ungrouped(
    made: Float[Tensor, "*group some _"], rows: Float[Tensor, "row token d_model"]
) -> Float[Tensor, "some n d_model"]:
    """The reverse."""
    made = made if made.ndim == 2 else made.transpose(0, 1)
    return made.reshape(len(made), -1, rows.shape[2])
