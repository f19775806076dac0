"""Interventions on features: a dictionary's feature set, scaled or moved, in `run` and `generate`.

A feature is changed by adding `(new - old) W_dec` to what is written where its dictionary writes;
`old` is its value in the very run. Errors stay as they are. Neurons have places of their own
(`m3.n17`), for which `patch`, `scale` and `add` of `patching.intervene` are enough.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.intervene.changes import Intervention, Positions, patch
from patching.lens.prompts import Source, read_prompts
from patching.model import Model


def set_feature(
    dictionary: Dictionary, feature: int, value: float | int, positions: Positions = None
) -> tuple[Intervention, ...]:
    """Give a feature a value, as units of its activation; for `intervening(model, *these)`.

    With TopK, what is set counts beside the others: none is evicted by it.

    Raises:
        ValueError: if there is no such feature.
    """
    return _changed(dictionary, feature, partial(torch.full_like, fill_value=value), positions)


def scale_feature(
    dictionary: Dictionary, feature: int, factor: float | int, positions: Positions = None
) -> tuple[Intervention, ...]:
    """Multiply a feature's activation; 0 removes it.

    Raises:
        ValueError: if there is no such feature.
    """
    return _changed(dictionary, feature, partial(torch.mul, other=factor), positions)


def add_feature(
    dictionary: Dictionary, feature: int, value: float | int, positions: Positions = None
) -> tuple[Intervention, ...]:
    """Add to a feature's activation, whether it is active or not.

    Raises:
        ValueError: if there is no such feature.
    """
    return _changed(dictionary, feature, partial(torch.add, other=value), positions)


def freeze_attention(model: Model, prompt: Source) -> tuple[Intervention, ...]:
    """Hold attention at that of a plain run of a prompt: its queries and keys are put in.

    Put these first. While text is generated after the prompt, new tokens attend as they will.

    Raises:
        ValueError: if it is not one prompt, or the model does not read it.
    """
    rows = read_prompts(model, prompt).rows
    if len(rows) != 1:
        raise ValueError(f"attention is held at that of one prompt, got {len(rows)}")
    places = [f"a{block.index}.{part}" for block in model.blocks for part in "qk"]
    run = model.run(rows[0], cache=places)
    return tuple(patch(place, run, range(len(rows[0]))) for place in places)


@dataclass
class _Feature:
    """One feature in one run: its value when read, and what is written for its change."""

    dictionary: Dictionary
    feature: int
    new: Callable[[Tensor], Tensor]
    _change: list[Tensor] = field(default_factory=list)

    def read(self, x: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_in"]:
        """Keep what its change is to be."""
        old = self.dictionary.encode(x)[..., self.feature]
        self._change[:] = [self.new(old) - old]
        return x

    def write(
        self, row: Float[Tensor, " d_out"], y: Float[Tensor, "batch pos d_out"]
    ) -> Float[Tensor, "batch pos d_out"]:
        """Write the change."""
        (change,) = self._change
        return y + (change[..., None] * row.to(change)).to(y)


def _changed(
    dictionary: Dictionary, feature: int, new: Callable[[Tensor], Tensor], positions: Positions
) -> tuple[Intervention, ...]:
    one = _Feature(dictionary, feature, new)
    index = torch.tensor([feature])
    rows = {place: dictionary.writes_of(index, place)[0] for place in dictionary.decoders}
    reading = Intervention(dictionary.reads, one.read, positions)
    writing = [
        Intervention(place, partial(one.write, row), positions) for place, row in rows.items()
    ]
    return reading, *writing
