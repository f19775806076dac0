"""The toy model's tokenizer: one token per word, punctuation mark or pair of digits.

Its vocabulary is every word that the task families can draw; everything else is `<unk>`.
"""

from collections.abc import Iterable, Iterator
from string import Formatter

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from patching.models import toy_tasks
from patching.models.word_level import word_level_tokenizer
from patching.tasks import numbers, people, recall, repeats, sentences, words

MAX_LENGTH = 64
TEMPLATES = (
    *people.IOI_TEMPLATES,
    numbers.GREATER_THAN_TEMPLATE,
    sentences.AGREEMENT_TEMPLATE,
    *recall.FACT_TEMPLATES,
    *toy_tasks.CONFLICT_TEMPLATES,
    repeats.DOCSTRING_TEMPLATE,
    repeats.INDUCTION_TEMPLATE,
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; a text gets one `<bos>`.

    >>> tokenizer = toy_tokenizer()
    >>> tokenizer.tokenize("at the store, from the year 1732 to")
    ['at', 'the', 'store', ',', 'from', 'the', 'year', '17', '32', 'to']
    """
    cutter = make_cutter()
    vocabulary = [*words.TWO_DIGITS, *template_pieces(cutter, TEMPLATES), *_words()]
    return word_level_tokenizer(vocabulary, cutter, max_length=MAX_LENGTH)


def make_cutter() -> pre_tokenizers.PreTokenizer:
    """Cut digits in pairs, then at spaces and between words and punctuation."""
    pairs = pre_tokenizers.Split(Regex(r"\d\d"), behavior="isolated")
    return pre_tokenizers.Sequence([pairs, pre_tokenizers.Whitespace()])


def template_pieces(cutter: pre_tokenizers.PreTokenizer, templates: Iterable[str]) -> Iterator[str]:
    """The words and marks of templates, without what is filled in."""
    for template in templates:
        for literal, *_ in Formatter().parse(template):
            yield from (piece for piece, _ in cutter.pre_tokenize_str(literal))


def _words() -> Iterator[str]:
    for single in (
        words.NAMES,
        words.PLACES,
        words.OBJECTS,
        words.EVENTS,
        words.PREPOSITIONS,
        words.FUNCTIONS,
        words.ARGUMENTS,
        words.FILLERS,
    ):
        yield from single
    for pairs in (words.NOUNS, words.VERBS, words.CAPITALS):
        for pair in pairs:
            yield from pair
