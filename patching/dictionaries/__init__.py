"""Sparse dictionaries: autoencoders and transcoders in one form, whatever published them."""

from patching.dictionaries.attaching import Attached as Attached
from patching.dictionaries.attaching import Fit as Fit
from patching.dictionaries.attaching import Recovery as Recovery
from patching.dictionaries.attaching import attach as attach
from patching.dictionaries.changing import add_feature as add_feature
from patching.dictionaries.changing import freeze_attention as freeze_attention
from patching.dictionaries.changing import scale_feature as scale_feature
from patching.dictionaries.changing import set_feature as set_feature
from patching.dictionaries.dictionary import Active as Active
from patching.dictionaries.dictionary import Dictionary as Dictionary
from patching.dictionaries.examples import Examples as Examples
from patching.dictionaries.examples import feature_examples as feature_examples
from patching.dictionaries.examples import load_examples as load_examples
from patching.dictionaries.fitting import fitted as fitted
from patching.dictionaries.labels import Labels as Labels
from patching.dictionaries.labels import load_labels as load_labels
from patching.dictionaries.quality import loss_recovered as loss_recovered
from patching.dictionaries.quality import quality as quality
from patching.dictionaries.reading.found import load_dictionaries as load_dictionaries
from patching.dictionaries.samples import own_text as own_text
from patching.dictionaries.samples import text_rows as text_rows
from patching.dictionaries.several import Dictionaries as Dictionaries
from patching.dictionaries.sites import train_dictionaries as train_dictionaries
from patching.dictionaries.training import Recipe as Recipe
from patching.dictionaries.training import train_dictionary as train_dictionary
from patching.dictionaries.writing import save_dictionaries as save_dictionaries
