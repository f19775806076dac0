"""Circuits: sets of edges of a model's computational graph, scored, chosen, saved and drawn."""

from circuits.circuit import Circuit, from_networkx, load_circuit
from circuits.export import save
from circuits.plots import draw
from circuits.scores import Ranking, Scores, load_scores, merge
from circuits.select import greedy, prune, random_circuit, threshold, top_n

__all__ = [
    "Circuit",
    "Ranking",
    "Scores",
    "draw",
    "from_networkx",
    "greedy",
    "load_circuit",
    "load_scores",
    "merge",
    "prune",
    "random_circuit",
    "save",
    "threshold",
    "top_n",
]
