"""Features of transcoders, one dictionary a layer or across layers, as `trace` takes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.features.linear import LinearRun
from circuits.features.units import Units
from patching.anatomy.norms import widen
from patching.anatomy.silent import is_silent
from patching.dictionaries import Dictionaries, Dictionary, fitted, scale_feature
from patching.dictionaries.examples import Asked, asked_of
from patching.intervene import Intervention
from patching.model import Model
from patching.rules.sites import Part


@dataclass(frozen=True, eq=False)
class Transcoders:
    """Dictionaries of a model that read what MLPs read and write what MLPs write.

    What is written before a norm that follows the MLP (`m3.out` in Gemma 2) reaches the stream
    through it, its denominator held.

    A layer without one is all error. At the first position, which almost no dictionary was trained
    on, what an MLP writes is error too, unless `first` is on.
    """

    model: Model
    dictionaries: Dictionaries
    first: bool = False
    _members: dict[int, Dictionary] = field(default_factory=dict, init=False, repr=False)

    letter = "f"
    complete = False

    def __post_init__(self) -> None:
        for member in fitted(self.model, self.dictionaries):
            self._members[_layer_of(self.model, member)] = member

    @property
    def name(self) -> str:
        """What they are called."""
        return self.dictionaries.name

    @property
    def facts(self) -> dict[str, object]:
        """What provenance says of them."""
        hashes = {member.writes: member.hash for member in self.dictionaries}
        return {"features": self.name, "dictionaries": hashes, "first": self.first}

    def parts(self) -> Sequence[Part]:
        """None: encoders say what features read."""
        return ()

    def points(self, model: Model) -> Sequence[str]:
        """None.

        Raises:
            ValueError: if they are for another model.
        """
        if model is not self.model:
            raise ValueError(f"these dictionaries were made ready for {self.model.name}, not this")
        return ()

    def passing(
        self, layer: int, inputs: Sequence[Tensor], y: Tensor, sigma: Tensor | None
    ) -> Tensor | None:
        """The skip connection."""
        member = self._members.get(layer)
        if member is None or member.skip is None:
            return None
        passed = inputs[-1] @ member.skip.to(inputs[-1])
        return self._to_stream(member.writes, passed, sigma)

    def active(self, run: LinearRun, layer: int) -> Units:
        """The active features."""
        member = self._members.get(layer)
        x = run.inputs[layer][0].detach()
        if member is None:
            none = run.tokens.new_zeros(0)
            return Units(layer, none, none, widen(x.new_zeros(0)))
        found = member.active(x)
        units = Units(layer, found.tokens, found.features, found.values)
        return units if self.first else units[units.positions > 0]

    def reads(self, run: LinearRun, units: Units) -> Float[Tensor, "unit d_model"]:
        """Columns of the encoder."""
        x = run.inputs[units.layer]
        member = self._members.get(units.layer)
        if member is None:
            return widen(x.new_zeros(0, x.shape[-1]))
        return member.reads_of(units.indices).to(widen(x))

    def reached(self, layer: int) -> Sequence[int]:
        """Its own layer, and across layers those above."""
        member = self._members.get(layer)
        return () if member is None else tuple(map(_layer_at, member.decoders))

    def writes(self, run: LinearRun, units: Units, to: int) -> Float[Tensor, "unit d_model"]:
        """Rows of a decoder, through a norm that follows."""
        member = self._members[units.layer]
        place = next(place for place in member.decoders if _layer_at(place) == to)
        rows = member.writes_of(units.indices, place) * units.values[:, None]
        sigma = run.frozen.sigma_after(to)
        return self._to_stream(place, rows, None if sigma is None else sigma[0, units.positions])

    def constant(self, run: LinearRun, layer: int) -> Float[Tensor, "pos d_model"]:
        """The decoder's bias, and what a norm that follows adds."""
        y = run.outputs[layer][0].detach()
        member, sigma = self._members.get(layer), run.frozen.sigma_after(layer)
        if member is None:
            return torch.zeros_like(y)
        bias = member.b_dec.to(y).expand_as(y)
        out = self._to_stream(member.writes, bias, None if sigma is None else sigma[0]).to(y)
        norm = self.model.blocks[layer].post_mlp_norm
        if norm is None or norm.beta is None or not _is_before_norm(member.writes):
            return out
        return out + norm.beta.to(y)

    def answering(
        self, layer: int, inputs: Sequence[Tensor], y: Tensor, sigma: Tensor | None
    ) -> Tensor:
        """What features of this layer and those below write here, as they are active now."""
        passed = self.passing(layer, inputs, y, sigma)
        out = torch.zeros_like(y) if passed is None else passed.to(y)
        for below, x in enumerate(inputs):
            member = self._members.get(below)
            for place in () if member is None else member.decoders:
                if member is not None and _layer_at(place) == layer:
                    f = member.encode(x if self.first else _without_first(x))
                    out = out + self._to_stream(place, member.write(f, place), sigma).to(y)
        return out

    def scaled(
        self, layer: int, index: int, position: int, factor: float | int
    ) -> tuple[Intervention, ...]:
        """`scale_feature`.

        Raises:
            ValueError: if the layer has no such feature.
        """
        if layer not in self._members:
            raise ValueError(f"{self.name} has no dictionary for layer {layer}")
        return scale_feature(self._members[layer], index, factor, positions=position)

    def asked(self, layer: int, indices: Sequence[int], signs: Sequence[int]) -> Asked:
        """The features as they are: they have no other sign.

        Raises:
            ValueError: if the layer has no such feature.
        """
        if layer not in self._members:
            raise ValueError(f"{self.name} has no dictionary for layer {layer}")
        return asked_of(self._members[layer], indices)

    def _to_stream(
        self, place: str, x: Float[Tensor, "*rows d_model"], sigma: Tensor | None
    ) -> Float[Tensor, "*rows d_model"]:
        """What is written at a place as it reaches the stream."""
        if not _is_before_norm(place):
            return x
        block = self.model.blocks[_layer_at(place)]
        norm = block.post_mlp_norm
        assert norm is not None and sigma is not None, "m3.out is a place where a norm follows"
        return norm.at(x, sigma.to(widen(x))) * block.scale


def _without_first(x: Tensor) -> Tensor:
    """The input with zeros at the first position: what is written there answers to nothing."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], dim=1)


def _layer_at(place: str) -> int:
    return int(place.removesuffix(".out")[1:])


def _is_before_norm(place: str) -> bool:
    return place.endswith(".out")


def _layer_of(model: Model, member: Dictionary) -> int:
    """The layer that a transcoder belongs to.

    Raises:
        ValueError: if it reads or writes elsewhere than an MLP, or the layer has none.
    """
    n_layers = len(model.blocks)
    written = {f"m{i}{end}": i for i in range(n_layers) for end in ("", ".out")}
    layer = written.get(member.writes)
    if layer is None or member.reads != f"m{layer}.in":
        raise ValueError(
            f"{member.name!r} reads {member.reads} and writes {member.writes}; a graph needs "
            f"transcoders, that read m0.in and write m0, up to layer {n_layers - 1} of {model.name}"
        )
    if is_silent(model.blocks[layer].bridge.mlp):
        raise ValueError(f"{member.name!r} is of no use: layer {layer} of {model.name} has no MLP")
    return layer
