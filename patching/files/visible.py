"""Text from anywhere, made fit to be seen: on a terminal, and in Markdown.

Names of tasks, models and files are written by others. On a terminal they could move the cursor or
turn letters round, in Markdown and notebooks they could be markup.
"""

import re
import unicodedata

_KEPT = "\n\t\u200c\u200d"  # lines, columns, and what joins letters in Persian or parts of an emoji
_SPACE = re.compile(r"\s")
_MARKUP = re.compile(r"[\\`*$<&]|(?<=\])[(\[:]")
_SPELLED = {0x120: " ", 0x10A: "\n", 0x109: "\t", 0x2581: " "}
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def visible(text: str) -> str:
    r"""Text whose every sign can be seen: control characters and marks of direction by their code.

    >>> visible("a\x1b[31mb\u202e")
    'a[U+001B][31mb[U+202E]'
    """
    if text.isprintable():
        return text
    return "".join(sign if _is_visible(sign) else f"[U+{ord(sign):04X}]" for sign in text)


def spelled(token: str) -> str:
    r"""A token as its text, where it came as a tokenizer's vocabulary writes it.

    Byte-level vocabularies write a space as `Ġ` and a line's end as `Ċ`, SentencePiece a space as
    `▁`.

    >>> spelled("\u0120the"), spelled("\u2581the"), spelled("\u010a")
    (' the', ' the', '\n')
    """
    return token.translate(_SPELLED)


def in_markdown(text: str) -> str:
    r"""Text as Markdown that shows it, in one line: no HTML, link, code or formula.

    >>> print(in_markdown("<b>ioi</b> [x](y)"))
    &lt;b>ioi&lt;/b> [x]\(y)
    """
    line = visible(_SPACE.sub(" ", text))
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), line)


def _is_visible(sign: str) -> bool:
    return sign.isprintable() or sign in _KEPT or unicodedata.category(sign) == "Zs"
