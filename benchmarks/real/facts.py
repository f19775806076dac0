"""Facts: single measured numbers, in CSV files. The page knows nothing else."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from patching.files.whole import write_text
from patching.intervals import Estimate

COST = "cost"
"""The part of a fact that says how many seconds of one core a cell took, whole."""


@dataclass(frozen=True)
class Fact:
    """One number: of which part of the page, task, thing (a method, a head) and split.

    `low` and `high` are a 95 % interval over the judging prompts, NaN where there is none; `said`
    is what has no number.
    """

    part: str
    task: str
    of: str
    split: int
    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    said: str = ""


def estimated(fact: Fact, found: Estimate) -> Fact:
    """A fact's number with its interval."""
    return Fact(
        fact.part,
        fact.task,
        fact.of,
        fact.split,
        fact.name,
        found.value,
        found.low,
        found.high,
        fact.said,
    )


def to_csv(facts: Iterable[Fact]) -> str:
    """A table of facts, one a row, numbers to five digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Fact))
    for fact in facts:
        row = (getattr(fact, field.name) for field in fields(Fact))
        writer.writerow(_shown(value) if isinstance(value, float) else value for value in row)
    return text.getvalue()


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5g}"


def from_csv(text: str) -> list[Fact]:
    """The facts of a table."""
    found = []
    for row in csv.DictReader(io.StringIO(text)):
        place = row["part"], row["task"], row["of"], int(row["split"]), row["name"]
        value, low, high = (_number(row[name]) for name in ("value", "low", "high"))
        found.append(Fact(*place, value, low, high, row["said"]))
    return found


def _number(text: str) -> float:
    return float(text) if text else math.nan


def kept(file: Path, measure: Callable[[], Sequence[Fact]]) -> list[Fact]:
    """Facts that were measured before, or measured now and kept, with the time it took."""
    if not file.exists():
        start = time.process_time()
        facts = [*measure()]
        took = [Fact(COST, f.task, f.of, f.split, file.stem) for f in facts[:1]]
        seconds = time.process_time() - start
        write_text(file, to_csv([*facts, *(replace(one, value=seconds) for one in took)]))
    return from_csv(file.read_text(encoding="utf-8"))
