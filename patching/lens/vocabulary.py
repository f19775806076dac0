"""A model's vocabulary as directions: final norm and unembedding of any vector of the stream."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patching.anatomy.norms import Norm, find_norm, widen
from patching.model import Model
from patching.modes import with_gradients

_RELATIVE = {torch.float64: 1e-5, torch.float32: 1e-4}  # as for the proof of a loaded model
_RELATIVE_HALF = 5e-2


@dataclass(frozen=True)
class Vocabulary:
    """The way from the last residual stream to logits, by the model's own modules.

    `logits = finish(head(norm(x)))`: `finish` is what a family does after its unembedding (a
    softcap in Gemma 2, a scale in Granite and Cohere), and `slope` its derivative at 0: the
    scale alone.
    """

    norm: Norm | None
    head: nn.Module
    finish: Callable[[Tensor], Tensor]
    slope: float

    @property
    def weight(self) -> Float[Tensor, "vocab d_model"]:
        """The unembedding, one row a token; a view."""
        weight = self.head.weight
        assert isinstance(weight, Tensor), "an unembedding has a weight"
        return weight.detach()

    @property
    def bias(self) -> Float[Tensor, " vocab"] | None:
        """The unembedding's bias, where the family has one."""
        bias = getattr(self.head, "bias", None)
        return bias.detach() if isinstance(bias, Tensor) else None

    def __len__(self) -> int:
        return self.weight.shape[0]

    def logits(
        self,
        x: Float[Tensor, "*rows d_model"],
        *,
        sigma: Float[Tensor, "*#rows 1"] | None = None,
        softcap: bool = True,
    ) -> Float[Tensor, "*rows vocab"]:
        """Logits of vectors of the stream, in float32 or wider.

        The norm recomputes its denominator from each vector, or divides by `sigma` where that is
        given. Without `softcap` a family's cap is left out; its scale stays.
        """
        normed = self._module_norm(x) if sigma is None else self._divide(x, sigma)
        raw = self.head(normed.to(self.weight)).to(x.device)
        return widen(self.finish(raw)) if softcap else widen(raw) * self.slope

    def sigma(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
        """The final norm's denominator for these vectors (1 without a norm)."""
        return x.new_ones(*x.shape[:-1], 1) if self.norm is None else self.norm.sigma(x)

    def promotions(
        self, x: Float[Tensor, "*rows d_model"], sigma: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows vocab"]:
        """What writes add to each token's logit at a frozen scale, beyond what they add to all.

        The linear part alone: no biases, no softcap, and the mean over the vocabulary taken off
        (a softmax does not see it). Exactly additive over writes.
        """
        scaled = self._linear(x, sigma).to(self.weight)
        logits = widen(nn.functional.linear(scaled, self.weight)).to(x.device) * self.slope
        return logits - logits.mean(dim=-1, keepdim=True)

    def pull_back(
        self, direction: Float[Tensor, "*rows d_model"], sigma: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The reader r with `r . x` = what x adds to the logits' `direction`, at a frozen scale.

        `direction` is a combination of the unembedding's rows.
        """
        direction = widen(direction) * self.slope
        return direction / sigma if self.norm is None else self.norm.pull_back(direction) / sigma

    def _module_norm(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        x = x.to(self.weight.dtype)
        return x if self.norm is None else self.norm(x)

    def _divide(
        self, x: Float[Tensor, "*rows d_model"], sigma: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        scaled = self._linear(x, sigma)
        beta = None if self.norm is None else self.norm.beta
        return scaled if beta is None else scaled + widen(beta).to(x.device)

    def _linear(
        self, x: Float[Tensor, "*rows d_model"], sigma: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*rows d_model"]:
        """`gamma * centre(x) / sigma`."""
        x = widen(x)
        if self.norm is None:
            return x / sigma
        if self.norm.centred:
            x = x - x.mean(dim=-1, keepdim=True)
        x = x / sigma
        gamma = self.norm.gamma
        return x if gamma is None else x * widen(gamma).to(x.device)


def find_vocabulary(model: Model) -> Vocabulary:
    """The model's final norm, unembedding and what follows it; `prove_vocabulary` tries it.

    >>> len(find_vocabulary(Model.load("truth/induction")))
    27
    """
    bridge = model.bridge
    finish = bridge.adapter.apply_output_logits_transform
    head = bridge.unembed.original_component
    assert isinstance(head, nn.Module), "a booted model has an unembedding"
    return Vocabulary(find_norm(getattr(bridge, "ln_final", None)), head, finish, _slope(finish))


def prove_vocabulary(
    model: Model,
    vocabulary: Vocabulary,
    stream: Float[Tensor, "batch d_model"],
    logits: Float[Tensor, "batch vocab"],
) -> None:
    """Hold the vocabulary against a run: the last stream must give the model's own logits.

    Raises:
        ValueError: if it does not: the family does something else before or after.
    """
    found = vocabulary.logits(stream)
    if found.shape == logits.shape:
        error = (found - widen(logits)).abs().max()
        relative = float(error / widen(logits).abs().max().clamp(min=1e-6))
        if relative <= _RELATIVE.get(model.dtype, _RELATIVE_HALF):
            return
        problem = f"relative error {relative:.1e}"
    else:
        problem = f"shapes {tuple(found.shape)} and {tuple(logits.shape)}"
    raise ValueError(
        f"{model.name} has no lens: its logits are not what its final norm and unembedding make "
        f"of the last residual stream ({problem})"
    )


def _slope(finish: Callable[[Tensor], Tensor]) -> float:
    with with_gradients():
        at = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(finish(at).sum(), at)
    return float(slope)
