"""Edge pruning: masks of all edges, learned together under a budget that shrinks."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.learning.hard_concrete import sample
from circuits.learning.learned import Learned, connected, logits_of, require_size
from circuits.learning.setting import Setting, prepare
from circuits.scores import Scores
from patching.ablations import Ablation, resample
from patching.descent import Parameter, Schedule, Step, descend
from patching.metrics import Metric, kl
from patching.model import Model
from patching.span_graph import kept_apart
from patching.tasks.task import Task

PRUNING = Schedule(steps=400, rate=0.2)
_CENTRE, _SPREAD = 0.0, 2.0  # log-odds at the start, before the budget; what an order adds
_FAR, _HALVINGS, _FLATTEST = 60.0, 100, 1e-30
_SHRINKING = 0.7  # share of the steps in which the budget shrinks from all edges to `size`


def edge_pruning(
    model: Model,
    task: Task,
    metric: Metric = kl,
    *,
    size: int,
    start: Scores | None = None,
    schedule: Schedule = PRUNING,
    ablation: Ablation = resample,
) -> Learned:
    """The `size` edges that together keep the metric nearest to that of the full model.

    Each edge has a hard concrete mask, drawn anew for every example; log-odds are learned by

        mean |metric(clean) - metric(masked)|    with    expected number of edges kept = budget.

    The budget shrinks geometrically to `size` in the first 70 % of the steps, and is met in every
    step: by one number added to all log-odds, which is the multiplier of the constraint, solved for
    rather than raised by and by (`within_budget`). In the end the edges most likely to be kept are
    taken, exactly `size` of them where paths allow (`connected`). Bhaskar et al. 2024,
    arXiv:2406.16778, who shrink linearly, learn two multipliers and mask writers too. Where the
    task keeps spans apart, each edge has a mask at each of them. Costs two forwards, one masked
    forward and its backward a step.

    Args:
        model: what is pruned.
        task: prompts to learn on.
        metric: with a gradient; `kl` compares all logits with the full model's.
        size: how many edges to keep.
        start: scores by whose order masks start (Mondorf et al. 2025, arXiv:2510.06811).
        schedule: steps, rate of the log-odds, folder to resume from.
        ablation: what removed edges carry.

    Raises:
        ValueError: if the graph is smaller than `size` or another than that of `start`, the metric
            has no gradient, task and model do not fit, or the folder holds another training.
    """
    graph = kept_apart(model.graph, task.apart)
    require_size(graph.n_edges, size, "edges")
    setting = prepare(model, task, metric, ablation)
    log_odds = logits_of(graph, start, centre=_CENTRE, spread=_SPREAD)
    parameters = {"log odds": Parameter(log_odds.to(model.device), schedule.rate)}
    objective = _Objective(setting, size, max(1, int(_SHRINKING * schedule.steps)))
    facts = setting.facts("edge-pruning", {**schedule.options, "size": size}, start)
    values, history = descend(
        parameters,
        objective,
        len(task),
        schedule,
        facts=facts,
        functions=setting.functions,
        earliest=objective.n_shrinking,
    )
    kept = within_budget(values["log odds"], float(size)).sigmoid()
    scores = setting.score_edges(kept, facts, history)
    return Learned(scores, history, size, connected)


class _Objective:
    def __init__(self, setting: Setting, size: int, n_shrinking: int) -> None:
        self.n_shrinking = n_shrinking
        self._setting, self._size = setting, size

    def __call__(
        self, values: Mapping[str, Tensor], step: Step
    ) -> tuple[Float[Tensor, ""], Mapping[str, float]]:
        n_edges = self._setting.graph.n_edges
        share = min(1.0, (step.number + 1) / self.n_shrinking)
        budget = n_edges * (self._size / n_edges) ** share
        log_odds = within_budget(values["log odds"], budget)
        kept = sample(log_odds, len(step.rows), step.noise)
        distance = self._setting.distance(step.rows, self._setting.remove(kept))
        return distance, {"distance": float(distance.detach()), "edges": budget}


def within_budget(log_odds: Float[Tensor, " mask"], budget: float) -> Float[Tensor, " mask"]:
    """Log-odds moved by one number for all, so that `budget` masks are expected to be kept.

    That is: to be above a half, so that many masks with little hope take up no budget. The slope by
    each is what it does for the loss itself less what it takes from all others.
    """
    with torch.no_grad():
        low, high = -_FAR - log_odds.max(), _FAR - log_odds.min()
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            too_many = (log_odds + middle).sigmoid().sum() > budget
            low, high = torch.where(too_many, low, middle), torch.where(too_many, middle, high)
    kept = (log_odds + low).sigmoid()
    slope = (kept * (1 - kept)).sum().detach().clamp(min=_FLATTEST)
    return log_odds + low - (kept.sum() - kept.sum().detach()) / slope
