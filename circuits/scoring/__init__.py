"""Edge scorers: how much each edge matters.

One signature, `(model, task, metric, *, ...) -> Scores`, and one sign: **positive = the edge helps
the metric in the clean run**, an estimate of `metric(clean) - metric(that edge corrupted)`. Scores
are summed over positions and averaged over examples, in float64.

Gradient methods are combinations of a backward rule (what gradient), a path (where it is taken)
and an ablation (what a removed writer becomes): `score(model, task, metric, Recipe(...))`.
"""

from circuits.scoring.adjusted import eap_gp
from circuits.scoring.conductance import conductance
from circuits.scoring.dropping import atp_star, grad_drop
from circuits.scoring.each import score_each
from circuits.scoring.flow import information_flow
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
from circuits.scoring.second_order import Curvature, curvature, eap_hvp, screen_flag_fix
from circuits.scoring.single_edges import exact
from circuits.scoring.within import scores_within
from patching.gathering import Recipe
from patching.paths import (
    PATHS,
    PATHS_WITH_STEPS,
    PATHS_WITHOUT_QUADRATURE,
    Path,
    adjusted,
    along_activations,
    along_inputs,
    at_both,
    at_clean,
    at_corrupt,
)
from patching.quadrature import QUADRATURES, Quadrature
from patching.work import Interrupted

__all__ = [
    "METHODS",
    "PATHS",
    "PATHS_WITHOUT_QUADRATURE",
    "PATHS_WITH_STEPS",
    "QUADRATURES",
    "Curvature",
    "Laws",
    "Method",
    "Path",
    "PositionScores",
    "Quadrature",
    "Recipe",
    "adjusted",
    "along_activations",
    "along_inputs",
    "at_both",
    "at_clean",
    "at_corrupt",
    "atp_star",
    "clean_corrupt",
    "conductance",
    "curvature",
    "eap",
    "eap_gp",
    "eap_hvp",
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
    "score_each",
    "scores_within",
    "screen_flag_fix",
]
