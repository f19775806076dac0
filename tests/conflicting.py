"""Conflicts of random tokens, of several lengths, for the tiny models of `families`."""

import torch
from families import VOCAB

from patching.neurons import Conflict, ConflictTask


def conflicts(n: int = 3, seed: int = 5) -> ConflictTask:
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, VOCAB - 2, (length,), generator=generator).tolist())

    rows = []
    for i in range(n):
        context, question, (answer,) = draw(4 + i), draw(3), draw(1)
        rows.append(Conflict((1, *question), (1, *context, *question), (answer,), (answer + 1,)))
    return ConflictTask("random", tuple(rows))
