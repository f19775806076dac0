"""Exact activation patching: what each activation is worth, by putting another run's in its place.

The effect of a place is positive where its clean activation helps:

    denoising   metric(corrupt run with the clean activation) - metric(corrupt run)
    noising     metric(clean run) - metric(clean run with the corrupt activation)

Meng et al. 2022, arXiv:2202.05262; Wang et al. 2022, arXiv:2211.00593; on the two directions,
Heimersheim and Nanda 2024, arXiv:2404.15255.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.places import KINDS, of_kind, units
from patching.grid import Grid
from patching.metrics import Metric
from patching.model import Model
from patching.modes import without_gradients
from patching.provenance import describe
from patching.runs.batches import Doing, Found, Keeping, all_rows
from patching.runs.pairs import run_both
from patching.runs.patches import DIRECTIONS, Patching
from patching.runs.spots import Reach, Spots, Where, by_own_spans, by_position, by_span, everywhere
from patching.runs.ticks import position_ticks
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

OVERS = (("layer", "pos"), ("layer", "head"), ("head", "pos"), ("layer",))


@without_gradients
def activation_patching(
    model: Model,
    task: Task,
    metric: Metric,
    what: str = "resid_pre",
    over: Sequence[str] = ("layer", "pos"),
    *,
    direction: str = "denoising",
    batch_size: int = 16,
    run: Run | None = None,
) -> Grid:
    """The exact effect of each activation of one kind, by one patched run for each.

    >>> from patching import logit_diff, tasks
    >>> model = Model.load("toy")
    >>> task = tasks.ioi(model.tokenizer, n=4, seed=0)
    >>> grid = activation_patching(model, task, logit_diff, "z", ("layer", "head"))
    >>> list(grid.axes), grid.values.shape[0]
    (['layer', 'head'], 4)

    Args:
        model: whose activations.
        task: pairs that differ; what is patched comes from the other prompt of each pair.
        metric: any; effects are in its units (`as_share` makes shares of the gap of them).
        what: one of `patching.anatomy.places.KINDS`.
        over: `layer, pos`: all heads (neurons) of a layer at one position at a time, in a pattern
            the position that attends; `layer, head`: one head (or group of heads that share keys
            and values) at all positions; `head, pos`: one head at one position; `layer` alone.
            Positions count from the first real token; a prompt that has no such position, or
            where both runs are still equal, has effect 0.
        direction: `denoising` or `noising`.
        batch_size: pairs whose activations are held at once.
        run: where what is done is kept, batch by batch, and who does it.

    Raises:
        Interrupted: with the effects in the pairs so far, if somebody interrupts.
        ValueError: if a kind, direction or pair of axes is unknown, the family hides the kind or
            it has no heads, the model cannot read the task, or pairs do not differ.
    """
    over = (over,) if isinstance(over, str) else tuple(over)
    if over not in OVERS:
        known = "; ".join(", ".join(axes) for axes in OVERS)
        raise ValueError(f"a sweep goes over {known}; got {', '.join(over) or 'nothing'}")
    each_unit = "head" in over
    heads = units(model, what) if each_unit and what != "neurons" else ()
    if each_unit and not heads and what in KINDS:
        raise ValueError(f"{what} has no heads; sweep z, q, k, v or pattern, or over layer, pos")
    where = by_position(task.max_length) if "pos" in over else everywhere()
    layers = tuple(range(len(model.blocks)))
    sweep = _Sweep(model, metric, what, layers, where, each_unit, direction)

    def arrange(values: Float[Tensor, "example layer where unit"]) -> Arranged:
        return _arranged(values, over, where, heads)

    return sweep.run(task, arrange, batch_size, run)


@without_gradients
def span_patching(
    model: Model,
    task: Task,
    metric: Metric,
    spans: Mapping[str, range] | None = None,
    what: str = "resid_pre",
    *,
    direction: str = "denoising",
    batch_size: int = 16,
    run: Run | None = None,
) -> Grid:
    """As `activation_patching` over `layer, span`: all positions of a named span at once.

    Those of each prompt's own spans, wherever they are. Or for prompts of one template, of
    `{"subject": range(1, 4), ...}`: positions count from the first real token.

    Raises:
        Interrupted: as `activation_patching`.
        ValueError: if prompts have no spans, or one given is empty or beyond them; and as
            `activation_patching`.
    """
    if spans is None:
        task = task if task.apart else task.by_span()
        where = by_own_spans(task.apart)
    else:
        where = by_span(spans, task.max_length)
    layers = tuple(range(len(model.blocks)))
    sweep = _Sweep(model, metric, what, layers, where, False, direction)
    axes = {"layer": tuple(map(str, layers)), "span": where.labels}
    return sweep.run(task, lambda values: (values[..., 0], axes), batch_size, run)


@without_gradients
def neuron_patching(
    model: Model,
    task: Task,
    metric: Metric,
    layers: Sequence[int],
    *,
    direction: str = "denoising",
    batch_size: int = 16,
    run: Run | None = None,
) -> Grid:
    """As `activation_patching` over `layer, neuron`: each MLP neuron of some layers, alone.

    As many runs as there are neurons, at all positions: choose layers.

    Raises:
        Interrupted: as `activation_patching`.
        ValueError: if there are no layers or no such layer; and as `activation_patching`.
    """
    n = len(model.blocks)
    if not layers or min(layers) < 0 or max(layers) >= n or len(set(layers)) < len(layers):
        raise ValueError(
            f"name different layers from 0 to {n - 1} of {model.name}, got {list(layers)}"
        )
    sweep = _Sweep(model, metric, "neurons", tuple(layers), everywhere(), True, direction)
    labels = tuple(map(str, layers))

    def arrange(values: Float[Tensor, "example layer where unit"]) -> Arranged:
        neurons = tuple(map(str, range(values.shape[3])))
        return values[:, :, 0], {"layer": labels, "neuron": neurons}

    return sweep.run(task, arrange, batch_size, run)


def as_share(grid: Grid) -> Grid:
    """Effects as shares of the gap between the clean and the corrupt run.

    Divided by the mean gap, so that the mean over examples is a ratio of means: 1 is the whole
    gap. A single example's number may be far from its own share where its gap is small.

    Raises:
        ValueError: if the grid does not know both runs' metric, or they do not differ on average.
    """
    if grid.clean is None or grid.corrupt is None:
        raise ValueError("this grid does not know the metric of the clean and the corrupt run")
    gap = grid.clean.mean() - grid.corrupt.mean()
    if gap == 0:
        raise ValueError("clean and corrupt runs have the same metric on average: there is no gap")
    quantity = f"{grid.quantity}, share of the clean-corrupt gap"
    return replace(grid, quantity=quantity, values=grid.values / gap)


Arranged = tuple[Float[Tensor, "example ..."], dict[str, tuple[str, ...]]]
"""Values, and the names and labels of their axes."""

Arrange = Callable[[Float[Tensor, "example layer where unit"]], Arranged]


def _arranged(
    values: Float[Tensor, "example layer where unit"],
    over: tuple[str, ...],
    where: Where,
    heads: tuple[str, ...],
) -> Arranged:
    layers = tuple(map(str, range(values.shape[1])))
    if over == ("head", "pos"):
        labels = tuple(f"a{i}.{h}" for i in layers for h in heads)
        return values.transpose(2, 3).flatten(1, 2), {"head": labels, "pos": where.labels}
    if "head" in over:
        return values[:, :, 0], {"layer": layers, "head": heads}
    if over == ("layer",):
        return values[:, :, 0, 0], {"layer": layers}
    return values[..., 0], {"layer": layers, "pos": where.labels}


@dataclass(frozen=True)
class _Sweep:
    """Effects of a batch: of everything of one kind, with the metric of both plain runs."""

    model: Model
    metric: Metric
    what: str
    layers: tuple[int, ...]
    where: Where
    each_unit: bool
    direction: str

    def run(self, task: Task, arrange: Arrange, batch_size: int, run: Run | None) -> Grid:
        """The grid of all examples.

        Raises:
            ValueError: if the sweep does not fit the model or the task.
        """
        if self.direction not in DIRECTIONS:
            raise ValueError(f"a direction is 'denoising' or 'noising', got {self.direction!r}")
        of_kind(self.model, self.what)
        self.model.check(task, self.metric)
        task.require_contrast()
        task = task.aligned
        described = self._describe(task)
        deciding = (self.metric, self.what, self.layers, self.where, self.each_unit)
        keeping = Keeping("patching", described, deciding, Doing(batch_size, run))

        def finish(rows: Found[Parts]) -> Grid:
            values, axes = arrange(rows.total["effects"])
            ends = rows.total["clean"], rows.total["corrupt"]
            shown = position_ticks(self.model, task)
            return Grid("effect", values, axes, *ends, rows.provenance(described), shown)

        return all_rows(self.model, task, self, keeping, finish)

    @without_gradients
    def __call__(self, batch: Batch) -> Parts:
        model = self.model
        places = of_kind(model, self.what)
        n_units = len(units(model, self.what)) if self.each_unit else 1
        shape = (len(batch), len(self.layers), len(self.where.labels), n_units)
        chosen = [places[i] for i in self.layers]
        both = run_both(model, batch, self.metric, chosen, self.direction)
        spots = self.where.spots(both.reach)
        each = [self._that_matter(spots, both.reach, layer) for layer in self.layers]
        patching = Patching(both, self.metric, [(place,) for place in chosen], self.each_unit)
        effects = torch.zeros(shape, dtype=torch.float64)
        for i, (some, found) in enumerate(zip(each, patching.effects(each), strict=True)):
            effects[some.example, i, some.where] = found
        return {"effects": effects, "clean": both.clean, "corrupt": both.corrupt}

    def _that_matter(self, spots: Spots, reach: Reach, layer: int) -> Spots:
        """Those that can change the answer: in the last layer, most of what others see is over."""
        if layer < len(self.model.blocks) - 1 or self.what in _READ_BY_LATER_TOKENS:
            return spots
        return reach.at_answer(spots)

    def _describe(self, task: Task) -> dict[str, object]:
        sign = "positive: the clean activation helps the metric"
        facts = {"what": self.what, "direction": self.direction, "sign": sign}
        method = "activation patching"
        return describe(self.model, task, self.metric, method, {}, facts=facts)


_READ_BY_LATER_TOKENS = ("resid_pre", "k", "v")
