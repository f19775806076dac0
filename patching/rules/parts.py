"""Parts of backward rules: each changes the gradient of one kind of module and no forward value.

A part is a function from a model to the sites where it acts. To write one: find its hook points in
`patching.rules.sites`, and return `graft(value, other)` from a hook: the value of the one, the
gradient of the other. Where that takes a module's input as well, `two_point_site` keeps it. Parts
know nothing of each other but for one thing: `half_rule` has to come before `identity_rule`, as
both act on the input of a gate.

Layer-wise relevance propagation (LRP) is patented technology according to the README of
rachtibat/LRP-eXplains-Transformers, free for personal and scientific use; the rules here are
written from the papers.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from patching.anatomy.blocks import Block
from patching.anatomy.norms import Norm, widen
from patching.anatomy.silent import is_silent
from patching.model import Hook, Model
from patching.rules.sites import (
    LOGITS_BEFORE_SOFTCAP,
    NormPoints,
    Part,
    Site,
    Unruled,
    head_norms,
    neurons,
    softcap,
    softmax,
    stream_norms,
    two_point_site,
    value_norms,
)


class _Graft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor, other: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def graft(
    value: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """The value of one tensor with the gradient of another.

    Like `value.detach() + (other - other.detach())`, but exact whatever `other` holds.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> y = graft(x * x, 5 * x)
    >>> y.backward()
    >>> y.item(), x.grad.item()
    (9.0, 5.0)
    """
    return _Graft.apply(value, other.to(value.dtype))


def scale_gradient(x: Float[Tensor, "*shape"], factor: float) -> Float[Tensor, "*shape"]:
    """The same values; the gradient that comes back is multiplied by `factor`."""
    return graft(x, factor * x)


def norm_rule(model: Model) -> list[Site | Unruled]:
    """LN rule on every norm of the stream: its denominator counts as a constant.

    Post-norms and the final norm are among them; a LayerNorm's centring stays in the gradient.
    Source: Ali et al. 2022, arXiv:2202.07304.
    """
    return [_norm_site("norm", points) for points in stream_norms(model)]


def head_norm_rule(model: Model) -> list[Site | Unruled]:
    """LN rule on the norms of queries, keys and values, in families that have them."""
    return [
        points if isinstance(points, Unruled) else _norm_site("head norm", points)
        for points in head_norms(model)
    ]


def value_norm_rule(model: Model) -> list[Site | Unruled]:
    """LN rule on the norms of values alone, in families that have them."""
    return [_norm_site("value norm", points) for points in value_norms(model)]


def identity_rule(model: Model) -> list[Site | Unruled]:
    """Identity rule on the MLPs' activations: slope `act(x) / x` in place of `act'(x)`.

    At `x = 0` the slope is 0; there, `x` passes no relevance in any case. (RelP's authors divide
    by `x` moved 1e-6 away from zero.) Source: Jafari et al. 2024, arXiv:2406.07592.
    """
    sites: list[Site | Unruled] = []
    for block in _with_mlps(model):
        place, points = f"m{block.index}", neurons(block)
        if points is None or points.pre is None:
            sites.append(_hidden_neurons("identity", place))
        else:
            sites.append(
                two_point_site(
                    "identity",
                    place,
                    (points.pre, points.post),
                    replace=follow_the_ratio,
                    at_first=_cut,
                )
            )
    return sites


def half_rule(model: Model) -> list[Site | Unruled]:
    """Half rule on gated MLPs: each factor of `act(gate) * linear` gets half the gradient.

    Acts on the factors and not on their product, so the neurons' own gradients stay whole. Has to
    come before `identity_rule`. Source: Arras et al. 2019, arXiv:1909.12114.
    """
    sites: list[Site | Unruled] = []
    for block in _with_mlps(model):
        place, points = f"m{block.index}", neurons(block)
        if points is None or points.pre is None:
            sites.append(_hidden_neurons("half", place))
        elif points.linear is not None:
            sites.append(Site("half", f"{place}'s gate", ((points.pre, _scale(0.5)),)))
            sites.append(Site("half", f"{place}'s linear factor", ((points.linear, _scale(0.5)),)))
    return [*sites, *_gates(model, "half")]


def _with_mlps(model: Model) -> list[Block]:
    return [block for block in model.blocks if not is_silent(block.bridge.mlp)]


def attention_rule(model: Model) -> list[Site | Unruled]:
    """AH rule: the pattern counts as a constant, so no gradient passes queries and keys.

    Nor gates, where heads have them. Cut at the projections, which works in every family.
    Source: Ali et al. 2022, arXiv:2202.07304.
    """
    return [
        Site("attention", f"a{block.index}.{letter}", ((name, torch.Tensor.detach),))
        for block in model.blocks
        for letter, name in zip(("q", "k", "v", "gate"), block.projections, strict=False)
        if letter != "v"
    ]


def attention_shares(model: Model) -> list[Site | Unruled]:
    """Two bilinear products, each half: queries and keys get 1/4 of their gradient, values 1/2.

    The softmax keeps its own derivative. Source: Achtibat et al. 2024 (AttnLRP), arXiv:2402.05602,
    as in the authors' gradient-times-input code.
    """
    sites = [
        Site("shares", f"a{block.index}.{letter}", ((name, _scale(factor)),))
        for block in model.blocks
        for letter, name, factor in zip("qkv", block.qkv, (0.25, 0.25, 0.5), strict=True)
    ]
    return [*sites, *_gates(model, "shares")]


def softmax_rule(temperature: float) -> Part:
    """Backward through the softmax as if its scores had been divided by a temperature.

    `g_scores = s * (g - sum(g * s))` with `s = softmax(scores / temperature)`, without the factor
    `1 / temperature`. Keeps gradients alive that a saturated pattern stops, and keys visible whose
    weight others would take over. The part refuses, with a ValueError, a model whose softmax no
    hook reaches. Source: Edin et al. 2025 (GIM), arXiv:2505.17630.
    """

    def part(model: Model) -> list[Site | Unruled]:
        sites: list[Site | Unruled] = []
        for block in model.blocks:
            points, place = softmax(block), f"a{block.index}"
            if points is None:
                raise ValueError(
                    f"{model.name} is refused: no hook reaches the softmax of layer "
                    f"{block.index}'s attention, whose backward pass this rule (gim) replaces; "
                    "relp, relp-ah and attn-lrp need none"
                )
            ends = (points.scores, points.pattern)
            sites.append(two_point_site("softmax", place, ends, replace=tempered))
        return sites

    def tempered(scores: Tensor, pattern: Tensor) -> Tensor:
        return graft(pattern, soften(scores, temperature))

    return part


def softcap_rule(model: Model) -> list[Site | Unruled]:
    """Identity rule on capped logits (Gemma 2): slope `y / x` for `y = c * tanh(x / c)`.

    Nothing can be hooked behind the cap, so the gradient is multiplied before it by `y / x` over
    the cap's own slope. A logit so far beyond the cap that this slope rounds to zero (in float32
    some nine times the cap) has gradient zero, as without the rule.
    """
    cap = softcap(model)
    if cap is None:
        return []

    def hook(logits: Tensor) -> Tensor:
        return graft(logits, logits * cap_correction(logits.detach(), cap))

    return [Site("softcap", "logits", ((LOGITS_BEFORE_SOFTCAP, hook),))]


def with_constant_sigma(
    norm: Norm, x: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*rows d_model"]:
    """The norm's output before its shift, where the denominator is no function of the input."""
    return norm.at(x, norm.sigma(x.detach()))


def follow_the_ratio(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """`y`, with the gradient it has of its own plus that of `x * (y / x)`, the ratio constant."""
    ratio = torch.where(x == 0, 0, y.detach() / x.detach())
    return graft(y, y + x * ratio)


def soften(
    scores: Float[Tensor, "*rows source"], temperature: float
) -> Float[Tensor, "*rows source"]:
    """What has the gradient of `softmax_rule`: `temperature * softmax(scores / temperature)`."""
    return temperature * torch.softmax(widen(scores) / temperature, dim=-1)


def cap_correction(x: Float[Tensor, "*shape"], cap: float) -> Float[Tensor, "*shape"]:
    """`(y / x) / y'` for `y = cap * tanh(x / cap)`: 1 at zero, 0 where `y'` rounds to zero."""
    t = widen(x) / cap
    tanh = torch.tanh(t)
    slope = 1 - tanh * tanh
    ratio = torch.where(t == 0, 1, tanh / t)
    return torch.where(slope == 0, 0, ratio / slope).to(x.dtype)


def _norm_site(part: str, points: NormPoints) -> Site:
    replace = partial(_graft_constant_sigma, points.norm)
    return two_point_site(part, points.place, (points.before, points.after), replace=replace)


def _graft_constant_sigma(norm: Norm, x: Tensor, y: Tensor) -> Tensor:
    return graft(y, with_constant_sigma(norm, x))


def _cut(x: Tensor) -> Tensor:
    """The same values off the graph, but such that what is made of them can be differentiated by.

    Without a gate, the neurons would else hang on nothing, and have no gradient to be asked for.
    """
    return x.detach().requires_grad_(x.requires_grad)


def _scale(factor: float) -> Hook:
    return lambda x: scale_gradient(x, factor)


def _gates(model: Model, part: str) -> list[Unruled]:
    """Where heads are multiplied by gates, for which no rule is published."""
    why = "no rule says how a head and its gate share a gradient"
    return [Unruled(part, f"a{block.index}'s gates", why) for block in model.blocks if block.gated]


def _hidden_neurons(part: str, place: str) -> Unruled:
    why = "no hook points show its neurons' inputs (experts, fused gates); plain gradient there"
    return Unruled(part, place, why)
