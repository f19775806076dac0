"""How widely token embeddings are spread, for noise in their units."""

from dataclasses import replace

import torch

from patching.anatomy.blocks import FINAL_STREAM, UNEMBED_IN
from patching.anatomy.kept import Keeper
from patching.anatomy.places import find
from patching.anatomy.stack import skipping
from patching.model import Model
from patching.modes import without_gradients


@without_gradients
def embedding_sigma(model: Model, times: float | int = 3.0) -> float:
    """`times` the standard deviation of all token embeddings' numbers, as they enter the stream.

    Three is ROME's strength of noise (`s3`). The whole vocabulary is run through the embedding
    alone, so that scaled embeddings (Gemma) are measured as scaled. Meng et al. 2022,
    arXiv:2202.05262.
    """
    ids = torch.arange(int(model.bridge.cfg.d_vocab), device=model.device)
    embedding = replace(find(model, "embed"), hook=FINAL_STREAM)
    keeper = Keeper({"embed": embedding})
    hooks = [*keeper.hooks, (UNEMBED_IN, lambda x: x[:, :1])]
    n, total, squares = 0, 0.0, 0.0
    nothing_but_embedding = skipping(
        model.bridge, len(model.blocks), as_tuple=model.blocks_return_tuples
    )
    with nothing_but_embedding, model.hooked(hooks):
        for some in ids.split(min(128, int(model.bridge.cfg.n_ctx))):
            model.bridge(some[None])
            x = keeper.values["embed"].double()
            n, total, squares = (
                n + x.numel(),
                total + float(x.sum()),
                squares + float((x * x).sum()),
            )
    return times * (squares / n - (total / n) ** 2) ** 0.5
