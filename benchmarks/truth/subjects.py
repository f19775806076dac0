"""What methods are tried on: models with known circuits, and trained ones with exact effects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers

from benchmarks.reference import PROMPTS, TRAINED, reference, reference_task
from circuits.circuit import Circuit
from circuits.scores import Scores
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import TOY_GENERATORS, embedded, embedded_names, known
from patching.models.truth import library
from patching.tasks import Task, from_json

BATCH = 16
"""Examples to a batch, in the unit of cost as in all methods."""

OWN = "its own"
"""The task of a model with a known circuit."""


@dataclass(frozen=True)
class Subject:
    """A model and a task by name; the task may be a JSON file."""

    model: str
    task: str = OWN

    @property
    def is_known(self) -> bool:
        """Whether the circuit is known."""
        return self.model.startswith(library.PREFIX)


@dataclass(frozen=True)
class Scale:
    """How many prompts: of known circuits, to find others on, to judge those on; how many rounds.

    A method is timed `rounds` times, unless it takes long.
    """

    known: int
    found: int
    held_out: int
    rounds: int


FULL = Scale(known=96, found=PROMPTS, held_out=64, rounds=5)
QUICK = Scale(known=6, found=4, held_out=8, rounds=1)


@dataclass(frozen=True)
class Place:
    """A subject, loaded: circuits are found on `found`, and judged by what is not None.

    `unit` runs the plain Hugging Face model once forward and backward over all of `found`.
    """

    subject: Subject
    model: Model
    found: Task
    unit: Callable[[], None]
    held_out: Task | None = None
    active: Circuit | None = None
    exact: Scores | None = None

    @property
    def identity(self) -> str:
        """What results hang on: the weights and the prompts."""
        return f"{self.model.weights} {self.found.hash} {self.held_out and self.held_out.hash}"


def subjects() -> list[Subject]:
    """All of the tables in the docs."""
    trained = [
        Subject(model, task)
        for model, tasks in TRAINED.items()
        if model in embedded_names()
        for task in tasks
    ]
    return [*map(Subject, library.names()), *trained]


def quick_subjects() -> list[Subject]:
    """One known circuit and one trained model, for a run in seconds."""
    return [Subject("truth/induction"), Subject("toy", "subject-verb-agreement")]


def tasks_of(model: str, tasks: Sequence[str]) -> list[Subject]:
    """One model: on its own tasks, or on those given, by name or as JSON files."""
    if model.startswith(library.PREFIX):
        return [Subject(model)]
    return [Subject(model, task) for task in tasks or TRAINED.get(model, ())]


def load(subject: Subject, scale: Scale) -> Place:
    """Load a subject with its prompts and what is known of it."""
    model = Model.load(subject.model)
    if subject.is_known:
        truth = known(subject.model, n=scale.known)
        edges = [(edge.split("->")[0], edge.split("->")[1]) for edge in sorted(truth.active)]
        active = Circuit.from_edges(model.graph, edges)
        return Place(subject, model, truth.task, _unit(subject, truth.task), active=active)
    if subject.task.endswith(".json"):
        found, held_out = from_json(Path(subject.task), model.tokenizer).split(0.5)
        return Place(subject, model, found, _unit(subject, found), held_out)
    whole = reference_task(subject.model, subject.task)
    found = whole.take(scale.found)
    exact = reference(subject.model, subject.task) if len(found) == len(whole) else None
    held_out = _others(subject, model, found, scale.held_out)
    return Place(subject, model, found, _unit(subject, found), held_out, exact=exact)


def _others(subject: Subject, model: Model, found: Task, n: int) -> Task:
    """Distinct prompts of the same task that are not among those found on."""
    assert model.tokenizer is not None, "trained models come with theirs"
    drawn = TOY_GENERATORS[subject.task](model.tokenizer, 4 * n, 1)
    seen = {prompt.clean for prompt in found.prompts}
    left = {prompt.clean: prompt for prompt in drawn.prompts if prompt.clean not in seen}
    return replace(drawn, prompts=tuple(left.values())[:n])


def _unit(subject: Subject, task: Task) -> Callable[[], None]:
    plain = _plain(subject.model).eval().requires_grad_(False)
    batches = list(task.batches(BATCH))

    def unit() -> None:
        for batch in batches:
            inputs = plain.get_input_embeddings()(batch.clean).detach().requires_grad_()
            mask = batch.is_token.long()
            logits = plain(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits
            logit_diff(logits[torch.arange(len(batch)), batch.answer_pos], batch).sum().backward()

    return unit


def _plain(name: str) -> transformers.PreTrainedModel:
    found = embedded(name)
    if found is not None:
        return found[0]
    return transformers.AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager")
