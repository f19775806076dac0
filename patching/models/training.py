"""Training of the embedded models: one loop, one measure, one command line for all of them.

Knows no task and no format; one thread and one seed give one file, on one machine.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from patching.tasks.sampling import Generator
from patching.tasks.task import Task
from patching.tasks.tokens import Tokenizer

log = logging.getLogger(__name__)

SEED = 0
WARMUP_STEPS = 100
REPORT_EVERY = 200
EVALUATION_SEED = 1_000_003
EVALUATION_PROMPTS = 1000

TrainingBatch = TypeVar("TrainingBatch")


@dataclass(frozen=True)
class Training:
    """What it takes to make one embedded model: `train` gets tokenizer, steps and seed."""

    name: str
    folder: Path
    steps: int
    rows_per_step: int
    make_tokenizer: Callable[[], PreTrainedTokenizerBase]
    train: Callable[[PreTrainedTokenizerBase, int, int], PreTrainedModel]
    tasks: Mapping[str, Generator]


def run(trainings: Sequence[Training], arguments: Sequence[str] | None = None) -> None:
    """Train and save as the command line says; accuracies are logged on the way."""
    by_name = {training.name: training for training in trainings}
    parser = argparse.ArgumentParser(
        prog="python -m patching.models", description="Train the embedded models anew, in place."
    )
    parser.add_argument("--model", choices=[*by_name], help="the only one to train; default: all")
    parser.add_argument("--out", type=Path, help="write to folders in this one instead")
    parser.add_argument("--steps", type=int, help="optimizer steps; default: the model's own")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    for training in trainings if options.model is None else [by_name[options.model]]:
        folder = training.folder if options.out is None else options.out / training.folder.name
        make(training, folder, steps=options.steps or training.steps, seed=options.seed)


def make(training: Training, folder: Path, *, steps: int, seed: int) -> None:
    """Train one model and write it, its tokenizer and `training.json` to a folder."""
    start = time.perf_counter()
    log.info("training %s", training.name)
    tokenizer = training.make_tokenizer()
    rounded = save(training.train(tokenizer, steps, seed), tokenizer, folder)
    report = {
        "seed": seed,
        "steps": steps,
        "rows_per_step": training.rows_per_step,
        "parameters": rounded.num_parameters(),
        "accuracy": measure(rounded, tokenizer, training.tasks, n=EVALUATION_PROMPTS),
    }
    text = json.dumps(report, indent=2) + "\n"
    (folder / "training.json").write_text(text, encoding="utf-8")
    log.info("%.0f s, saved to %s", time.perf_counter() - start, folder)


def fit_(
    model: PreTrainedModel,
    batches: Iterable[TrainingBatch],
    loss_of: Callable[[PreTrainedModel, TrainingBatch], Float[Tensor, ""]],
    *,
    steps: int,
    learning_rate: float,
    report: Callable[[PreTrainedModel], Mapping[str, float]],
) -> None:
    """One step of AdamW per batch; `report` measures the model on the way, for the log."""
    optimizer = _optimizer(model, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    for step, batch in enumerate(batches, start=1):
        loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % REPORT_EVERY == 0:
            log.info("step %d, loss %.3f nats, accuracy %s", step, loss.item(), report(model))


def _optimizer(model: PreTrainedModel, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * cosine)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Generator],
    *,
    n: int,
) -> dict[str, float]:
    """Accuracy on `n` fresh prompts per task; for conflicts, how often context beats memory."""
    words_of = cast(Tokenizer, tokenizer)
    drawn = {name: generate(words_of, n, EVALUATION_SEED) for name, generate in tasks.items()}
    return {name: round(_accuracy(model, task), 4) for name, task in drawn.items()}


@torch.no_grad()
def _accuracy(model: PreTrainedModel, task: Task) -> float:
    """Fraction of prompts whose likeliest token is an answer.

    In a conflict only the two candidate cities are compared, since the question is which one wins.
    """
    (batch,) = task.batches(len(task))
    logits = model(batch.clean, attention_mask=torch.ones_like(batch.clean)).logits[
        torch.arange(len(batch)), batch.answer_pos
    ]
    if task.name.endswith("conflict"):
        right, wrong = logits.gather(1, batch.answers), logits.gather(1, batch.wrong_answers)
        return (right > wrong).float().mean().item()
    best = logits.argmax(dim=-1, keepdim=True)
    return ((batch.answers == best) & batch.is_answer).any(dim=1).float().mean().item()


def save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> PreTrainedModel:
    """Write model and tokenizer, and return the model as it was written: rounded to float16."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.float()
