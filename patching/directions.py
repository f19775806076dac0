"""Steering: push hidden states along a direction, at constant length.

Directions in the manner of GrAInS (Nguyen et al. 2025, arXiv:2507.18043): integrated gradients
tell which tokens of a prompt speak for the answer and which against it; both kinds are ablated in
turn, and the direction of a layer is how its hidden states differ between the two.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.ablations import resample
from patching.anatomy.blocks import widen
from patching.grid import Grid
from patching.metrics import Metric, logit_diff
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.tasks.task import Batch, Task
from patching.token_attribution import Method, attribute_tokens, integrated_gradients

Summary = Callable[[Float[Tensor, "example layer d_model"]], Float[Tensor, "layer d_model"]]


@dataclass(frozen=True)
class Ablating:
    """How many tokens of each sign are ablated, by which token, and the `method` that scores them.

    `by` None stands for the tokenizer's padding token, or its unknown one.
    """

    k: int = 3
    by: int | None = None
    method: Method = field(default_factory=lambda: integrated_gradients(20))


@contextmanager
def steering(
    model: Model,
    vectors: Float[Tensor, "layer d_model"],
    alpha: float | int,
    *,
    layers: Sequence[int] | None = None,
) -> Iterator[None]:
    """Runs inside replace the hidden state h after each layer by h + alpha v, scaled back to |h|.

    At all positions, after the chosen `layers` (all of them); lengths are over the hidden axis.
    With alpha 0 runs are as ever, and so they are after the `with`.

    >>> model = Model.load("truth/induction")
    >>> vectors = torch.ones(2, model.blocks[0].w_o.shape[2])
    >>> with steering(model, vectors, 0.0):
    ...     same = model.run([0, 5, 6, 5]).logits
    >>> torch.equal(same, model.run([0, 5, 6, 5]).logits)
    True

    Raises:
        ValueError: if the vectors do not fit the model, there is no such layer, or a number is
            not finite.
    """
    _check_vectors(model, vectors, alpha)
    chosen = range(len(model.blocks)) if layers is None else layers
    wrong = [layer for layer in chosen if not 0 <= layer < len(model.blocks)]
    if wrong:
        raise ValueError(
            f"no layer {wrong[0]} in {model.name}, whose layers are 0 to {len(model.blocks) - 1}"
        )
    hooks = [(model.blocks[i].stream_out, _pushing(alpha * vectors[i])) for i in chosen]
    with model.hooked(hooks):
        yield


def token_contributions(
    model: Model,
    task: Task,
    metric: Metric = logit_diff,
    *,
    ablating: Ablating | None = None,
    batch_size: int = 16,
) -> Grid:
    """What each clean token does for the metric, compared with a prompt all of the ablating token.

    Of a single answer and a single wrong one, `logit_diff` is the contrast log p(answer) - log
    p(wrong answer). As `attribute_tokens` with that baseline.

    Raises:
        ValueError: if k is less than 1, no token can ablate, or as `attribute_tokens`.
    """
    ablating = ablating or Ablating()
    if ablating.k < 1:
        raise ValueError(f"at least one token of each sign is ablated, got k={ablating.k}")
    by = _ablating_token(model, ablating.by)
    filled = (replace(p, corrupt=(by,) * len(p.clean)) for p in task.prompts)
    return attribute_tokens(
        model,
        replace(task, prompts=tuple(filled)),
        metric,
        method=ablating.method,
        baseline=resample,
        batch_size=batch_size,
    )


def steering_vectors(
    model: Model,
    task: Task,
    metric: Metric = logit_diff,
    *,
    ablating: Ablating | None = None,
    summary: Summary | None = None,
    batch_size: int = 16,
) -> Float[Tensor, "layer d_model"]:
    """A direction towards the answers after each layer, at the position that predicts them.

    The k tokens that contribute most to the metric are ablated, then the k that contribute most
    against it; a prompt's difference is its hidden state in the second run minus that in the
    first. Neither the first token, where it is a BOS, nor the last one, where states are
    compared, is ablated. `summary` makes one vector of the differences: `mean_difference`
    (default) or `first_component`.

    Raises:
        ValueError: as `token_contributions`, or if answers have several tokens.
    """
    task.require_plain("a steering vector")
    ablating = ablating or Ablating()
    scores = token_contributions(model, task, metric, ablating=ablating, batch_size=batch_size)
    by, differences, first = _ablating_token(model, ablating.by), [], 0
    for batch in replace(task, padding="right").batches(batch_size, model.device):
        rows = scores.values[first : first + len(batch), : batch.clean.shape[1]].to(model.device)
        free = _may_be_ablated(model, batch)
        less = _without(batch.clean, rows, free, ablating.k, by)
        more = _without(batch.clean, -rows, free, ablating.k, by)
        differences.append((_hidden(model, batch, more) - _hidden(model, batch, less)).cpu())
        first += len(batch)
    found = (summary or mean_difference)(torch.cat(differences))
    return found.to(device=model.device, dtype=widen(torch.empty(0, dtype=model.dtype)).dtype)


def mean_difference(
    differences: Float[Tensor, "example layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """The mean over prompts."""
    return differences.mean(dim=0)


def first_component(
    differences: Float[Tensor, "example layer d_model"],
) -> Float[Tensor, "layer d_model"]:
    """The direction along which the differences are longest, as long as their mean is along it.

    The first right singular vector of the differences, which are not centred: their mean is what
    is sought. It points to the mean's side.
    """
    _, _, directions = torch.linalg.svd(differences.transpose(0, 1), full_matrices=False)
    first, mean = directions[:, 0], differences.mean(dim=0)
    return (first * mean).sum(dim=1, keepdim=True) * first


def _pushing(push: Float[Tensor, " d_model"]) -> Hook:
    def hook(stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        wide = widen(stream)
        pushed = wide + push.to(wide)
        length = wide.norm(dim=-1, keepdim=True)
        now = pushed.norm(dim=-1, keepdim=True)
        return torch.where(now > 0, pushed * (length / now), pushed).to(stream.dtype)

    return hook


@without_gradients
def _hidden(
    model: Model, batch: Batch, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch layer d_model"]:
    """Hidden states after each layer at the answer position, in float64."""
    rows = torch.arange(len(batch), device=tokens.device)
    states: list[Tensor] = []

    def keep(stream: Tensor) -> None:
        states.append(stream[rows, batch.answer_pos].double())

    hooks: list[tuple[str, Hook]] = [(block.stream_out, keep) for block in model.blocks]
    model.answer_logits(tokens, batch, hooks)
    return torch.stack(states, dim=1)


def _may_be_ablated(model: Model, batch: Batch) -> Bool[Tensor, "batch pos"]:
    positions = torch.arange(batch.clean.shape[1], device=batch.clean.device)
    free = batch.is_token & (positions != batch.answer_pos[:, None])
    bos = None if model.tokenizer is None else model.tokenizer.bos_token_id
    return free if bos is None else free & ((batch.places > 0) | (batch.clean != bos))


def _without(
    tokens: Int[Tensor, "batch pos"],
    scores: Float[Tensor, "batch pos"],
    free: Bool[Tensor, "batch pos"],
    k: int,
    by: int,
) -> Int[Tensor, "batch pos"]:
    """The tokens with the k of largest positive score replaced, as far as there are so many."""
    ranked = torch.where(free & (scores > 0), scores, -math.inf)
    best = ranked.topk(min(k, tokens.shape[1]), dim=1)
    changed = torch.where(best.values > 0, by, tokens.gather(1, best.indices))
    return tokens.scatter(1, best.indices, changed)


def _ablating_token(model: Model, by: int | None) -> int:
    vocab = int(model.bridge.cfg.d_vocab)
    if by is None:
        known = (getattr(model.tokenizer, name, None) for name in ("pad_token_id", "unk_token_id"))
        by = next((token for token in known if token is not None), None)
    if by is None:
        raise ValueError(
            f"{model.name} has no tokenizer with a padding or unknown token to ablate with; give "
            "one: Ablating(by=...)"
        )
    if not 0 <= by < vocab:
        raise ValueError(f"the ablating token {by} is none of the {vocab} tokens of {model.name}")
    return by


def _check_vectors(
    model: Model, vectors: Float[Tensor, "layer d_model"], alpha: float | int
) -> None:
    wanted = (len(model.blocks), model.blocks[0].w_o.shape[2])
    if tuple(vectors.shape) != wanted:
        raise ValueError(
            f"{model.name} is steered by one vector a layer, {list(wanted)}; "
            f"got {list(vectors.shape)}"
        )
    if not math.isfinite(alpha) or not bool(vectors.isfinite().all()):
        raise ValueError(
            f"steering needs finite numbers, got alpha={alpha} or vectors that are not"
        )
