"""What a model answers under each of many edits: one long computation, by edits and conflicts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patching.memory import in_halves
from patching.metrics import accuracy
from patching.model import Model
from patching.neurons.conflicts import ConflictTask
from patching.neurons.editing import scale_neurons
from patching.neurons.measures import outcomes
from patching.neurons.scores import Doing
from patching.neurons.selection import Neurons
from patching.provenance import describe, run_settings
from patching.work import Parts, do


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
    work = _Work(model, task, edits, doing.batch_size)
    chunks = do(doing.run, work, work.n, what="rating-edits", settings=work.settings(doing))
    rows = [torch.where(c.parts["known"], c.parts["rates"], torch.nan) for c in chunks]
    n = work.n_batches
    return torch.stack([torch.cat(rows[i : i + n]) for i in range(0, len(rows), n)], dim=1)


@dataclass(frozen=True)
class _Work:
    """A chunk: the outcomes of one batch under one edit, and which of them are known."""

    model: Model
    task: ConflictTask
    edits: Sequence[Edit]
    batch_size: int

    @property
    def n_batches(self) -> int:
        return self.task.with_context.n_batches(self.batch_size)

    @property
    def n(self) -> int:
        return self.n_batches * len(self.edits)

    def __call__(self, number: int) -> Parts:
        which, row = divmod(number, self.n_batches)
        edit, device = self.edits[which], self.model.device
        with_context = self.task.with_context.batch(row, self.batch_size, device)
        alone = self.task.without_context.batch(row, self.batch_size, device)

        def on(rows: range) -> Tensor:
            at = torch.tensor(rows, device=device)
            return outcomes(self.model, with_context.at(at), alone.at(at), edit.alpha)

        def joined(first: Tensor, second: Tensor) -> Tensor:
            return torch.cat([first, second])

        with scale_neurons(self.model, edit.neurons, edit.beta):
            rates = in_halves(range(len(with_context)), on, joined)
        return {"rates": rates.nan_to_num(), "known": ~rates.isnan()}

    def settings(self, doing: Doing) -> dict[str, object]:
        """What decides the rates."""
        if doing.run is None:
            return {}
        edits = [[*edit.neurons.names, edit.beta, edit.alpha] for edit in self.edits]
        task, facts = self.task.with_context, {"conflicts": self.task.hash, "edits": edits}
        described = describe(self.model, task, accuracy, "rates under edits", {}, facts=facts)
        return run_settings(self.model, described, task, batch_size=self.batch_size, functions=())
