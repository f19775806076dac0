"""One step of an embedding towards another run's logits, down their squared distance.

Knows nothing of metrics and paths.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING, widen
from patching.model import Model
from patching.modes import with_gradients
from patching.tasks.task import Batch


def logits_from(
    model: Model, batch: Batch, embedding: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos vocab"]:
    """Logits at all positions of the clean prompts, run from another embedding."""
    mask = batch.is_token.long() if batch.left_padded else None
    with model.hooked([(EMBEDDING, lambda _: embedding)]):
        return widen(model.bridge(batch.clean, attention_mask=mask).to(model.device))


def approach(
    model: Model,
    batch: Batch,
    embedding: Float[Tensor, "batch pos d_model"],
    target: Float[Tensor, "batch pos vocab"],
    length: Float[Tensor, " batch"],
) -> Float[Tensor, "batch pos d_model"]:
    """The embedding, moved so far down the gradient of the squared distance to the target's logits.

    The distance is over all positions and words, padding left out. Each example moves by its own
    `length` in the direction of its own gradient; one that has arrived stays.
    """
    with with_gradients():
        here = embedding.detach().requires_grad_()
        apart = (logits_from(model, batch, here) - target)[batch.is_token]
        (gradient,) = torch.autograd.grad(apart.square().sum(), here)
    norm = widen(gradient).flatten(1).norm(dim=1)
    step = torch.where(norm > 0, length / norm.clamp(min=torch.finfo(norm.dtype).tiny), 0.0)
    return embedding.detach() - (step[:, None, None] * gradient).to(embedding.dtype)
