"""Lenses: residual states and writes read in the vocabulary, and what they add to the logits."""

from patching.lens.direct import direct_logit_attribution as direct_logit_attribution
from patching.lens.flow import Flow as Flow
from patching.lens.flow import semantic_flow as semantic_flow
from patching.lens.plots import plot_contributions as plot_contributions
from patching.lens.projection import logit_lens as logit_lens
from patching.lens.reading import Lens as Lens
from patching.lens.training import train_tuned_lens as train_tuned_lens
from patching.lens.tuned import TunedLens as TunedLens
from patching.lens.tuned import load_tuned_lens as load_tuned_lens
