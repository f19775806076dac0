"""Tokens as text, as byte-level and SentencePiece tokenizers spell them."""

import pytest

from patching.figures import visible
from patching.lens.text import single_token, token_texts


class Pieces:
    """A tokenizer of four pieces that drops leading spaces when it decodes, as SentencePiece."""

    bos_token_id, unk_token_id = None, 2
    pieces = ("\u2581cat", "s", "<0xE4>", "\u2581")
    texts = ("cat", "s", "\ufffd", "")

    def encode(self, text, *, add_special_tokens=True):
        return {"cat": [0], "cats": [0, 1], "dog": [2]}.get(text, [])

    def decode(self, token_ids):
        return self.texts[token_ids[0]]

    def convert_ids_to_tokens(self, ids):
        return self.pieces[ids] if ids < len(self.pieces) else None


def test_leading_spaces_and_broken_characters_are_shown():
    found = token_texts(Pieces(), range(6))
    assert found == (" cat", "s", "<0xE4>", " ", "4", "5")  # 4 and 5 only fill the vocabulary up


def test_a_text_names_a_token_only_if_it_is_one():
    assert single_token(Pieces(), "cat", 6) == 0
    assert single_token(Pieces(), " cat", 6) == 0  # as it is shown
    with pytest.raises(ValueError, match=r"'cats' is 2 tokens: ' cat', 's'; give the text of one"):
        single_token(Pieces(), "cats", 6)
    with pytest.raises(ValueError, match="the tokenizer does not know 'dog'"):
        single_token(Pieces(), "dog", 6)
    with pytest.raises(ValueError, match=r"'' is 0 tokens; give the text of one"):
        single_token(Pieces(), "", 6)


def test_what_cannot_be_drawn_is_written_as_its_number():
    assert visible("a b$\t") == r"a·b\$U+0009"
    assert visible("caf\u00e9 \U0001f600\u4e2d").startswith("caf\u00e9·")
    assert visible("\u4e2d") == "U+4E2D"
