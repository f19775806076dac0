"""Attention patterns to look at: one head's lines between tokens, and all heads as small maps."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patching.figures import LABEL, SEQUENTIAL, TITLE, Figure
from patching.files.visible import spelled
from patching.views.page import Page, Parts, assemble, packed

_PARTS = Parts(
    package="patching.views",
    styles=("attention.css",),
    scripts=("attention.js",),
    body="attention.html",
)
_FULL = 65535  # stands for 1 in the page: patterns travel as whole numbers of 16 bits
_ROUNDING = 1e-3  # that much above 1 is forgiven: bfloat16 sums to a little more


def attention_view(
    pattern: Float[Tensor, "layer head query key"],
    tokens: Sequence[str],
    *,
    layer: int = 0,
    head: int = 0,
    title: str = "Attention",
) -> Page:
    """A page with the attention of every head on one prompt; it needs no network.

    The head view draws a line from every query token (left) to the key tokens it attends to
    (right), as strong as its weight; hovering shows one token's lines with numbers. The model view
    has a small map for every head: a click opens it.

    >>> view = attention_view(torch.eye(3).expand(2, 4, 3, 3), ["a", "b", "c"], layer=1)
    >>> view.title
    'Attention'

    Args:
        pattern: attention weights of one prompt, from 0 to 1.
        tokens: the prompt's tokens as text, or as the tokenizer spells them (`Ġthe` is ` the`).
        layer: shown first.
        head: shown first.
        title: of the page.

    Raises:
        ValueError: if pattern and tokens do not fit, weights are not from 0 to 1, or there is no
            such layer or head.
    """
    weights = _checked(pattern, tokens)
    n_layers, n_heads = weights.shape[:2]
    for what, index, n in (("layer", layer, n_layers), ("head", head, n_heads)):
        if not 0 <= index < n:
            raise ValueError(f"there is no {what} {index}; this pattern has 0 to {n - 1}")
    causal = not np.triu(weights, k=1).any()
    rows, columns = np.tril_indices(len(tokens)) if causal else np.indices(weights.shape[2:])
    data = {
        "title": title,
        "tokens": [spelled(token) for token in tokens],
        "layers": n_layers,
        "heads": n_heads,
        "causal": causal,
        "weights": packed(np.rint(weights[:, :, rows, columns] * _FULL), "uint16"),
        "layer": layer,
        "head": head,
    }
    return Page(title, assemble(title, _PARTS, data), partial(_mosaic, weights, title))


def _checked(pattern: Float[Tensor, "layer head query key"], tokens: Sequence[str]) -> np.ndarray:
    n = len(tokens)
    if pattern.ndim != 4 or pattern.shape[2:] != (n, n) or not pattern.numel():
        raise ValueError(
            f"a pattern of {n} tokens has the shape [layer head {n} {n}], one prompt only; "
            f"got {tuple(pattern.shape)}"
        )
    weights = pattern.detach().to("cpu", torch.float64)
    if not (weights.isfinite() & (weights >= 0) & (weights <= 1 + _ROUNDING)).all():
        raise ValueError(
            "attention weights are from 0 to 1; this pattern holds others (scores before softmax?)"
        )
    return weights.clamp(max=1.0).numpy()


def _mosaic(weights: np.ndarray, title: str) -> Figure:
    """All heads as one picture, layer 0 at the bottom."""
    n_layers, n_heads, n, _ = weights.shape
    gap = max(1, n // 12)
    tiles = np.pad(weights, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    picture = tiles[::-1].transpose(0, 2, 1, 3).reshape(n_layers * (n + gap), n_heads * (n + gap))
    width = min(10.0, 1.0 + 0.8 * n_heads)
    figure = Figure(figsize=(width, 0.8 + (width - 0.6) * n_layers / n_heads), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(picture, cmap=SEQUENTIAL, vmin=0.0, vmax=1.0)
    step = n + gap
    axes.set_xticks([i * step + n / 2 for i in range(n_heads)], [str(i) for i in range(n_heads)])
    layers = [str(i) for i in reversed(range(n_layers))]
    axes.set_yticks([i * step + n / 2 for i in range(n_layers)], layers)
    axes.set_xlabel("head", fontsize=LABEL)
    axes.set_ylabel("layer", fontsize=LABEL)
    axes.tick_params(length=0, labelsize=LABEL)
    axes.spines[:].set_visible(False)
    axes.set_title(title.replace("$", r"\$"), fontsize=TITLE)
    return figure
