"""What a neuron does: the tokens it promotes and suppresses, and the tokens that activate it."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.lens.neurons import find_output
from patching.lens.text import token_texts
from patching.lens.vocabulary import find_vocabulary
from patching.model import Model
from patching.modes import without_gradients
from patching.neurons.editing import check_neurons
from patching.neurons.scores import require_neurons
from patching.neurons.selection import Neurons, name_of
from patching.tasks.task import Batch, Task


@without_gradients
def vocabulary_effects(model: Model, neurons: Neurons, *, k: int = 10) -> pd.DataFrame:
    """The k tokens that each neuron's output weights promote most, and the k they suppress most.

    A unit of activation adds `row_i` to the stream; the final norm's gamma and the unembedding
    read it as `effect`, in logits for a stream and (where a family has a post-norm) an MLP output
    of denominator 1: signs and ranks do not depend on that, sizes compare within a layer only.
    The mean over the vocabulary is taken off; layers between are not seen. A negative activation
    turns promotion and suppression around.

    Columns: `neuron, sign` (`promotes`, `suppresses`), `rank, token, text, effect`.

    >>> table = vocabulary_effects(Model.load("toy"), Neurons([(3, 71)]), k=2)
    >>> table.columns.tolist()
    ['neuron', 'sign', 'rank', 'token', 'text', 'effect']

    Raises:
        ValueError: if k is less than 1, the model has no such neuron, or its neurons cannot be
            seen (mixtures of experts).
    """
    _check(model, neurons, k)
    vocabulary = find_vocabulary(model)
    rows = []
    for layer, neuron in neurons:
        output = find_output(model, model.blocks[layer])
        row = output.rows(torch.tensor([neuron], device=model.device))
        effects = vocabulary.promotions(row, row.new_ones(1, 1))[0]
        for sign, direction in (("promotes", 1), ("suppresses", -1)):
            order = (direction * effects).argsort(descending=True, stable=True)[:k].tolist()
            texts = token_texts(model.tokenizer, order)
            for rank, (token, text) in enumerate(zip(order, texts, strict=True), start=1):
                effect = float(effects[token])
                rows.append((name_of((layer, neuron)), sign, rank, token, text, effect))
    return pd.DataFrame(rows, columns=["neuron", "sign", "rank", "token", "text", "effect"])


@without_gradients
def top_activations(
    model: Model, task: Task, neurons: Neurons, *, k: int = 10, batch_size: int = 16
) -> pd.DataFrame:
    """The k tokens of a task's clean prompts at which each neuron is most active.

    Columns: `neuron, rank, activation, prompt, position` (from the first real token), `text` (of
    the token) and `before` (up to it). Costs one forward. `ConflictTask.with_context` is a task.

    Raises:
        ValueError: if k is less than 1, the model cannot read the task, has no such neuron, or
            its neurons cannot be seen (mixtures of experts).
    """
    _check(model, neurons, k)
    model.check(task)
    task = task.without_answers
    parts = [_activations(model, b, neurons) for b in task.batches(batch_size, model.device)]
    found = torch.cat(parts, dim=1)
    where = [(i, p) for i, prompt in enumerate(task.prompts) for p in range(len(prompt.clean))]
    rows = []
    for place, values in zip(neurons, found, strict=True):
        order = values.argsort(descending=True, stable=True)[:k].tolist()
        for rank, token in enumerate(order, start=1):
            prompt, position = where[token]
            ids = task.prompts[prompt].clean[: position + 1]
            about = (prompt, position, *token_texts(model.tokenizer, ids[-1:]))
            before = _read(model, ids[:-1])
            rows.append((name_of(place), rank, float(values[token]), *about, before))
    columns = ["neuron", "rank", "activation", "prompt", "position", "text", "before"]
    return pd.DataFrame(rows, columns=columns)


def _read(model: Model, ids: Sequence[int]) -> str:
    """Tokens as running text, or as numbers where there is no tokenizer."""
    decode = getattr(model.tokenizer, "decode", None)
    return " ".join(map(str, ids)) if decode is None else decode(list(ids))


def _activations(model: Model, batch: Batch, neurons: Neurons) -> Float[Tensor, "neuron token"]:
    """At all real tokens, prompt by prompt."""
    names = require_neurons(model)
    seen: dict[int, Tensor] = {}

    def keep(layer: int, tensor: Tensor) -> None:
        chosen = [neuron for at, neuron in neurons if at == layer]
        seen[layer] = widen(tensor[..., chosen][batch.is_token])

    layers = sorted({layer for layer, _ in neurons})
    hooks = [(names[i], lambda tensor, i=i: keep(i, tensor)) for i in layers]
    model.answer_logits(batch.clean, batch, hooks)
    column = {layer: iter(seen[layer].T) for layer in layers}
    return torch.stack([next(column[layer]) for layer, _ in neurons]).cpu()


def _check(model: Model, neurons: Neurons, k: int) -> None:
    if k < 1:
        raise ValueError(f"show at least one token of each neuron, got k={k}")
    if not len(neurons):
        raise ValueError("no neurons were given; name at least one, such as Neurons.named('m0.n1')")
    require_neurons(model)
    check_neurons(model, neurons)
