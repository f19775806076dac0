"""Every MLP's own neurons as features: no dictionary is needed, and nothing is left over.

Neurons that are ReLUs are exactly linear where they are active. Of others, the vector that a
neuron reads by is its gradient under a backward rule: by default RelP's, a slope of `act(z) / z`,
and half of it for each factor of a gated product. As in arXiv:2601.22594.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.linear import LinearRun
from circuits.features.units import Units
from patching.anatomy.norms import widen
from patching.anatomy.silent import is_silent
from patching.dictionaries.examples import Asked
from patching.intervene import Intervention, scale
from patching.lens.neurons import NeuronOutput, find_output
from patching.model import Model
from patching.rules import half_rule, identity_rule
from patching.rules.sites import Part

_SEEDS = 2**24  # numbers of one-hot rows at a time


@dataclass(frozen=True, eq=False)
class Neurons:
    """All neurons of a model, as `trace` takes them; see `Features`.

    `rule` says what a neuron reads: parts of a backward rule that act inside MLPs; none for plain
    gradients.
    """

    model: Model
    rule: tuple[Part, ...] = (half_rule, identity_rule)
    _outputs: dict[int, NeuronOutput] = field(default_factory=dict, init=False, repr=False)

    name = "neurons"
    letter = "n"
    complete = True

    def __post_init__(self) -> None:
        for block in self.model.blocks:
            if not is_silent(block.bridge.mlp):
                self._outputs[block.index] = find_output(self.model, block)

    @property
    def facts(self) -> dict[str, object]:
        """What provenance says of them."""
        return {"features": self.name, "neuron rule": [part.__name__ for part in self.rule]}

    def parts(self) -> Sequence[Part]:
        """The rule."""
        return self.rule

    def points(self, model: Model) -> Sequence[str]:
        """Where activations pass.

        Raises:
            ValueError: if they are another model's.
        """
        if model is not self.model:
            raise ValueError(f"these are neurons of another model, not of this {model.name}")
        return [output.points for output in self._outputs.values()]

    def passing(
        self, layer: int, inputs: Sequence[Tensor], y: Tensor, sigma: Tensor | None
    ) -> Tensor | None:
        """Nothing."""
        return None

    def active(self, run: LinearRun, layer: int) -> Units:
        """All neurons whose activation is not zero."""
        if layer not in self._outputs:
            none = run.tokens.new_zeros(0)
            return Units(layer, none, none, widen(run.embedding.new_zeros(0)))
        values = run.seen[self._outputs[layer].points][0].detach()
        positions, indices = values.nonzero(as_tuple=True)
        return Units(layer, positions, indices, widen(values[positions, indices]))

    def reads(self, run: LinearRun, units: Units) -> Float[Tensor, "unit d_model"]:
        """Gradients of activations by the MLP's input, under the rule.

        An MLP works on each token alone: one row of a backward pass serves a unit of each.
        """
        x = run.inputs[units.layer]
        out = x.new_zeros(len(units), x.shape[-1])
        if not len(units):
            return out
        post = run.seen[self._outputs[units.layer].points]
        slots = _within(units.positions)
        at_once = max(1, _SEEDS // post.numel())
        for first in range(0, int(slots.max()) + 1, at_once):
            some = ((slots >= first) & (slots < first + at_once)).nonzero()[:, 0]
            rows, at = slots[some] - first, units.positions[some]
            seeds = post.new_zeros(int(rows.max()) + 1, *post.shape)
            seeds[rows, 0, at, units.indices[some]] = 1
            (found,) = torch.autograd.grad(post, x, seeds, retain_graph=True, is_grads_batched=True)
            out[some] = found[rows, 0, at]
        return out

    def reached(self, layer: int) -> Sequence[int]:
        """Its own layer."""
        return (layer,)

    def writes(self, run: LinearRun, units: Units, to: int) -> Float[Tensor, "unit d_model"]:
        """Rows of the output projection, through a norm that follows."""
        rows = self._outputs[to].rows(units.indices) * units.values[:, None]
        sigma = run.frozen.sigma_after(to)
        return rows if sigma is None else rows / sigma[0, units.positions].to(rows)

    def constant(self, run: LinearRun, layer: int) -> Float[Tensor, "pos d_model"]:
        """The output projection's bias."""
        none = torch.zeros_like(run.outputs[layer][0].detach())
        output, sigma = self._outputs.get(layer), run.frozen.sigma_after(layer)
        if output is None:
            return none
        bias = none if output.bias is None else none + output.bias.to(none)
        bias = bias if sigma is None else bias / sigma[0].to(none)
        shift = None if output.norm is None else output.norm.beta
        return bias if shift is None else bias + shift.to(none)

    def answering(
        self, layer: int, inputs: Sequence[Tensor], y: Tensor, sigma: Tensor | None
    ) -> Tensor:
        """The MLP's output itself, whose gradient is the rule's."""
        return y

    def scaled(
        self, layer: int, index: int, position: int, factor: float | int
    ) -> tuple[Intervention, ...]:
        """The neuron's activation times the factor."""
        return (scale(f"m{layer}.n{index}", factor, positions=position),)

    def asked(self, layer: int, indices: Sequence[int], signs: Sequence[int]) -> Asked:
        """Activations times their signs, and rows of the output projection."""
        chosen, sign = torch.tensor([*indices]), torch.tensor([*signs])

        def values(x: Tensor) -> Tensor:
            return x[..., chosen.to(x.device)] * sign.to(x)

        rows = self._outputs[layer].rows(chosen)
        return Asked(tuple(indices), f"m{layer}.neurons", values, rows * sign[:, None].to(rows))


def _within(positions: Int[Tensor, " unit"]) -> Int[Tensor, " unit"]:
    """Each unit's number among those of its position; positions are sorted."""
    first = torch.searchsorted(positions, positions)
    return torch.arange(len(positions), device=positions.device) - first
