"""`python -m benchmarks.reference [--model NAME]`: exact scores of every edge, on every task.

What cheaper methods are compared with: each edge of a trained model removed by itself (resample
ablation, logit difference, float64), on `PROMPTS` prompts of seed `SEED`. `reference(model, task)`
reads what was stored: in `exact/toy.npz` one vector per task, the existing edges in row-major
order; in `exact/toy.json` their graph, and where each task's scores come from.
"""

import argparse
import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy
import torch

from circuits.scores import Scores
from circuits.scoring import exact
from patching.files.whole import write_bytes, write_text
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import TOY_GENERATORS, embedded
from patching.tasks import Task

if TYPE_CHECKING:
    from patching.tasks import Tokenizer

FOLDER = Path(__file__).parent / "exact"
PROMPTS = 32
SEED = 0
TRAINED: dict[str, tuple[str, ...]] = {
    "toy": tuple(TOY_GENERATORS),
    "toy-llama": tuple(TOY_GENERATORS),
}
"""The trained models and the tasks that each of them does."""


def reference(model: str, task: str) -> Scores:
    """The stored exact scores of a trained model on one of its tasks.

    Raises:
        ValueError: if there are none of this model and task, or the file was altered.
    """
    _check(model, task)
    about = json.loads((FOLDER / f"{model}.json").read_text(encoding="utf-8"))
    content = (FOLDER / f"{model}.npz").read_bytes()
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise ValueError(
            f"{model}.npz is not the file that {model}.json tells of; "
            "make both anew: python -m benchmarks.reference"
        )
    graph = Graph.from_dict(about["graph"])
    matrix = torch.zeros(graph.exists.shape, dtype=torch.float64)
    with numpy.load(io.BytesIO(content), allow_pickle=False) as stored:
        matrix[graph.exists] = torch.from_numpy(stored[task])
    return Scores(matrix, graph, about["provenance"][task])


def reference_task(model: str, task: str) -> Task:
    """The very prompts that the stored scores of a model were made on.

    Raises:
        ValueError: if there are none of this model and task.
    """
    _check(model, task)
    return TOY_GENERATORS[task](_tokenizer(model), PROMPTS, SEED)


def store(name: str, folder: Path = FOLDER) -> int:
    """Score all tasks of a model, write the two files, and return their size in bytes."""
    model = Model.load(name, dtype=torch.float64)
    scores = {task: exact(model, reference_task(name, task), logit_diff) for task in TRAINED[name]}
    content = io.BytesIO()
    edges = {task: found.matrix[model.graph.exists].numpy() for task, found in scores.items()}
    numpy.savez_compressed(content, allow_pickle=False, **edges)
    about = {
        "graph": model.graph.to_dict(),
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "provenance": {task: dict(found.provenance) for task, found in scores.items()},
    }
    text = json.dumps(about, indent=1) + "\n"
    write_bytes(folder / f"{name}.npz", content.getvalue())
    write_text(folder / f"{name}.json", text)
    return len(content.getvalue()) + len(text)


def main() -> None:
    """Make the files anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reference", description=__doc__)
    parser.add_argument("--model", choices=[*TRAINED], help="the only one; default: all")
    chosen = parser.parse_args().model
    for name in TRAINED if chosen is None else (chosen,):
        print(f"{name}: {store(name)} bytes", flush=True)


@cache
def _tokenizer(model: str) -> "Tokenizer":
    found = embedded(model)
    assert found is not None, f"{model} is listed as trained"
    return cast("Tokenizer", found[1])


def _check(model: str, task: str) -> None:
    if task not in TRAINED.get(model, ()):
        known = "; ".join(f"{name} on {', '.join(tasks)}" for name, tasks in TRAINED.items())
        raise ValueError(f"no exact scores of {model!r} on {task!r}; there are {known}")


if __name__ == "__main__":
    main()
