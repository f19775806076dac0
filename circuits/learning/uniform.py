"""Uniform gradient sampling: masks of all edges, each learned by a window around its threshold."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.learning.learned import Learned, connected, logits_of, require_penalty, require_size
from circuits.learning.setting import prepare
from circuits.scores import Scores
from patching.ablations import resample
from patching.descent import Parameter, Schedule, Step, descend
from patching.metrics import Metric, kl
from patching.model import Model
from patching.span_graph import kept_apart
from patching.tasks.task import Task

SAMPLING = Schedule(steps=400, rate=0.1)
PENALTY = 1e-3  # per edge
_CENTRE, _SPREAD = 1.0, 1.0  # log-odds at the start: kept with 73 %; what an order adds to them
_NARROWEST = 1e-9  # windows of masks that are all but decided


def uniform_sampling(
    model: Model,
    task: Task,
    metric: Metric = kl,
    *,
    size: int,
    penalty: float = PENALTY,
    start: Scores | None = None,
    schedule: Schedule = SAMPLING,
) -> Learned:
    """The `size` edges whose keeping pays off, each weighed with all others at random.

    Keep probabilities theta are learned by mean |metric(clean) - metric(masked)| + penalty * sum
    of theta. A mask is 1 or 0 with that probability, but uniform between where a uniform number
    falls within a window of width theta (1 - theta) around theta; only then is there a gradient, so
    that the distance's slope counts theta (1 - theta) times, and the penalty's whole. Removed edges
    carry what they carry in the corrupt run, so that edges that lead nowhere get no gradient by
    themselves. The penalty is in units of the metric for an edge: the smaller, the more edges stay.
    Li and Janson 2024, arXiv:2409.09951. Masks are by span where the task keeps some apart. Costs
    what edge pruning costs.

    Raises:
        ValueError: if the graph is smaller than `size` or another than that of `start`, the metric
            has no gradient, task and model do not fit, or the folder holds another training.
    """
    graph = kept_apart(model.graph, task.apart)
    require_size(graph.n_edges, size, "edges")
    require_penalty(penalty)
    setting = prepare(model, task, metric, resample)
    log_odds = logits_of(graph, start, centre=_CENTRE, spread=_SPREAD)

    def objective(
        values: Mapping[str, Tensor], step: Step
    ) -> tuple[Float[Tensor, ""], Mapping[str, float]]:
        kept = sample(values["log odds"], len(step.rows), step.noise)
        distance = setting.distance(step.rows, setting.remove(kept))
        expected = values["log odds"].sigmoid().sum()
        watched = {"distance": float(distance.detach()), "edges": float(expected.detach())}
        return distance + penalty * expected, watched

    facts = setting.facts(
        "uniform-sampling", {**schedule.options, "size": size, "penalty": penalty}, start
    )
    parameters = {"log odds": Parameter(log_odds.to(model.device), schedule.rate)}
    values, history = descend(
        parameters, objective, len(task), schedule, facts=facts, functions=setting.functions
    )
    scores = setting.score_edges(values["log odds"].sigmoid(), facts, history)
    return Learned(scores, history, size, connected)


def sample(
    log_odds: Float[Tensor, " mask"], n: int, noise: torch.Generator
) -> Float[Tensor, "sample mask"]:
    """Masks for n examples, whose slope by the keep probability is 1 within the window, else 0."""
    kept = log_odds.sigmoid()
    window = (kept * (1 - kept)).detach().clamp(min=_NARROWEST)
    level = window * kept + ((1 - window) * kept).detach()  # its value is kept, its slope window
    u = torch.rand(n, len(kept), generator=noise, dtype=torch.float64).to(kept)
    return 1 - ((u - level) / window + 0.5).clamp(0, 1)
