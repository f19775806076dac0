"""AtP*'s repairs of attribution patching: the QK fix, GradDrop, and both.

Where a direct and an indirect effect cancel, the gradient is small by accident; so GradDrop takes
it anew with each layer's contribution left out of it.

Kramár et al. 2024, arXiv:2403.00745.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from patching.attribution.patterns import (
    fixed_scores,
    move,
    pattern_places,
    require_patterns,
    score_places,
)
from patching.attribution.runs import Gathered, Job, gather
from patching.attribution.sweep import (
    Attributions,
    base_of,
    find_places,
    scores_of,
    to_attributions,
    to_parts,
)
from patching.live import Start
from patching.metrics import Metric
from patching.model import Hook, Model
from patching.paths import Path
from patching.rules import Rule, plain
from patching.runs.batches import Doing, Found, Keeping, all_rows, all_sums
from patching.runs.ticks import position_ticks
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

NODES = ("attn_out", "mlp_out", "z", "q", "k", "v")
"""Kinds that are written by a layer, and so have a gradient with another layer left out."""


INSTEAD = "attribution_patching, or grad_drop"
NOWHERE = Path("nowhere", "2F")
"""Both runs, without a gradient at either."""


def qk_fix(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    direction: str = "denoising",
    rule: Rule = plain,
    kinds: Sequence[str] = NODES,
    batch_size: int = 16,
    run: Run | None = None,
) -> Attributions:
    """Attribution patching with recomputed attention patterns for queries and keys.

    `score(q) = sum over its row of d metric / d pattern * (pattern - patched pattern)`, and so
    for a key, over its column's consequences for all later queries; a shared key for all heads of
    its group. All else is `attribution_patching`. Costs two forwards more than that.

    Kramár et al. 2024, arXiv:2403.00745.

    Raises:
        ValueError: if hooks do not reach the softmax of the family's attention, or its norm of
            queries and keys mixes heads, and as `attribution_patching`.
    """
    require_patterns(model, instead=INSTEAD)
    job = _fixing(Job(model, metric, rule, base_of(direction), find_places(model, kinds)))
    job.check(task)
    described = job.describe(task, "qk-fix", direction)

    def measure(batch: Batch) -> Parts:
        gathered = gather(job, batch)
        scores = _scores(kinds, job, gathered, move(job, gathered), task.max_length)
        return to_parts(scores, gathered, metric)

    deciding = (metric, rule, tuple(kinds))
    keeping = Keeping("attributing", described, deciding, Doing(batch_size, run))
    shown = position_ticks(model, task)
    finish = partial(to_attributions, job, described, kinds, shown=shown)
    return all_rows(model, task, measure, keeping, finish)


def grad_drop(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    direction: str = "denoising",
    kinds: Sequence[str] = NODES,
    by_position: bool = True,
    batch_size: int = 16,
    run: Run | None = None,
) -> Attributions:
    """Scores with each layer in turn left out of the gradient: the mean of their absolute values.

    In pass l no gradient flows through what layer l's attention and MLP write, so that layer
    scores 0; hence the sum over passes is divided by one less than their number. Absolute values
    are taken of means over prompts: the scores have no sign, come as one row, and do not add up;
    with `by_position` off they are those of all positions together. Costs two forwards, then a
    forward and a backward a layer.

    Kramár et al. 2024, arXiv:2403.00745.

    Raises:
        ValueError: if the model has fewer than 2 layers, a kind is the stream, which no layer
            writes, and as `attribution_patching`.
    """
    _check_dropping(model, kinds)
    job = Job(model, metric, plain, base_of(direction), find_places(model, kinds))
    dropping = _Dropping(job, task, kinds, by_position, "grad-drop")
    return dropping.run(direction, batch_size, run)


def atp_star(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    direction: str = "denoising",
    kinds: Sequence[str] = NODES,
    by_position: bool = True,
    batch_size: int = 16,
    run: Run | None = None,
) -> Attributions:
    """Both repairs: `grad_drop` of `qk_fix`. No sign, not additive, one row, as `grad_drop`.

    >>> from patching import logit_diff, tasks
    >>> model = Model.load("toy")
    >>> task = tasks.ioi(model.tokenizer, n=4, seed=0)
    >>> found = atp_star(model, task, logit_diff, kinds=["q"], by_position=False)
    >>> list(found["q"].axes)
    ['layer', 'head']

    Kramár et al. 2024, arXiv:2403.00745.

    Raises:
        ValueError: as `grad_drop` and `qk_fix`.
    """
    _check_dropping(model, kinds)
    require_patterns(model, instead=INSTEAD)
    job = _fixing(Job(model, metric, plain, base_of(direction), find_places(model, kinds)))
    dropping = _Dropping(job, task, kinds, by_position, "atp-star")
    return dropping.run(direction, batch_size, run)


def _check_dropping(model: Model, kinds: Sequence[str]) -> None:
    require_layers(model, instead="attribution_patching")
    stream = [kind for kind in kinds if kind.startswith("resid")]
    if stream:
        raise ValueError(
            f"GradDrop leaves out what a layer writes, and {stream[0]} is the whole stream; "
            f"take of {', '.join(NODES)}, neurons"
        )


def require_layers(model: Model, *, instead: str) -> None:
    """Check that there is a layer to leave out, and another one.

    Raises:
        ValueError: if there is one layer; take what is named instead.
    """
    if model.graph.n_layers < 2:
        raise ValueError(
            f"GradDrop leaves out one layer at a time and averages over the others; {model.name} "
            f"has 1 layer, take {instead}"
        )


def _fixing(job: Job) -> Job:
    """The job, with what the QK fix needs to see."""
    model = job.model
    needed = {**find_places(model, ("q", "k")), "pattern": pattern_places(model)}
    return replace(job, places={**job.places, **needed}, beside=score_places(model))


def _scores(
    kinds: Sequence[str],
    job: Job,
    gathered: Gathered,
    moved: Mapping[str, Tensor] | None,
    n_pos: int,
) -> dict[str, Float[Tensor, "example layer ..."]]:
    fixed = {} if moved is None else fixed_scores(job, gathered, moved, n_pos)
    return {k: fixed[k] if k in fixed else scores_of(k, job, gathered, n_pos) for k in kinds}


@dataclass(frozen=True)
class _Dropping:
    """GradDrop on whatever a job scores; `method` says whether with the QK fix."""

    job: Job
    task: Task
    kinds: Sequence[str]
    by_position: bool
    method: str

    def run(self, direction: str, batch_size: int, run: Run | None) -> Attributions:
        job, task = self.job, self.task
        job.check(task)
        described = {
            **job.describe(task, self.method, direction),
            "sign": "absolute values: no sign",
        }
        deciding = (job.metric, tuple(self.kinds), self.by_position)
        doing = Doing(batch_size, run)
        keeping = Keeping("attributing-dropped", described, deciding, doing)
        return all_sums(job.model, task, self, keeping, partial(self._finish, described))

    def _finish(self, described: Mapping[str, object], found: Found[Parts]) -> Attributions:
        """Means over examples, and of the absolute values over layers left out."""
        totals, n, n_layers = found.total, found.n_examples, self.job.model.graph.n_layers
        parts = {
            kind: totals[kind].abs().sum(dim=0)[None] / n / (n_layers - 1) for kind in self.kinds
        }
        ends = {end: totals[end][None] / n for end in ("clean", "corrupt")}
        rows = replace(found, total={**parts, **ends})
        shown = position_ticks(self.job.model, self.task)
        return to_attributions(self.job, described, self.kinds, rows, signed=False, shown=shown)

    def __call__(self, batch: Batch) -> Parts:
        """A batch's scores summed over examples, `[layer left out, ...]`, by kind."""
        job = self.job
        gathered = gather(replace(job, path=NOWHERE), batch)
        moved = move(job, gathered) if self.method == "atp-star" else None
        each: list[dict[str, Tensor]] = []
        for layer in range(job.model.graph.n_layers):
            slopes = _without_layer(job, gathered.batch, layer)
            dropped = replace(gathered, gradients=slopes)
            scores = _scores(self.kinds, job, dropped, moved, self.task.max_length)
            each.append({kind: self._summed(kind, values) for kind, values in scores.items()})
        sums = {kind: torch.stack([one[kind] for one in each]) for kind in self.kinds}
        clean, corrupt = (values.sum() for values in gathered.metric(job.metric))
        return {**sums, "clean": clean, "corrupt": corrupt}

    def _summed(
        self, kind: str, values: Float[Tensor, "example layer ..."]
    ) -> Float[Tensor, "layer ..."]:
        summed = values.sum(dim=0)
        return summed if kind == "neurons" or self.by_position else summed.sum(dim=1)


def _without_layer(job: Job, batch: Batch, layer: int) -> Mapping[str, Tensor]:
    """Gradients at the base run, with none through what one layer writes."""
    block = job.model.blocks[layer]
    hooks: tuple[tuple[str, Hook], ...] = (
        (block.attention_out, torch.Tensor.detach),
        (block.mlp_out, torch.Tensor.detach),
    )
    sums = job.gathering().new_sum(batch.can_differ)
    base = batch.clean if job.path.clean else batch.corrupt
    sums.add(batch, job.metric, Start(1.0, base, hooks=hooks))
    return sums.finish()
