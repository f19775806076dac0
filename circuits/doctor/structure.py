"""Is the model what its graph says, and still the one that was loaded? One run of a few tokens."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from transformer_lens.hook_points import HookPoint

from circuits.doctor.finding import Finding, at_most
from patching.anatomy.claims import Claim, tolerance_in
from patching.anatomy.proof import PLAIN_OUTPUT, make_claims
from patching.model import Model
from patching.modes import without_gradients


@without_gradients
def finite(model: Model) -> Finding:
    """No weight and no logit is NaN or infinite."""
    bad = [name for name, p in model.bridge.named_parameters() if not bool(p.isfinite().all())]
    tokens = model.opened.probe.tokens.to(model.device)
    where = f"first in {bad[0]}" if bad else "in the logits of a few random tokens"
    n = len(bad) or int(not bool(model.bridge(tokens).isfinite().all()))
    return Finding(
        name="finite numbers",
        subject="model",
        verdict="unusable" if n else "good",
        measured=n,
        threshold=0,
        unit="tensors",
        means=f"NaN or infinite values, {where}: every result would be NaN."
        if n
        else "No weight and no logit is NaN or infinite.",
        advice="Load the weights again; in float16, load in float32 or bfloat16.",
    )


@without_gradients
def nothing_left(model: Model) -> Finding:
    """No hook of an earlier run is in place, which would be in every run that follows."""
    left = {name: point for name, point in model.bridge.hook_dict.items() if _added(point)}
    tokens = model.opened.probe.tokens.to(model.device)
    changed = 0.0
    if left:
        with _without(list(left.values())):
            plain = model.bridge(tokens)
        changed = float((model.bridge(tokens) - plain).abs().max() / plain.abs().max())
    does = f"they change the logits by {changed:.1%}" if changed else "they change no logit"
    return Finding(
        name="no hooks left behind",
        subject="model",
        verdict="good" if not left else "doubtful" if changed == 0 else "unusable",
        measured=len(left),
        threshold=0,
        unit="hook points",
        means=f"Hooks are in place at {', '.join(list(left)[:3])}; {does}."
        if left
        else "No hook of an earlier run is in place.",
        advice="Call model.bridge.reset_hooks(), and add hooks in a `with`.",
    )


@without_gradients
def rebuilt(model: Model) -> list[Finding]:
    """What `Model.load` proves, measured anew: the writers rebuild the stream, in every layer.

    Where the plain model's output was seen on loading, it must be the same still.
    """
    claims = list(make_claims(model.bridge, model.blocks, model.opened.probe))
    plain = [claim for claim in claims if claim.what == PLAIN_OUTPUT]
    own = [claim for claim in claims if claim.what != PLAIN_OUTPUT]
    return [_stream(model, own), *(_output(model, claim) for claim in plain)]


def _stream(model: Model, claims: list[Claim]) -> Finding:
    by_layer: dict[str, float] = {}
    for claim in claims:
        place = "behind the layers" if claim.layer is None else f"layer {claim.layer}"
        by_layer[place] = _larger(by_layer.get(place, 0.0), claim.error)
    worst = max(claims, key=lambda claim: (math.isnan(claim.error), claim.error))
    tolerance = tolerance_in(model.dtype)
    verdict = at_most(worst.error, tolerance, tolerance)
    return Finding(
        name="writers rebuild the stream",
        subject="model",
        verdict=verdict,
        measured=worst.error,
        threshold=tolerance,
        unit="relative error",
        means="Heads, MLPs and embedding add up to the stream in every layer."
        if verdict == "good"
        else f"{worst.what} cannot be rebuilt, so edges would not add up to what the model does.",
        advice="Load the model anew, and remove hooks and patches.",
        details=tuple(by_layer.items()),
    )


def _output(model: Model, claim: Claim) -> Finding:
    tolerance = tolerance_in(model.dtype)
    verdict = at_most(claim.error, tolerance, tolerance)
    return Finding(
        name="same as the plain model",
        subject="model",
        verdict=verdict,
        measured=claim.error,
        threshold=tolerance,
        unit="relative error",
        means="Logits are those that the plain module gave before it was wrapped."
        if verdict == "good"
        else "Logits differ from those the plain module gave before it was wrapped: weights were "
        "changed since, or a hook is in the way.",
        advice="Undo the change, or load the changed model anew.",
    )


def _larger(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def _added(point: HookPoint) -> list[int]:
    """The hooks that somebody added, by torch's ids; the library's own for shapes are permanent."""
    hooks = (*point.fwd_hooks, *point.bwd_hooks)
    return [hook.hook.id for hook in hooks if not hook.is_permanent]


@contextmanager
def _without(points: list[HookPoint]) -> Iterator[None]:
    """The hook points without their hooks for as long as the `with` lasts."""
    kept = [dict(point._forward_hooks) for point in points]
    for point in points:
        for number in _added(point):
            point._forward_hooks.pop(number, None)
    try:
        yield
    finally:
        for point, hooks in zip(points, kept, strict=True):
            point._forward_hooks.clear()
            point._forward_hooks.update(hooks)
