"""What a model answers where context and memory conflict, and what else an edit does to it.

A row is decided by the likeliest next token of the whole vocabulary, at the answer's first token.
Measured in whatever state the model is in: inside `scale_neurons`, the edited one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patching.decoding import contrast
from patching.grid import Grid
from patching.metrics import accuracy
from patching.model import Model
from patching.modes import without_gradients
from patching.neurons.conflicts import ConflictTask
from patching.tasks.task import Batch, Task

FOLLOWS, STUBBORN, PREFERS = "follows context", "memorised answer", "prefers context"
MEASURES = (FOLLOWS, STUBBORN, PREFERS)


@without_gradients
def conflict_rates(
    model: Model, task: ConflictTask, *, alpha: float | int = 0.0, batch_size: int = 64
) -> Grid:
    """Per conflict, 1 or 0: does the model follow the context?

    The axis `measure` has three places: `follows context` (the likeliest token is the context's
    answer: the accuracy of Shi et al. 2024), `memorised answer` (it is the memorised one: their
    stubbornness rate) and `prefers context` (of the two, the context's answer is the likelier).
    The last two are NaN in rows without a memorised answer. With `alpha` above 0, decoding is
    context-aware (`patching.decoding`).

    >>> from patching.neurons import toy_conflicts
    >>> model = Model.load("toy")
    >>> rates = conflict_rates(model, toy_conflicts(model.tokenizer, n=200, seed=0))
    >>> 0.5 < rates.at(measure="follows context") < 0.8
    True

    Raises:
        ValueError: if the model cannot read the task, or alpha is negative or not finite.
    """
    model.check(task.with_context)
    model.check(task.without_context)
    rows = [outcomes(model, *pair, alpha) for pair in task.batches(batch_size, model.device)]
    return Grid("rate", torch.cat(rows), {"measure": MEASURES}, provenance=_about(model, task))


@without_gradients
def outcomes(
    model: Model, with_context: Batch, without_context: Batch, alpha: float | int
) -> Float[Tensor, "batch measure"]:
    """`conflict_rates` of one batch, on the CPU.

    Raises:
        ValueError: if alpha is negative or not finite.
    """
    logits = model.answer_logits(with_context.clean, with_context)
    if alpha != 0:
        alone = model.answer_logits(without_context.clean, without_context)
        logits = contrast(logits, alone, alpha)
    return _outcomes(logits, with_context).cpu()


@without_gradients
def task_accuracy(model: Model, task: Task, *, batch_size: int = 64) -> Float[Tensor, " example"]:
    """1 where the likeliest token of the whole vocabulary is an answer, else 0.

    Raises:
        ValueError: if the model cannot read the task.
    """
    model.check(task)
    parts = [
        accuracy(model.answer_logits(batch.clean, batch), batch).double().cpu()
        for batch in task.batches(batch_size, model.device)
    ]
    return torch.cat(parts)


@without_gradients
def token_losses(
    model: Model, texts: Sequence[Sequence[int]], *, batch_size: int = 16
) -> Float[Tensor, "text 2"]:
    """Of each text of token ids: the sum of its tokens' losses, in nats, and their number.

    A token's loss is -log p of it, given those before; the first has none. The perplexity of all
    texts is `exp(sum of losses / number of tokens)`: see `perplexity`.

    Raises:
        ValueError: if there is no text, one has fewer than two tokens, or ids are not the model's.
    """
    short = [i for i, ids in enumerate(texts) if len(ids) < 2]
    if not texts or short:
        where = f"text {short[0]} has {len(texts[short[0]])}" if short else "got no text"
        raise ValueError(f"perplexity needs texts of at least two tokens; {where}")
    rows = []
    for start in range(0, len(texts), batch_size):
        some = texts[start : start + batch_size]
        longest = max(map(len, some))
        tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in some])
        logits = model.run(tokens).logits[:, :-1].float()
        following = tokens[:, 1:].to(logits.device)
        losses = -logits.log_softmax(dim=-1).gather(2, following[:, :, None])[:, :, 0].double()
        counts = torch.tensor([len(ids) - 1 for ids in some], device=logits.device)
        real = torch.arange(longest - 1, device=logits.device) < counts[:, None]
        rows.append(torch.stack([(losses * real).sum(dim=1), counts.double()], dim=1).cpu())
    return torch.cat(rows)


def perplexity(losses: Float[Tensor, "text 2"]) -> float:
    """`exp` of the mean loss a token, from `token_losses`.

    >>> perplexity(torch.tensor([[0.0, 3.0], [2.0, 1.0]])) == torch.tensor(0.5).exp().item()
    True
    """
    total, count = losses.sum(dim=0).tolist()
    return float(torch.tensor(total / count).exp())


def _outcomes(logits: Float[Tensor, "batch vocab"], batch: Batch) -> Float[Tensor, "batch measure"]:
    best, answer = logits.argmax(dim=-1), batch.answers[:, 0]
    follows = (best == answer).double()
    unknown = torch.full_like(follows, torch.nan)
    known = batch.is_wrong_answer.any(dim=1)
    if not bool(known.any()):
        return torch.stack([follows, unknown, unknown], dim=1)
    memorised = batch.wrong_answers[:, 0]
    values = logits.gather(1, torch.stack([answer, memorised], dim=1))
    stubborn = torch.where(known, (best == memorised).double(), unknown)
    prefers = torch.where(known, (values[:, 0] > values[:, 1]).double(), unknown)
    return torch.stack([follows, stubborn, prefers], dim=1)


def _about(model: Model, task: ConflictTask) -> dict[str, object]:
    return {"model": model.name, "task": task.name, "task_hash": task.hash, "n_examples": len(task)}
