"""Training of a tuned lens: KL(last prediction || lens) over all positions of given prompts.

Belrose et al. 2023, arXiv:2303.08112, with Adam and a step size that falls to 0 in a line. Every
step's prompts follow from the seed and the step's number alone, so an interrupted training goes
on as if nothing had happened.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.files.tensors import read_tensors, write_tensors
from patching.lens.nodes import find_nodes, read_states
from patching.lens.prompts import Prompts, Source, read_prompts
from patching.lens.tuned import TunedLens, zero_lens
from patching.lens.vocabulary import Vocabulary, find_vocabulary
from patching.model import Model
from patching.modes import with_gradients
from patching.progress import track

_FORMAT = "tuned lens training 1"
_BETAS = (0.9, 0.999)
_EVERY = 50  # steps between two checkpoints


@dataclass(frozen=True)
class Plan:
    """What a training does, step by step; two of one plan end in the same lens, bit for bit."""

    steps: int
    seed: int
    batch_size: int
    rate: float

    def rows(self, step: int, n_rows: int) -> list[int]:
        """The prompts of a step: all of them in a new order before any comes again."""
        size = min(self.batch_size, n_rows)
        epoch, start = divmod(step * size, n_rows // size * size)
        order = list(range(n_rows))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return order[start : start + size]


def train_tuned_lens(
    model: Model,
    prompts: Source,
    *,
    steps: int = 250,
    seed: int = 0,
    batch_size: int = 8,
    rate: float = 1e-3,
    checkpoint: str | Path | None = None,
) -> TunedLens:
    """Train one affine map a layer, so that each layer's stream reads like the last one.

    Args:
        model: is not changed.
        prompts: texts, token ids, or a task (its clean prompts), all positions of which are used.
        steps: of Adam, each on `batch_size` prompts.
        seed: of the order of the prompts.
        batch_size: prompts in a step.
        rate: Adam's first step size, in units of the stream per step.
        checkpoint: a file that is written every 50 steps, and taken up where it lies there. It is
            refused if it belongs to another training.

    >>> model = Model.load("toy")
    >>> tuned = train_tuned_lens(model, "The capital of France is", steps=2)
    >>> tuned.provenance["steps"]
    2

    Raises:
        ValueError: if the prompts do not fit the model, a number is out of range, or the
            checkpoint belongs to another training.
    """
    for what, number in (("steps", steps), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{what} must be at least 1, got {number}")
    if not rate > 0:
        raise ValueError(f"rate must be above 0, got {rate}")
    read = read_prompts(model, prompts)
    plan = Plan(steps, seed, batch_size, rate)
    facts = _facts(model, read, plan)
    trainer = _Trainer(model, facts)
    done = 0 if checkpoint is None else trainer.resume(Path(checkpoint))
    for step in track(range(done, steps), "tuned lens"):
        trainer.step(read, plan, step)
        if checkpoint is not None and ((step + 1) % _EVERY == 0 or step + 1 == steps):
            trainer.save(Path(checkpoint), step + 1)
    return trainer.lens()


class _Trainer:
    """The maps and offsets being trained, with Adam's two moments of each."""

    def __init__(self, model: Model, facts: dict[str, object]) -> None:
        self._model = model
        self._facts = facts
        self._vocabulary = find_vocabulary(model)
        start = zero_lens(model, facts)
        self._values = {"maps": start.maps, "offsets": start.offsets}
        self._moments = {
            f"{name} {moment}": torch.zeros_like(value)
            for name, value in self._values.items()
            for moment in ("mean", "square")
        }

    def lens(self) -> TunedLens:
        """The lens as it is now."""
        return TunedLens(self._values["maps"], self._values["offsets"], self._facts)

    def save(self, path: Path, done: int) -> None:
        """Write everything that the next step depends on."""
        tensors = {**self._values, **self._moments, "done": torch.tensor(done)}
        write_tensors(path, tensors, _FORMAT, self._facts)

    def resume(self, path: Path) -> int:
        """Take up what `save` wrote, if it is there; the number of steps done.

        Raises:
            ValueError: if it belongs to another training.
        """
        if not path.exists():
            return 0
        tensors, facts = read_tensors(path, _FORMAT)
        for name, fact in self._facts.items():
            if facts.get(name) != fact:
                raise ValueError(
                    f"the checkpoint {path} belongs to another training: its {name} is "
                    f"{facts.get(name)}, not {fact}; remove it or name another file"
                )
        for kept in (self._values, self._moments):
            for name in kept:
                kept[name] = tensors[name].to(self._model.device)
        return int(tensors["done"])

    def step(self, prompts: Prompts, plan: Plan, step: int) -> None:
        """One step of Adam on every layer."""
        chosen = Prompts(tuple(prompts.rows[i] for i in plan.rows(step, len(prompts))), "")
        streams, final = _streams(self._model, self._vocabulary, chosen)
        with torch.no_grad():
            own = self._vocabulary.logits(final).log_softmax(dim=-1)
        rate = plan.rate * (1 - step / plan.steps)
        for layer, stream in enumerate(streams):
            self._move(layer, stream, own, rate, step + 1)

    def _move(
        self,
        layer: int,
        stream: Float[Tensor, "token d_model"],
        own: Float[Tensor, "token vocab"],
        rate: float,
        count: int,
    ) -> None:
        with with_gradients():
            parts = {
                name: value[layer].detach().requires_grad_() for name, value in self._values.items()
            }
            lens = TunedLens(parts["maps"][None], parts["offsets"][None], {})
            logits = self._vocabulary.logits(lens(stream, 0))
            loss = (own.exp() * (own - logits.log_softmax(dim=-1))).sum(dim=-1).mean()
            gradients = torch.autograd.grad(loss, list(parts.values()))
        for (name, value), gradient in zip(self._values.items(), gradients, strict=True):
            mean = self._moments[f"{name} mean"][layer].lerp_(gradient, 1 - _BETAS[0])
            square = self._moments[f"{name} square"][layer].lerp_(gradient**2, 1 - _BETAS[1])
            spread = (square / (1 - _BETAS[1] ** count)).sqrt_().add_(1e-8)
            value[layer] -= rate / (1 - _BETAS[0] ** count) * mean / spread


def _streams(
    model: Model, vocabulary: Vocabulary, prompts: Prompts
) -> tuple[list[Float[Tensor, "token d_model"]], Float[Tensor, "token d_model"]]:
    """The stream entering every layer and the last one, at all tokens of the prompts."""
    nodes = find_nodes(model, "resid_pre")
    streams: list[list[Tensor]] = [[] for _ in nodes]
    final: list[Tensor] = []
    for rows in _by_length(prompts):
        places = torch.arange(len(rows.rows[0])).expand(len(rows), -1)
        states = read_states(model, vocabulary, rows, places, nodes)
        for kept, vectors in zip(streams, states.vectors, strict=True):
            kept.append(vectors.flatten(0, 1))
        final.append(states.final.flatten(0, 1))
    return [widen(torch.cat(kept)) for kept in streams], torch.cat(final)


def _by_length(prompts: Prompts) -> Iterator[Prompts]:
    """The prompts in groups of equal length, shorter ones first."""
    for length in sorted({len(row) for row in prompts.rows}):
        yield Prompts(tuple(row for row in prompts.rows if len(row) == length), prompts.name)


def _facts(model: Model, prompts: Prompts, plan: Plan) -> dict[str, object]:
    return {
        "model": model.name,
        "revision": model.revision,
        **model.identity.facts,
        "prompts": prompts.name,
        "tokens": prompts.hash,
        "n_prompts": len(prompts),
        "steps": plan.steps,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "rate": plan.rate,
        "method": "tuned lens, KL(last || lens) over all positions, Adam",
    }
