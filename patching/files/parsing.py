"""Text from anywhere as values: JSON, tables, lists as Python prints them.

Stricter than the parsers underneath, which take NaN, keep the last of two equal keys and run out of
stack. Everything that is refused is a `ValueError` in a few words.
"""

import ast
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from patching.files.whole import read_text, require_file

_SHOWN = 100
_DEEPEST = 100
_DEEPEST_LITERAL = 50


def read_json(path: str | Path) -> object:
    """What a JSON file holds.

    Raises:
        ValueError: as `parse_json`, and if it is no file of text.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole JSON file: {error}") from None


def parse_json(text: str) -> object:
    """The value of a JSON text.

    Raises:
        ValueError: if it is no JSON, holds NaN, infinity or half a character, has a key twice, or
            is nested more than 100 deep.
    """
    try:
        content = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no character") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(str(error)) from None
    if not _is_flat(content):
        raise ValueError(f"it is nested too deeply: {_DEEPEST} levels are the most")
    return content


def read_table(path: str | Path) -> tuple[list[str], list[dict]]:
    """The columns and rows of a CSV file.

    A row with too many cells has them under None, one with too few has None in their place.

    Raises:
        ValueError: if it is no file of text, its quotes do not close, or two columns are named
            alike.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path} is no whole table, line {reader.line_num}: {error}") from None
    columns = list(reader.fieldnames or ())
    twice = _twice(columns)
    if twice is not None:
        raise ValueError(f"{path} has two columns named {shown(twice)}")
    return columns, rows


def read_parquet(path: str | Path) -> list[object]:
    """The rows of a parquet file, as the `datasets` library writes them.

    Raises:
        ValueError: if it is no parquet file, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(f"{path}: reading parquet needs pyarrow (pip install pyarrow)") from None
    require_file(Path(path))
    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no whole parquet file: {reason}") from None


def parse_literal(text: str) -> object:
    """The value of a Python literal, such as the list `['a', 'b']` in a cell of a table.

    Raises:
        ValueError: if it is none, or nested more deeply than any cell is.
    """
    if sum(text.count(character) for character in "([{-+~") > _DEEPEST_LITERAL:
        raise ValueError(f"it is nested too deeply: {shown(text)}")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"it is no list or number: {shown(text)}") from None


def shown(value: object) -> str:
    r"""A value as a message shows it: in one line, cut where it is long.

    >>> print(shown("a\nb"), len(shown([0] * 1000)))
    'a\nb' 103
    """
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """A message from within names the file it is about.

    Raises:
        ValueError: whatever is raised within.
    """
    try:
        yield
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from None


def require_keys(
    content: object, needed: Sequence[str], allowed: Sequence[str] = ()
) -> dict[str, object]:
    """A JSON object that has all the keys it needs, and none that is not known.

    Raises:
        ValueError: if it is no object, lacks a key, or has one of another name.
    """
    if not isinstance(content, dict):
        raise ValueError(f"an object with {', '.join(needed)} would be right")
    absent = [key for key in needed if key not in content]
    if absent:
        raise ValueError(f"it lacks {', '.join(absent)}")
    unknown = [key for key in content if key not in (*needed, *allowed)]
    if unknown:
        raise ValueError(f"it holds {shown(unknown[0])}, and only {', '.join(needed)} are known")
    return content


def number(value: object) -> float:
    """A number of a JSON file as a float.

    Raises:
        ValueError: if it is none, or not finite.
    """
    if type(value) not in (int, float):
        raise ValueError(f"a number would be right, got {shown(value)}")
    assert isinstance(value, int | float), "just seen"
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"a finite number would be right, got {shown(value)}")
    return found


def provenance_json(provenance: Mapping[str, object]) -> str:
    """The provenance of a result as JSON text.

    Raises:
        ValueError: if a value does not fit into JSON.
    """
    try:
        return json.dumps(dict(provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the provenance does not fit into JSON: {error}") from None


def _is_flat(content: object) -> bool:
    """Whether nothing is nested more deeply than whoever walks through it can follow."""
    level = [content]
    for _ in range(_DEEPEST):
        inner = [part for one in level for part in _parts(one)]
        level = [part for part in inner if isinstance(part, dict | list)]
        if not level:
            return True
    return False


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}; numbers are finite")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it holds {digits[:40]}, more than any number here")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"it has the key {shown(_twice([key for key, _ in pairs]))} twice")
    return found


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
