"""What is measured: each job is a function of a subject, by name."""

from collections.abc import Callable
from functools import cache, partial

import torch
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    attribution_patch,
)

from benchmarks.subject import RIGHT, WRONG, Subject
from circuits.circuit import Circuit
from circuits.features import Convention, trace
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.scoring import clean_corrupt, eap, eap_ig, exact, relp
from circuits.select import greedy, random_circuit
from patching.graph import Graph
from patching.metrics import logit_diff

N_CIRCUITS = 8
N_EXACT = 64

Job = Callable[[Subject], object]


def score_eap(subject: Subject) -> object:
    """EAP over all edges."""
    return eap(subject.model, subject.task, logit_diff)


def score_eap_ig(subject: Subject) -> object:
    """EAP-IG with 5 steps over all edges."""
    return eap_ig(subject.model, subject.task, logit_diff, steps=5)


def score_relp(subject: Subject) -> object:
    """RelP over all edges."""
    return relp(subject.model, subject.task, logit_diff)


def score_clean_corrupt(subject: Subject) -> object:
    """Gradients at both runs, over all edges."""
    return clean_corrupt(subject.model, subject.task, logit_diff)


def score_exact(subject: Subject) -> object:
    """Exact patching of some edges spread over all of them."""
    graph = subject.model.graph
    chosen = random_circuit(graph, N_EXACT, seed=0).edges
    return exact(subject.model, subject.task, logit_diff, edges=chosen)


def evaluate_share(share: float, n: int = N_CIRCUITS) -> Job:
    """Evaluation of some random circuits that keep a share of all edges."""
    return partial(_evaluate_share, share, n)


def _evaluate_share(share: float, n: int, subject: Subject) -> object:
    circuits = random_circuits(subject.model.graph, share, n)
    return evaluate(subject.model, subject.task, circuits, logit_diff)


@cache
def random_circuits(graph: Graph, share: float, n: int) -> tuple[Circuit, ...]:
    """Circuits of a share of all edges, drawn once."""
    return tuple(random_circuit(graph, int(share * graph.n_edges), seed=i) for i in range(n))


def evaluate_connected(share: float) -> Job:
    """The same, of circuits that `greedy` builds from the logits down by random scores."""

    def job(subject: Subject) -> object:
        circuits = _connected(subject.model.graph, share)
        return evaluate(subject.model, subject.task, circuits, logit_diff)

    return job


@cache
def _connected(graph: Graph, share: float) -> tuple[Circuit, ...]:
    shape, n = graph.exists.shape, int(share * graph.n_edges)
    draws = [
        torch.rand(shape, generator=torch.Generator().manual_seed(i)) for i in range(N_CIRCUITS)
    ]
    scored = [Scores(draw.double() * graph.exists, graph, {}) for draw in draws]
    return tuple(greedy(scores, n, ranking="absolute") for scores in scored)


def transformer_lens_eap(subject: Subject) -> object:
    """TransformerLens' own attribution patching at edge granularity; it needs live parameters."""
    bridge = subject.model.bridge.requires_grad_(True)
    try:
        return attribution_patch(
            bridge,
            subject.clean,
            subject.corrupt,
            lambda logits: logits[:, -1, RIGHT].sum() - logits[:, -1, WRONG].sum(),
            EdgeAttributionConfig(granularity="edge"),
        )
    finally:
        bridge.requires_grad_(False)


def trace_neurons(subject: Subject) -> object:
    """The attribution graph of the first prompt over its 256 strongest neurons, one target."""
    few, tokens = Convention(most=256), subject.clean[0].tolist()
    return trace(subject.model, tokens, "neurons", logits=1, convention=few, validity=0)


def plain_forward_backward(subject: Subject) -> object:
    """One forward and one backward of the plain model."""
    return subject.forward_backward()


SPEED_JOBS: dict[str, Job] = {
    "EAP": score_eap,
    "EAP-IG, 5 steps": score_eap_ig,
    "RelP": score_relp,
    "clean-corrupt": score_clean_corrupt,
    "attribution graph, 256 neurons": trace_neurons,
}
EXACT_JOBS: dict[str, Job] = {f"exact, {N_EXACT} random edges": score_exact}
EVALUATION_JOBS: dict[str, Job] = {
    f"{N_CIRCUITS} random circuits of 50 % of the edges": evaluate_share(0.5),
    f"{N_CIRCUITS} connected circuits of 1 % of the edges": evaluate_connected(0.01),
    f"{N_CIRCUITS} random circuits of 1 % of the edges": evaluate_share(0.01),
}
TINY_JOBS: dict[str, Job] = {
    "EAP": score_eap,
    "TransformerLens attribution_patch, edges": transformer_lens_eap,
}
MEMORY_JOBS: dict[str, Job] = {
    "plain forward + backward": plain_forward_backward,
    "EAP": score_eap,
    "EAP-IG, 5 steps": score_eap_ig,
    **EVALUATION_JOBS,
}
WIDE_MEMORY_JOBS = ("plain forward + backward", "EAP", "EAP-IG, 5 steps")


def synchronise(device: str) -> None:
    """Wait until the device has done its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
