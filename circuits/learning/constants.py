"""Optimal ablation of all that is outside a circuit: constants learned together."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.learning.setting import Setting, prepare
from patching.ablations import Constants, Prepared
from patching.constants import Optimal
from patching.descent import Parameter, Schedule, Step, descend
from patching.metrics import Metric, kl
from patching.model import Model
from patching.optimal import SCHEDULE, open_space
from patching.span_graph import plain_of, spans_of
from patching.tasks.task import Task


def optimal_outside(
    model: Model,
    task: Task,
    circuit: Circuit,
    metric: Metric = kl,
    *,
    schedule: Schedule = SCHEDULE,
) -> Optimal:
    """The constants under which a circuit comes nearest to the full model, one for each writer.

    All edges outside carry their writer's constant at once; a writer has one for all its edges, and
    for all spans. Learned from the means on, which stay if nothing better is found on all examples.
    Li and Janson 2024, arXiv:2409.09951. Costs what edge pruning costs.

    Raises:
        ValueError: if the circuit is of another graph, the metric has no gradient, the model cannot
            read the task, or the folder holds another training.
    """
    model.graph.require_same(plain_of(circuit.graph), "the circuit is")
    task = task.with_spans_of(spans_of(circuit.graph))
    space = open_space(model, task)
    name = f"optimal constants outside {circuit.size} edges over {task.name} ({task.hash})"
    setting = prepare(model, task, metric, lambda _: Constants(name, space.means))
    setting.graph.require_same(circuit.graph, "the circuit is")
    removed = setting.outside(circuit.mask)

    def objective(
        values: Mapping[str, Tensor], step: Step
    ) -> tuple[Float[Tensor, ""], Mapping[str, float]]:
        constants = Constants(name, space.constants(values))
        return _setting_with(setting, constants).distance(step.rows, removed), {}

    options = {**schedule.options, "edges": circuit.edges}
    facts = setting.facts("optimal-ablation", options, None)
    parameters = {part: Parameter(value, schedule.rate) for part, value in space.start.items()}
    values, history = descend(
        parameters, objective, len(task), schedule, facts=facts, functions=setting.functions
    )
    ends = [
        Constants(name, space.constants(end).map(Tensor.detach)) for end in (space.start, values)
    ]
    losses = [
        _setting_with(setting, end).mean_distance(removed, schedule.batch_size) for end in ends
    ]
    best = int(losses[1] < losses[0])
    learned, mean_loss = (torch.tensor([losses[i]], dtype=torch.float64) for i in (best, 0))
    return Optimal(ends[best], model.weights, learned, mean_loss, history, facts)


def _setting_with(setting: Setting, ablation: Prepared) -> Setting:
    return Setting(setting.model, setting.task, setting.metric, ablation, setting.prompts)
