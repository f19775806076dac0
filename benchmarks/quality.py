"""`python -m benchmarks.quality`: how good are the circuits of every rule on every path?

Normalised faithfulness (resample ablation, top n by absolute score, no pruning) of circuits of a
few sizes, for every backward rule on every path, on every task given. Prompts are searched and
judged on alike, as in the tables of the literature.
"""

import argparse
import os
import warnings
from collections.abc import Iterator
from pathlib import Path as File
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.model import Model
    from patching.tasks import Task

os.environ.setdefault("TQDM_DISABLE", "1")

SIZES = (50, 100, 200)


def main() -> None:
    """Parse the command line and print one table per task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--tasks", nargs="*", default=[], help="task files; none: the model's own")
    parser.add_argument("--n", type=int, default=128, help="prompts of a generated task")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    from patching.model import Model  # here, so that --help does not wait for it

    model = Model.load(args.model)
    for task in _tasks(args.tasks, model, args.n):
        print(f"\n{model.name}, {task.name}, {len(task)} prompts, {model.graph.n_edges} edges")
        rows = {}
        for name, cells in table(model, task):
            rows[name] = cells
            print("  " + name.ljust(36) + "  ".join(f"{cell:6.2f}" for cell in cells), flush=True)
        print(f"  losing to EAP at {SIZES[1]} edges: {', '.join(losers(rows)) or 'none'}")


def losers(rows: dict[str, list[float]]) -> list[str]:
    """Which combinations keep less of the behaviour than EAP does, at the middle size."""
    plain = rows["plain x clean"][1]
    return [name for name, cells in rows.items() if name != "edges" and cells[1] < plain - 0.005]


def table(model: "Model", task: "Task") -> "Iterator[tuple[str, list[float]]]":
    """Each rule and path with the faithfulness of its circuits, by size."""
    from circuits.evaluation import evaluate
    from circuits.scoring import PATHS, Recipe, score
    from circuits.select import random_circuit, top_n
    from patching.metrics import logit_diff
    from patching.rules import RULES

    yield "edges", [float(n) for n in SIZES]
    for rule in RULES.values():
        for path in PATHS:
            scores = score(model, task, logit_diff, Recipe(PATHS[path](), rule))
            circuits = [top_n(scores, n, ranking="absolute") for n in SIZES]
            found = evaluate(model, task, circuits, logit_diff).faithfulness
            yield f"{rule.name} x {path}", found.tolist()
    chance = [random_circuit(model.graph, n, seed=0) for n in SIZES]
    yield "random", evaluate(model, task, chance, logit_diff).faithfulness.tolist()


def _tasks(files: list[str], model: "Model", n: int) -> "Iterator[Task]":
    from patching.models import TOY_GENERATORS
    from patching.tasks import from_json

    if files:
        yield from (from_json(File(file), model.tokenizer) for file in files)
    elif model.tokenizer is not None:
        yield from (make(model.tokenizer, n, 0) for make in TOY_GENERATORS.values())


if __name__ == "__main__":
    main()
