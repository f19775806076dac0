"""Do edge scores hold against what they must equal: node scores, slopes, exact patching?"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.cautions import DOUBTFUL
from circuits.doctor.finding import Finding, at_least, at_most
from circuits.judging.verification import verify
from circuits.running.many import measure_circuits
from circuits.running.pair import run_pair
from circuits.scores import Scores
from circuits.scoring import eap, eap_ig
from patching.ablations import Ablation, resample
from patching.attribution import attribute
from patching.metrics import Metric
from patching.model import Model
from patching.modes import without_gradients
from patching.tasks.task import Task

STEPS = {torch.float64: 1e-3, torch.float32: 1e-2}
"""How much of an edge is removed to see a slope: rounding is divided by it, curvature grows."""

LEAST_PEARSON = 0.7
"""Below, less than half of the variance of exact effects is explained."""

N_SLOPES = 12
N_EXACT = 30
_ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-3}
_ROUNDING_HALF = 5e-2


def sums_to_nodes(model: Model, task: Task, metric: Metric) -> Finding:
    """Edge scores out of a writer sum to its own attribution score, both by EAP."""
    edges = _scored(model, task, metric).node_scores()
    nodes = attribute(model, task, metric).writers
    error = float((edges - nodes).abs().max()) / _size(model, task, nodes)
    limit = _ROUNDING.get(model.dtype, _ROUNDING_HALF)
    return Finding(
        name="edges sum to nodes",
        subject="model",
        verdict=at_most(error, limit, 10 * limit),
        measured=error,
        threshold=limit,
        unit="relative error",
        means="The scores of a writer's edges against its own attribution score.",
        advice="Look at the stream and the hooks first, then the dtype.",
    )


def slopes(model: Model, task: Task, metric: Metric) -> Finding:
    """EAP scores are the slopes of exact interventions: edges are removed by a small part.

    Some random edges and one into every MLP and the logits, by central differences.
    """
    scores = _scored(model, task, metric)
    edges = _some_edges(scores)
    found = _slopes(model, task, metric, edges, STEPS[model.dtype])
    expected = torch.stack([scores.matrix[edge] for edge in edges])
    error = float((found - expected).abs().max()) / _size(model, task, scores.matrix)
    return Finding(
        name="scores are slopes",
        subject="model",
        verdict=at_most(error, 0.01, 0.05),
        measured=error,
        threshold=0.01,
        unit="relative error",
        means=f"EAP of {len(edges)} edges against removing a small part of each edge exactly.",
        advice="Attention kernels, hooks or experts that jump may be at fault; load in float64.",
    )


def adds_up(model: Model, task: Task, metric: Metric) -> Finding:
    """The scores of the embedding's edges, by EAP, sum to the clean-corrupt gap."""
    scores = _scored(model, task, metric)
    error = scores.completeness_error
    assert error is not None, "EAP has a completeness delta"
    return Finding(
        name="scores add up",
        subject="task",
        verdict=at_most(error, DOUBTFUL),
        measured=error,
        threshold=DOUBTFUL,
        unit="of the gap",
        means="How far EAP's scores of all edges out of the embedding are from adding up to the "
        "gap between clean and corrupt prompts.",
        advice="Scores may be of the wrong size or sign: "
        "integrate (eap-ig), or rank by absolute value.",
    )


def exact_agrees(
    model: Model, task: Task, metric: Metric, ablation: Ablation = resample
) -> Finding:
    """EAP-IG against exact patching on a sample of edges, weighted to stand for all of them."""
    scores = eap_ig(model, task, metric, ablation=ablation)
    found = verify(model, task, metric, scores, k=N_EXACT, ablation=ablation)
    measured = found.pearson.value
    verdict = at_least(measured, LEAST_PEARSON)
    return Finding(
        name="sample agrees with exact",
        more_is_better=True,
        subject="task",
        verdict="doubtful" if verdict == "unusable" else verdict,
        measured=measured,
        threshold=LEAST_PEARSON,
        unit="Pearson",
        means=f"EAP-IG (5 steps) against exact patching on {N_EXACT} edges and {len(task)} "
        "prompts; the weakest edges are compared too.",
        advice="Take more steps, or `exact` for the edges that matter; see `circuits.verify`.",
        details=(("sign agreement", found.sign_agreement.value),),
    )


def _scored(model: Model, task: Task, metric: Metric) -> Scores:
    """By EAP; what is to be said of its sum is a finding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return eap(model, task, metric)


def _slopes(
    model: Model, task: Task, metric: Metric, edges: list[tuple[int, int]], step: float
) -> Float[Tensor, " edge"]:
    removed = torch.zeros(2 * len(edges), *model.graph.exists.shape, dtype=model.dtype)
    for i, (source, dest) in enumerate(edges):
        removed[2 * i, source, dest], removed[2 * i + 1, source, dest] = step, -step
    values = torch.zeros(len(removed), dtype=torch.float64)
    prepared = resample(model)
    for batch in task.batches(len(task), model.device):
        pair = run_pair(model, batch, prepared)
        values += measure_circuits(model, batch, pair, removed, (metric,))[0].sum(dim=1)
    return (values[1::2] - values[0::2]) / (2 * step * len(task))


def _some_edges(scores: Scores) -> list[tuple[int, int]]:
    graph = scores.graph
    order = torch.randperm(graph.n_edges, generator=torch.Generator().manual_seed(0))
    chosen = graph.exists.nonzero()[order[:N_SLOPES]].tolist()
    chosen += [[0, graph.mlp_reader(layer)] for layer in range(graph.n_layers)][:N_SLOPES]
    chosen.append([len(graph.sources) - 1, len(graph.destinations) - 1])
    return [(source, dest) for source, dest in chosen]


@without_gradients
def _size(model: Model, task: Task, scores: Float[Tensor, "*shape"]) -> float:
    """What errors are relative to: the largest score, or a hundredth of the largest logit.

    Where nothing has an effect, scores are the rounding of logits and have no size of their own.
    """
    batches = task.batches(len(task), model.device)
    logits = torch.cat([model.answer_logits(batch.clean, batch) for batch in batches])
    return max(float(scores.abs().max()), 0.01 * float(logits.abs().max()))
