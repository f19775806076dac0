"""Edge scorers: how much each edge matters.

One signature, `(model, task, metric, *, ...) -> Scores`, and one sign: **positive = the edge helps
the metric in the clean run**, an estimate of `metric(clean) - metric(that edge corrupted)`. Scores
are summed over positions and averaged over examples, in float64.

Gradient methods are combinations of a backward rule (what gradient), a path (where it is taken)
and an ablation (what a removed writer becomes): `score(model, task, metric, Recipe(...))`.
"""

from circuits.scoring.dropping import atp_star, grad_drop
from circuits.scoring.flow import information_flow
from circuits.scoring.gather import Recipe
from circuits.scoring.laws import Laws
from circuits.scoring.methods import METHODS, Method
from circuits.scoring.named import (
    clean_corrupt,
    eap,
    eap_ig,
    gim,
    ig_activations,
    relp,
    relp_ah,
)
from circuits.scoring.patterns import qk_fix
from circuits.scoring.positions import PositionScores, position_scores
from circuits.scoring.score import score
from circuits.scoring.single_edges import exact
from patching.paths import (
    PATHS,
    PATHS_WITH_STEPS,
    Path,
    along_activations,
    along_inputs,
    at_both,
    at_clean,
    at_corrupt,
)
from patching.quadrature import QUADRATURES, Quadrature

__all__ = [
    "METHODS",
    "PATHS",
    "PATHS_WITH_STEPS",
    "QUADRATURES",
    "Laws",
    "Method",
    "Path",
    "PositionScores",
    "Quadrature",
    "Recipe",
    "along_activations",
    "along_inputs",
    "at_both",
    "at_clean",
    "at_corrupt",
    "atp_star",
    "clean_corrupt",
    "eap",
    "eap_ig",
    "exact",
    "gim",
    "grad_drop",
    "ig_activations",
    "information_flow",
    "position_scores",
    "qk_fix",
    "relp",
    "relp_ah",
    "score",
]
