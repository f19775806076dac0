"""What the doctor finds, as values: one finding a check, and the report of all of them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["good", "doubtful", "unusable"]
Subject = Literal["model", "task"]

EXIT_CODES: dict[Verdict, int] = {"good": 0, "doubtful": 0, "unusable": 3}
"""What the shell returns; 2 is an error, so that nothing could be examined."""


@dataclass(frozen=True)
class Finding:
    """What one check measured, and what to make of it.

    Good is what is at most the threshold, or at least that much, if `more_is_better`; then there is
    no advice. `rows` are the numbers of the prompts concerned, from 0 as in the file; `drop` says
    that the task is sounder without them. `details` are further numbers, such as one a layer.
    """

    name: str
    subject: Subject
    verdict: Verdict
    measured: float | int
    threshold: float | int
    unit: str
    means: str
    advice: str = ""
    rows: tuple[int, ...] = ()
    drop: bool = False
    more_is_better: bool = False
    details: tuple[tuple[str, float | int], ...] = ()

    def __post_init__(self) -> None:
        if self.verdict == "good":
            object.__setattr__(self, "advice", "")


@dataclass(frozen=True)
class Skipped:
    """A check that was not made, and why."""

    name: str
    subject: Subject
    why: str


@dataclass(frozen=True)
class Report:
    """All findings on a model, and on a task if there was one.

    `ability` says in one sentence whether the model can do the task; `examples` are some of its
    prompts with their answers as text.
    """

    model: str
    task: str | None
    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    ability: str | None = None
    examples: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of all findings."""
        found = {finding.verdict for finding in self.findings}
        return "unusable" if "unusable" in found else "doubtful" if "doubtful" in found else "good"

    @property
    def exit_code(self) -> int:
        """0 if good or doubtful, 3 if unusable."""
        return EXIT_CODES[self.verdict]

    @property
    def rows_to_drop(self) -> tuple[int, ...]:
        """Prompts without which the task would be sounder, by their number from 0."""
        return tuple(sorted({row for f in self.findings if f.drop for row in f.rows}))

    def of(self, name: str) -> Finding:
        """The finding with this name.

        Raises:
            ValueError: if there is none.
        """
        for finding in self.findings:
            if finding.name == name:
                return finding
        names = ", ".join(finding.name for finding in self.findings)
        raise ValueError(f"there is no finding {name!r} in this report, but {names}")

    def to_dict(self) -> dict[str, object]:
        """Everything, in values that fit into JSON; numbers that do not become None."""
        return {
            "model": self.model,
            "task": self.task,
            "verdict": self.verdict,
            "ability": self.ability,
            "examples": list(self.examples),
            "rows_to_drop": list(self.rows_to_drop),
            "findings": [_to_dict(finding) for finding in self.findings],
            "skipped": [asdict(one) for one in self.skipped],
        }


def at_most(
    measured: float | int, doubtful: float | int, unusable: float | int = math.inf
) -> Verdict:
    """Good up to `doubtful`, unusable above `unusable` or where nothing could be measured (NaN).

    >>> at_most(0.5, 1), at_most(2, 1), at_most(3, 1, 2), at_most(float("nan"), 1)
    ('good', 'doubtful', 'unusable', 'unusable')
    """
    if math.isnan(measured) or measured > unusable:
        return "unusable"
    return "good" if measured <= doubtful else "doubtful"


def at_least(
    measured: float | int, doubtful: float | int, unusable: float | int = -math.inf
) -> Verdict:
    """Good from `doubtful` on, unusable below `unusable` or where nothing could be measured."""
    return at_most(-measured, -doubtful, -unusable)


def named(rows: Sequence[int], most: int = 8) -> str:
    """Row numbers for people.

    >>> named([3, 4], most=1)
    'rows 3, ... (2 in all)'
    """
    shown = ", ".join(map(str, rows[:most]))
    plural = "s" if len(rows) > 1 else ""
    return f"row{plural} {shown}" + (f", ... ({len(rows)} in all)" if len(rows) > most else "")


def _to_dict(finding: Finding) -> dict[str, object]:
    return {
        **asdict(finding),
        "measured": _finite(finding.measured),
        "threshold": _finite(finding.threshold),
        "rows": list(finding.rows),
        "details": {name: _finite(value) for name, value in finding.details},
    }


def _finite(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None
