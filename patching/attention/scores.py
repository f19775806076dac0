"""Head scores: how much of a head's attention goes where a known kind of head looks.

Each score is a mean over the queries at which it is defined, then over examples.
"""

import random
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.attention.pattern_grid import head_axes
from patching.attention.reading import Prompts, Seen, as_task, read
from patching.grid import Grid
from patching.model import Model
from patching.progress import track
from patching.tasks.task import Prompt, Task


@runtime_checkable
class HeadScore(Protocol):
    """One number per example and head from a layer's attention; NaN where it is not defined."""

    __name__: str

    def __call__(self, seen: Seen) -> Float[Tensor, "batch head"]:
        """The score of each head."""
        ...


def previous_token(seen: Seen) -> Float[Tensor, "batch head"]:
    """Share of attention to the token just before, over all queries but the first."""
    return _share(seen, _before(seen, 1) & ~_before(seen, 2))


def first_token(seen: Seen) -> Float[Tensor, "batch head"]:
    """Share of attention to the first token (BOS, where there is one), over all later queries.

    Heads that have nothing to do rest there: an attention sink. Xiao et al. 2023, arXiv:2309.17453.
    """
    target = _before(seen, 1).clone()
    target[:, :, 1:] = False
    return _share(seen, target)


def duplicate_token(seen: Seen) -> Float[Tensor, "batch head"]:
    """Share of attention to earlier mentions of the query's token, where there are some.

    Wang et al. 2022, arXiv:2211.00593.
    """
    return _share(seen, _same(seen))


def induction(seen: Seen) -> Float[Tensor, "batch head"]:
    """Share of attention to tokens that followed an earlier mention of the query's token.

    Over queries that have such tokens before them. Olsson et al. 2022, arXiv:2209.11895.
    """
    follows = torch.zeros_like(_same(seen))
    follows[:, :, 1:] = _same(seen)[:, :, :-1]
    return _share(seen, follows & _before(seen, 1))


def entropy(seen: Seen) -> Float[Tensor, "batch head"]:
    """Entropy of the attention in nats, over all queries but the first."""
    nats = torch.special.entr(seen.pattern.double()).sum(dim=-1)
    queries = (_before(seen, 1).any(dim=2)).double()
    return (nats * queries[:, None]).sum(dim=-1) / queries.sum(dim=1, keepdim=True)


HEAD_SCORES: dict[str, HeadScore] = {
    "previous token": previous_token,
    "induction": induction,
    "duplicate token": duplicate_token,
    "first token": first_token,
    "entropy": entropy,
}


def head_scores(
    model: Model,
    prompts: Prompts,
    *,
    scores: Sequence[HeadScore] | None = None,
    batch_size: int = 16,
) -> dict[str, Grid]:
    """Scores of every head on some prompts, by name, each over layer and head, from one pass.

    Unless `scores` names some, all that are defined: induction and duplicate token need prompts
    that repeat a token. Examples at which a score is not defined are left out of its grid.

    >>> model = Model.load("truth/induction")
    >>> found = head_scores(model, repeated_tokens(model, length=10))
    >>> found["previous token"].top(1)[0][0], found["induction"].top(1)[0][0]
    (('0', 'h1'), ('1', 'h3'))

    Raises:
        ValueError: if `scores` is empty, a score that was asked for is defined at no prompt, the
            model cannot read the prompts, or the family's patterns cannot be read.
    """
    task = as_task(model, prompts)
    chosen = list(HEAD_SCORES.values()) if scores is None else list(scores)
    if not chosen:
        raise ValueError(f"got no scores; name some of {', '.join(HEAD_SCORES)}, or leave it out")
    found: list[Tensor] = []
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "reading attention", task.n_batches(batch_size)):
        layers: list[Tensor] = []
        read(model, batch, lambda seen, to=layers: to.append(_all(chosen, seen)))
        found.append(torch.stack(layers, dim=2))
    values = torch.cat(found, dim=1)
    grids: dict[str, Grid] = {}
    for score, numbers in zip(chosen, values, strict=True):
        defined = ~numbers.flatten(1).isnan().any(dim=1)
        if not defined.any() and scores is not None:
            raise ValueError(
                f"{_name(score)!r} is defined at no prompt of {task.name!r}: it needs tokens that "
                "come again (see `repeated_tokens`) or longer prompts"
            )
        if defined.any():
            grids[_name(score)] = _grid(model, task, score, numbers, defined)
    return grids


def repeated_tokens(model: Model, *, length: int = 20, n: int = 16, seed: int = 0) -> Task:
    """Random tokens, then the same again: what only induction can continue.

    The last token of the second round is the answer. In the corrupt prompts the first round is of
    other tokens. A BOS comes first where the tokenizer has one.

    Raises:
        ValueError: if a round has fewer than two tokens, or the model cannot read as many, or has
            fewer than two rounds of tokens to draw from.
    """
    bos = getattr(model.tokenizer, "bos_token_id", None)
    special = {*getattr(model.tokenizer, "all_special_ids", ()), bos}
    ids = [i for i in range(int(model.bridge.cfg.d_vocab)) if i not in special]
    if length < 2 or 2 * length > len(ids):
        raise ValueError(
            f"a round of {length} different tokens is not possible; {model.name} can have from 2 "
            f"to {len(ids) // 2}"
        )
    draw = random.Random(seed)
    prompts = []
    for _ in range(n):
        tokens = draw.sample(ids, 2 * length)
        first, other = tokens[:length], tokens[length:]
        head = [] if bos is None else [bos]
        clean, corrupt = ((*head, *start, *first[:-1]) for start in (first, other))
        prompts.append(Prompt(clean, corrupt, (first[-1],), (other[-1],)))
    task = Task("repeated random tokens", tuple(prompts))
    model.check(task)
    return task


def _all(scores: Sequence[HeadScore], seen: Seen) -> Float[Tensor, "score batch head"]:
    return torch.stack([score(seen).double().cpu() for score in scores])


def _name(score: HeadScore) -> str:
    names = {known: name for name, known in HEAD_SCORES.items()}
    return names.get(score, score.__name__)


def _grid(
    model: Model,
    task: Task,
    score: HeadScore,
    numbers: Float[Tensor, "example layer head"],
    defined: Bool[Tensor, " example"],
) -> Grid:
    quantity = "entropy of attention (nats)" if score is entropy else "share of attention"
    provenance = {"model": model.name, "on": task.name, "score": _name(score)}
    provenance["defined at"] = f"{int(defined.sum())} of {len(task)} examples"
    return Grid(quantity, numbers[defined], head_axes(model), provenance=provenance)


def _share(seen: Seen, target: Bool[Tensor, "batch query key"]) -> Float[Tensor, "batch head"]:
    """Attention to the target keys, over the queries that have some; NaN where none has."""
    queries = target.any(dim=2).sum(dim=1, keepdim=True)
    return (seen.pattern.double() * target[:, None]).sum(dim=(2, 3)) / queries


def _before(seen: Seen, distance: int) -> Bool[Tensor, "batch query key"]:
    """Keys at least so far before the query, real tokens both."""
    real = seen.is_token[:, :, None] & seen.is_token[:, None, :]
    return real.tril(-distance)


def _same(seen: Seen) -> Bool[Tensor, "batch query key"]:
    return (seen.tokens[:, :, None] == seen.tokens[:, None, :]) & _before(seen, 1)
