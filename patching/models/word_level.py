"""Tokenizers with one token per word, built in code."""

from collections.abc import Sequence

import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, BOS, UNK = "<pad>", "<bos>", "<unk>"
SPECIAL = (PAD, BOS, UNK)


def word_level_tokenizer(
    words: Sequence[str], cutter: pre_tokenizers.PreTokenizer, *, max_length: int
) -> PreTrainedTokenizerFast:
    """A tokenizer of these words, after `<pad>`, `<bos>` and `<unk>`; each text gets one `<bos>`.

    `cutter` cuts a text into words; spaces between them are not kept.
    """
    ids = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = cutter
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
