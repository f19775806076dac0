"""Effects of features, of neurons and of what dictionaries miss, at every place, on a task.

`x = sum_i f_i v_i + b + error`, so that one gradient at a place gives the effects of everything
there: nothing is spliced into the model. Marks et al. 2024, arXiv:2403.19647.
"""

from patching.attribution.features.ablations import mean, resample, zero
from patching.attribution.features.along import along_places
from patching.attribution.features.effects import Setting, feature_effects
from patching.attribution.features.exact import exact_feature_effects
from patching.attribution.features.nodes import FeatureNodes
from patching.attribution.features.results import FeatureEffects, load_effects
from patching.attribution.features.sites import Site, find_sites

__all__ = [
    "FeatureEffects",
    "FeatureNodes",
    "Setting",
    "Site",
    "along_places",
    "exact_feature_effects",
    "feature_effects",
    "find_sites",
    "load_effects",
    "mean",
    "resample",
    "zero",
]
