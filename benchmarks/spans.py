"""What keeping spans apart costs beside what is done without: scores, and running circuits."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from benchmarks.jobs import N_CIRCUITS, random_circuits
from benchmarks.subject import Subject
from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from circuits.scoring import eap, eap_ig
from circuits.select import random_circuit
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.span_graph import kept_apart
from patching.tasks.spans import END, Span
from patching.tasks.task import Task

SHARES = (0.5, 0.1)
"""Of fewer random edges, circuits without spans are mostly dead: runs of them skip nearly all."""

PLACES = (0.15, 0.3, 0.6)
"""Where in a prompt three spans of one token stand, as shares of its length; the last is `end`."""

Pair = tuple[Callable[[], object], Callable[[], object]]


def with_spans(task: Task) -> Task:
    """The prompts with four spans of a token each; all else is `rest`, as in indirect objects."""
    prompts = []
    for prompt in task.prompts:
        n = len(prompt.clean)
        places = {f"s{i}": int(share * n) for i, share in enumerate(PLACES)} | {END: n - 1}
        spans = tuple(Span(name, at, at + 1) for name, at in places.items())
        prompts.append(replace(prompt, spans=spans))
    return replace(task, prompts=tuple(prompts)).by_span()


def jobs(subject: Subject) -> dict[str, Pair]:
    """Each work without spans, and with them apart."""
    model, whole, apart = subject.model, subject.task, with_spans(subject.task)
    found: dict[str, Pair] = {
        name: (partial(work, model, whole, logit_diff), partial(work, model, apart, logit_diff))
        for name, work in {"EAP": eap, "EAP-IG, 5 steps": eap_ig}.items()
    }
    for share in SHARES:
        plain = random_circuits(model.graph, share, N_CIRCUITS)
        by_span = _random_by_span(kept_apart(model.graph, apart.apart), share)
        found[f"{N_CIRCUITS} random circuits of {share:.0%} of the edges"] = (
            partial(evaluate, model, whole, plain, logit_diff),
            partial(evaluate, model, apart, by_span, logit_diff),
        )
    return found


@cache
def _random_by_span(graph: Graph, share: float) -> tuple[Circuit, ...]:
    """Circuits of a share of all pairs of edge and span."""
    n = int(share * graph.n_edges)
    return tuple(random_circuit(graph, n, seed=i) for i in range(N_CIRCUITS))
