"""Prompts of different lengths with spans, and the slow twin of circuits that keep them apart."""

from dataclasses import replace
from typing import Literal

import families
from slow_twin import SlowTwin

from patching.tasks import Prompt, Span, Task

SPANS = ("rest", "a", "b", "end")


def task(padding: Literal["right", "left"] = "right") -> Task:
    """`families.ragged_task` with spans, not all of them in each row, and some of two ranges."""
    made = families.ragged_task(padding=padding)
    where = (
        (Span("a", 1, 3), Span("b", 4, 6), Span("end", 8, 9)),
        (Span("b", 2, 3), Span("a", 3, 4), Span("b", 4, 5), Span("end", 5, 6)),
        (Span("a", 0, 3), Span("end", 6, 7)),
    )
    prompts = (replace(p, spans=s) for p, s in zip(made.prompts, where, strict=True))
    return replace(made, prompts=tuple(prompts))


def several() -> Task:
    """Prompts with answers of several tokens."""
    (first, second, third) = task().prompts
    longer = replace(second, answers=((7, 8, 9), (11,)), wrong_answers=((12, 13),))
    inside = Prompt(
        third.clean, third.corrupt, (5, 6), (8, 9), answer_positions=(3, 5), spans=third.spans
    )
    return Task("several", (first, longer, inside))


class SlowSpans(SlowTwin):
    """Each reader's input summed edge by edge, each token's by what is removed at its span."""

    def __init__(self, model, batch, ablation, removed):
        super().__init__(model, batch, ablation, removed)
        self.span = batch.span

    def seen_by(self, dest, stream):
        total = stream.clone()
        for source in self.graph.exists[:, dest].nonzero().flatten().tolist():
            share = self.removed[source, dest][self.span][..., None]
            total += share * (self.replaced[source] - self.live[source])
        return total
