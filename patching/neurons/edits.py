"""What a model answers under each of many edits: one long computation, by edits and conflicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patching.metrics import accuracy
from patching.model import Model
from patching.neurons.conflicts import ConflictTask
from patching.neurons.editing import scale_neurons
from patching.neurons.measures import outcomes
from patching.neurons.scores import Pairs
from patching.neurons.selection import Neurons
from patching.provenance import describe
from patching.runs.batches import Doing, Keeping, in_batches
from patching.tasks.task import Batch
from patching.work import Done, Parts


@dataclass(frozen=True)
class Edit:
    """Neurons multiplied by beta, and how much context-aware decoding goes with it."""

    neurons: Neurons
    beta: float | int = 1.0
    alpha: float | int = 0.0


def rates_under(
    model: Model, task: ConflictTask, edits: Sequence[Edit], doing: Doing
) -> Float[Tensor, "example edit measure"]:
    """`conflict_rates` under each edit; a chunk of a run is one batch under one edit.

    Raises:
        ValueError: as `conflict_rates` and `scale_neurons`, or if a batch would be empty.
    """
    model.check(task.with_context)
    model.check(task.without_context)
    described = _describe(model, task, edits) if doing.run else {}
    keeping = Keeping("rating-edits", described, (), doing)
    measures = Pairs(model, task, doing.batch_size).measures(
        [partial(_rates, model, edit) for edit in edits]
    )
    batches = in_batches(model, task.with_context, measures, keeping)
    return torch.cat([torch.stack([_known(one) for one in batch], dim=1) for batch in batches])


def _describe(model: Model, task: ConflictTask, edits: Sequence[Edit]) -> dict[str, object]:
    named = [[*edit.neurons.names, edit.beta, edit.alpha] for edit in edits]
    facts = {"conflicts": task.hash, "edits_of_each_batch": named}
    return describe(model, task.with_context, accuracy, "rates under edits", {}, facts=facts)


def _rates(model: Model, edit: Edit, with_context: Batch, alone: Batch) -> Parts:
    """The outcomes of some conflicts under an edit, and which of them are known."""
    with scale_neurons(model, edit.neurons, edit.beta):
        rates = outcomes(model, with_context, alone, edit.alpha)
    return {"rates": rates.nan_to_num(), "known": ~rates.isnan()}


def _known(done: Done) -> Float[Tensor, "example measure"]:
    return torch.where(done.parts["known"], done.parts["rates"], torch.nan)
