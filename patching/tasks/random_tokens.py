"""Prompts of random tokens: to try a model on where there is no task. Knows no model."""

import torch

from patching.tasks.task import Prompt, Task

LENGTHS = (9, 9, 6, 6)


def random_tokens(vocab: int, longest: int, *, seed: int = 0) -> Task:
    """Four pairs of up to `longest` tokens, in two lengths; at one or two of them a pair differs.

    >>> random_tokens(50, 7).max_length
    7

    Raises:
        ValueError: if there are fewer than three tokens, or prompts would be empty.
    """
    if vocab < 3 or longest < 1:
        raise ValueError(
            f"random prompts need a vocabulary of 3 tokens and room for 1; got {vocab} tokens and "
            f"room for {longest}"
        )
    generator = torch.Generator().manual_seed(seed)
    prompts = tuple(_prompt(min(n, longest), vocab, generator) for n in LENGTHS)
    return Task("random tokens", prompts)


def _prompt(length: int, vocab: int, generator: torch.Generator) -> Prompt:
    clean = _draw(length, vocab, generator)
    corrupt = list(clean)
    for position in {length // 4, length // 2}:
        corrupt[position] = _other(clean[position], vocab, generator)
    (answer,) = _draw(1, vocab, generator)
    wrong = _other(answer, vocab, generator)
    return Prompt(tuple(clean), tuple(corrupt), (answer,), (wrong,))


def _draw(n: int, below: int, generator: torch.Generator) -> list[int]:
    return torch.randint(below, (n,), generator=generator).tolist()


def _other(token: int, vocab: int, generator: torch.Generator) -> int:
    return (token + 1 + _draw(1, vocab - 1, generator)[0]) % vocab
