"""How much of what a model can do is left where dictionaries rebuild its activations.

A place is overwritten with what its dictionary rebuilds from that very run, at all positions but
the first, on which hardly any dictionary is trained. The loss of next tokens is held against the
model's own and against that with zeros there, as in SAELens' `ce_loss_score`. It is asked
of each dictionary alone and of all of a kind at once (every MLP, every stream), where errors pile
up.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patching.anatomy.blocks import widen
from patching.anatomy.places import find
from patching.dictionaries.attaching import Attached, Fit, Recovery, attach
from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.fitting import fitted, flat
from patching.dictionaries.several import Dictionaries
from patching.intervene.changes import Intervention
from patching.intervene.running import intervening
from patching.lens.prompts import Prompts, Source, read_prompts
from patching.model import Model
from patching.modes import without_gradients
from patching.progress import track


def quality(
    model: Model,
    dictionaries: Dictionaries,
    prompts: Source | Prompts,
    *,
    batch_size: int = 8,
) -> Attached:
    """Measure dictionaries at a model's places, the loss recovered too, however badly they do.

    The dictionaries that are returned say it in their `facts["quality"]`, also when saved.

    Raises:
        ValueError: if a place is not there or of another width, or prompts do not fit the model.
    """
    found = attach(
        model, dictionaries, prompts, worst=float("inf"), beside=0, batch_size=batch_size
    )
    losses = loss_recovered(model, found.dictionaries, found.prompts, batch_size=batch_size)
    alone, together = losses[: len(found.fits)], losses[len(found.fits) :]
    members = []
    for one, fit, loss in zip(found.dictionaries, found.fits, alone, strict=True):
        said = {**_told(fit, loss, together), "text": found.prompts.name}
        members.append(replace(one, facts={"l0": fit.l0, **one.facts, "quality": said}))
    judged = replace(found.dictionaries, members=tuple(members))
    return replace(found, dictionaries=judged, alone=alone, together=together)


@without_gradients
def loss_recovered(
    model: Model,
    dictionaries: Dictionaries,
    prompts: Source | Prompts,
    *,
    batch_size: int = 8,
) -> tuple[Recovery, ...]:
    """The loss with each dictionary alone, in their order, then with all of each kind of place.

    Two runs of the prompts each, and one of the model as it is.

    Raises:
        ValueError: if a place is not there or of another width, or no prompt has two tokens.
    """
    several, read = fitted(model, dictionaries), read_prompts(model, prompts)
    if max(map(len, read.rows)) < 2:
        raise ValueError("a loss is of next tokens: give prompts of 2 tokens and more")
    loss = partial(_loss, model, read, batch_size)
    clean, found = loss(()), []
    asked = [*((one.writes,) for one in several), *_of_a_kind(model, several)]
    for places in track(asked, "loss recovered"):
        zeros = [Intervention(place, partial(_after_first, None)) for place in places]
        rebuilt = loss(_Rebuilding(several).interventions(places))
        found.append(Recovery(places, clean, rebuilt, loss(zeros)))
    return tuple(found)


class _Rebuilding:
    """What dictionaries read in a run, and what they put in the place of what is written."""

    def __init__(self, several: Dictionaries) -> None:
        self._several = several
        self._read: dict[str, tuple[Tensor, Tensor]] = {}

    def interventions(self, places: Sequence[str]) -> list[Intervention]:
        """All that overwrites some places: whoever writes there reads first."""
        readers = [one for one in self._several if set(one.decoders) & set(places)]
        reading = [Intervention(one.reads, partial(self._encode, one)) for one in readers]
        return [*reading, *(Intervention(p, partial(self._decode, p)) for p in places)]

    def _encode(self, one: Dictionary, x: Tensor) -> Tensor:
        self._read[one.writes] = one.encode(flat(x)), flat(x)
        return x

    def _decode(self, place: str, y: Tensor) -> Tensor:
        rebuilt = self._several[place].decode(*self._read[place])
        for one in self._several:
            if place in one.later:
                rebuilt = rebuilt + one.write(self._read[one.writes][0], place)
        return _after_first(rebuilt, y)


def _after_first(new: Tensor | None, y: Tensor) -> Tensor:
    """The activation with something new (None: zeros) at all positions but the first."""
    out = torch.zeros_like(y) if new is None else new.to(y).view_as(y)
    return torch.cat([y[:, :1], out[:, 1:]], dim=1)


def _of_a_kind(model: Model, several: Dictionaries) -> list[tuple[str, ...]]:
    """Places of one kind, where there are more than one."""
    kinds: dict[str, list[str]] = {}
    for one in several:
        kinds.setdefault(find(model, one.writes).kind, []).append(one.writes)
    return [tuple(places) for places in kinds.values() if len(places) > 1]


def _loss(
    model: Model, prompts: Prompts, batch_size: int, changes: Sequence[Intervention]
) -> float:
    """Mean cross-entropy of all next tokens, in nats."""
    lengths, total, n = iter(map(len, prompts.rows)), 0.0, 0
    with intervening(model, *changes):
        for tokens in prompts.batches(batch_size, model.device):
            for row in _losses(model.run(tokens).logits, tokens):
                asked = next(lengths) - 1
                total, n = total + float(row[:asked].double().sum()), n + asked
    return total / n


def _losses(
    logits: Float[Tensor, "batch pos vocab"], tokens: Tensor
) -> Float[Tensor, "batch next"]:
    said = widen(logits[:, :-1]).transpose(1, 2)
    return functional.cross_entropy(said, tokens[:, 1:].to(said.device), reduction="none")


def _told(fit: Fit, loss: Recovery, together: Sequence[Recovery]) -> dict[str, object]:
    """What a dictionary says of itself, in plain values."""
    also = next((one for one in together if fit.writes in one.places), None)
    return {
        "fvu": fit.fvu,
        "l0": fit.l0,
        "silent": fit.silent,
        "clean_loss": loss.clean,
        "loss": loss.rebuilt,
        "loss_recovered": loss.recovered,
        "all_recovered": None if also is None else also.recovered,
    }
