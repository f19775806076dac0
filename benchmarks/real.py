"""`python -m benchmarks.real FOLDER`: which cheap method finds good circuits in a real model?

Every method on every task and every split of its prompts, in docs/real.md. A finished cell is a
JSON file in runs/real and not measured again, so that a run that was cut short goes on; all cells
are one CSV beside the page, from which every number of it is made (`--redraw` makes it alone).
"""

import argparse
import csv
import io
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

from circuits.choosing import auto
from circuits.judging.areas import cmd, cpr, logarithmic
from circuits.judging.faithfulness import MIB_SHARES, Sweep, curve
from circuits.judging.smallest import Goal
from circuits.scores import Scores
from circuits.scoring import Recipe, along_inputs, eap, eap_ig, gim, relp, score
from patching.files.whole import write_text
from patching.metrics import logit_diff
from patching.model import Model
from patching.rules import gim as gim_rule
from patching.rules import relp as relp_rule
from patching.tasks import Task, generate

DOCS = Path(__file__).resolve().parents[1] / "docs"
TASKS = ("ioi", "ioi:swap", "facts", "gendered-pronouns", "subject-verb-agreement", "docstring")
SIZE = 0.01
"""The share of the edges that `auto` compares circuits at."""

Scorer = Callable[[Model, Task], Scores]


def _auto(model: Model, task: Task) -> Scores:
    n = round(SIZE * model.graph.n_edges)
    return auto(model, task, logit_diff, Goal("absolute"), size=n).scores


METHODS: dict[str, Scorer] = {
    "eap": lambda model, task: eap(model, task, logit_diff),
    "eap-ig": lambda model, task: eap_ig(model, task, logit_diff),
    "relp": lambda model, task: relp(model, task, logit_diff),
    "gim": lambda model, task: gim(model, task, logit_diff),
    "relp x inputs": lambda model, task: score(
        model, task, logit_diff, Recipe(along_inputs(3), relp_rule)
    ),
    "gim x inputs": lambda model, task: score(
        model, task, logit_diff, Recipe(along_inputs(3), gim_rule)
    ),
    "auto": _auto,
}


@dataclass(frozen=True)
class Cell:
    """A method on a split of a task: what its circuits keep on the other half, and what it took.

    `kept_` is faithfulness at 0.1, 1 and 10 % of the edges, pruned, by absolute score, with its
    95 % interval over the judging prompts at 1 %. Areas are over MIB's ten sizes; `cpr` by signed
    score.
    `chosen` is what `auto` kept; `seconds` are of this machine, as busy as it was.
    """

    model: str
    task: str
    method: str
    split: int
    prompts: int
    kept_01: float
    kept_1: float
    kept_1_low: float
    kept_1_high: float
    kept_10: float
    log_cmd: float
    cmd: float
    cpr: float
    seconds: float
    chosen: str = ""


def measure(model: Model, task: Task, method: str, split: int) -> Cell:
    """Score one half of the prompts, and judge circuits of all sizes on the other."""
    found, judged = task.split(0.5, seed=split)
    start = time.perf_counter()
    scores = METHODS[method](model, found)
    seconds = time.perf_counter() - start
    sweeps = [Sweep(ranking, n_random=0) for ranking in ("absolute", "signed")]
    by_size, signed = (curve(model, judged, scores, logit_diff, sweep) for sweep in sweeps)
    tenth, one, ten = (by_size.points[MIB_SHARES.index(share)] for share in (0.001, 0.01, 0.1))
    options = scores.provenance.get("options")
    return Cell(
        model=Path(model.name).name,
        task=task.name,
        method=method,
        split=split,
        prompts=len(found),
        kept_01=tenth.faithfulness,
        kept_1=one.faithfulness,
        kept_1_low=one.low,
        kept_1_high=one.high,
        kept_10=ten.faithfulness,
        log_cmd=cmd(by_size, logarithmic).value,
        cmd=cmd(by_size).value,
        cpr=cpr(signed).value,
        seconds=seconds,
        chosen=str(options.get("kept", "")) if isinstance(options, dict) else "",
    )


def run(model: Model, args: argparse.Namespace) -> list[Cell]:
    """All cells, those that are kept already as they are."""
    found = []
    for name in args.tasks:
        assert model.tokenizer is not None, "a real model has one"
        task = generate(name, model.tokenizer, args.n, 0)
        for split in range(args.splits):
            for method in args.methods:
                found.append(_kept(model, task, method, split, args.out))
    return found


def _kept(model: Model, task: Task, method: str, split: int, folder: Path) -> Cell:
    words = f"{Path(model.name).name}-{task.name}-{method}-{split}-{task.hash}"
    file = folder / f"{words.replace(' ', '-').replace(':', '-')}.csv"
    if not file.exists():
        write_text(file, to_csv([measure(model, task, method, split)]))
    return from_csv(file.read_text(encoding="utf-8"))[0]


def to_csv(cells: Sequence[Cell]) -> str:
    """A table of cells, one a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Cell)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(cell) for cell in cells)
    return text.getvalue()


def from_csv(text: str) -> list[Cell]:
    """The cells of a table."""
    kinds = {field.name: field.type for field in fields(Cell)}
    rows = csv.DictReader(io.StringIO(text))
    return [Cell(**{name: kinds[name](value) for name, value in row.items()}) for row in rows]  # pyright: ignore


HEAD = """# Cheap methods on a real model

<!-- Written by `make real MODEL=FOLDER`: change benchmarks/real.py instead. -->

What circuits keep of the clean-corrupt gap on prompts that were not scored, by absolute score,
pruned; every number is a mean over splits of the rows of [one file](real.csv), which has
intervals and each split. Areas over MIB's ten sizes: CMD, 0 is best, on the logarithmic and the
linear axis; CPR by signed score. `auto` compares circuits of 1 % of the edges on halves of the
scored prompts and keeps the best. *s* is time as it was on the machine that made this page,
shared with other work: for orders of magnitude.

"""
COLUMNS = {
    "kept_01": "0.1 %",
    "kept_1": "1 %",
    "kept_1_low": "from",
    "kept_1_high": "to",
    "kept_10": "10 %",
    "log_cmd": "log CMD",
    "cmd": "CMD",
    "cpr": "CPR",
    "seconds": "s",
}


def page(cells: Sequence[Cell]) -> str:
    """The page of a table of cells: a table for each model and task, the best method first."""
    parts = [HEAD.rstrip()]
    for model, task in dict.fromkeys((cell.model, cell.task) for cell in cells):
        rows = [cell for cell in cells if (cell.model, cell.task) == (model, task)]
        splits = len({cell.split for cell in rows})
        parts.append(f"## {task}, {model}")
        parts.append(f"{rows[0].prompts} prompts scored, as many judged; splits: {splits}.")
        parts.append(_table(rows))
        kept = dict.fromkeys(cell.chosen for cell in rows if cell.chosen)
        parts += [f"`auto` kept {'; '.join(kept)}."] if kept else []
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Cell]) -> str:
    """One line a method: means over splits."""
    names = dict.fromkeys(cell.method for cell in rows)
    means = {name: _means([cell for cell in rows if cell.method == name]) for name in names}
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name in sorted(means, key=lambda name: means[name]["log_cmd"]):
        shown = " | ".join(_shown(column, means[name][column]) for column in COLUMNS)
        lines.append(f"| `{name}` | {shown} |")
    return "\n".join(lines)


def _means(cells: Sequence[Cell]) -> dict[str, float]:
    return {column: fmean(getattr(cell, column) for cell in cells) for column in COLUMNS}


def _shown(column: str, value: float) -> str:
    return f"{value:.0f}" if column == "seconds" else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing; write the CSV and the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__)
    parser.add_argument("model", nargs="?", help="a folder, or a name")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--n", type=int, default=32, help="prompts of a task, half to score (32)")
    parser.add_argument("--out", type=Path, default=Path("runs/real"), help="finished cells")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page goes")
    parser.add_argument("--redraw", action="store_true", help="the page from the CSV alone")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if not args.redraw:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.docs / "real.csv", to_csv(run(Model.load(args.model), args)))
    write_text(args.docs / "real.md", page(from_csv((args.docs / "real.csv").read_text("utf-8"))))


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
