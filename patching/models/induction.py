"""The wired induction model with its task and its edges in one value; see `truth.library`."""

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from patching.models.truth import library
from patching.models.truth.tasks import repeated_letter as repeated_letter
from patching.tasks.task import Task

VARIANTS = {
    "clean": "truth/induction",
    **{kind: f"truth/induction-{kind}" for kind in ("noise", "distractor", "redundant")},
}


@dataclass(frozen=True)
class HandWired:
    """A model, and the truth about it: see `Known`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    task: Task
    structural_edges: frozenset[str]
    active_edges: frozenset[str]


def induction(variant: str = "clean", *, n: int = 96, seed: int = 0) -> HandWired:
    """The wired GPT-2 with a task of `n` pairs drawn by `seed`.

    In the variant "clean" the other heads are zero, in "noise" their weights are N(0, 0.02).

    >>> sorted(induction().active_edges)[0]
    'a0.h1->a1.h3.k'

    Raises:
        ValueError: if there is no such variant, or `n` is less than 1.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"no variant {variant!r} of the induction model; there is {', '.join(VARIANTS)}"
        )
    truth = library.known(VARIANTS[variant], n=n, seed=seed)
    made = library.compiled(VARIANTS[variant])
    return HandWired(made.model, made.tokenizer, truth.task, truth.structural, truth.active)
