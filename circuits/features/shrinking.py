"""Few heads and neurons that do a task: all others are ablated, and the number kept shrinks.

Which ones are kept is decided anew in each step by scores, the largest being kept. The gradient of
the metric by every unit's share, kept or not, at the circuit of that step, moves the scores
("straight through"), towards what the whole model does and not beyond. So units are judged among
others that are ablated, where effects one by one, in a model that is whole, say little. What is
ablated gets its mean over all prompts, clean and corrupt, at its position.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.files.brief import briefly
from patching.lens.neurons import find_output
from patching.metrics import Metric
from patching.model import Hook, Model
from patching.modes import with_gradients, without_gradients
from patching.progress import track
from patching.tasks.task import Batch, Task

_AT_FIRST = 8000  # units in the first step, or all
_SHRINKING = 0.55  # the share of steps in which the number shrinks
_MOMENTUM, _FAR, _NEAR = 0.8, 1.2, 0.6  # of scores; their steps while it shrinks, and afterwards


@briefly
@dataclass(frozen=True)
class FewUnits:
    """Heads (`a3.h1`) and neurons (`m3.n17`) that were kept, and what they do of a task.

    `clean` and `ablated` are the metric's means with all and with none kept, `kept` with these.
    """

    names: tuple[str, ...]
    clean: float
    ablated: float
    kept: float

    @property
    def faithfulness(self) -> float:
        """The share of what ablating all takes away that is there; above 1, it is more."""
        return (self.kept - self.ablated) / (self.clean - self.ablated)


def few_units(
    model: Model,
    task: Task,
    metric: Metric,
    n: int,
    *,
    steps: int = 60,
    batch_size: int = 8,
    seed: int = 0,
) -> FewUnits:
    """Look for `n` heads and neurons that keep what the model does on a task.

    Costs `steps` forward and backward passes of a random batch. What is found fits the prompts of
    the search: judge it on others with `judge_units`.

    Raises:
        ValueError: if there are not so many units, prompts differ in length, no hook point shows
            the neurons, or the metric is the same when all are ablated.
    """
    shares = _Shares(model, task, metric)
    if not 1 <= n <= len(shares.names) or steps < 2:
        raise ValueError(
            f"{model.name} has {len(shares.names)} heads and neurons, of which 1 or more are kept, "
            f"in 2 steps or more; got n={n}, steps={steps}"
        )
    clean, ablated = shares.ends
    random = torch.Generator().manual_seed(seed)
    scores = moved = torch.zeros(len(shares.names))
    for step in track(range(-1, steps), "heads and neurons"):
        rows = torch.randperm(len(task), generator=random)[:batch_size]
        size = _size(max(step, 0), n, len(scores), steps)
        kept = _largest(scores, size) if step >= 0 else torch.ones_like(scores)
        value, slopes = shares.slopes(kept, rows)
        if step < 0:
            scores = -torch.log(slopes.abs().argsort(descending=True).argsort() + 1.0)
            continue
        gap = float((clean - ablated)[rows].mean())
        missing = 1 - (value - float(ablated[rows].mean())) / gap
        unit = slopes / slopes.abs().topk(n).values.mean().clamp(min=1e-9)
        wanted = math.copysign(max(-1.0, min(1.0, missing)), missing * gap)
        moved = _MOMENTUM * moved + wanted * unit
        late = max(0.0, step / steps - _SHRINKING) / (1 - _SHRINKING)
        scores = (scores + (_FAR if size > n else _NEAR * (1 - late) + 0.1) * moved).clamp(-12, 6)
    return shares.judged(_largest(scores, n))


def judge_units(model: Model, task: Task, metric: Metric, names: Sequence[str]) -> FewUnits:
    """What heads and neurons keep of a task, all others ablated.

    Raises:
        ValueError: if there is no such head or neuron, or as `few_units`.
    """
    shares = _Shares(model, task, metric)
    number = {name: i for i, name in enumerate(shares.names)}
    unknown = [name for name in names if name not in number]
    if unknown:
        raise ValueError(
            f"{model.name} has no head or neuron {unknown[0]!r}; there are {shares.names[0]} to "
            f"{shares.names[-1]}"
        )
    kept = torch.zeros(len(number))
    kept[[number[name] for name in names]] = 1
    return shares.judged(kept)


@dataclass(frozen=True, eq=False)
class _Shares:
    """A model of which each head and neuron has a share: 1 as it is, 0 ablated."""

    model: Model
    task: Task
    metric: Metric

    def __post_init__(self) -> None:
        lengths = sorted({prompt.n_tokens for prompt in self.task.prompts})
        if len(lengths) > 1:
            raise ValueError(
                f"task {self.task.name!r} has prompts of {', '.join(map(str, lengths))} tokens, "
                "whose positions have no mean; take those of one length, `task.of_length()`"
            )

    @cached_property
    def sites(self) -> Mapping[str, int]:
        """Hook points of heads, then of neurons, and how many units each has.

        Raises:
            ValueError: if no hook point shows the neurons.
        """
        heads = {block.z: self.model.graph.n_heads for block in self.model.blocks}
        outputs = (find_output(self.model, block) for block in self.model.blocks)
        return heads | {output.points: len(output.weight) for output in outputs}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all units, in the order of their shares."""
        n = len(self.model.blocks)
        letters = [f"a{i}.h" for i in range(n)] + [f"m{i}.n" for i in range(n)]
        sizes = zip(letters, self.sites.values(), strict=True)
        return tuple(f"{letter}{i}" for letter, size in sizes for i in range(size))

    @cached_property
    def means(self) -> Mapping[str, Tensor]:
        """What is put in: means over all prompts, clean and corrupt."""
        sums: dict[str, Tensor] = {}
        hooks = [(name, partial(_add, sums, name)) for name in self.sites]
        for batch in self._batches(range(len(self.task))):
            for tokens in (batch.clean, batch.corrupt):
                with torch.no_grad():
                    self.model.answer_logits(tokens, batch, hooks)
        return {name: total / (2 * len(self.task)) for name, total in sums.items()}

    @cached_property
    def ends(self) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
        """The metric of every prompt with all units, and with none.

        Raises:
            ValueError: if they are the same in the mean.
        """
        whole = torch.ones(len(self.names))
        clean, ablated = self.values(whole), self.values(0 * whole)
        if float((clean - ablated).mean().abs()) < 1e-6:
            raise ValueError(f"{self.task.name!r} is done as well where everything is ablated")
        return clean, ablated

    def judged(self, kept: Float[Tensor, " unit"]) -> FewUnits:
        """What some units do."""
        names = tuple(self.names[i] for i in kept.nonzero()[:, 0].tolist())
        clean, ablated = (float(values.mean()) for values in self.ends)
        return FewUnits(names, clean, ablated, float(self.values(kept).mean()))

    @without_gradients
    def values(self, kept: Float[Tensor, " unit"]) -> Float[Tensor, " example"]:
        """The metric of every prompt."""
        batches = self._batches(range(len(self.task)))
        return torch.cat([self._metric(batch, kept) for batch in batches]).double()

    def slopes(
        self, kept: Float[Tensor, " unit"], rows: Int[Tensor, " example"]
    ) -> tuple[float, Float[Tensor, " unit"]]:
        """The metric's mean over some prompts, and its gradient by every unit's share."""
        (batch,) = self._batches(rows.tolist(), size=len(rows))
        with with_gradients():
            shares = kept.clone().requires_grad_()
            value = self._metric(batch, shares).mean()
            (found,) = torch.autograd.grad(value, shares)
        return float(value.detach()), found

    def _metric(self, batch: Batch, kept: Tensor) -> Float[Tensor, " example"]:
        parts = kept.to(self.model.device).split([*self.sites.values()])
        hooks: list[tuple[str, Hook]] = [
            (name, partial(_mixed, share, self.means[name]))
            for (name, share) in zip(self.sites, parts, strict=True)
        ]
        return self.metric(self.model.answer_logits(batch.clean, batch, hooks), batch)

    def _batches(self, rows: Iterable[int], size: int = 16) -> Iterable[Batch]:
        return self.task.some(rows).batches(size, self.model.device)


def _mixed(share: Tensor, mean: Tensor, x: Tensor) -> Tensor:
    """A share of what is there, and the mean for the rest."""
    shares = share.to(x)[:, None] if x.ndim == 4 else share.to(x)
    return mean.to(x) + shares * (x - mean.to(x))


def _add(sums: dict[str, Tensor], name: str, x: Tensor) -> None:
    total = x.detach().sum(dim=0, keepdim=True)
    sums[name] = sums[name] + total if name in sums else total


def _largest(scores: Float[Tensor, " unit"], n: int) -> Float[Tensor, " unit"]:
    return torch.zeros_like(scores).index_fill(0, scores.topk(n).indices, 1)


def _size(step: int, n: int, n_all: int, steps: int) -> int:
    """How many are kept in a step: from many to `n`, by an equal factor each."""
    first = max(n, min(_AT_FIRST, n_all))
    return round(first * (n / first) ** min(1.0, step / max(1.0, _SHRINKING * steps)))
