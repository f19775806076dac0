"""Attribution patching: what parts of a model are worth, to first order, from one gradient.

`writers` scores what is written to the stream, by dimension, position and neuron; `sweep` every
activation of every kind at once; `dropping` and `patterns` are AtP*; `missed` bounds what all of
them overlook.
Positive: the thing helps the metric in the clean run.
"""

from patching.attribution.dropping import atp_star, grad_drop, qk_fix
from patching.attribution.missed import Missed, bound_missed
from patching.attribution.sweep import Attributions, attribution_patching
from patching.attribution.writers import NodeScores, attribute, over_spans

__all__ = [
    "Attributions",
    "Missed",
    "NodeScores",
    "atp_star",
    "attribute",
    "attribution_patching",
    "bound_missed",
    "grad_drop",
    "over_spans",
    "qk_fix",
]
