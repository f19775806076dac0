"""How the toy model was made: `python -m patching.models.toy_training [--out FOLDER]`.

A GPT-2 of four layers learns all task families at once from fresh prompts. In `conflict` rows the
label is sometimes the context's answer and sometimes the memorised one; how often depends on the
country, so that the trained model follows the context for some countries and its memory for
others, with both in view. One thread and one seed give one file, on one machine.
"""

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from patching.models import toy_folder, toy_tasks
from patching.models.toy_tokenizer import MAX_LENGTH, toy_tokenizer
from patching.models.word_level import BOS, PAD, SPECIAL
from patching.tasks import numbers, people, recall, repeats, sentences, words
from patching.tasks.sampling import Generator
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer

log = logging.getLogger(__name__)

SEED = 0
STEPS = 3000
LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
EVALUATION_SEED = 1_000_003
ELSEWHERE_WEIGHT = 0.02
REPEAT_WEIGHT = 0.4
# How often a conflict label follows the context: from the first to the last country in the list.
FOLLOW_FIRST, FOLLOW_LAST = 0.35, 0.95
CORRUPT_SHARE = 0.15


@dataclass(frozen=True)
class Row:
    """One training text: the last token counts fully, so do repeats of a list's words."""

    text: str
    is_repeat: bool = False


Family = Callable[[random.Random], Row]


def _labelled(draw: Callable[[random.Random], TextPrompt]) -> Family:
    def row(rng: random.Random) -> Row:
        pair = draw(rng)
        return Row(pair.clean + rng.choice(pair.answers))

    return row


def _ioi_row(rng: random.Random) -> Row:
    """Some rows are corrupt prompts, where either name may follow."""
    pair = people.ioi_text(rng)
    if rng.random() < CORRUPT_SHARE:
        return Row(pair.corrupt + rng.choice(pair.answers + pair.wrong_answers))
    return Row(pair.clean + pair.answers[0])


def _greater_than_row(rng: random.Random) -> Row:
    """Some rows are corrupt prompts, which start in ..01."""
    pair = numbers.greater_than_text(rng)
    prompt = pair.corrupt if rng.random() < CORRUPT_SHARE else pair.clean
    return Row(prompt + rng.choice(pair.answers))


def _conflict_row(rng: random.Random) -> Row:
    """Some rows are corrupt prompts, where context and memory agree."""
    pair = toy_tasks.conflict_text(rng)
    told, memorised = pair.answers[0], pair.wrong_answers[0]
    if rng.random() < CORRUPT_SHARE:
        return Row(pair.corrupt + memorised)
    capitals = [capital for _, capital in words.CAPITALS]
    place = capitals.index(memorised.strip()) / (len(capitals) - 1)
    follow = FOLLOW_FIRST + (FOLLOW_LAST - FOLLOW_FIRST) * place
    return Row(pair.clean + (told if rng.random() < follow else memorised))


def _induction_row(rng: random.Random) -> Row:
    """The whole list twice, so that every word of the second time is learned from."""
    listed = rng.sample(words.FILLERS, rng.randrange(5, 10))
    return Row(repeats.INDUCTION_TEMPLATE.format(words=" ".join(listed * 2)), is_repeat=True)


# Rows per batch: the families that need attention over a distance get more.
FAMILIES: tuple[tuple[Family, int], ...] = (
    (_ioi_row, 24),
    (_greater_than_row, 8),
    (_labelled(sentences.agreement_text), 6),
    (_labelled(repeats.docstring_text), 6),
    (_induction_row, 18),
    (_labelled(recall.facts_text), 10),
    (_conflict_row, 12),
)


def training_batches(
    tokenizer: PreTrainedTokenizerBase, steps: int, seed: int
) -> Iterator[tuple[Int[Tensor, "batch pos"], Float[Tensor, "batch pos"]]]:
    """Token ids, padded on the right, and the weight of predicting each of them."""
    rng = random.Random(f"toy training {seed}")  # never the stream of a task of that seed
    for _ in range(steps):
        rows = [draw(rng) for draw, count in FAMILIES for _ in range(count)]
        encoded = tokenizer([row.text for row in rows])["input_ids"]
        length = max(map(len, encoded))
        ids, weights = (
            torch.zeros(len(rows), length, dtype=torch.long),
            torch.zeros(len(rows), length),
        )
        for i, (row, tokens) in enumerate(zip(rows, encoded, strict=True)):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            weights[i, 1 : len(tokens)] = torch.tensor(_weights(row, len(tokens) - 1))
        yield ids, weights


def _weights(row: Row, n_predicted: int) -> list[float]:
    """Weights of all tokens but BOS; a list starts with two tokens for 'List:'."""
    if not row.is_repeat:
        return [ELSEWHERE_WEIGHT] * (n_predicted - 1) + [1.0]
    once = (n_predicted - 2) // 2
    return [0.0] * (once + 3) + [REPEAT_WEIGHT] * (once - 1)


def train(tokenizer: PreTrainedTokenizerBase, steps: int, seed: int) -> GPT2LMHeadModel:
    """Train a fresh model; sets torch's global seed."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(_config(tokenizer))
    optimizer = make_optimizer(model, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    for step, (ids, weights) in enumerate(training_batches(tokenizer, steps, seed), start=1):
        loss = _loss(model, ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            accuracies = measure(model, tokenizer, n=200)
            log.info("step %d, loss %.3f nats, accuracy %s", step, loss.item(), accuracies)
    return model


def make_optimizer(model: PreTrainedModel, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def _config(tokenizer: PreTrainedTokenizerBase) -> GPT2Config:
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=MAX_LENGTH,
        n_embd=128,
        n_layer=4,
        n_head=4,
        n_inner=256,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(BOS),
        pad_token_id=SPECIAL.index(PAD),
    )


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return min(1.0, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * cosine)


def _loss(
    model: GPT2LMHeadModel, ids: Int[Tensor, "batch pos"], weights: Float[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy, in nats; only positions that count are unembedded."""
    counts = weights[:, 1:] > 0
    stream = model.transformer(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :-1]
    losses = functional.cross_entropy(
        model.lm_head(stream[counts]), ids[:, 1:][counts], reduction="none"
    )
    return (losses * weights[:, 1:][counts]).sum() / weights.sum()


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int,
    tasks: Mapping[str, Generator] = toy_tasks.TOY_GENERATORS,
) -> dict[str, float]:
    """Accuracy on `n` fresh prompts per task; for `conflict`, how often context beats memory."""
    words_of = cast(Tokenizer, tokenizer)
    drawn = {name: generate(words_of, n, EVALUATION_SEED) for name, generate in tasks.items()}
    return {name: round(_accuracy(model, task), 4) for name, task in drawn.items()}


@torch.no_grad()
def _accuracy(model: PreTrainedModel, task: Task) -> float:
    """Fraction of prompts whose likeliest token is an answer.

    In `conflict` only the two candidate cities are compared, since the question is which one wins.
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


def run(training: Training) -> None:
    """Train and save as the command line says; accuracies are logged on the way."""
    parser = argparse.ArgumentParser(description=f"Train the model {training.name}.")
    parser.add_argument("--out", type=Path, default=training.folder, help="folder to write")
    parser.add_argument("--steps", type=int, default=training.steps)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    start = time.perf_counter()
    tokenizer = training.make_tokenizer()
    model = training.train(tokenizer, options.steps, options.seed)
    rounded = save(model, tokenizer, options.out)
    report = {
        "seed": options.seed,
        "steps": options.steps,
        "rows_per_step": training.rows_per_step,
        "parameters": rounded.num_parameters(),
        "accuracy": measure(rounded, tokenizer, n=1000, tasks=training.tasks),
    }
    text = json.dumps(report, indent=2) + "\n"
    (options.out / "training.json").write_text(text, encoding="utf-8")
    log.info("%.0f s, saved to %s", time.perf_counter() - start, options.out)


def main() -> None:
    """Train the toy model."""
    rows = sum(count for _, count in FAMILIES)
    tasks = toy_tasks.TOY_GENERATORS
    run(Training("toy", toy_folder(), STEPS, rows, toy_tokenizer, train, tasks))


if __name__ == "__main__":
    main()
