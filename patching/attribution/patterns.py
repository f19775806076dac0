"""The QK fix for activations: patterns recomputed with queries and keys patched.

Where a softmax is saturated its gradient says that queries and keys do not matter. Here only the
way from the pattern to the metric is taken as linear. A query moves its own row of the pattern,
so that all may be patched in one run; a key moves one column's scores, and what the softmax makes
of that column alone has a closed form: no run is needed for each position.

Kramár et al. 2024, arXiv:2403.00745, section on AtP*.
"""

from collections.abc import Mapping

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import Block, widen
from patching.anatomy.insides import AttentionPoints, softmax
from patching.anatomy.places import Place, of_kind
from patching.attribution.runs import Gathered, Job
from patching.attribution.sweep import place_rows
from patching.capture import Run
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.rules.sites import Unruled, head_norms


def require_patterns(model: Model, *, instead: str) -> None:
    """Refuse models whose patterns cannot be recomputed head by head.

    Raises:
        ValueError: if hooks do not reach the softmax of the family's attention, or its norm of
            queries and keys mixes heads.
    """
    hidden = [f"a{block.index}" for block in model.blocks if softmax(block) is None]
    if hidden:
        raise ValueError(
            f"the QK fix recomputes attention patterns, and no hook reaches those of {model.name} "
            f"({', '.join(hidden)}): its attention runs as Hugging Face wrote it (OPT, GPT-J, "
            f"GPT-Neo) or has sinks (GPT-OSS); take {instead}"
        )
    d_head = model.blocks[0].w_qkv[0].shape[2]
    norms = list(head_norms(model))
    unknown = next((norm for norm in norms if isinstance(norm, Unruled)), None)
    if unknown is not None:
        raise ValueError(
            f"the QK fix patches one head's query or key before its norm, and in {model.name} "
            f"{unknown.place} is no norm that is known here; take {instead}"
        )
    gammas = [points.norm.gamma for points in norms if not isinstance(points, Unruled)]
    if any(gamma is not None and gamma.shape[-1] > d_head for gamma in gammas):
        raise ValueError(
            f"the QK fix patches one head's query or key, and in {model.name} one norm spans the "
            f"queries (and one the keys) of all heads (OLMo 2, OLMoE); take {instead}"
        )


def points_of(block: Block) -> AttentionPoints:
    """The layer's softmax, in a model that `require_patterns` let pass."""
    points = softmax(block)
    assert points is not None, "patterns were asked for before"
    return points


def pattern_places(model: Model) -> tuple[Place, ...]:
    """Where slopes are taken."""
    return of_kind(model, "pattern")


def score_places(model: Model) -> tuple[Place, ...]:
    """Attention scores before the softmax, whose values the closed form starts from."""
    return tuple(
        Place(f"a{b.index}.scores", "pattern", b.index, points_of(b).scores) for b in model.blocks
    )


@without_gradients
def fixed_scores(
    job: Job, gathered: Gathered, moved: Mapping[str, Tensor], n_pos: int
) -> dict[str, Float[Tensor, "example layer pos unit"]]:
    """One batch's scores of queries and keys, given what `move` found."""
    model, sign = job.model, 1.0 if job.path.clean else -1.0
    base = gathered.clean if job.path.clean else gathered.corrupt
    found: dict[str, list[Tensor]] = {"q": [], "k": []}
    group = model.graph.n_heads // model.graph.n_kv_heads
    for block in model.blocks:
        points = points_of(block)
        slopes, (queries, keys, _) = gathered.gradients[points.pattern], block.qkv
        change = base.seen[points.pattern] - moved[queries]
        by_query = sign * einsum(change, slopes, "token head key, token head key -> token head")
        found["q"].append(place_rows(by_query, gathered, n_pos))
        by_key = sign * columns_moved(slopes, base.seen[points.scores], moved[keys])
        by_group = reduce(by_key, "token (g h) key -> token g key", "sum", h=group)
        found["k"].append(_at_keys(by_group, gathered, n_pos))
    return {kind: torch.stack(layers, dim=1).cpu() for kind, layers in found.items()}


@without_gradients
def move(job: Job, gathered: Gathered) -> dict[str, Float[Tensor, "token head key"]]:
    """Patterns with patched queries, and attention scores with patched keys, in two runs.

    By the hook point of what was patched. Behind each softmax the base run's pattern goes on, so
    that every layer sees the base run's stream.
    """
    model, base = job.model, gathered.clean if job.path.clean else gathered.corrupt
    other = gathered.corrupt if job.path.clean else gathered.clean
    prompts = gathered.batch.clean if job.path.clean else gathered.batch.corrupt
    found: dict[str, Tensor] = {}
    for which in (0, 1):
        hooks: list[tuple[str, Hook]] = []
        for block in model.blocks:
            name, points = block.qkv[which], points_of(block)
            seen = points.scores if which else points.pattern
            hooks.append((name, _put(gathered, other, name)))
            hooks.append((seen, _keep(gathered, found, name)))
            hooks.append((points.pattern, _put(gathered, base, points.pattern, axis=2)))
        model.answer_logits(prompts, gathered.batch, hooks)
    return found


def columns_moved(
    slopes: Float[Tensor, "token head key"],
    scores: Float[Tensor, "token head key"],
    patched: Float[Tensor, "token head key"],
) -> Float[Tensor, "token head key"]:
    """`slopes . (softmax(scores) - softmax(scores with one column patched))`, for every column.

    With the column's probability p before and p' after, and the slopes' mean over the other
    columns (whose shares do not change among themselves): `(p - p') (slope - mean)`.
    """
    top = scores.double().amax(dim=-1, keepdim=True)
    weights = (scores.double() - top).exp()
    others = _without_each(weights)
    mean = _without_each(weights * slopes.double()) / others
    before = weights / (weights + others)
    after = torch.sigmoid(patched.double() - top - others.log())
    moved = (before - after) * (slopes.double() - mean)
    return moved.masked_fill(others == 0, 0.0)  # the only key there is: nothing can move


def _without_each(x: Float[Tensor, "token head key"]) -> Float[Tensor, "token head key"]:
    """The sum of all others; not the total less each, which cancels where one is nearly all."""
    zero = torch.zeros_like(x[..., :1])
    before = torch.cat([zero, x[..., :-1].cumsum(dim=-1)], dim=-1)
    after = torch.cat([zero, x.flip(-1)[..., :-1].cumsum(dim=-1)], dim=-1).flip(-1)
    return before + after


def _at_keys(
    by_key: Float[Tensor, "token unit key"], gathered: Gathered, n_pos: int
) -> Float[Tensor, "example pos unit"]:
    """Summed over queries, with columns counted from each row's first real token."""
    rows, _ = gathered.tokens
    n, (_, units, columns) = gathered.batch.n_rows, by_key.shape
    total = by_key.new_zeros(n, units, columns).index_add_(0, rows, by_key)
    real = gathered.batch.is_token
    out = by_key.new_zeros(n, n_pos, units)
    row, column = real.nonzero(as_tuple=True)
    out[row, gathered.batch.places[real]] = total[row, :, column]
    return gathered.batch.by_example(out)


def _put(gathered: Gathered, run: Run, name: str, axis: int = 1) -> Hook:
    def hook(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.movedim(axis, 1)[gathered.tokens] = run.seen[name].to(tensor.dtype)
        return tensor

    return hook


def _keep(gathered: Gathered, found: dict[str, Tensor], name: str) -> Hook:
    def hook(tensor: Tensor) -> None:
        found[name] = widen(tensor.movedim(2, 1)[gathered.tokens])

    return hook
