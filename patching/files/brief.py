"""Values in a few words, for people who look at one in a notebook or at a prompt."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from patching.files.visible import visible

if TYPE_CHECKING:
    import pandas

Class = TypeVar("Class", bound=type)

_LONGEST = 60  # signs of one value
_MOST = 6  # parts that are written out
_MOST_ROWS = 20


def briefly(cls: Class) -> Class:
    """Give a dataclass a repr of one short line: of tensors the shape, of many parts how many.

    >>> from dataclasses import dataclass
    >>> @briefly
    ... @dataclass
    ... class Kept:
    ...     values: torch.Tensor
    ...     names: tuple[str, ...]
    >>> Kept(torch.zeros(2, 3), tuple("abcdefgh"))
    Kept(values=float32[2, 3], names=<8 str>)
    """
    cls.__repr__ = _line  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def brief(value: object) -> str:
    """A value in at most 60 signs."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{str(value.dtype).rpartition('.')[2]}{list(value.shape)}"
    if isinstance(value, Mapping) and value:
        return f"<{len(value)} entries>"
    if isinstance(value, tuple | list | set | frozenset) and _is_long(value):
        return f"<{len(value)} {type(next(iter(value))).__name__}>"
    said = repr(value)
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 3]}..."


def as_table(title: str, frame: "pandas.DataFrame") -> str:
    """A table as HTML for a notebook, under a line of text; long ones without their middle."""
    rows = frame.to_html(max_rows=_MOST_ROWS, float_format="{:.4g}".format)
    return f"<p>{escape(visible(title))}</p>{rows}"


def _is_long(values: Collection[object]) -> bool:
    return len(values) > _MOST or any(map(_is_large, values))


def _is_large(value: object) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray | Mapping) or len(repr(value)) > _LONGEST


def _line(self: object) -> str:
    said = [f"{f.name}={brief(getattr(self, f.name))}" for f in fields(self) if f.repr]  # pyright: ignore[reportArgumentType]
    return f"{type(self).__name__}({', '.join(said)})"
