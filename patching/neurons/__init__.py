"""MLP neurons that make a model use its context: finding, choosing and reweighting them.

Names are imported when first used, as in `patching`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.neurons.choosing import Choice as Choice
    from patching.neurons.choosing import chosen_in_each as chosen_in_each
    from patching.neurons.choosing import layers_of as layers_of
    from patching.neurons.choosing import most_frequent as most_frequent
    from patching.neurons.choosing import overlap as overlap
    from patching.neurons.choosing import shared_neurons as shared_neurons
    from patching.neurons.choosing import stability as stability
    from patching.neurons.choosing import strongest as strongest
    from patching.neurons.conflicts import Conflict as Conflict
    from patching.neurons.conflicts import ConflictTask as ConflictTask
    from patching.neurons.conflicts import indirect_conflicts as indirect_conflicts
    from patching.neurons.conflicts import toy_conflicts as toy_conflicts
    from patching.neurons.editing import export_edited as export_edited
    from patching.neurons.editing import random_like as random_like
    from patching.neurons.editing import scale_neurons as scale_neurons
    from patching.neurons.evaluation import Trial as Trial
    from patching.neurons.evaluation import TrialPlan as TrialPlan
    from patching.neurons.evaluation import best as best
    from patching.neurons.evaluation import control_rates as control_rates
    from patching.neurons.evaluation import run_trial as run_trial
    from patching.neurons.evaluation import sweep as sweep
    from patching.neurons.first_order import gradient_activation as gradient_activation
    from patching.neurons.first_order import relp_neurons as relp_neurons
    from patching.neurons.formats import from_csv as from_csv
    from patching.neurons.formats import from_json as from_json
    from patching.neurons.formats import from_kre as from_kre
    from patching.neurons.formats import from_memotrap as from_memotrap
    from patching.neurons.formats import read_conflicts as read_conflicts
    from patching.neurons.formats import to_json as to_json
    from patching.neurons.integrated import conductance as conductance
    from patching.neurons.integrated import ircan as ircan
    from patching.neurons.integrated import knowledge_neurons as knowledge_neurons
    from patching.neurons.meaning import top_activations as top_activations
    from patching.neurons.meaning import vocabulary_effects as vocabulary_effects
    from patching.neurons.measures import conflict_rates as conflict_rates
    from patching.neurons.measures import perplexity as perplexity
    from patching.neurons.measures import task_accuracy as task_accuracy
    from patching.neurons.measures import token_losses as token_losses
    from patching.neurons.methods import NEURON_METHODS as NEURON_METHODS
    from patching.neurons.methods import NeuronMethod as NeuronMethod
    from patching.neurons.questions import split_by_question as split_by_question
    from patching.neurons.scores import NeuronScores as NeuronScores
    from patching.neurons.selection import Neurons as Neurons
    from patching.neurons.single import exact_ablation as exact_ablation
    from patching.neurons.single import log_probability_increase as log_probability_increase

_HOMES = {
    "patching.neurons.conflicts": (
        "Conflict",
        "ConflictTask",
        "indirect_conflicts",
        "toy_conflicts",
    ),
    "patching.neurons.editing": ("export_edited", "random_like", "scale_neurons"),
    "patching.neurons.evaluation": (
        "Trial",
        "TrialPlan",
        "best",
        "control_rates",
        "run_trial",
        "sweep",
    ),
    "patching.neurons.measures": ("conflict_rates", "perplexity", "task_accuracy", "token_losses"),
    "patching.neurons.questions": ("split_by_question",),
    "patching.neurons.formats": (
        "from_csv",
        "from_json",
        "from_kre",
        "from_memotrap",
        "read_conflicts",
        "to_json",
    ),
    "patching.neurons.choosing": (
        "Choice",
        "chosen_in_each",
        "layers_of",
        "most_frequent",
        "overlap",
        "shared_neurons",
        "stability",
        "strongest",
    ),
    "patching.neurons.first_order": (
        "gradient_activation",
        "relp_neurons",
    ),
    "patching.neurons.integrated": (
        "conductance",
        "ircan",
        "knowledge_neurons",
    ),
    "patching.neurons.meaning": (
        "top_activations",
        "vocabulary_effects",
    ),
    "patching.neurons.methods": (
        "NEURON_METHODS",
        "NeuronMethod",
    ),
    "patching.neurons.scores": ("NeuronScores",),
    "patching.neurons.single": (
        "exact_ablation",
        "log_probability_increase",
    ),
    "patching.neurons.selection": ("Neurons",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _HOMES.values() for name in names)})
