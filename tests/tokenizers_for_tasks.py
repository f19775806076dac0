"""Tokenizers of four kinds that know the words of all generated tasks, built in seconds."""

from collections.abc import Iterator, Sequence
from string import Formatter

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from patching.models.word_level import word_level_tokenizer
from patching.tasks import numbers, people, recall, repeats, sentences, words

END = "<|endoftext|>"
WHOLE_YEAR = "1776"
TEMPLATES = (
    *people.IOI_TEMPLATES,
    *people.PRONOUN_TEMPLATES,
    *people.NAME_TEMPLATES,
    numbers.GREATER_THAN_TEMPLATE,
    *numbers.ADDITION_TEMPLATES,
    *numbers.SUBTRACTION_TEMPLATES,
    *recall.FACT_TEMPLATES,
    *recall.LANGUAGE_TEMPLATES,
    *recall.OPPOSITE_TEMPLATES,
    repeats.DOCSTRING_TEMPLATE,
    repeats.INDUCTION_TEMPLATE,
    sentences.AGREEMENT_TEMPLATE,
    sentences.SENTIMENT_TEMPLATE,
    sentences.CHOICE_TEMPLATE,
)


def all_words() -> Iterator[str]:
    """Every word that a task may ask a tokenizer for, numbers left out."""
    pairs = (*words.NOUNS, *words.VERBS, *words.CAPITALS, *words.LANGUAGES, *words.OPPOSITES)
    for pair in pairs:
        yield from pair
    for pool in (
        *(words.NAMES, words.GIRLS, words.BOYS, words.PLACES, words.OBJECTS, words.EVENTS),
        *(words.PREPOSITIONS, words.FUNCTIONS, words.ARGUMENTS, words.FILLERS, words.COLOURS),
        *(words.THINGS, words.REVIEWED, people.PRONOUNS, sentences.LETTERS),
        *(pool for side in words.FEELINGS.values() for pool in side.values()),
    ):
        yield from pool


def word_level() -> PreTrainedTokenizerFast:
    """One token per word or mark; digits in pairs; everything else is unknown."""
    pairs = pre_tokenizers.Split(tokenizers.Regex(r"\d\d"), behavior="isolated")
    cutter = pre_tokenizers.Sequence([pairs, pre_tokenizers.Whitespace()])
    literals = [literal for t in TEMPLATES for literal, *_ in Formatter().parse(t)]
    pieces = [piece for text in literals for piece, _ in cutter.pre_tokenize_str(text)]
    return word_level_tokenizer([*words.TWO_DIGITS, *pieces, *all_words()], cutter, max_length=128)


def like_gpt2() -> PreTrainedTokenizerFast:
    """Byte-level BPE without BOS, its merges written by hand: all words whole after a space."""
    after_space = [*words.TWO_DIGITS, *all_words()]
    return _byte_level(_by_hand([f"Ġ{word}" for word in after_space] + list(words.TWO_DIGITS)))


def _by_hand(chains: Sequence[str]) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(text[:i], text[i]) for text in chains for i in range(1, len(text))]
    pieces = [END, *alphabet, *(left + right for left, right in merges)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return tokenizers.Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))


def digits_apart() -> PreTrainedTokenizerFast:
    """The same, but no number is whole, and a space before one is a token of its own."""
    parts = [name.partition("_") for name in words.LONG_ARGUMENTS]
    chains = [f"Ġ{word}" for word in (*all_words(), *(first for first, _, _ in parts))]
    made = _byte_level(_by_hand([*chains, *(last for _, _, last in parts)]))
    cutter = made.backend_tokenizer
    cutter.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return made


def trained_bpe() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the words; of the years, one is a token of its own."""
    texts = [f"a {word}" for word in all_words() for _ in range(200)]
    texts += [digits for digits in words.TWO_DIGITS for _ in range(200)]
    texts += [f"a {number}" for number in words.TWO_DIGITS for _ in range(300)]
    texts += [f"a {WHOLE_YEAR}"] * 150
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        min_frequency=100,
        show_progress=False,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(texts, trainer)
    return _byte_level(made)


def like_sentencepiece() -> PreTrainedTokenizerFast:
    """BPE with a mark before every text's first word, a BOS, and unknown characters."""
    texts = [word for word in all_words() for _ in range(200)]
    texts += [number for number in words.TWO_DIGITS for _ in range(300)]
    texts += [*TEMPLATES]
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=6000, min_frequency=100, show_progress=False, special_tokens=["<unk>", "<s>"]
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>")


def _byte_level(made: tokenizers.Tokenizer) -> PreTrainedTokenizerFast:
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=END, eos_token=END, unk_token=END
    )
