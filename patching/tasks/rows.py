"""Files of rows as they stand: JSON, JSON lines, CSV, parquet. Knows no prompts."""

from collections.abc import Callable, Mapping
from pathlib import Path

from patching.files.parsing import parse_json, parse_literal, read_parquet, read_table
from patching.files.whole import read_text


def read_rows(
    path: Path, is_row: Callable[[Mapping[str, object]], bool]
) -> tuple[list[object], dict[str, object]]:
    """The rows, and what else the file says; `is_row` knows a file of one row from one of a list.

    Raises:
        ValueError: if it is not JSON, or JSON of another form.
    """
    if path.suffix == ".parquet":
        return read_parquet(path), {}
    if path.suffix == ".csv":
        return [_cells(row) for row in read_table(path)[1]], {}
    content = _json_or_lines(path)
    if isinstance(content, list):
        return content, {}
    if isinstance(content, dict):
        if isinstance(content.get("prompts"), list):
            return content.pop("prompts"), content
        if is_row(content):
            return [content], {}  # JSON lines, of which there is one
    raise ValueError(f'{path} lacks the list "prompts", and is no list of rows')


def _json_or_lines(path: Path) -> object:
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        if len(lines) < 2 or not lines[0].startswith("{") or not lines[0].endswith("}"):
            raise ValueError(f"{path} is not JSON: {error}") from None
        return [_line(path, i, line) for i, line in enumerate(lines)]


def _line(path: Path, i: int, line: str) -> object:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"{path}: row {i} is not JSON: {error}") from None


def _cells(row: Mapping[str | None, str | None]) -> object:
    """Cells of a table; records in them are JSON, or as Python prints them."""
    if None in row or None in row.values():  # how the reader marks cells too many or too few
        return None
    return {str(key): _value(str(key), str(cell)) for key, cell in row.items()}


def _value(column: str, cell: str) -> object:
    if not cell.startswith("{") and column != "choices":
        return cell
    for read in (parse_json, parse_literal):
        try:
            return read(cell)
        except ValueError:
            pass
    return cell
