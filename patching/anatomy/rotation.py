"""Rotary embeddings that depend on a run's longest row, and which rows may therefore run together.

LongRoPE (Phi-3) has two sets of frequencies and takes the second in runs that are longer than the
model was first trained on; a short row beside a long one is then read otherwise than alone. Dynamic
scaling makes frequencies anew for every longer length, and keeps them for runs that follow.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Stretch:
    """A rotary embedding that changes in runs of more than `limit` tokens.

    `each_anew`: every length beyond has frequencies of its own.
    """

    limit: int
    each_anew: bool

    def refuse(self, name: str, what: str, lengths: Sequence[int]) -> None:
        """Refuse prompts of these lengths where what one gives would depend on the others.

        Raises:
            ValueError: naming the model, what holds the prompts, and the length.
        """
        shortest, longest = min(lengths), max(lengths)
        if longest <= self.limit:
            return
        if self.each_anew:
            raise ValueError(
                f"{what} has a prompt of {longest} tokens; beyond {self.limit}, {name} makes its "
                "rotary embedding anew for the longest prompt it has met (dynamic scaling), so "
                f"numbers would depend on what ran before; keep prompts to {self.limit} tokens"
            )
        if shortest <= self.limit:
            raise ValueError(
                f"{what} has prompts of {shortest} to {longest} tokens; {name} rotates queries and "
                f"keys otherwise in runs of more than {self.limit} tokens (LongRoPE), so a short "
                "prompt would be read otherwise beside a long one; keep all prompts on one side "
                "of that length"
            )


def find_stretches(module: nn.Module) -> tuple[Stretch, ...]:
    """The rotary embeddings of a Hugging Face model that depend on the longest row."""
    return tuple(dict.fromkeys(found for part in module.modules() for found in _stretches(part)))


def refuse_lengths(module: nn.Module, name: str, what: str, lengths: Sequence[int]) -> None:
    """Refuse prompts of these lengths where what one gives would depend on the others.

    The module is Hugging Face's, looked through for rotary embeddings at each call.

    Raises:
        ValueError: naming the model, what holds the prompts, and the length.
    """
    for stretch in find_stretches(module):
        stretch.refuse(name, what, lengths)


def _stretches(part: nn.Module) -> Iterator[Stretch]:
    """By the type of the scaling, one for the whole model or one for each type of layer."""
    kinds = getattr(part, "rope_type", None)
    config = getattr(part, "config", None)
    if config is None or not isinstance(kinds, str | Mapping):
        return
    for layer_type, kind in ({None: kinds} if isinstance(kinds, str) else kinds).items():
        if "dynamic" in str(kind):
            yield Stretch(int(config.max_position_embeddings), each_anew=True)
        elif kind == "longrope":
            own = config.rope_parameters
            own = own if layer_type is None else own[layer_type]
            yield Stretch(int(own["original_max_position_embeddings"]), each_anew=False)
