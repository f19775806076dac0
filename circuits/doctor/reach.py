"""What the workbench reaches inside this family: backward rules, patterns, neurons."""

from circuits.doctor.finding import Finding
from patching.anatomy.places import KINDS, of_kind
from patching.model import Model
from patching.modes import without_gradients
from patching.rules import RULES
from patching.rules.rule import Rule, applied


def rules_fire(model: Model) -> Finding:
    """Every backward rule acts at all the places where it belongs."""
    rules = [rule for rule in RULES.values() if rule.parts]
    troubles = {rule.name: trouble for rule in rules if (trouble := _trouble(model, rule))}
    n = len(rules) - len(troubles)
    told = "; ".join(f"{name}: {trouble}" for name, trouble in troubles.items())
    return Finding(
        name="backward rules act",
        more_is_better=True,
        subject="model",
        verdict="doubtful" if troubles else "good",
        measured=n,
        threshold=len(rules),
        unit=f"of {len(rules)} rules",
        means=f"Not everywhere, or not at all: {told}."
        if troubles
        else f"{', '.join(rule.name for rule in rules)} fire wherever they belong.",
        advice="Take another rule, or read `unruled` in the scores' provenance.",
    )


def places_shown(model: Model) -> Finding:
    """Which kinds of activations can be read and changed by name."""
    expected = [kind for kind in KINDS if not (kind == "resid_mid" and _is_parallel(model))]
    hidden = {kind: why for kind in expected if (why := _why_hidden(model, kind))}
    return Finding(
        name="activations shown",
        more_is_better=True,
        subject="model",
        verdict="doubtful" if hidden else "good",
        measured=len(expected) - len(hidden),
        threshold=len(expected),
        unit=f"of {len(expected)} kinds",
        means=f"Hidden: {'; '.join(hidden.values())}."
        if hidden
        else "The stream, heads, patterns, MLPs and neurons can be read and changed.",
        advice="Edge scores do not need them; patching and rules of these places do.",
    )


@without_gradients
def _trouble(model: Model, rule: Rule) -> str:
    """Why a rule cannot act, or where it does not; empty if all is well."""
    try:
        with applied(model, rule) as on:
            model.bridge(model.opened.probe.tokens.to(model.device))
    except ValueError as error:
        return str(error)
    if not on.unruled:
        return ""
    first, *others = on.unruled
    return f"{first}" + (f" and at {len(others)} more places" if others else "")


def _why_hidden(model: Model, kind: str) -> str:
    try:
        of_kind(model, kind)
    except ValueError as error:
        return str(error)
    return ""


def _is_parallel(model: Model) -> bool:
    return any(block.parallel for block in model.blocks)
