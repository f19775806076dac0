"""Attribution patching of every activation at once: a map of each kind from one gradient.

`score = (clean activation - corrupt activation) . d metric / d activation`, to first order what
activation patching there would do. Nanda 2023 (attribution patching); with the gradient of a
backward rule, Rezaei Jafari et al. 2025, arXiv:2508.21258 (RelP).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.places import KINDS, Place, of_kind, units
from patching.attribution.runs import Gathered, Job, gather
from patching.grid import Grid
from patching.metrics import Metric
from patching.model import Model
from patching.modes import without_gradients
from patching.paths import Path, at_clean, at_corrupt
from patching.rules import Rule, plain
from patching.runs.batches import Doing, Found, Keeping, all_rows
from patching.runs.ticks import position_ticks
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

BASES: dict[str, Path] = {"denoising": at_corrupt, "noising": at_clean}
"""By direction: where the gradient is taken, at the run that is patched."""

ON_REQUEST = ("pattern", "neurons")


@dataclass(frozen=True, eq=False)
class Attributions(Mapping[str, Grid]):
    """Scores by kind of activation: over layers and positions, and heads (or neurons) where any.

    Signed scores within a layer add up, so `pick` sums over the axes that it leaves out.
    """

    grids: Mapping[str, Grid]
    signed: bool = True

    def __getitem__(self, kind: str) -> Grid:
        if kind not in self.grids:
            raise ValueError(
                f"there are no scores of {kind!r} here, but of {', '.join(self.grids)}"
                + (f"; ask for kinds=[{kind!r}]" if kind in KINDS else "")
            )
        return self.grids[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self.grids

    def __iter__(self) -> Iterator[str]:
        return iter(self.grids)

    def __len__(self) -> int:
        return len(self.grids)

    def pick(self, kind: str, over: Sequence[str] = ("layer", "pos")) -> Grid:
        """One kind's scores over chosen axes, in that order, summed over the others.

        `head, pos` has the heads of all layers on one axis, as `activation_patching` has.

        Raises:
            ValueError: if there is no such kind or axis, an axis is named twice, or a sum would
                mean nothing: over layers, or of scores without a sign.
        """
        grid = self[kind]
        self._check(kind, grid, over)
        if tuple(over) == ("head", "pos"):
            return _heads_of_all_layers(self.pick(kind, ("layer", "head", "pos")))
        left_out = [1 + i for i, name in enumerate(grid.axes) if name not in over]
        values = grid.values.sum(dim=left_out) if left_out else grid.values
        kept = [name for name in grid.axes if name in over]
        values = values.permute(0, *(1 + kept.index(name) for name in over))
        return replace(grid, values=values, axes={name: grid.axes[name] for name in over})

    def _check(self, kind: str, grid: Grid, over: Sequence[str]) -> None:
        had, asked = ", ".join(grid.axes), ", ".join(over) or "none"
        if set(over) - set(grid.axes) or len(set(over)) < len(over):
            raise ValueError(f"scores of {kind} have the axes {had}; cannot pick over {asked}")
        if "layer" not in over and tuple(over) != ("head", "pos"):
            raise ValueError(
                f"scores of several layers do not add up, as later ones include what earlier ones "
                f"pass on; pick over layer and {asked}, then `select(layer=...)`"
            )
        if not self.signed and {*over, "layer"} != set(grid.axes):
            raise ValueError(
                f"scores without a sign do not add up, and these have the axes {had}; score with "
                "by_position=False for all positions together"
            )


def _heads_of_all_layers(grid: Grid) -> Grid:
    layers, heads, positions = grid.axes.values()
    axes = {"head": tuple(f"a{i}.{h}" for i in layers for h in heads), "pos": positions}
    return replace(grid, values=grid.values.flatten(1, 2), axes=axes)


def attribution_patching(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    direction: str | Path = "denoising",
    rule: Rule = plain,
    kinds: Sequence[str] | None = None,
    batch_size: int = 16,
    run: Run | None = None,
) -> Attributions:
    """First-order estimates of activation patching at all places, in two forwards and a backward.

    >>> from patching import logit_diff, tasks
    >>> model = Model.load("toy")
    >>> found = attribution_patching(model, tasks.ioi(model.tokenizer, n=4, seed=0), logit_diff)
    >>> list(found.pick("z", over=("layer", "head")).axes)
    ['layer', 'head']

    Args:
        model: whose activations.
        task: pairs that differ; the corrupt run gives the values that are patched in.
        metric: with a gradient at the base run; scores are in its units.
        direction: which exact patching is meant, and so where the gradient is taken: `denoising`
            puts clean values into the corrupt run (gradient there), `noising` the other way round.
            Or a path that takes it elsewhere: `at_both`, or `along_inputs(steps)`, whose scores of
            the first stream add up to the metric's gap.
        rule: what gradient: `plain`, `relp`, `gim`, ...
        kinds: of `patching.anatomy.places.KINDS`; all that the model shows but patterns and
            neurons, which take more memory. Neurons come summed over positions.
        batch_size: pairs a run.
        run: where what is done is kept, batch by batch, and who does it.

    Raises:
        Interrupted: with the scores of the pairs so far, if somebody interrupts.
        ValueError: if a direction or kind is unknown, or metric, path, model and task do not fit
            together.
    """
    places = find_places(model, kinds)
    path = direction if isinstance(direction, Path) else base_of(direction)
    job = Job(model, metric, rule, path, places)
    job.check(task)
    method = "attribution patching" if rule is plain else f"attribution patching, {rule.name}"
    described = job.describe(task, method, _named(direction))

    def measure(batch: Batch) -> Parts:
        gathered = gather(job, batch)
        scores = {kind: scores_of(kind, job, gathered, task.max_length) for kind in places}
        return to_parts(scores, gathered, metric)

    deciding = (metric, rule, path, tuple(places))
    keeping = Keeping("attributing", described, deciding, Doing(batch_size, run))
    finish = partial(
        to_attributions, job, described, tuple(places), shown=position_ticks(model, task)
    )
    return all_rows(model, task, measure, keeping, finish)


def _named(direction: str | Path) -> str:
    return direction if isinstance(direction, str) else f"on the path {direction.name!r}"


def base_of(direction: str) -> Path:
    """The run that is patched, as a path.

    Raises:
        ValueError: if the direction is none.
    """
    if direction not in BASES:
        raise ValueError(f"a direction is 'denoising' or 'noising', got {direction!r}")
    return BASES[direction]


def find_places(model: Model, kinds: Sequence[str] | None) -> dict[str, tuple[Place, ...]]:
    """The places of the kinds asked for, or of all that the family shows.

    Raises:
        ValueError: if a kind is unknown or hidden, or none is asked for.
    """
    if kinds is not None:
        if not kinds:
            raise ValueError(f"got no kinds; name at least one of {', '.join(KINDS)}")
        return {kind: of_kind(model, kind) for kind in kinds}
    skipped = {*ON_REQUEST, *(("resid_mid",) if model.blocks[0].parallel else ())}
    return {kind: of_kind(model, kind) for kind in KINDS if kind not in skipped}


@without_gradients
def scores_of(
    kind: str, job: Job, gathered: Gathered, n_pos: int
) -> Float[Tensor, "example layer ..."]:
    """One batch's scores of a kind: by position, and by head; of neurons, summed over positions."""
    layers = []
    for place in job.places[kind]:
        product = _product(kind, gathered.difference(place), gathered.gradients[place.hook])
        if kind == "neurons":
            batch, rows = gathered.batch, gathered.tokens[0]
            sums = product.new_zeros(batch.n_rows, product.shape[1], dtype=torch.float64)
            layers.append(batch.by_example(sums.index_add_(0, rows, product.double())))
        else:
            layers.append(place_rows(product, gathered, n_pos))
    return torch.stack(layers, dim=1).cpu()


def place_rows(
    product: Float[Tensor, "token ..."], gathered: Gathered, n_pos: int
) -> Float[Tensor, "example pos ..."]:
    """Numbers of tokens in their examples, at positions counted from the first real token."""
    rows, columns = gathered.tokens
    shape = (gathered.batch.n_rows, n_pos, *product.shape[1:])
    out = torch.zeros(shape, dtype=torch.float64, device=product.device)
    out[rows, gathered.batch.places[rows, columns]] = product.double()
    return gathered.batch.by_example(out)


def _product(
    kind: str, difference: Float[Tensor, "token ..."], gradient: Float[Tensor, "token ..."]
) -> Float[Tensor, "token ..."]:
    if kind == "neurons":
        return difference * gradient
    return einsum(difference, gradient, "... d, ... d -> ...")


_ENDS = ("clean", "corrupt")


def to_parts(
    scores: Mapping[str, Float[Tensor, "example layer ..."]], gathered: Gathered, metric: Metric
) -> dict[str, Tensor]:
    """A batch's scores by kind, with the metric of both runs, for `to_attributions`."""
    return {**scores, **dict(zip(_ENDS, gathered.metric(metric), strict=True))}


def to_attributions(
    job: Job,
    described: Mapping[str, object],
    kinds: Sequence[str],
    rows: Found[Parts],
    *,
    signed: bool = True,
    shown: Mapping[str, tuple[str, ...]] | None = None,
) -> Attributions:
    """Scores of all examples by kind, with names of the axes, and what figures write at them."""
    clean, corrupt = (rows.total[end] for end in _ENDS)
    provenance, grids = rows.provenance(described), {}
    for kind in kinds:
        values = rows.total[kind]
        axes = axes_of(job.model, kind, values.shape[1:])
        facts = {**provenance, "what": kind}
        grids[kind] = Grid("estimated effect", values, axes, clean, corrupt, facts, shown or {})
    return Attributions(grids, signed)


def axes_of(model: Model, kind: str, shape: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """Names and labels of a kind's axes: layer, then position and head or neuron where kept."""
    labels = units(model, kind)
    unit = {"head": labels} if labels else {}
    if kind == "neurons":
        unit = {"neuron": _numbers(len(labels))}
    n_layers, *positions = shape[: len(shape) - len(unit)]
    pos = {"pos": _numbers(positions[0])} if positions else {}
    return {"layer": _numbers(n_layers), **pos, **unit}


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))
