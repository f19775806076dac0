"""Verification: how far approximate edge scores agree with exact ones, on a sample of edges.

Most edges of a model do nothing, and a plain sample would hardly meet those that do. So edges are
cut by the rank of their |score| into thirds of the *logarithm* of the rank (of 32491 edges: ranks
1 to 32, 33 to 1018, the rest), and each third gives as many edges to the sample, or all it has.

Correlations are weighted back: an edge of a third of N edges, of which n were drawn, counts N / n.
They estimate what the correlations over *all* edges would be. Intervals are 95 % percentile
intervals from bootstrap draws of the sampled edges, each with its weight. That treats a third
that was taken whole as a sample, too, which makes intervals a little wide.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from circuits.scores import Scores, rank
from circuits.scoring.single_edges import exact
from patching.ablations import Ablation, Prepared, prepared_for, resample
from patching.anatomy.identity import COMPUTES
from patching.files.brief import briefly
from patching.intervals import Estimate, drawn
from patching.metrics import Metric, name_of
from patching.model import Model
from patching.span_graph import plain_of, spans_of
from patching.tasks.task import Task

if TYPE_CHECKING:
    import pandas

    from patching.figures import Figure

STRATA = ("top", "middle", "bottom")
N_DRAWS = 1000
ROUNDING = 1e-6
"""Numbers this small, relative to the largest, have no sign: they are float32's rounding."""

_MOST_NUMBERS = 2**23  # compared at once while ranking draws: 64 MiB of float64


@briefly
@dataclass(frozen=True, eq=False)
class Verification:
    """Sampled edges, strongest first, with their approximate and exact scores.

    `weight` is how many edges of the graph each stands for. `pearson` and `spearman` are weighted
    by it. `sign_agreement` is the share of the sampled edges, unweighted, whose two scores have
    the same sign or are both 0; it speaks of all three strata alike.
    """

    edges: tuple[tuple[str, str], ...]
    stratum: tuple[str, ...]
    weight: Float[Tensor, " edge"]
    score: Float[Tensor, " edge"]
    exact: Float[Tensor, " edge"]
    pearson: Estimate
    spearman: Estimate
    sign_agreement: Estimate
    method: str

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per sampled edge, with the columns edge, score, exact, stratum and weight."""
        import pandas  # slow to import, and seldom needed

        columns = {
            "edge": [f"{source}->{dest}" for source, dest in self.edges],
            "score": self.score.numpy(),
            "exact": self.exact.numpy(),
            "stratum": self.stratum,
            "weight": self.weight.numpy(),
        }
        return pandas.DataFrame(columns)

    def summary(self) -> str:
        """The three numbers with their intervals, and the signs by stratum, as text."""
        counts = {name: self.stratum.count(name) for name in STRATA if name in self.stratum}
        drawn = ", ".join(f"{n} {name}" for name, n in counts.items())
        same = _same_sign(self.score.numpy(), self.exact.numpy())
        lines = [f"{self.method} against exact scores of {len(self.edges)} edges ({drawn})"]
        for name, estimate in self._estimates().items():
            interval = f"[{estimate.low:.3f}, {estimate.high:.3f}]"
            lines.append(f"  {name:<15}{estimate.value:6.3f}  95 % interval {interval}")
        for name in counts:
            share = same[[i for i, stratum in enumerate(self.stratum) if stratum == name]].mean()
            lines.append(f"  signs agree in the {name} stratum: {share:.0%}")
        return "\n".join(lines)

    def _estimates(self) -> dict[str, Estimate]:
        return {
            "Pearson": self.pearson,
            "Spearman": self.spearman,
            "sign agreement": self.sign_agreement,
        }


def verify(  # noqa: PLR0913 - the sample and the exact run have options of their own
    model: Model,
    task: Task,
    metric: Metric,
    scores: Scores,
    *,
    k: int = 200,
    ablation: Ablation = resample,
    seed: int = 0,
    batch_size: int = 16,
) -> Verification:
    """Compare scores with exact ones on about k edges, stratified by the rank of |score|.

    Costs two forwards of the task and k times the forward of the layers after an edge. The task
    may be another than the scores were made on. The correlations are NaN where one side is
    constant. Bootstrap: Efron 1979, Annals of Statistics 7.

    >>> from circuits.scoring import eap_ig
    >>> from patching.metrics import logit_diff
    >>> from patching.models import induction
    >>> model, task = Model.load("truth/induction"), induction(n=3).task
    >>> found = verify(model, task, logit_diff, eap_ig(model, task, logit_diff), k=20)
    >>> ("a1.h3", "logits") in found.edges, len(found.edges)
    (True, 20)

    Raises:
        ValueError: if k is not 3 or more, the scores are of another graph, model, metric or
            ablation, and as `exact`.
    """
    prepared = prepared_for(model, ablation)
    _check(model, metric, scores, prepared)
    chosen = sample(scores, k, seed=seed)
    graph, task = scores.graph, task.with_spans_of(spans_of(scores.graph))
    positions = torch.stack(torch.unravel_index(chosen.edges, graph.exists.shape), dim=1)
    edges = tuple(
        (graph.sources[source].name, graph.destinations[dest].name)
        for source, dest in positions.tolist()
    )
    true = exact(
        model, task, metric, edges=edges, ablation=lambda _: prepared, batch_size=batch_size
    )
    pair = [s.matrix.flatten()[chosen.edges] for s in (scores, true)]
    data = [pair[0].numpy(), pair[1].numpy(), chosen.weight.numpy()]
    return Verification(
        edges=edges,
        stratum=chosen.stratum,
        weight=chosen.weight,
        score=pair[0],
        exact=pair[1],
        pearson=_estimate(weighted_pearson, data, seed),
        spearman=_estimate(weighted_spearman, data, seed),
        sign_agreement=_estimate(_share, [_same_sign(*data[:2]).astype(float)], seed),
        method=str(scores.provenance.get("method", "scores")),
    )


@dataclass(frozen=True)
class Sample:
    """Flat indices of edges, strongest first, with their strata and how many each stands for."""

    edges: Int[Tensor, " edge"]
    stratum: tuple[str, ...]
    weight: Float[Tensor, " edge"]


def sample(scores: Scores, k: int, *, seed: int) -> Sample:
    """About k edges, as many from each stratum as it has; what one lacks the next ones give.

    Raises:
        ValueError: if k is less than 3.
    """
    if k < 3:
        raise ValueError(f"cannot verify on {k} edges; 3 is the least, some hundreds are usual")
    order = rank(scores, "absolute")
    n = len(order)
    ends = [0, round(n ** (1 / 3)), round(n ** (2 / 3)), n]
    generator = torch.Generator().manual_seed(seed)
    edges, names, weights, left = [], [], [], k
    for i, name in enumerate(STRATA):
        stratum = order[ends[i] : ends[i + 1]]
        n_drawn = min(len(stratum), left // (len(STRATA) - i))
        left -= n_drawn
        drawn = torch.randperm(len(stratum), generator=generator)[:n_drawn].sort().values
        edges.append(stratum[drawn])
        names += [name] * n_drawn
        weights += [len(stratum) / n_drawn] * n_drawn if n_drawn else []
    return Sample(torch.cat(edges), tuple(names), torch.tensor(weights, dtype=torch.float64))


def weighted_pearson(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pearson correlation over the last axis; NaN where one side is constant."""
    share = weight / weight.sum(axis=-1, keepdims=True)
    x = x - (share * x).sum(axis=-1, keepdims=True)
    y = y - (share * y).sum(axis=-1, keepdims=True)
    spread = (share * x * x).sum(axis=-1) * (share * y * y).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((share * x * y).sum(axis=-1) / np.sqrt(spread))


def weighted_spearman(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Pearson correlation of weighted ranks over the last axis; ties share their mean rank."""
    return weighted_pearson(_ranks(x, weight), _ranks(y, weight), weight)


def plot_verification(verification: Verification, *, title: str | None = None) -> "Figure":
    """Exact scores by approximate ones, one dot per sampled edge, and the line where both agree.

    Nothing is shown and no global state is changed.
    """
    from patching.figures import Figure  # slow to import, and not needed for the numbers

    figure = Figure(figsize=(3.3, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.axline((0, 0), slope=1, color="#888888", linewidth=0.8, linestyle="--", label="equal")
    colours: dict[str, str] = dict(
        zip(STRATA, ("#0072B2", "#E69F00", "#666666"), strict=True)
    )  # Okabe and Ito
    frame = verification.to_dataframe()
    for name, rows in reversed(list(frame.groupby("stratum", sort=False))):
        label = f"{name}: {len(rows)} edges"
        axes.scatter(rows["score"], rows["exact"], s=7, c=colours[str(name)], label=label, lw=0)
    axes.set_xlabel(f"score ({verification.method})", fontsize=7)
    axes.set_ylabel("exact: metric lost without the edge", fontsize=7)
    axes.tick_params(labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=6, loc="upper left")
    said = [f"{name} {e.value:.2f}" for name, e in verification._estimates().items()]
    axes.text(0.98, 0.02, "\n".join(said), transform=axes.transAxes, fontsize=6, ha="right")
    if title:
        axes.set_title(title, fontsize=8)
    return figure


def _ranks(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weight below each value and half of that equal to it."""
    below = (x[..., None, :] < x[..., :, None]) * 1.0
    below += 0.5 * (x[..., None, :] == x[..., :, None])
    return (below @ weight[..., None])[..., 0]


def _same_sign(score: np.ndarray, true: np.ndarray) -> np.ndarray:
    return _signs(score) == _signs(true)


def _signs(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) > ROUNDING * np.abs(x).max(initial=0), np.sign(x), 0)


def _share(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(x.mean(axis=axis))


def _estimate(
    statistic: Callable[..., np.ndarray], data: Sequence[np.ndarray], seed: int
) -> Estimate:
    """The statistic with its 95 % percentile interval, edges drawn together with their weights."""

    def over_last(*parts: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(*(np.moveaxis(part, axis, -1) for part in parts))

    n = len(data[0])
    with warnings.catch_warnings():  # of ends that are NaN, which the estimate shows
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        low, high = drawn(data, over_last, N_DRAWS, seed, at_once=_MOST_NUMBERS // n**2)
    return Estimate(float(statistic(*data)), float(low), float(high))


def _check(model: Model, metric: Metric, scores: Scores, ablation: Prepared) -> None:
    model.graph.require_same(plain_of(scores.graph), "these scores are")
    differ = model.identity.differences(scores.provenance, COMPUTES)
    if differ:
        raise ValueError(
            f"these scores were made with another {' and another '.join(differ)} than {model.name} "
            "has; the two must be the same"
        )
    asked = {"metric": name_of(metric), "ablation": ablation.name}
    for field, ours in asked.items():
        theirs = scores.provenance.get(field, ours)
        if theirs != ours:
            raise ValueError(
                f"these scores were made with another {field} ({theirs}) than they are to be "
                f"verified with ({ours}); the two must be the same"
            )
