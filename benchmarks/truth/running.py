"""All methods on all subjects, in several processes; and what is made of the results."""

import multiprocessing
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.truth import cells as files
from benchmarks.truth.cells import Cell
from benchmarks.truth.contenders import combinations, contenders, learned
from benchmarks.truth.judging import judge
from benchmarks.truth.page import by_kind, groups, known_table, page, trained_table
from benchmarks.truth.picture import cost_against_quality
from benchmarks.truth.subjects import Scale, Subject, load, subjects
from circuits.drawing.plots import render
from patching.files.whole import write_bytes, write_text

PICTURES = (
    ("known", "auprc", "AUPRC on known circuits"),
    ("trained", "kept_10", "faithfulness at 10 % of the edges"),
)


@dataclass(frozen=True)
class Plan:
    """Which methods, on how many prompts, and where finished cells lie; `fresh` ignores those."""

    methods: tuple[str, ...]
    scale: Scale
    folder: Path
    fresh: bool = False


def run(plan: Plan, subjects: Sequence[Subject], *, jobs: int = 1) -> list[Cell]:
    """All cells, subject by subject; progress is told on stderr."""
    work = partial(run_subject, plan)
    if jobs == 1:
        return _collected(map(work, subjects), len(subjects))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_one_thread) as pool:
        return _collected(pool.map(work, subjects), len(subjects))


def run_subject(plan: Plan, subject: Subject) -> list[Cell]:
    """All methods on one subject; each cell is kept as soon as it is there."""
    place, table, found = load(subject, plan.scale), contenders() | learned() | combinations(), []
    for method in plan.methods:
        file = files.file_of(plan.folder, subject, method)
        cell = None if plan.fresh else files.read(file, place.identity)
        if cell is None:
            cell = judge(table[method], place, rounds=plan.scale.rounds)
            files.write(file, cell)
            _tell(f"  {subject.model}, {subject.task}: {method}, {cell.cost:.1f} units")
        found.append(cell)
    return found


def publish(cells: Sequence[Cell], docs: Path) -> None:
    """Write the page, its table as CSV and its pictures into the folder of the docs.

    Models that were not measured now keep the rows they have there; a folder is called by its own
    name. Page and pictures are made from the digits of the CSV, so that they can be made from it
    again.
    """
    cells = [_named(cell) for cell in cells]
    measured, old = {cell.model for cell in cells}, docs / "truth.csv"
    before = files.from_csv(old.read_text(encoding="utf-8")) if old.is_file() else []
    kept = [cell for cell in before if cell.model not in measured]
    table = files.to_csv(sorted([*kept, *cells], key=_place))
    cells = files.from_csv(table)
    write_text(docs / "truth.csv", table)
    write_text(docs / "truth.md", page(cells))
    for (name, measure, label), of_kind in zip(PICTURES, by_kind(cells), strict=True):
        if not of_kind:
            continue
        figure = cost_against_quality(of_kind, measure, label)
        write_bytes(docs / "pictures" / f"truth-{name}.svg", render(figure, "svg"))


def summary(cells: Sequence[Cell]) -> str:
    """The tables alone."""
    known, trained = by_kind(cells)
    parts = [known_table(known)] if known else []
    parts += [f"{model}\n{trained_table(part)}" for model, part in groups(trained).items()]
    return "\n".join(parts)


def _named(cell: Cell) -> Cell:
    if not Path(cell.model).is_dir():
        return cell
    return replace(cell, model=Path(cell.model).resolve().name, task=Path(cell.task).stem)


def _place(cell: Cell) -> int:
    """Embedded models in their order, and others behind them."""
    names = [subject.model for subject in subjects()]
    return names.index(cell.model) if cell.model in names else len(names)


def _collected(results: Iterable[list[Cell]], total: int) -> list[Cell]:
    cells: list[Cell] = []
    for i, of_subject in enumerate(results, start=1):
        cells += of_subject
        _tell(f"[{i}/{total}] {of_subject[0].model}, {of_subject[0].task}")
    return cells


def _one_thread() -> None:
    """Processor time then is work, and processes do not wait for each other."""
    torch.set_num_threads(1)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
