"""Second order: how far first-order scores of edges can be trusted, and what curvature adds.

Removing an edge moves its reader's input by minus D, the write's difference. To second order the
metric loses

    g . D  -  D . H D / 2

where the first term is EAP's score and H the metric's second derivative by that input, everything
downstream live. The second term takes a Hessian-vector product (HVP), a second backward through the
first one, for every edge by itself: as much as three forwards, where exact patching of the edge
takes at most one. So for all edges at once there are only estimates, all from one differentiable
run in which every edge has a number (`steered`):

- **joint** (`probes=0`): all edges move together, one HVP. An edge gets `-D . (H D_all) / 2`, its
  own term and half its interactions with all other edges. The sum over edges is exactly the
  second-order term of moving all readers' inputs by these D (not of removing all edges: then the
  writes themselves would move too); an edge's part is its own term only where edges do not
  interact.
- **random signs** (`probes=k`): `-D . (H z D) z / 2` averaged over k random signs z an edge, one
  HVP each. Without bias the edge's own term (Bekas et al. 2007, Applied Numerical Mathematics 57);
  its variance is the sum of the edge's squared interactions, so few probes are noisy.
- **own** (`edges=...`): the exact term, for chosen edges.

A head whose softmax is saturated has neither slope nor curvature, and no flag: only integration or
patching sees it. "When Attribution Patching Lies", arXiv:2606.09899, of which only the abstract was
known here: one HVP a direction, a reliability score, and Screen-Flag-Fix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.circuit import Circuit
from circuits.running.pair import run_pair
from circuits.running.rewiring import lay_out
from circuits.running.steered import Steered
from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, Portion, TaskScores, score_batches, whole
from circuits.scoring.gather import prepare
from circuits.scoring.single_edges import Edge, exact
from patching.ablations import Ablation, prepared_for, resample
from patching.files.brief import briefly
from patching.gathering import Job, Recipe
from patching.gradients import ReaderGradients
from patching.graph import Graph
from patching.metrics import Metric
from patching.model import Model
from patching.modes import with_gradients, without_gradients
from patching.paths import Path
from patching.progress import within
from patching.runs.batches import Doing, Keeping
from patching.tasks.task import Batch, Task
from patching.work import Run

AT_ONCE = 16
"""Edges whose own terms are worked out together: as many copies of the batch."""

_CLEAN = Path("clean", "2F + 1B + HVPs")  # no weight: metrics that are flat there have curvature


@briefly
@dataclass(frozen=True, eq=False)
class Curvature:
    """First-order scores, and what the second order adds to each (0 where it was not asked for)."""

    first: Scores
    second: Float[Tensor, "source dest"]

    @property
    def scores(self) -> Scores:
        """Both orders together."""
        return replace(self.first, matrix=self.first.matrix + self.second)

    @property
    def unreliability(self) -> Float[Tensor, "source dest"]:
        """|second| / |first|: from about 1 on, the first order says nothing; infinite, if it is 0.

        0 where both are.
        """
        ratio = self.second.abs() / self.first.matrix.abs()
        return torch.where(self.second == 0, torch.zeros_like(ratio), ratio)

    def flagged(self, n: int) -> Circuit:
        """The n edges whose first-order score is expected to be furthest off: largest |second|.

        Raises:
            ValueError: if the graph has not n edges.
        """
        graph = self.first.graph
        if not 0 <= n <= graph.n_edges:
            raise ValueError(f"cannot flag {n} edges; this graph has {graph.n_edges}")
        size = self.second.abs().where(graph.exists, -1.0).flatten()
        mask = torch.zeros_like(graph.exists)
        mask.view(-1)[size.sort(descending=True, stable=True).indices[:n]] = True
        return Circuit(mask, graph, self.second, self.first.provenance)


def curvature(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    probes: int = 0,
    edges: Sequence[Edge] | None = None,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Curvature:
    """First-order scores at the clean run with their second-order terms: joint, random or own.

    Metrics that are flat at the clean run (`kl`) have curvature there all the same: their scores
    are the second order alone. The random signs are the same for all batches and in all calls.

    >>> from patching.models import induction
    >>> from patching.metrics import logit_diff
    >>> model, task = Model.load("truth/induction"), induction(n=3).task
    >>> found = curvature(model, task, logit_diff)
    >>> round(found.first.of("a1.h3", "logits"))
    18

    Raises:
        ValueError: if there are fewer than 0 probes, or probes and edges, the graph lacks an edge,
            and as `score`.
    """
    if probes < 0 or (probes and edges is not None):
        raise ValueError(
            f"either edges, or 0 probes (the joint direction) or more; got {probes} probes"
            f"{'' if edges is None else ' and edges'}"
        )
    task.require_whole("eap_hvp")
    job = prepare(model, task, metric, Recipe(_CLEAN, ablation=ablation))
    score_batch = _ScoreBatch(job, probes, None if edges is None else _indices(model.graph, edges))
    described = job.describe(task, "eap-hvp")
    along: str | list[str] = f"{probes} random signs" if probes else "joint"
    if edges is not None:
        along = [f"{source}->{dest}" for source, dest in edges]
    options = {"path": "clean", "rule": "plain", "along": along}
    described = {**described, "options": options}
    keeping = Keeping("curvature", described, job.functions, Doing(batch_size, run), "scores")

    def finish(found: TaskScores) -> Curvature:
        first, second = found.mean.unbind(dim=-1)
        scores = Scores(first.contiguous(), model.graph, found.provenance)
        return Curvature(scores, second.contiguous())

    return score_batches(model, task, [Portion(score_batch)], keeping, finish)


def eap_hvp(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    probes: int = 8,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """EAP plus its second-order correction, estimated by random signs (0: in the joint direction).

    See this module for what that is an estimate of. Costs two forwards, one backward and one
    double backward a probe, of a run in which every reader has its own input.

    Raises:
        ValueError: as `curvature`.
    """
    return curvature(
        model, task, metric, probes=probes, ablation=ablation, batch_size=batch_size, run=run
    ).scores


def screen_flag_fix(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    n: int,
    probes: int = 0,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """First-order scores of all edges, with those of the n least trusted replaced by exact ones.

    Screen: EAP. Flag: the n edges of the largest |second-order term|. Fix: exact patching.
    `provenance["fixed"]` names them. Costs what `curvature` costs and about 0.35 F an edge fixed.

    Raises:
        ValueError: if n is not a number of edges of the graph, 1 at least, and as `curvature`.
    """
    if n < 1:
        raise ValueError(f"at least one edge is to be fixed, got {n}; take eap to fix none")
    prepared = prepared_for(model, ablation)
    how = {"ablation": lambda _: prepared, "batch_size": batch_size, "run": run}
    with whole():
        found = curvature(model, task, metric, probes=probes, **how)
        flagged = found.flagged(n)
        true = exact(model, task, metric, edges=flagged.edges, **how)
    matrix = torch.where(flagged.mask, true.matrix, found.first.matrix)
    fixed = [f"{source}->{dest}" for source, dest in flagged.edges]
    options = {"n": n, "probes": probes}
    provenance = {**found.first.provenance, "method": "screen-flag-fix", "options": options}
    return Scores(matrix, model.graph, {**provenance, "fixed": fixed})


@dataclass(frozen=True)
class _ScoreBatch:
    """First and second order of one batch, along a last axis."""

    job: Job[ReaderGradients]
    probes: int
    edges: Int[Tensor, "edge 2"] | None

    @without_gradients
    def __call__(self, batch: Batch) -> BatchScores:
        model = self.job.model
        pair = run_pair(model, batch, self.job.prepared)
        batch = replace(batch, clean_logits=pair.clean.logits)
        steered = Steered.of(model, batch, self.job.metric, pair)
        first, second = self._all(steered)
        if self.edges is not None:
            second = _own(steered, self.edges)
        exists = model.graph.exists[..., None]
        return BatchScores(torch.stack([first, second], dim=-1).where(exists, 0.0), None)

    def _all(
        self, steered: Steered
    ) -> tuple[Float[Tensor, "source dest"], Float[Tensor, "source dest"]]:
        """First order, and the mean over the directions of the second."""
        like, graph = steered.difference, self.job.model.graph
        c = like.new_zeros(1, *graph.exists.shape, requires_grad=True)
        directions = [] if self.edges is not None else list(_directions(graph, self.probes))
        second = torch.zeros(graph.exists.shape, dtype=torch.float64)
        with with_gradients():
            value = steered(c).sum()
            (slope,) = torch.autograd.grad(value, c, create_graph=bool(directions))
            for direction in directions:
                along = (slope[0] * direction.to(slope)).sum()
                (product,) = torch.autograd.grad(along, c, retain_graph=True)
                second -= direction * product[0].double().cpu() / (2 * len(directions))
        return -slope.detach()[0].double().cpu(), second


def _directions(graph: Graph, probes: int) -> Iterator[Float[Tensor, "source dest"]]:
    """All edges together, or random signs for each."""
    exists = graph.exists.double()
    if not probes:
        yield exists
    generator = torch.Generator().manual_seed(0)
    for _ in range(probes):
        yield (2 * torch.randint(0, 2, exists.shape, generator=generator) - 1) * exists


def _own(steered: Steered, edges: Int[Tensor, "edge 2"]) -> Float[Tensor, "source dest"]:
    """The exact second-order term of each edge by itself; 0 for all others."""
    graph = steered.model.graph
    shape = graph.exists.shape
    second, told = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.bool)
    for some in within(edges.split(AT_ONCE)):
        source, dest = some.unbind(dim=1)
        readers = torch.zeros(shape[1], dtype=torch.bool)
        readers[dest] = True
        some_readers = replace(steered, layout=lay_out(graph, readers, told))
        number = steered.difference.new_zeros(len(some), requires_grad=True)
        where = torch.arange(len(some)), source, dest
        with with_gradients():
            c = number.new_zeros(len(some), *shape).index_put(where, number)
            value = some_readers(c).sum()
            (slope,) = torch.autograd.grad(value, number, create_graph=True)
            (curve,) = torch.autograd.grad(slope.sum(), number)
        second[source, dest] = -curve.double().cpu() / 2
    return second


def _indices(graph: Graph, edges: Sequence[Edge]) -> Int[Tensor, "edge 2"]:
    if not edges:
        raise ValueError("no edges to work out; give at least one, or None for an estimate of all")
    return torch.tensor([graph.edge_index(source, dest) for source, dest in edges])
