"""Sparse dictionaries: autoencoders and transcoders in one form, whatever published them."""

from patching.dictionaries.dictionary import Active as Active
from patching.dictionaries.dictionary import Dictionary as Dictionary
from patching.dictionaries.reading.found import load_dictionaries as load_dictionaries
from patching.dictionaries.several import Dictionaries as Dictionaries
