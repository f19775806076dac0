"""Heads of a circuit: what they look like, by attention and writes, and whether they are.

A role is read off attention and direct logit attribution; each has one causal test that could
refute it, an exact one: edges of the whole model are removed, and what is lost of the gap is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.real.facts import Fact, estimated, kept
from benchmarks.real.further import faithfulness
from benchmarks.real.methods import scores_of, selector_of, trial_of
from benchmarks.real.subjects import Subject
from circuits.circuit import Circuit
from circuits.judging.smallest import Goal, smallest
from circuits.naming import kind_of
from circuits.running.trial import Trial
from circuits.running.trial import run as run_circuits
from circuits.select import SELECTORS
from patching.attention import head_scores, patterns
from patching.graph import Graph
from patching.lens import direct_logit_attribution
from patching.model import Model
from patching.tasks import Task

N_HEADS = 12
"""Heads that are looked at: those whose edges in the circuit score most."""

LEAST = 0.03
"""Of the gap: less is not told from nothing."""

HALF, THIRD = 0.5, 1 / 3
"""Of what a head is worth: what must go by the way that its role names."""

LOOKS = {"duplicate token": 0.3, "induction": 0.3, "previous token": 0.4}
"""Shares of attention from which a head looks like one of these."""

WRITES, AGAINST, STEERS = "writes the answer", "writes against it", "steers the writers"
OF_IOI = {WRITES: "name mover", AGAINST: "negative name mover", STEERS: "S-inhibition"}
"""What Wang et al. 2022 (arXiv:2211.00593) call them."""

GOAL = 0.8

WHOLE, DIRECT, QUERIES, INPUTS = "all", "to the logits", "to writers' queries", "to other inputs"
"""Which of a head's edges are removed; other inputs are those of any head that is looked at."""


@dataclass(frozen=True)
class Look:
    """What is measured of a head without touching it; `promotes` is a share of the clean metric."""

    attends: str
    share: float
    promotes: float
    shares: Mapping[str, float]

    def role(self, is_ioi: bool) -> str:
        """What it looks like; without a name, where it reads."""
        if abs(self.promotes) >= LEAST:
            role = WRITES if self.promotes > 0 else AGAINST
            return OF_IOI[role] if is_ioi and self.attends == "IO" else role
        for name, least in LOOKS.items():
            if self.shares.get(name, 0.0) >= least:
                return name
        if is_ioi and self.attends in ("S1", "S2"):
            return OF_IOI[STEERS]
        return f"reads {self.attends}"


def measure(model: Model, subject: Subject, folder: Path) -> list[Fact]:
    """The smallest circuit of `auto` that keeps 80 %, its heads, their roles and tests."""
    if any(prompt.is_long for prompt in subject.judged.prompts):
        return []
    return kept(folder / f"heads-{subject.slug}.csv", partial(_measure, model, subject, folder))


def _measure(model: Model, subject: Subject, folder: Path) -> list[Fact]:
    scores = scores_of(folder, subject)
    goal = Goal("absolute", GOAL, SELECTORS[selector_of(scores)])
    circuit = smallest(model, subject.found, scores, subject.metric, goal)
    circuit.save(circuit_file(folder, subject.slug))
    trial = trial_of(model, subject)
    place = partial(Fact, "circuit", subject.name, "auto", 0)
    facts = [
        place("edges", circuit.size),
        estimated(place("held out"), faithfulness(run_circuits(trial, [circuit]))[0]),
    ]
    heads = _heads(circuit)
    looks = _looks(model, subject.judged, heads)
    is_ioi = subject.name.startswith("ioi")
    roles = {head: look.role(is_ioi) for head, look in looks.items()}
    for head, worth in losses(trial, heads, roles).items():
        facts += _facts(subject.name, head, looks[head], worth, roles[head])
    return facts


def circuit_file(folder: Path, slug: str) -> Path:
    """Where the circuit of a task is kept."""
    return folder / f"circuit-{slug}.json"


def _facts(task: str, head: str, look: Look, worth: Mapping[str, float], role: str) -> list[Fact]:
    place = partial(Fact, "head", task, head, 0)
    return [
        place("role", said=role),
        place("attends", look.share, said=look.attends),
        place("promotes", look.promotes),
        *(place(name, share) for name, share in look.shares.items()),
        *(place(name, lost) for name, lost in worth.items()),
        place("test", said=verdict(role, worth)),
    ]


def verdict(role: str, worth: Mapping[str, float]) -> str:
    """Whether what is lost bears the role out."""
    whole, direct = worth[WHOLE], worth[DIRECT]
    if abs(whole) < LEAST and abs(direct) < LEAST:
        return "matters little"
    if role in (WRITES, OF_IOI[WRITES]):
        return _held(direct >= max(LEAST, HALF * whole))
    if role in (AGAINST, OF_IOI[AGAINST]):
        return _held(direct <= -LEAST)
    if role in (STEERS, OF_IOI[STEERS]):
        return _held(worth[QUERIES] >= max(LEAST, THIRD * whole))
    onwards = worth[QUERIES] + worth[INPUTS]
    return _held(onwards >= max(LEAST, THIRD * whole))


def _held(holds: bool) -> str:
    return "holds" if holds else "refuted"


def _heads(circuit: Circuit) -> list[str]:
    """The heads whose edges score most in the circuit."""
    assert circuit.scores is not None, "made of scores"
    weight = circuit.scores.abs().sum(dim=1)
    names = [node.name for node in circuit.graph.sources]
    order = weight.argsort(descending=True).tolist()
    return [names[i] for i in order if kind_of(names[i]) == "head" and weight[i] > 0][:N_HEADS]


def _looks(model: Model, task: Task, heads: Sequence[str]) -> dict[str, Look]:
    alike = task.of_length()
    where = _from_the_end(alike, patterns(model, alike).values)
    known = {name: grid for name, grid in head_scores(model, task).items() if name in LOOKS}
    writes = direct_logit_attribution(model, task)
    promoted = dict(zip(writes.axes["node"], writes.mean.tolist(), strict=True))
    clean = sum(promoted.values())
    found = {}
    for head in heads:
        layer, number = (int(part[1:]) for part in head.split("."))
        spans = {span: float(share[layer, number]) for span, share in where.items()}
        attends = max(spans, key=lambda span: spans[span])
        shares = {name: float(grid.mean[layer, number]) for name, grid in known.items()}
        found[head] = Look(attends, spans[attends], promoted[head] / clean, shares)
    return found


def _from_the_end(
    task: Task, pattern: Float[Tensor, "example layer head query key"]
) -> dict[str, Float[Tensor, "layer head"]]:
    """How much the last position attends to every span, to the first token and to the rest."""
    last = pattern[:, :, :, -1].double()
    total: dict[str, Tensor] = {}
    for example, prompt in zip(last, task.prompts, strict=True):
        names = ["first token", *["rest"] * (len(prompt.clean) - 1)]
        for span in prompt.spans:
            names[span.start : span.stop] = [span.name] * (span.stop - span.start)
        for name in dict.fromkeys(names):
            chosen = torch.tensor([other == name for other in names])
            share = example[..., chosen].sum(dim=-1) / len(task)
            total[name] = total.get(name, 0) + share
    return total


def losses(
    trial: Trial, heads: Sequence[str], roles: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """What is lost of the gap when a head's edges to some readers are removed from the model."""
    writers = [h for h in heads if roles[h] in (WRITES, OF_IOI[WRITES], AGAINST, OF_IOI[AGAINST])]
    graph = trial.model.graph
    queries = _readers(graph, [f"{head}.q" for head in writers])
    ways = {
        WHOLE: torch.ones(len(graph.destinations), dtype=torch.bool),
        DIRECT: _readers(graph, ["logits"]),
        QUERIES: queries,
        INPUTS: _inputs(graph, heads) & ~queries,
    }
    circuits = [_without(graph, head, to) for head in heads for to in ways.values()]
    lost = (1 - run_circuits(trial, circuits).faithfulness).reshape(len(heads), len(ways))
    return {
        head: dict(zip(ways, row, strict=True))
        for head, row in zip(heads, lost.tolist(), strict=True)
    }


def _without(graph: Graph, head: str, readers: Bool[Tensor, " dest"]) -> Circuit:
    """The whole model but for a head's edges to some readers."""
    mask = graph.exists.clone()
    mask[graph.source_index(head)] &= ~readers
    return Circuit(mask, graph)


def _readers(graph: Graph, names: Sequence[str]) -> Bool[Tensor, " dest"]:
    return torch.tensor([node.name in names for node in graph.destinations])


def _inputs(graph: Graph, heads: Sequence[str]) -> Bool[Tensor, " dest"]:
    """All inputs of some heads; keys and values that are shared count for each that shares them."""
    return graph.feeds[:, [graph.source_index(head) for head in heads]].any(dim=1)
