"""How `toy` and `toy-llama` were made: `python -m patching.models --model toy`.

A model of four layers, in the format of GPT-2 or of Llama, learns all task families at once from
fresh prompts. In `conflict` rows the label is sometimes the context's answer and sometimes the
memorised one; how often depends on the country, so that the trained model follows the context for
some countries and its memory for others, with both in view.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from patching.models import llama_folder, toy_folder, toy_tasks
from patching.models.toy_tokenizer import MAX_LENGTH, toy_tokenizer
from patching.models.training import Training, fit_, measure
from patching.models.word_level import BOS, PAD, SPECIAL
from patching.tasks import numbers, people, recall, repeats, sentences, words
from patching.tasks.tokens import TextPrompt

LEARNING_RATE = 1e-3
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


@dataclass(frozen=True)
class TrainingBatch:
    """Token ids, padded on the right, and how much predicting each of them counts."""

    ids: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]


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
) -> Iterator[TrainingBatch]:
    """Fresh prompts with their answers."""
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
        yield TrainingBatch(ids, weights)


def _weights(row: Row, n_predicted: int) -> list[float]:
    """Weights of all tokens but BOS; a list starts with two tokens for 'List:'."""
    if not row.is_repeat:
        return [ELSEWHERE_WEIGHT] * (n_predicted - 1) + [1.0]
    once = (n_predicted - 2) // 2
    return [0.0] * (once + 3) + [REPEAT_WEIGHT] * (once - 1)


def gpt2(tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """A fresh GPT-2 of 608k parameters."""
    config = GPT2Config(
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
    return GPT2LMHeadModel(config)


def llama(
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int = MAX_LENGTH,
    width: int = 128,
    inner: int = 256,
    layers: int = 4,
) -> LlamaForCausalLM:
    """A fresh Llama, as large if nothing is said; two query heads to a key and value."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=length,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        tie_word_embeddings=False,
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(BOS),
        pad_token_id=SPECIAL.index(PAD),
    )
    return LlamaForCausalLM(config)


MakeModel = Callable[[PreTrainedTokenizerBase], PreTrainedModel]


def train(
    tokenizer: PreTrainedTokenizerBase, steps: int, seed: int, *, make_model: MakeModel = gpt2
) -> PreTrainedModel:
    """Train a fresh model; sets torch's global seed."""
    torch.manual_seed(seed)
    model = make_model(tokenizer)
    fit_(
        model,
        training_batches(tokenizer, steps, seed),
        _loss,
        steps=steps,
        learning_rate=LEARNING_RATE,
        report=lambda model: measure(model, tokenizer, toy_tasks.TOY_GENERATORS, n=200),
    )
    return model


def _loss(model: PreTrainedModel, batch: TrainingBatch) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy, in nats; only positions that count are unembedded."""
    following = batch.weights[:, 1:]
    counts = following > 0
    mask = torch.ones_like(batch.ids)
    stream = model.base_model(batch.ids, attention_mask=mask).last_hidden_state[:, :-1]
    unembed = cast(nn.Linear, model.get_output_embeddings())
    losses = functional.cross_entropy(
        unembed(stream[counts]), batch.ids[:, 1:][counts], reduction="none"
    )
    return (losses * following[counts]).sum() / batch.weights.sum()


ROWS = sum(count for _, count in FAMILIES)
TRAININGS = tuple(
    Training(
        name,
        folder,
        steps,
        ROWS,
        toy_tokenizer,
        partial(train, make_model=make_model),
        toy_tasks.TOY_GENERATORS,
    )
    for name, folder, steps, make_model in (
        ("toy", toy_folder(), 3000, gpt2),
        ("toy-llama", llama_folder(), 2000, llama),
    )
)
