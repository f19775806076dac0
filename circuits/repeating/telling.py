"""A comparison as text for a terminal."""

import math
import shlex
from collections.abc import Sequence

from circuits.repeating.comparison import Comparison, Fact, Numbers

_SHOWN = 8


def summary(comparison: Comparison) -> str:
    """The verdict, what was not the same, and every group of numbers on a line."""
    lines = [f"{comparison.path}: {_verdict(comparison)}"]
    if comparison.command:
        lines.append(f"made again by: circuits {shlex.join(comparison.command)}")
    lines += _facts("not what it was made from:", comparison.inputs)
    lines += _facts("other than then (no difference by itself):", comparison.facts)
    lines += ["", *_table(comparison.numbers)]
    for numbers in comparison.numbers:
        lines += _labels(numbers)
    lines += _facts("other texts:", comparison.texts)
    return "\n".join(lines)


def _verdict(comparison: Comparison) -> str:
    if comparison.verdict == "same":
        if comparison.bitwise:
            return "the same, to the last bit"
        return f"the same but for rounding (at most {comparison.tolerance:g} of the largest number)"
    reasons = [fact.name for fact in comparison.inputs]
    if any(not n.is_within(comparison.tolerance) for n in comparison.numbers):
        reasons.append(f"numbers (beyond rounding, {comparison.tolerance:g} of the largest)")
    if comparison.texts:
        reasons.append("texts")
    return f"DIFFERS in {', '.join(reasons)}"


def _table(groups: Sequence[Numbers]) -> list[str]:
    head = ("numbers", "n", "largest difference", "of the largest", "ranks", "where")
    rows = [
        (
            one.name,
            f"{one.n:,}",
            "none" if one.bitwise else f"{one.largest:.2g}",
            "-" if one.bitwise else f"{one.relative:.1e}",
            "-" if math.isnan(one.ranks) else f"{one.ranks:.6f}",
            one.where,
        )
        for one in groups
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if i in (0, 5) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]


def _labels(numbers: Numbers) -> list[str]:
    """What only one of the two results has."""
    pairs = (("before", numbers.only_before), ("now", numbers.only_now))
    return [
        f"{numbers.name} only {when} ({len(labels):,}): {', '.join(labels[:_SHOWN])}"
        + (", ..." if len(labels) > _SHOWN else "")
        for when, labels in pairs
        if labels
    ]


def _facts(title: str, facts: Sequence[Fact]) -> list[str]:
    shown = [
        f"  {fact.name}: {fact.before or '-'}, now {fact.now or '-'}" for fact in facts[:_SHOWN]
    ]
    more = [f"  ... ({len(facts)} in all)"] if len(facts) > _SHOWN else []
    return ["", title, *shown, *more] if facts else []
