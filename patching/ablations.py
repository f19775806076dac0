"""Ablations: what a removed writer is replaced by.

An ablation is a function of the model; what it returns gives, for each batch, the writes and the
embedding that stand in for the clean run's. Learned position embeddings and other constants that
no writer owns stay as they are; an MLP's output bias belongs to its MLP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.capture import Run, Writes, capture
from patching.model import Model
from patching.tasks.task import Batch, Task
from patching.values import refuse_names


@dataclass(frozen=True)
class Replacement:
    """What replaces the writes at the chosen tokens, and the embedding everywhere.

    `constant` says that it is the same whatever is run, and not what writers wrote in another run.
    """

    writes: Writes
    embedding: Float[Tensor, "batch pos d_model"]
    constant: bool = False


@runtime_checkable
class Prepared(Protocol):
    """An ablation made ready for one model.

    `paired` ablations take their values from the corrupt run, which must then be given.
    """

    @property
    def name(self) -> str:
        """For people and provenance."""
        ...

    @property
    def paired(self) -> bool:
        """Whether the corrupt run is needed."""
        ...

    def tokens(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        """Where a write can differ from its replacement and still reach the answer."""
        ...

    def replace(self, batch: Batch, clean: Run, corrupt: Run | None) -> Replacement:
        """The replacement for the clean run's writes."""
        ...


Ablation = Callable[[Model], Prepared]


def prepared_for(model: Model, ablation: Ablation) -> Prepared:
    """What removed writers of a model become.

    Raises:
        ValueError: if the ablation is a name of the shell, or does not fit the model.
    """
    refuse_names(ablation=ablation)
    return ablation(model)


def resample(model: Model) -> Prepared:
    """Each writer's write on the paired corrupt prompt."""
    return _Paired()


def zero(model: Model) -> Prepared:
    """Nothing at all: zero vectors."""
    first = model.blocks[0].w_o
    nothing = torch.zeros(1, first.shape[2], device=model.device)
    heads = torch.zeros(1, *first.shape[:2], device=model.device)
    layers = model.graph.n_layers
    return Constants("zero", Writes(nothing, (heads,) * layers, (nothing,) * layers))


def mean(task: Task, *, batch_size: int = 16) -> Ablation:
    """One vector per writer: its mean over `task`'s clean prompts and real tokens."""

    def prepare(model: Model) -> Prepared:
        name = f"mean over {task.name} ({task.hash})"
        return Constants(name, _mean_writes(model, task, batch_size, n_places=1))

    return prepare


def positional_mean(task: Task, *, batch_size: int = 16, mixed_lengths: bool = False) -> Ablation:
    """One vector per writer and position, counted from the first real token.

    Raises:
        ValueError: if prompts differ in length, so that means at late positions are over few, and
            `mixed_lengths` is off; the counts are shown.
    """
    lengths = [prompt.n_tokens for prompt in task.prompts]
    if len(set(lengths)) > 1 and not mixed_lengths:
        counts = ", ".join(f"{lengths.count(n)} of {n} tokens" for n in sorted(set(lengths)))
        raise ValueError(
            f"task {task.name!r} has prompts of several lengths ({counts}), so means at late "
            "positions are over few; take prompts of one length, or mixed_lengths=True"
        )

    def prepare(model: Model) -> Prepared:
        name = f"positional mean over {task.name} ({task.hash})"
        return Constants(name, _mean_writes(model, task, batch_size, n_places=task.max_length))

    return prepare


@dataclass(frozen=True)
class Constants:
    """Fixed writes, one row for all positions or one for each."""

    name: str
    writes: Writes
    paired: bool = False

    def tokens(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        """All tokens up to the answer: a constant differs everywhere."""
        return batch.up_to_answer

    def replace(self, batch: Batch, clean: Run, corrupt: Run | None) -> Replacement:
        """The same for every batch, beside the positions.

        Raises:
            ValueError: if a prompt is longer than all that the positional means were taken over.
        """
        chosen = self.tokens(batch)
        rows = batch.places[chosen]
        if len(self.writes) == 1:
            rows = torch.zeros_like(rows)
        if int(rows.max()) >= len(self.writes):
            raise ValueError(
                f"a prompt has {int(rows.max()) + 1} tokens, and the positional means know only "
                f"{len(self.writes)}; take them over prompts at least as long"
            )
        writes = self.writes[rows].like(clean.writes)
        embedding = clean.embedding.clone()
        embedding[chosen] = clean.positions[chosen] + writes.embed.to(embedding.dtype)
        return Replacement(writes, embedding, constant=True)


@dataclass(frozen=True)
class _Paired:
    name: str = "resample (the paired corrupt prompt)"
    paired: bool = True

    def tokens(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        return batch.can_differ

    def replace(self, batch: Batch, clean: Run, corrupt: Run | None) -> Replacement:
        assert corrupt is not None, "a paired ablation comes with the corrupt run"
        return Replacement(corrupt.writes, corrupt.embedding)


def _mean_writes(model: Model, task: Task, batch_size: int, *, n_places: int) -> Writes:
    """Means over real tokens of the clean prompts, at each place or (`n_places=1`) over all."""
    model.check(task)
    parts: list[Writes] = []
    counts = torch.zeros(n_places, dtype=torch.float64, device=model.device)
    for batch in task.batches(batch_size, model.device):
        run = capture(model, batch.clean, batch, at=batch.distinct)
        places = batch.places[batch.distinct].clamp(max=n_places - 1)
        parts.append(run.writes.map(lambda part, at=places: _sum_at(part, at, n_places)))
        counts += torch.bincount(places, minlength=n_places)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.map(lambda part: part / counts.to(part.device).view(-1, *[1] * (part.ndim - 1)))


def _sum_at(
    part: Float[Tensor, "token ..."], places: Tensor, n_places: int
) -> Float[Tensor, "place ..."]:
    sums = torch.zeros(n_places, *part.shape[1:], dtype=torch.float64, device=part.device)
    return sums.index_add_(0, places.to(part.device), part.double())
