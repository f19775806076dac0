"""Errors of other libraries while a model is loaded, said in one line that names the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_AS_THEY_ARE = (MemoryError, torch.OutOfMemoryError, OSError)


@contextmanager
def refusing(name: str, what: str, *, own: bool = False) -> Iterator[None]:
    """Whatever goes wrong inside is a refusal of the model: `what` failed, and why.

    Memory that does not suffice stays what it is, as does a file system that fails. `own` says that
    ValueErrors inside are this project's and in its words already.

    >>> with refusing("tiny", "its weights cannot be read"):
    ...     raise KeyError("no such layer")
    Traceback (most recent call last):
    ValueError: tiny is refused: its weights cannot be read (KeyError: 'no such layer')

    Raises:
        ValueError: for every other exception inside.
    """
    try:
        yield
    except Exception as error:  # of any kind, by library and family
        if isinstance(error, (*_AS_THEY_ARE, ValueError) if own else _AS_THEY_ARE):
            raise
        raise ValueError(f"{name} is refused: {what} ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    r"""The first line of what an error says, and its kind where it is no ValueError.

    >>> first_line(RuntimeError("shapes do not fit\nat layer 3"))
    'RuntimeError: shapes do not fit'
    """
    said = str(error).strip()
    kind = type(error).__name__
    if not said:
        return kind
    line = said.splitlines()[0]
    return line if isinstance(error, ValueError) else f"{kind}: {line}"
