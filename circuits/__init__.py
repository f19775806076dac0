"""Circuits: sets of edges of a model's computational graph, scored, chosen, run, saved and drawn.

Names are imported when first used, so that the shell's help does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.checks import Laws as Laws
    from circuits.checks import check_exporter as check_exporter
    from circuits.checks import check_metric as check_metric
    from circuits.checks import check_scorer as check_scorer
    from circuits.checks import check_selector as check_selector
    from circuits.checks import check_task as check_task
    from circuits.circuit import Circuit as Circuit
    from circuits.circuit import load_circuit as load_circuit
    from circuits.doctor import examine as examine
    from circuits.drawing.pictures import picture as picture
    from circuits.drawing.pictures import picture_difference as picture_difference
    from circuits.drawing.plots import draw as draw
    from circuits.drawing.plots import draw_difference as draw_difference
    from circuits.drawing.plots import draw_roles as draw_roles
    from circuits.drawing.role_pictures import picture_roles as picture_roles
    from circuits.drawing.roles import Roles as Roles
    from circuits.ensembles import hybrid as hybrid
    from circuits.explorer import explore as explore
    from circuits.export import load as load
    from circuits.export import save as save
    from circuits.export.networks import from_networkx as from_networkx
    from circuits.judging.compare import compare_circuits as compare_circuits
    from circuits.judging.compare import compare_scores as compare_scores
    from circuits.judging.curves import plot_curves as plot_curves
    from circuits.judging.faithfulness import Sweep as Sweep
    from circuits.judging.faithfulness import curve as curve
    from circuits.judging.shapley import Shapley as Shapley
    from circuits.judging.shapley import shapley_cost as shapley_cost
    from circuits.judging.shapley import shapley_values as shapley_values
    from circuits.judging.uncertainty import ensemble as ensemble
    from circuits.judging.verification import verify as verify
    from circuits.learning import edge_pruning as edge_pruning
    from circuits.learning import optimal_outside as optimal_outside
    from circuits.learning import subnetwork_probing as subnetwork_probing
    from circuits.learning import uniform_sampling as uniform_sampling
    from circuits.nodes import node_circuit as node_circuit
    from circuits.nodes import top_nodes as top_nodes
    from circuits.pathways import head_to_head as head_to_head
    from circuits.pathways import path as path
    from circuits.pathways import path_patching as path_patching
    from circuits.repeating import rerun as rerun
    from circuits.running.evaluation import Evaluation as Evaluation
    from circuits.running.evaluation import evaluate as evaluate
    from circuits.running.inside import active as active
    from circuits.scores import Scores as Scores
    from circuits.scores import load_scores as load_scores
    from circuits.scores import merge as merge
    from circuits.scoring import Interrupted as Interrupted
    from circuits.scoring import eap as eap
    from circuits.scoring import eap_ig as eap_ig
    from circuits.scoring import exact as exact
    from circuits.scoring import relp as relp
    from circuits.select import greedy as greedy
    from circuits.select import prune as prune
    from circuits.select import random_circuit as random_circuit
    from circuits.select import threshold as threshold
    from circuits.select import top_n as top_n

_HOMES = {
    "circuits.checks": (
        "Laws",
        "check_exporter",
        "check_metric",
        "check_scorer",
        "check_selector",
        "check_task",
    ),
    "circuits.doctor": ("examine",),
    "circuits.running.inside": ("active",),
    "circuits.circuit": ("Circuit", "load_circuit"),
    "circuits.judging.compare": ("compare_circuits", "compare_scores"),
    "circuits.judging.curves": ("plot_curves",),
    "circuits.running.evaluation": ("Evaluation", "evaluate"),
    "circuits.explorer": ("explore",),
    "circuits.export": ("load", "save"),
    "circuits.judging.faithfulness": ("Sweep", "curve"),
    "circuits.drawing.pictures": ("picture", "picture_difference"),
    "circuits.export.networks": ("from_networkx",),
    "circuits.nodes": ("node_circuit", "top_nodes"),
    "circuits.pathways": ("head_to_head", "path", "path_patching"),
    "circuits.drawing.plots": ("draw", "draw_difference", "draw_roles"),
    "circuits.repeating": ("rerun",),
    "circuits.drawing.role_pictures": ("picture_roles",),
    "circuits.drawing.roles": ("Roles",),
    "circuits.scores": ("Scores", "load_scores", "merge"),
    "circuits.learning": (
        "edge_pruning",
        "optimal_outside",
        "subnetwork_probing",
        "uniform_sampling",
    ),
    "circuits.scoring": ("Interrupted", "eap", "eap_ig", "exact", "relp"),
    "circuits.select": ("greedy", "prune", "random_circuit", "threshold", "top_n"),
    "circuits.judging.shapley": ("Shapley", "shapley_cost", "shapley_values"),
    "circuits.ensembles": ("hybrid",),
    "circuits.judging.uncertainty": ("ensemble",),
    "circuits.judging.verification": ("verify",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _HOMES.values() for name in names)})
