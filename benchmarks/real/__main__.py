"""`python -m benchmarks.real FOLDER`: what can be known of a real model in some hours.

Every finished cell is a file in runs/real and not measured again, so that a run that was cut
short goes on. All first splits come first. `--collect` makes the page of the cells that are there,
without a model, `--redraw` of the CSV beside it.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.real import further, methods, roles
from benchmarks.real.drawing import draw_circuits
from benchmarks.real.facts import Fact, from_csv, to_csv
from benchmarks.real.page import page
from benchmarks.real.subjects import SPLITS, TASKS, Subject, subjects
from patching.files.whole import write_text
from patching.model import Model

DOCS = Path(__file__).resolve().parents[2] / "docs"

LATER = (roles.measure, further.nodes, further.rivals, further.searches)
"""What is looked at when all tasks have one split, on that alone."""


def jobs(model: Model, args: argparse.Namespace) -> Iterator[Callable[[], Sequence[Fact]]]:
    """What is measured, in this order."""
    places = {name: subjects(model, name, args.n) for name in args.tasks}
    firsts = [splits[0] for splits in places.values()]

    def scored(subject: Subject) -> Callable[[], Sequence[Fact]]:
        return lambda: list(methods.measure(model, subject, args.out))

    yield from (scored(subject) for subject in firsts)
    for look in LATER:
        yield from (partial(look, model, subject, args.out) for subject in firsts)
    for i in range(1, args.splits):
        yield from (scored(splits[i]) for splits in places.values())


def collect(folder: Path) -> list[Fact]:
    """The facts of all cells that are finished, task by task."""
    files = sorted(folder.glob("*.csv"))
    facts = [fact for file in files for fact in from_csv(file.read_text(encoding="utf-8"))]
    order = [*TASKS, *sorted({fact.task for fact in facts} - {*TASKS})]
    return sorted(facts, key=lambda fact: order.index(fact.task))


def publish(args: argparse.Namespace, facts: Sequence[Fact]) -> None:
    """Write the CSV, and the page that is made of it."""
    facts = [*facts, *draw_circuits(facts, args.out, args.docs)]
    write_text(args.docs / "real.csv", to_csv(facts))
    redraw(args.docs)


def redraw(docs: Path) -> None:
    """The page of the CSV beside it."""
    write_text(docs / "real.md", page(from_csv((docs / "real.csv").read_text(encoding="utf-8"))))


def _do(job: Callable[[], Sequence[Fact]]) -> None:
    """What a task does not allow is left out, and told."""
    try:
        told = [f"{fact.part}, {fact.task}, split {fact.split + 1}" for fact in job()[:1]]
    except ValueError as error:
        told = [f"left out: {error}"]
    for line in told:
        print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing; write the CSV and the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("model", nargs="?", help="a folder, or a name")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="names of tasks")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--n", type=int, default=16, help="prompts to score, as many to judge (16)")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="finished cells")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes")
    parser.add_argument("--redraw", action="store_true", help="the page from the CSV alone")
    parser.add_argument("--collect", action="store_true", help="the page from cells alone")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if args.redraw:
        redraw(args.docs)
        return
    if not args.collect:
        (args.out / "scored").mkdir(parents=True, exist_ok=True)
        for job in jobs(Model.load(args.model), args):
            _do(job)
    publish(args, collect(args.out))


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
