"""A training and a log of a search that go on for ever where they were: to be killed."""

from pathlib import Path

import torch

from circuits.search.log import Log
from patching.descent import Parameter, Schedule, descend
from patching.files.whole import write_text

FACTS = {"config": "c", "weights": "w", "tokens": "t", "metric": "m", "ablation": "z"}
FACTS |= {"dtype": "float64", "n_examples": 2000}
STEPS = 300
N = 40


def values_of(i: int) -> torch.Tensor:
    """What circuit `i` comes to: large enough that no line is written at once by accident."""
    return torch.full((2000,), float(i), dtype=torch.float64)


def objective(values, step):
    return ((values["x"] - step.rows.sum()) ** 2).sum() + values["x"].std(), {}


def train(folder: Path | None) -> torch.Tensor:
    start = {"x": Parameter(torch.arange(5000, dtype=torch.float64), 0.1)}
    plan = Schedule(steps=STEPS, save_every=1, folder=folder)
    return descend(start, objective, 7, plan, facts={"of": "kills"})[0]["x"]


def search(path: Path) -> Log:
    log = Log.open(path, FACTS)
    for i in range(N):
        if str(i) not in log:
            log.add([str(i)], values_of(i)[None])
    return log


def for_ever(folder: Path) -> None:
    while True:
        search(folder / "runs.jsonl")
        (folder / "runs.jsonl").unlink()
        write_text(folder / "table.csv", "a line\n" * 50_000)
        train(folder / "training")
        (folder / "training" / "state.safetensors").unlink()
