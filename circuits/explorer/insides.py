"""What goes on inside a model on one prompt, as a page is given it. Knows no model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Scores
from patching.files.brief import briefly
from patching.views.page import packed

_FULL = 255  # stands for 1 in the page: shares of attention travel as whole numbers of 8 bits
_HUNDREDTHS, _FURTHEST, _UNSEEN = 100, 32_000, -32_768  # scores travel as hundredths of 16 bits


@briefly
@dataclass(frozen=True, eq=False)
class Insides:
    """One prompt's tokens, every head's pattern, and what every node promotes at the last token.

    `promoted` has for each of `embed`, heads and MLPs the tokens whose logit its write raises
    most, with by how much; `said` is the prompt with its answers in a line, `spans` are those of
    its tokens. `effects` are what was measured of nodes exactly, in units of the metric.
    """

    model: str
    said: str
    tokens: tuple[str, ...]
    patterns: Float[Tensor, "layer head query key"]
    promoted: Mapping[str, tuple[tuple[str, float], ...]]
    effects: Mapping[str, float]
    spans: tuple[str, ...] = ()

    @property
    def scores(self) -> Float[Tensor, "layer head query key"]:
        """What every query scores every key, before the softmax, less the mean over its keys.

        `q k / sqrt(d_head)` after rotation, with whatever the family adds to it or caps: the
        logarithms of the shares, which tell scores up to one number a query; no share hangs on
        that number. NaN where a key has no share: hidden from the query, or too small to be told.
        """
        logs = self.patterns.double().log()
        logs = torch.where(logs.isfinite(), logs, torch.nan)
        return logs - logs.nanmean(dim=-1, keepdim=True)

    def content(self, result: Circuit | Scores) -> dict[str, object]:
        """What a page of these results is given.

        Raises:
            ValueError: if the results are of a model of another shape.
        """
        layers, heads, n, _ = self.patterns.shape
        graph = result.graph
        if (layers, heads) != (graph.n_layers, graph.n_heads):
            raise ValueError(
                f"the insides are of a model of {layers} layers with {heads} heads, the edges of "
                f"{graph.describe()}"
            )
        rows, columns = np.tril_indices(n)
        shares = np.rint(self.patterns.numpy()[:, :, rows, columns] * _FULL)
        return {
            "said": self.said,
            "tokens": list(self.tokens),
            "spans": list(self.spans),
            "heads": heads,
            "patterns": packed(shares, "uint8"),
            "scores": packed(_hundredths(self.scores.numpy()[:, :, rows, columns]), "int16"),
            "promoted": {
                node: [[token, round(by, 3)] for token, by in words]
                for node, words in self.promoted.items()
            },
            "effects": dict(self.effects),
        }


def _hundredths(scores: np.ndarray) -> np.ndarray:
    whole = np.clip(np.rint(scores * _HUNDREDTHS), -_FURTHEST, _FURTHEST)
    return np.where(np.isfinite(whole), whole, _UNSEEN)
