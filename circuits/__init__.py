"""Circuits: sets of edges of a model's computational graph, scored, chosen, run, saved and drawn.

Names are imported when first used, so that the shell's help does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.circuit import Circuit as Circuit
    from circuits.circuit import from_networkx as from_networkx
    from circuits.circuit import load_circuit as load_circuit
    from circuits.evaluation import Evaluation as Evaluation
    from circuits.evaluation import evaluate as evaluate
    from circuits.export import save as save
    from circuits.plots import draw as draw
    from circuits.scores import Scores as Scores
    from circuits.scores import load_scores as load_scores
    from circuits.scores import merge as merge
    from circuits.scoring import eap as eap
    from circuits.scoring import eap_ig as eap_ig
    from circuits.select import greedy as greedy
    from circuits.select import prune as prune
    from circuits.select import random_circuit as random_circuit
    from circuits.select import threshold as threshold
    from circuits.select import top_n as top_n

_HOMES = {
    "circuits.circuit": ("Circuit", "from_networkx", "load_circuit"),
    "circuits.evaluation": ("Evaluation", "evaluate"),
    "circuits.export": ("save",),
    "circuits.plots": ("draw",),
    "circuits.scores": ("Scores", "load_scores", "merge"),
    "circuits.scoring": ("eap", "eap_ig"),
    "circuits.select": ("greedy", "prune", "random_circuit", "threshold", "top_n"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _HOMES.values() for name in names)})
