"""Text for LaTeX: what its special characters are written as."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\ensuremath{|}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "→": r"\ensuremath{\rightarrow}",
    "·": r"\textperiodcentered{}",
    "–": "--",
    "\n": " ",
    "\t": " ",
} | {character: f"\\{character}" for character in "#$%&_{}"}

PREAMBLE = r"""\IfFileExists{lmodern.sty}{\usepackage[T1]{fontenc}\usepackage{lmodern}}{}
\usepackage{textcomp}
\DeclareTextCommandDefault{\textquotedbl}{''}
"""
"""What `escaped` text needs of a document, beside LaTeX itself."""


def escaped(text: str) -> str:
    r"""A text that LaTeX prints as it is; letters that pdflatex does not know become `[U+4E2D]`.

    >>> print(escaped("50% of a_1 -> {b}"))
    50\% of a\_1 -\textgreater{} \{b\}
    """
    return "".join(_one(character) for character in text)


def _one(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isprintable() and (ord(character) < 128 or "À" <= character <= "ÿ"):
        return character
    return f"[U+{ord(character):04X}]"
