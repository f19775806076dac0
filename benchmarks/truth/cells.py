"""What came of one method on one subject: a cell of the table, its files, and means over cells.

A cell is a JSON file, so that a run that was cut short goes on where it stopped; all of them
together are one CSV file, from which page and picture are made.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from benchmarks.truth.subjects import Subject
from patching.files.whole import write_text
from patching.intervals import Estimate, of_mean

SHARES = (0.01, 0.05, 0.1)
"""Sizes at which circuits are compared, of all edges."""


@dataclass(frozen=True)
class Cell:
    """The measures of a method on a subject; None where undefined or not asked.

    `auroc` and `auprc` are on the active edges of a known circuit; `recovered` is the share of
    them in a circuit of their number. `cmd`, `cpr` and `kept_` (faithfulness at 1, 5 and 10 % of
    the edges, with its 95 % interval over prompts) are on held-out prompts. `pearson` is with
    exact patching. `cost` is in forward and backward passes of the plain model.
    """

    model: str
    task: str
    method: str
    identity: str
    auroc: float | None = None
    auprc: float | None = None
    recovered: float | None = None
    cmd: float | None = None
    cpr: float | None = None
    kept_1: float | None = None
    kept_1_low: float | None = None
    kept_1_high: float | None = None
    kept_5: float | None = None
    kept_5_low: float | None = None
    kept_5_high: float | None = None
    kept_10: float | None = None
    kept_10_low: float | None = None
    kept_10_high: float | None = None
    pearson: float | None = None
    cost: float | None = None

    @property
    def subject(self) -> Subject:
        """What was tried on."""
        return Subject(self.model, self.task)

    def measure(self, name: str) -> float | None:
        """One of the numbers, by its name."""
        return getattr(self, name)


MEASURES = tuple(field.name for field in fields(Cell))[4:]


def mean_cell(cells: Sequence[Cell]) -> Cell:
    """The mean of several draws of one method on one subject."""
    means = {}
    for name in MEASURES:
        values = [value for cell in cells if (value := cell.measure(name)) is not None]
        means[name] = statistics.fmean(values) if len(values) == len(cells) else None
    return replace(cells[0], **means)


def estimate(cells: Iterable[Cell], measure: str) -> Estimate | None:
    """The mean of a measure over tasks with its 95 % interval over them, None where undefined.

    Both formats of one known circuit are one task.
    """
    groups: dict[str, list[float]] = {}
    for cell in cells:
        value = cell.measure(measure)
        if value is not None:
            group = cell.model.removesuffix("-llama") if cell.subject.is_known else cell.task
            groups.setdefault(group, []).append(value)
    if not groups:
        return None
    values = torch.tensor([statistics.fmean(group) for group in groups.values()])
    low, high = of_mean(values.double())
    return Estimate(float(values.double().mean()), float(low), float(high))


def file_of(folder: Path, subject: Subject, method: str) -> Path:
    """Where a cell lies."""
    place = f"{subject.model} {Path(subject.task).stem}".replace("/", "-").replace(" ", "-")
    return folder / place / f"{method.replace(' ', '-')}.json"


def read(path: Path, identity: str) -> Cell | None:
    """A finished cell, or None if there is none from these weights and prompts."""
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Cell)}
    return Cell(**content) if content.keys() == names and content["identity"] == identity else None


def write(path: Path, cell: Cell) -> None:
    """Keep a cell, whole or not at all."""
    write_text(path, json.dumps(asdict(cell), indent=1, allow_nan=False) + "\n")


def to_csv(cells: Iterable[Cell]) -> str:
    """All cells as a table, six digits each; undefined ones are empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(field.name for field in fields(Cell))
    for cell in cells:
        row = asdict(cell).values()
        table.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in row)
    return text.getvalue()


def from_csv(text: str) -> list[Cell]:
    """What `to_csv` wrote."""
    rows = csv.DictReader(io.StringIO(text))
    return [
        Cell(
            row["model"],
            row["task"],
            row["method"],
            row["identity"],
            **{name: float(row[name]) if row[name] else None for name in MEASURES},
        )
        for row in rows
    ]
