"""Names that were meant, for messages about names that there are not."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

_NOBODY: Mapping[str, str] = MappingProxyType({})


def meant(
    name: str, names: Iterable[str], also: Mapping[str, str] = _NOBODY, closeness: float = 0.6
) -> str:
    """How a message about an unknown name ends: with the name that was probably meant, if any.

    `also` says which of the names others have for what they call.

    >>> meant("eap-gi", ["eap", "eap-ig", "relp"])
    "; did you mean 'eap-ig'?"
    >>> meant("capitals", ["facts"], {"capitals": "facts"})
    "; did you mean 'facts'?"
    >>> meant("xyz", ["eap"])
    ''
    """
    known = {plain(one): one for one in names} | {
        plain(theirs): ours for theirs, ours in also.items()
    }
    near = get_close_matches(plain(name), known, n=1, cutoff=closeness)
    return f"; did you mean {known[near[0]]!r}?" if near else ""


def plain(name: str) -> str:
    """A name as somebody might type it: no case, hyphens for underscores."""
    return name.lower().replace("_", "-")
