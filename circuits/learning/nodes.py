"""Subnetwork probing: masks of heads and MLPs, learned under a price for each."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.learning.hard_concrete import keep_probability, sample
from circuits.learning.learned import Learned, require_penalty, require_size
from circuits.learning.setting import prepare
from circuits.nodes import top_nodes
from circuits.scores import Scores
from patching.ablations import Ablation, resample
from patching.descent import Parameter, Schedule, Step, descend
from patching.metrics import Metric, kl
from patching.model import Model
from patching.tasks.task import Task

PROBING = Schedule(steps=300, rate=0.1)
PENALTY = 0.05  # per head or MLP
_CENTRE = 2.2  # log-odds at the start: kept with 90 % and more


def subnetwork_probing(
    model: Model,
    task: Task,
    metric: Metric = kl,
    *,
    size: int,
    penalty: float = PENALTY,
    schedule: Schedule = PROBING,
    ablation: Ablation = resample,
) -> Learned:
    """The `size` heads and MLPs worth their price, each removed whole: for all that read it.

    Each has a hard concrete mask, drawn anew for every example; log-odds are learned by
    mean |metric(clean) - metric(masked)| + penalty * expected number of nodes kept. The embedding
    is always kept. The scores are the probabilities to be kept, shared out evenly among a writer's
    outgoing edges, so that `scores.node_scores()` are the probabilities themselves; the circuit is
    that of whole nodes. Cao et al. 2021, arXiv:2104.03514. Costs what edge pruning costs.

    Raises:
        ValueError: if the graph has fewer than `size` heads and MLPs, the metric has no gradient,
            task and model do not fit, the task keeps spans apart, or the folder holds another
            training.
    """
    graph = model.graph
    n_nodes = len(graph.sources) - 1
    require_size(n_nodes, size, "heads and MLPs")
    require_penalty(penalty)
    task.require_whole("subnetwork probing")
    setting = prepare(model, task, metric, ablation)
    writers = graph.exists.nonzero()[:, 0].to(model.device)  # of each edge

    def objective(
        values: Mapping[str, Tensor], step: Step
    ) -> tuple[Float[Tensor, ""], Mapping[str, float]]:
        kept = sample(values["log odds"], len(step.rows), step.noise)
        whole = torch.cat([torch.ones_like(kept[:, :1]), kept], dim=1)
        distance = setting.distance(step.rows, setting.remove(whole[:, writers]))
        expected = keep_probability(values["log odds"]).sum()
        watched = {"distance": float(distance.detach()), "nodes": float(expected.detach())}
        return distance + penalty * expected, watched

    facts = setting.facts(
        "subnetwork-probing", {**schedule.options, "size": size, "penalty": penalty}, None
    )
    log_odds = torch.full((n_nodes,), _CENTRE, dtype=torch.float64, device=model.device)
    parameters = {"log odds": Parameter(log_odds, schedule.rate)}
    values, history = descend(
        parameters, objective, len(task), schedule, facts=facts, functions=setting.functions
    )
    probabilities = keep_probability(values["log odds"])
    whole = torch.cat([torch.ones_like(probabilities[:1]), probabilities])
    shared = whole[writers] / torch.bincount(writers)[writers]
    return Learned(setting.score_edges(shared, facts, history), history, size, _whole_nodes)


def _whole_nodes(scores: Scores, size: int) -> Circuit:
    return top_nodes(scores, size, ranking="signed")
