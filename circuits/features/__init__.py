"""Circuits over features and neurons: attribution graphs of single prompts."""

from circuits.features.formats import load_graph, save_graph, to_networkx
from circuits.features.graph import FeatureGraph
from circuits.features.heads import heads_through
from circuits.features.neurons import Neurons
from circuits.features.pruning import prune
from circuits.features.trace import CONVENTIONS, Convention, trace
from circuits.features.transcoders import Transcoders

__all__ = [
    "CONVENTIONS",
    "Convention",
    "FeatureGraph",
    "Neurons",
    "Transcoders",
    "heads_through",
    "load_graph",
    "prune",
    "save_graph",
    "to_networkx",
    "trace",
]
