"""A lens to look through: what every layer would say next at every position, as a table."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from patching.figures import heat_map, token_labels
from patching.views.page import Page, Parts, assemble, packed

_PARTS = Parts(
    package="patching.views", styles=("lens.css",), scripts=("lens.js",), body="lens.html"
)
_LONGEST = 9  # letters of a token in the still picture


def lens_view(
    tokens: Sequence[str],
    layers: Sequence[str],
    top_tokens: Sequence[Sequence[Sequence[str]]],
    probabilities: Float[Tensor, "layer pos top"],
    *,
    title: str = "Logit lens",
) -> Page:
    """A page with the likeliest next tokens after every layer; it needs no network.

    A row per layer, the last at the top, a column per position. A cell shows its likeliest token,
    darker the surer; hovering lists the others. A click on a cell, or the search box, marks a token
    wherever it is among the likeliest.

    >>> shown = lens_view(["a", "b"], ["0"], [[["b"], ["c"]]], torch.ones(1, 2, 1))
    >>> shown.title
    'Logit lens'

    Args:
        tokens: the prompt, one text per position.
        layers: what to call the rows, first layer first.
        top_tokens: the likeliest tokens as text, `[layer][pos][top]`, likeliest first.
        probabilities: theirs.
        title: of the page.

    Raises:
        ValueError: if shapes do not fit, or probabilities are not from 0 to 1, likeliest first.
    """
    _check(tokens, layers, top_tokens, probabilities)
    vocabulary = sorted({token for row in top_tokens for cell in row for token in cell})
    index = {token: i for i, token in enumerate(vocabulary)}
    chosen = np.array([[[index[token] for token in cell] for cell in row] for row in top_tokens])
    shares = probabilities.detach().to("cpu", torch.float64).numpy()
    data = {
        "title": title,
        "tokens": list(tokens),
        "layers": list(layers),
        "vocabulary": vocabulary,
        "top": probabilities.shape[2],
        "chosen": packed(chosen, "uint32"),
        "probabilities": packed(shares, "float32"),
    }
    best = np.array([[_short(cell[0]) for cell in row] for row in top_tokens])
    picture = partial(_table, tokens, layers, best, shares[:, :, 0], title)
    return Page(title, assemble(title, _PARTS, data), picture, height=120 + 30 * (len(layers) + 3))


def _check(
    tokens: Sequence[str],
    layers: Sequence[str],
    top_tokens: Sequence[Sequence[Sequence[str]]],
    probabilities: Float[Tensor, "layer pos top"],
) -> None:
    shape = tuple(probabilities.shape)
    if len(shape) != 3 or shape[:2] != (len(layers), len(tokens)) or 0 in shape:
        raise ValueError(
            f"{len(layers)} layers and {len(tokens)} tokens need probabilities of shape "
            f"[{len(layers)} {len(tokens)} top], one prompt only; got {shape}"
        )
    n_layers, n_tokens, top = shape
    rows_fit = len(top_tokens) == n_layers and all(len(row) == n_tokens for row in top_tokens)
    if not rows_fit or any(len(cell) != top for row in top_tokens for cell in row):
        raise ValueError(f"top_tokens should be nested as the probabilities are, {list(shape)}")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-3)).all():
        raise ValueError("probabilities are from 0 to 1; these hold others (logits?)")
    if (probabilities.diff(dim=2) > 0).any():
        raise ValueError("the tokens of a cell should stand likeliest first")


def _table(
    tokens: Sequence[str], layers: Sequence[str], best: np.ndarray, shares: np.ndarray, title: str
) -> Figure:
    axes = ("layer", list(layers)), ("position", token_labels([_cut(token) for token in tokens]))
    shown = title.replace("$", r"\$")
    return heat_map(shares, axes, title=shown, colour="probability of the likeliest", cells=best)


def _short(token: str) -> str:
    """A token for a small square; dollar signs would be read as mathematics."""
    return _cut(token).replace(" ", "·").replace("\n", "↵").replace("$", r"\$")


def _cut(token: str) -> str:
    return token if len(token) <= _LONGEST else token[: _LONGEST - 1] + "…"
