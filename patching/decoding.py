"""Next tokens: of prompts of any length, and with what a context adds to them weighted up.

Context-aware decoding: Shi et al. 2023, "Trusting your evidence", arXiv:2305.14739. Inside
`scale_neurons` it is what Shi et al. 2024 call IRCAN-CAD.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.modes import without_gradients
from patching.tasks.task import Batch, Prompt, Task
from patching.tasks.tokens import Tokenizer, encode_prompt

ALPHA = 0.5

Text = str | Sequence[int]


@runtime_checkable
class Speaker(Protocol):
    """What is needed of a model to continue texts; `Model` is one."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where only token ids are understood."""
        ...

    @property
    def room(self) -> int:
        """The most tokens that it reads."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        ...

    def check(self, task: Task) -> None:
        """Refuse what it cannot read."""
        ...

    def answer_logits(
        self, tokens: Int[Tensor, "batch pos"], batch: Batch
    ) -> Float[Tensor, "asked vocab"]:
        """Logits at the answer positions."""
        ...


def contrast(
    with_context: Float[Tensor, "*rows vocab"],
    without_context: Float[Tensor, "*rows vocab"],
    alpha: float | int = ALPHA,
) -> Float[Tensor, "*rows vocab"]:
    """`(1 + alpha) with_context - alpha without_context`, in logits; alpha 0 ignores the latter.

    >>> contrast(torch.tensor([2.0, 1.0]), torch.tensor([4.0, 0.0]))
    tensor([1.0000, 1.5000])

    Raises:
        ValueError: if alpha is negative or not finite.
    """
    if not math.isfinite(alpha) or alpha < 0:
        raise ValueError(f"alpha is a finite number from 0 (plain decoding), got {alpha}")
    return (1 + alpha) * with_context - alpha * without_context


@without_gradients
def next_logits(
    model: Speaker, prompts: Sequence[Sequence[int]], *, batch_size: int = 64
) -> Float[Tensor, "prompt vocab"]:
    """Logits of the token that follows each prompt, in float32 or wider.

    Raises:
        ValueError: if there is no prompt, one is empty, or the model cannot read one.
    """
    # both runs of a pair are the prompt itself, and its answer is not looked at
    rows = (Prompt(tuple(ids), tuple(ids), answers=(0,)) for ids in prompts)
    task = Task("prompts", tuple(rows))
    model.check(task)
    batches = task.batches(batch_size, model.device)
    return torch.cat([model.answer_logits(batch.clean, batch) for batch in batches])


def continue_greedily(
    model: Speaker,
    prompt: Text,
    *,
    without_context: Text | None = None,
    alpha: float | int = ALPHA,
    n: int = 10,
) -> tuple[int, ...]:
    """The n likeliest next tokens, one after the other; fewer where the text ends before.

    Texts are strings, which get a BOS where the tokenizer uses one, or token ids. With
    `without_context`, the same prompt without its context, decoding is context-aware: both are
    continued by the token of largest `contrast`.

    >>> from patching.model import Model
    >>> continue_greedily(Model.load("truth/induction"), [0, 5, 6, 5], n=1)
    (6,)

    Raises:
        ValueError: if n is less than 1, a text is empty or would grow too long for the model, or
            as `contrast`.
    """
    texts = [prompt] if without_context is None else [prompt, without_context]
    rows = [_ids(model, text) for text in texts]
    _check_room(model, rows, n)
    said: list[int] = []
    end = getattr(model.tokenizer, "eos_token_id", None)
    while len(said) < n and (not said or said[-1] != end):
        logits = next_logits(model, [[*row, *said] for row in rows])
        chosen = logits[0] if len(rows) == 1 else contrast(logits[0], logits[1], alpha)
        said.append(int(chosen.argmax()))
    return tuple(said)


def text_of(model: Speaker, prompt: Text, said: Sequence[int]) -> str:
    """What tokens say as they continue a prompt, space included.

    >>> from patching.model import Model
    >>> model = Model.load("toy")
    >>> text_of(model, "The capital of France is", model.tokenizer.encode("Rome")[1:])
    ' Rome'

    Raises:
        ValueError: if the model has no tokenizer that can write text.
    """
    decode = getattr(model.tokenizer, "decode", None)
    if decode is None:
        raise ValueError(f"{model.name} has no tokenizer to write text with")
    before = list(_ids(model, prompt))
    start, whole = (decode(ids, skip_special_tokens=True) for ids in (before, [*before, *said]))
    return whole[len(start) :]


def _ids(model: Speaker, text: Text) -> tuple[int, ...]:
    if not isinstance(text, str):
        return tuple(text)
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer: give token ids, not text")
    return encode_prompt(model.tokenizer, text)


def _check_room(model: Speaker, rows: Sequence[Sequence[int]], n: int) -> None:
    if n < 1:
        raise ValueError(f"a continuation has at least one token, got n={n}")
    longest, room = max(map(len, rows)), model.room
    if longest + n - 1 > room:
        raise ValueError(
            f"a prompt of {longest} tokens and {n} more do not fit {model.name}, which reads at "
            f"most {room}; ask for fewer"
        )
