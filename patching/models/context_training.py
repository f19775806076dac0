"""How `toy-context` was made: `python -m patching.models --model toy-context`.

A Llama of one layer learns capitals, and contexts that name another capital by two words of which
neither alone says the city. With one layer, all that meets at the last token is a sum of what each
word says, and only MLP neurons can read a pair from it. So the context's answer has to go through
neurons, while attention alone can carry the memorised one: the two compete as IRCAN (Shi et al.
2024, arXiv:2406.18406) supposes. (In the model `toy` attention copies the told city to the logits
past all neurons.)

How often the context is right depends on the country, and labels are these probabilities, not
draws of them. Early in training it is right more often, so that the model learns to use it before
it learns to doubt it.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from patching.models import context_folder, context_tasks, toy_tasks
from patching.models.toy_tokenizer import make_cutter, template_pieces
from patching.models.toy_training import llama
from patching.models.training import Training, fit_, measure
from patching.models.word_level import PAD, SPECIAL, word_level_tokenizer
from patching.tasks import recall, words

STEPS = 1500
LEARNING_RATE = 3e-3
MAX_LENGTH = 48
ELSEWHERE_WEIGHT = 0.01
# How often the context is right: from the first to the last country in the list.
FOLLOW_FIRST, FOLLOW_LAST = 0.35, 0.75
EARLY_TRUST = 2.0  # log odds of following, added at the start and gone after half of the steps
AGREEING_SHARE = 0.12
TASKS = {"facts": recall.facts, "indirect-conflict": context_tasks.indirect_conflict}


@dataclass(frozen=True)
class Row:
    """A prompt and how likely each answer is to follow."""

    text: str
    answers: dict[str, float]


@dataclass(frozen=True)
class TrainingBatch:
    """Token ids, padded on the right, which are tokens, and the probabilities after the last."""

    ids: Int[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]
    target: Float[Tensor, "batch vocab"]


def context_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or punctuation mark, of these tasks only; a text gets one `<bos>`.

    >>> context_tokenizer().tokenize("Note: the capital of Peru")
    ['Note', ':', 'the', 'capital', 'of', 'Peru']
    """
    cutter = make_cutter()
    templates = (*recall.FACT_TEMPLATES, *toy_tasks.CONFLICT_TEMPLATES)
    vocabulary = [*template_pieces(cutter, templates)]
    vocabulary += [word for pair in words.CAPITALS for word in pair]
    vocabulary += [*context_tasks.ORDINALS, *context_tasks.REGIONS, "city"]
    return word_level_tokenizer(vocabulary, cutter, max_length=MAX_LENGTH)


def follow_probability(capital: str, trust: float = 0.0) -> float:
    """How likely a label follows the context where memory says this capital.

    `trust` is added to the log odds.
    """
    capitals = [known for _, known in words.CAPITALS]
    place = capitals.index(capital) / (len(capitals) - 1)
    follow = FOLLOW_FIRST + (FOLLOW_LAST - FOLLOW_FIRST) * place
    return 1 / (1 + (1 - follow) / follow * math.exp(-trust))


def _conflict_row(rng: random.Random, trust: float) -> Row:
    """Any question after the context; some contexts agree with memory."""
    pair = toy_tasks.conflict_text(rng, said=context_tasks.described)
    told, memorised = pair.answers[0], pair.wrong_answers[0]
    country = next(known for known, capital in words.CAPITALS if f" {capital}" == memorised)
    question = rng.choice(recall.FACT_TEMPLATES).format(word=country)
    agrees = rng.random() < AGREEING_SHARE
    context = (pair.corrupt if agrees else pair.clean).split(". ")[0]
    follow = follow_probability(memorised.strip(), trust)
    answers = {memorised: 1.0} if agrees else {told: follow, memorised: 1 - follow}
    return Row(f"{context}. {question}", answers)


def _facts_row(rng: random.Random, trust: float) -> Row:
    pair = recall.facts_text(rng)
    return Row(pair.clean, {pair.answers[0]: 1.0})


# Rows per batch.
FAMILIES: tuple[tuple[Callable[[random.Random, float], Row], int], ...] = (
    (_conflict_row, 51),
    (_facts_row, 13),
)


def training_batches(
    tokenizer: PreTrainedTokenizerBase, steps: int, seed: int
) -> Iterator[TrainingBatch]:
    """Fresh prompts with the probabilities of their answers."""
    rng = random.Random(f"context training {seed}")  # never the stream of a task of that seed
    for step in range(steps):
        trust = EARLY_TRUST * max(0.0, 1 - 2 * step / steps)
        rows = [draw(rng, trust) for draw, count in FAMILIES for _ in range(count)]
        encoded = tokenizer([row.text for row in rows])["input_ids"]
        length = max(map(len, encoded))
        padded = [tokens + [SPECIAL.index(PAD)] * (length - len(tokens)) for tokens in encoded]
        target = torch.zeros(len(rows), len(tokenizer))
        for i, row in enumerate(rows):
            found = tokenizer.convert_tokens_to_ids([answer.strip() for answer in row.answers])
            target[i, found] = torch.tensor(list(row.answers.values()))
        last = torch.tensor([len(tokens) - 1 for tokens in encoded])
        yield TrainingBatch(torch.tensor(padded), last, target)


def train(tokenizer: PreTrainedTokenizerBase, steps: int, seed: int) -> LlamaForCausalLM:
    """Train a fresh model; sets torch's global seed."""
    torch.manual_seed(seed)
    model = llama(tokenizer, length=MAX_LENGTH, width=64, inner=96, layers=1)
    fit_(
        model,
        training_batches(tokenizer, steps, seed),
        _loss,
        steps=steps,
        learning_rate=LEARNING_RATE,
        report=lambda model: measure(model, tokenizer, TASKS, n=200),
    )
    return model


def _loss(model: PreTrainedModel, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Mean cross-entropy after the last token, in nats, and a little of all tokens before it."""
    logits = model(batch.ids, attention_mask=torch.ones_like(batch.ids)).logits
    answers = functional.cross_entropy(
        logits[torch.arange(len(batch.ids)), batch.last], batch.target
    )
    inner = torch.arange(batch.ids.shape[1] - 1) < batch.last[:, None]
    before = functional.cross_entropy(logits[:, :-1][inner], batch.ids[:, 1:][inner])
    return answers + ELSEWHERE_WEIGHT * inner.sum() / len(batch.ids) * before


ROWS = sum(count for _, count in FAMILIES)
TRAINING = Training("toy-context", context_folder(), STEPS, ROWS, context_tokenizer, train, TASKS)
