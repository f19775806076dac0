"""Token attribution: what the token at each position does for a metric, by many methods."""

from patching.token_attribution.attribute import agreement, attribute_tokens, completeness_delta
from patching.token_attribution.drawing import draw_tokens
from patching.token_attribution.methods import (
    TOKEN_METHODS,
    Method,
    gradient_norm,
    idgi,
    input_x_gradient,
    integrated_gradients,
    occlusion,
    relevance,
)

__all__ = [
    "TOKEN_METHODS",
    "Method",
    "agreement",
    "attribute_tokens",
    "completeness_delta",
    "draw_tokens",
    "gradient_norm",
    "idgi",
    "input_x_gradient",
    "integrated_gradients",
    "occlusion",
    "relevance",
]
