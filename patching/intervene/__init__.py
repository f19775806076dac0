"""Interventions: values that say what is done to named activations, and a `with` that does it."""

from patching.intervene.changes import Change as Change
from patching.intervene.changes import Intervention as Intervention
from patching.intervene.changes import add as add
from patching.intervene.changes import mean as mean
from patching.intervene.changes import noise as noise
from patching.intervene.changes import patch as patch
from patching.intervene.changes import resample as resample
from patching.intervene.changes import scale as scale
from patching.intervene.changes import zero as zero
from patching.intervene.embedding import embedding_sigma as embedding_sigma
from patching.intervene.running import intervening as intervening
