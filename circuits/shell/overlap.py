"""Whether prompts that a circuit or scores are judged on are those that they were found on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.tasks import Task

IN_SAMPLE, SAME_DRAW = "in-sample", "partly in-sample"

SAID = {
    IN_SAMPLE: "found on these very prompts",
    SAME_DRAW: "found on prompts of the same draw (others: --seed 1) or file",
}
"""Each in words."""


def overlap(said: Mapping[str, object], task: "Task") -> str:
    """By provenance: `in-sample`, `partly in-sample`, or nothing where neither is known.

    Partly: of the same draw or the same file. A split of it that only one side took still leaves
    prompts that both have, but for the other half of the same split.
    """
    if said.get("tokens") == task.hash:
        return IN_SAMPLE
    theirs, ours = said.get("origin"), task.origin
    if not isinstance(theirs, Mapping) or not theirs or _drawn(theirs) != _drawn(ours):
        return ""
    halves = [(_splits(one, "first"), _splits(one, "second")) for one in (theirs, ours)]
    apart = any(a & b for a, b in ((halves[0][0], halves[1][1]), (halves[0][1], halves[1][0])))
    return "" if apart else SAME_DRAW


def as_booleans(found: str) -> dict[str, bool]:
    """The same for JSON."""
    return {"in_sample": found == IN_SAMPLE, "same_draw": bool(found)}


def _drawn(origin: Mapping[str, object]) -> dict[str, object]:
    """What decides the prompts that others are taken of; of one seed the first are the same."""
    return {name: value for name, value in origin.items() if name not in ("then", "n")}


def _splits(origin: Mapping[str, object], half: str) -> set[str]:
    """The splits of which a task is this half."""
    steps = origin.get("then", [])
    found = steps if isinstance(steps, list | tuple) else []
    return {str(list(one[:-1])) for one in found if one[0] == "split" and one[-1] == half}
