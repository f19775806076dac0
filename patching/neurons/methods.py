"""The table of neuron methods: what the shell, the documentation and the contract tests share."""

from collections.abc import Callable
from dataclasses import dataclass

from patching.neurons.first_order import gradient_activation, relp_neurons
from patching.neurons.integrated import conductance, ircan, knowledge_neurons
from patching.neurons.scores import NeuronScores
from patching.neurons.single import exact_ablation, log_probability_increase


@dataclass(frozen=True)
class NeuronMethod:
    """A method `(model, conflicts, *, ...) -> NeuronScores`; F and B are one pass of a batch.

    What it takes: `takes_steps`; `needs_neurons`: a shortlist to work on. What it obeys:
    `complete`: a layer's scores approach a known total as steps grow; `contrasts`: zero where the
    context does not reach the last token; `of_memory`: about the memorised answer, not the
    context's.
    """

    function: Callable[..., NeuronScores]
    cost: str
    source: str
    takes_steps: bool = False
    needs_neurons: bool = False
    complete: bool = False
    contrasts: bool = False
    of_memory: bool = False


NEURON_METHODS: dict[str, NeuronMethod] = {
    "ircan": NeuronMethod(
        ircan,
        "2F + steps (F + B) of the layers from each layer on",
        "Shi et al. 2024, arXiv:2406.18406",
        takes_steps=True,
        complete=True,
        contrasts=True,
    ),
    "knowledge-neurons": NeuronMethod(
        knowledge_neurons,
        "1F + steps (F + B) of the layers from each layer on",
        "Dai et al. 2022, arXiv:2104.08696",
        takes_steps=True,
        complete=True,
        of_memory=True,
    ),
    "conductance": NeuronMethod(
        conductance,
        "3F + steps (F + B)",
        "Dhamdhere et al. 2019, arXiv:1805.12233",
        takes_steps=True,
        contrasts=True,
    ),
    "relp": NeuronMethod(
        relp_neurons, "2F + 1B", "Rezaei Jafari et al. 2025, arXiv:2508.21258", contrasts=True
    ),
    "gradient-activation": NeuronMethod(
        gradient_activation, "1F + 1B", "Shrikumar et al. 2016, arXiv:1605.01713"
    ),
    "log-probability-increase": NeuronMethod(
        log_probability_increase,
        "1F + neurons x vocabulary",
        "Yu & Ananiadou 2024, arXiv:2312.12141",
    ),
    "exact-ablation": NeuronMethod(
        exact_ablation,
        "2F + 1F a neuron, of the layers from its own on",
        "(the measurement itself)",
        needs_neurons=True,
        contrasts=True,
    ),
}
