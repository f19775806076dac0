"""How large an effect can have been missed: exact patching of random subsets of places.

If effects add up, a place's effect is the mean of subsets that hold it less that of subsets that
do not, whatever the other places are; so a few hundred runs bound thousands of places at once.

Kramár et al. 2024, arXiv:2403.00745 (the diagnostics of AtP*).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from patching.anatomy.places import Place, of_kind
from patching.attribution.sweep import BASES
from patching.files.brief import briefly
from patching.grid import Grid
from patching.live import Live
from patching.memory import in_tiles
from patching.metrics import Metric, measure
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.provenance import describe
from patching.runs.batches import Doing, Found, Keeping, all_sums
from patching.tasks.task import Batch, Task
from patching.work import Parts, Run

_BYTES_EACH = 80  # of each token and dimension of a subset's rows, at the peak of a block


@dataclass(frozen=True)
class Sampling:
    """How many random subsets to patch, and each place's chance to be in one."""

    n: int = 200
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 4 or not 0 < self.share < 1:
            raise ValueError(
                "random subsets are at least 4, with a share between 0 and 1 of the places in "
                f"each; got n={self.n} and share={self.share}"
            )


@briefly
@dataclass(frozen=True, eq=False)
class Missed:
    """Random subsets of the places that nobody has verified, and the effect of each.

    `effects` are means over examples, in units of the metric, positive where the subset helps.
    """

    axes: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]
    subsets: Bool[Tensor, "subset place"]
    effects: Float[Tensor, " subset"]

    def bound(self, confidence: float = 0.95) -> float:
        """With this confidence no place has a larger absolute effect, if effects add up.

        All places are covered together (Bonferroni). Infinite where a place was in too few
        subsets to tell.

        Raises:
            ValueError: if the confidence is not between 0 and 1.
        """
        return float(self.to_dataframe(confidence)["bound"].to_numpy().max())

    def to_dataframe(self, confidence: float = 0.95) -> pd.DataFrame:
        """A row a place: its estimated effect and the bound on its size, largest bound first.

        Raises:
            ValueError: if the confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"a confidence lies between 0 and 1, got {confidence}")
        effect, error, freedom = self._welch
        quantile = stats.t.ppf(1 - (1 - confidence) / (2 * len(self.places)), freedom)
        bound = np.where(np.isnan(error), np.inf, np.abs(effect) + quantile * error)
        table = pd.DataFrame(list(self.places), columns=list(self.axes))
        table["effect"], table["bound"] = effect, bound
        return table.sort_values("bound", ascending=False, kind="stable", ignore_index=True)

    @cached_property
    def _welch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Differences of means, their standard errors and degrees of freedom (Welch 1947)."""
        values, inside = self.effects.numpy(), self.subsets.numpy().T
        found = [_difference(values[row], values[~row]) for row in inside]
        effect, error, freedom = np.array(found).T
        return effect, error, freedom


def bound_missed(
    model: Model,
    task: Task,
    metric: Metric,
    scores: Grid,
    *,
    verified: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008 - a frozen value
    batch_size: int = 16,
    run: Run | None = None,
) -> Missed:
    """Bound what a ranking by attribution patching can have missed.

    >>> from patching import logit_diff, tasks
    >>> from patching.attribution import attribution_patching
    >>> model = Model.load("toy")
    >>> task = tasks.ioi(model.tokenizer, n=4, seed=0)
    >>> scores = attribution_patching(model, task, logit_diff).pick("z", over=("layer", "head"))
    >>> found = bound_missed(model, task, logit_diff, scores, verified=3, sampling=Sampling(n=20))
    >>> found.bound(0.9) < found.bound(0.99)
    True

    Args:
        model: that was scored.
        task: that was scored on.
        metric: that was scored by.
        scores: what `attribution_patching` or `atp_star` gave for one kind; its cells are the
            places, its direction the way of patching. Streams are refused: their effects overlap.
        verified: how many of the highest-ranked places were patched one by one, and are left out.
        sampling: number, size and seed of the subsets; each costs a forward pass.
        batch_size: pairs a run.
        run: where what is done is kept, batch by batch, and who does it.

    Raises:
        ValueError: if the scores are of another task, of a stream or of no direction, do not go
            over layers first, or all places are verified.
    """
    kind, direction = _check(task, scores, verified)
    model.check(task)
    known = {labels for labels, _ in scores.top(verified)} if verified else set()
    every = list(np.ndindex(*scores.mean.shape))
    labels = [
        tuple(scores.axes[a][i] for a, i in zip(scores.axes, at, strict=True)) for at in every
    ]
    open_ = [i for i, label in enumerate(labels) if label not in known]
    generator = torch.Generator().manual_seed(sampling.seed)
    subsets = torch.rand(sampling.n, len(open_), generator=generator) < sampling.share
    masks = torch.zeros(sampling.n, len(every), dtype=torch.bool)
    masks[:, open_] = subsets
    grid = masks.view(sampling.n, *scores.mean.shape)
    chosen = _Chosen(model, metric, of_kind(model, kind), tuple(scores.axes), direction, grid)
    facts = {"what": kind, "direction": direction, "sampling": asdict(sampling)}
    described = describe(model, task, metric, "bound missed", {}, facts=facts)
    keeping = Keeping("bounding", described, (metric, masks, chosen.axes), Doing(batch_size, run))

    def finish(found: Found[Parts]) -> Missed:
        effects = found.total["effects"] / found.n_examples
        return Missed(tuple(scores.axes), tuple(labels[i] for i in open_), subsets, effects)

    return all_sums(model, task, chosen, keeping, finish)


@dataclass(frozen=True)
class _Chosen:
    """Exact patching of several places at once, chosen by cells of a grid with these axes."""

    model: Model
    metric: Metric
    places: Sequence[Place]
    axes: tuple[str, ...]
    direction: str
    masks: Bool[Tensor, "subset layer ..."]

    @without_gradients
    def __call__(self, batch: Batch) -> Parts:
        """Each subset's effect, summed over the batch."""
        metric, masks = self.metric, self.masks
        noising = self.direction == "noising"
        base, other = (batch.clean, batch.corrupt) if noising else (batch.corrupt, batch.clean)
        live = Live(place.hook for place in self.places)
        self.model.answer_logits(other, batch, live.hooks())
        seen = {name: tensor.to(other.device) for name, tensor in live.tensors.items()}
        start = measure(metric, self.model.answer_logits(base, batch), batch)
        found = torch.zeros(len(masks), dtype=torch.float64)

        def work(some: slice) -> None:
            hooks = [
                (place.hook, self._put(place, seen[place.hook], batch, masks[some]))
                for place in self.places
            ]
            rows = base.repeat(some.stop - some.start, 1)
            logits = self.model.answer_logits(rows, batch, hooks).unflatten(
                0, (some.stop - some.start, -1)
            )
            for i, own in enumerate(logits, start=some.start):
                found[i] = (measure(metric, own, batch) - start).double().sum().cpu()

        d_model = self.model.blocks[0].w_o.shape[2]
        in_tiles(len(masks), base.numel() * d_model * _BYTES_EACH, base.device, work)
        return {"effects": -found if noising else found}

    def _put(
        self, place: Place, other: Tensor, batch: Batch, masks: Bool[Tensor, "subset layer ..."]
    ) -> Hook:
        """The hook that patches one layer's chosen cells, subset by subset."""
        cells = masks[:, place.layer].to(other.device)
        at = cells[:, batch.places] if "pos" in self.axes else cells[:, None, None]
        real = batch.is_token.view(1, *batch.is_token.shape, *[1] * (at.ndim - 3))
        chosen = (at & real).flatten(0, 1)

        def hook(live: Tensor) -> Tensor:
            values = other.repeat(len(masks), *[1] * (other.ndim - 1))
            shown = values.movedim(place.pos_axis, 1), live.movedim(place.pos_axis, 1)
            where = chosen.view(*chosen.shape, *[1] * (live.ndim - chosen.ndim))
            return torch.where(where, *shown).movedim(1, place.pos_axis)

        return hook


def _difference(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
    effect = inside.mean() - outside.mean() if len(inside) and len(outside) else np.nan
    if min(len(inside), len(outside)) < 2:
        return effect, np.nan, 1.0
    parts = [side.var(ddof=1) / len(side) for side in (inside, outside)]
    if sum(parts) == 0:
        return effect, 0.0, 1.0
    spread = sum(p**2 / (len(s) - 1) for p, s in zip(parts, (inside, outside), strict=True))
    return effect, float(np.sqrt(sum(parts))), float(sum(parts) ** 2 / spread)


def _check(task: Task, scores: Grid, verified: int) -> tuple[str, str]:
    """The kind and direction of the scores.

    Raises:
        ValueError: as `bound_missed`.
    """
    kind, direction = str(scores.provenance.get("what")), str(scores.provenance.get("direction"))
    if direction not in BASES or scores.provenance.get("tokens") != task.hash:
        raise ValueError(
            "scores to be bounded are those of attribution_patching or atp_star on the same task, "
            f"denoising or noising; these are {direction}, on {scores.provenance.get('task')}"
        )
    if kind.startswith("resid"):
        raise ValueError(
            f"effects of {kind} at several layers do not add up: one stream holds the other; "
            "bound attn_out, mlp_out, z, q, k, v or neurons"
        )
    if next(iter(scores.axes), None) != "layer":
        raise ValueError(
            "scores to be bounded go over layers first, such as layer, head or layer, pos; these "
            f"have the axes {', '.join(scores.axes)}"
        )
    if not 0 <= verified < scores.mean.numel():
        raise ValueError(
            f"of {scores.mean.numel()} places, {verified} verified leave none to bound; verify "
            "fewer"
        )
    return kind, direction
