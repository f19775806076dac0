"""Circuits over features and neurons: attribution graphs of prompts, feature circuits of tasks."""

from circuits.features.circuit import FeatureCircuit, load_feature_circuit
from circuits.features.circuit_formats import circuit_to_networkx, save_feature_circuit
from circuits.features.circuit_picture import draw_feature_circuit
from circuits.features.edges import direct_edges
from circuits.features.finding import Choice, feature_circuit
from circuits.features.formats import load_graph, save_graph, to_networkx
from circuits.features.graph import FeatureGraph
from circuits.features.heads import heads_through
from circuits.features.labelled import labelled, labels_of
from circuits.features.neurons import Neurons
from circuits.features.pruning import prune
from circuits.features.replacing import Handling
from circuits.features.running import FeatureRuns, run_feature_circuits
from circuits.features.shrinking import FewUnits, few_units, judge_units
from circuits.features.steering import Steering, steer
from circuits.features.told import FeatureInsides, look_at_features
from circuits.features.trace import CONVENTIONS, Convention, trace
from circuits.features.transcoders import Transcoders

__all__ = [
    "CONVENTIONS",
    "Choice",
    "Convention",
    "FeatureCircuit",
    "FeatureGraph",
    "FeatureRuns",
    "FewUnits",
    "Handling",
    "FeatureInsides",
    "Neurons",
    "Steering",
    "Transcoders",
    "circuit_to_networkx",
    "direct_edges",
    "draw_feature_circuit",
    "feature_circuit",
    "few_units",
    "heads_through",
    "judge_units",
    "labelled",
    "labels_of",
    "load_feature_circuit",
    "load_graph",
    "look_at_features",
    "prune",
    "run_feature_circuits",
    "save_feature_circuit",
    "save_graph",
    "steer",
    "to_networkx",
    "trace",
]
