"""Values of options, from the text that was given."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.drawing.canvas import Width


def width(text: str | None) -> "Width":
    """A width from the command line: a name, or a number of inches."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        ArgumentTypeError: for anything else.
    """
    return _at_least(1, text)


def natural(text: str) -> int:
    """A whole number from 0.

    Raises:
        ArgumentTypeError: for anything else.
    """
    return _at_least(0, text)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from 0, with commas between.

    Raises:
        ArgumentTypeError: for anything else.
    """
    return tuple(natural(part) for part in text.split(","))


def share(text: str) -> float:
    """A fraction from 0 up to, but not including, 1.

    Raises:
        ArgumentTypeError: for anything else.
    """
    return _fraction(text, lambda value: 0 <= value < 1, "from 0 to below 1")


def goal(text: str) -> float:
    """A fraction above 0 and up to 1.

    Raises:
        ArgumentTypeError: for anything else.
    """
    return _fraction(text, lambda value: 0 < value <= 1, "above 0 and up to 1")


def memory(text: str) -> int | float:
    """Bytes (`500MB`, `2GB`, `1048576`) or a fraction of what is free (`0.5`).

    Raises:
        ArgumentTypeError: for anything else.
    """
    units = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "": 1}
    number, unit = text.rstrip("BKMGbkmg"), text.upper().lstrip("0123456789.")
    try:
        value = float(number) if "." in number and not unit else int(number) * units[unit]
    except (ValueError, KeyError):
        value = 0
    if value <= 0 or (isinstance(value, float) and value > 1):
        raise argparse.ArgumentTypeError(
            f"a memory size such as 500MB or 2GB, or a fraction up to 1.0, is needed, got {text!r}"
        )
    return value


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"a whole number from {least} is needed, got {text!r}")
    return value


def amount(text: str) -> int | float:
    """So many things, or, with a point, all of at least that size.

    >>> amount("100"), amount("0.1")
    (100, 0.1)

    Raises:
        ArgumentTypeError: for anything else.
    """
    try:
        value = int(text) if text.isdecimal() else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"a number of things or, with a point, a least size is needed, got {text!r}"
        )
    return value


def _fraction(text: str, is_allowed: Callable[[float], bool], said: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not is_allowed(value):
        raise argparse.ArgumentTypeError(f"a fraction {said} is needed, got {text!r}")
    return value
