"""How far writers are from what replaces them: rows that grow as a run goes on, weighed together.

A reader's input is a weighed sum of all rows so far. Rows are kept in one block of memory, so that
each sum is one matrix product, forwards and backwards, however many writers there are.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
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
        self, weights: Float[Tensor, "*group row reader"]
    ) -> Float[Tensor, "reader token d_model"]:
        """Sums of as many first rows as there are weights.

        Weights are the same for all tokens, or for each of several groups of tokens of equal size.
        """
        assert self._rows is not None, "sums are of something"
        n = weights.shape[-2]
        live = [(span, part) for span, part in self._parts if span[1] <= n]
        spans = torch.tensor([span for span, _ in live])
        made = _Weighed.apply(weights, self._rows.data[:n], spans, *(part for _, part in live))
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
        weights: Float[Tensor, "*group row reader"],
        rows: Float[Tensor, "row token d_model"],
        spans: Shaped[Tensor, "..."],
        *parts: Float[Tensor, "_ token d_model"],
    ) -> Float[Tensor, "reader token d_model"]:
        ctx.save_for_backward(weights, rows, spans)
        if weights.ndim == 2:
            return (weights.T @ rows.flatten(1)).unflatten(1, rows.shape[1:])
        made = torch.bmm(weights.transpose(1, 2), _grouped(rows, len(weights)))
        return made.transpose(0, 1).reshape(-1, *rows.shape[1:])

    @staticmethod
    def backward(
        ctx: _Context, *slopes: Float[Tensor, "reader token d_model"]
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ValueError(
                "runs with masks, or inside a circuit, can be differentiated once, not twice; "
                "curvature has second derivatives by edges"
            )
        (weights, rows, spans), (slope,) = ctx.saved_tensors, slopes
        by_weights, by_parts = None, [None] * len(spans)
        back = slope.flatten(1) if weights.ndim == 2 else _grouped(slope, len(weights))
        if ctx.needs_input_grad[0]:
            seen = rows.flatten(1) if weights.ndim == 2 else _grouped(rows, len(weights))
            by_weights = seen @ back.mT
        if any(ctx.needs_input_grad[3:]):
            by_rows = weights @ back
            by_rows = by_rows if weights.ndim == 2 else by_rows.transpose(0, 1)
            by_rows = by_rows.reshape(rows.shape)
            by_parts = [by_rows[first:last] for first, last in spans.tolist()]
        return (by_weights, None, None, *by_parts)


def _grouped(
    rows: Float[Tensor, "row token d_model"], n_groups: int
) -> Float[Tensor, "group row _"]:
    return rows.unflatten(1, (n_groups, -1)).flatten(2).transpose(0, 1)
