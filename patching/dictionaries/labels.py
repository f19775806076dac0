"""Names that people or programs have given to features, in a file of their own.

A JSON file holds `{"format": "feature labels 1", "labels": {"m3": {"17": "names of people"}}}`, by
the place that a feature writes at; a CSV file has the columns place, feature and label. Text is
shown as text, whoever wrote it (`patching.files.visible`).
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from patching.files.brief import briefly
from patching.files.parsing import naming, read_json, read_table, require_keys, shown
from patching.files.whole import write_text

_FORMAT = "feature labels 1"
_COLUMNS = ("place", "feature", "label")
LONGEST = 2000  # letters of a label

Feature = tuple[str, int]
"""The place that it writes at, and its number there."""


@briefly
@dataclass(frozen=True)
class Labels(Mapping[Feature, str]):
    """Labels of features, by place and number.

    >>> labels = Labels({("m3", 17): "names of people"})
    >>> labels["m3", 17], labels.get(("m3", 18))
    ('names of people', None)
    """

    texts: Mapping[Feature, str] = field(default_factory=dict)

    def __getitem__(self, feature: Feature) -> str:
        return self.texts[feature]

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    def replaced(self, changes: Mapping[Feature, str]) -> "Labels":
        """The same with some labels changed; an empty text takes one away."""
        texts = {feature: text for feature, text in {**self.texts, **changes}.items() if text}
        return Labels(texts)

    def save(self, path: str | Path) -> None:
        """Write a .json or .csv file, which `load_labels` reads.

        Raises:
            ValueError: for another suffix.
        """
        write_text(path, _WRITERS[_suffix(path)](self))


def load_labels(path: str | Path) -> Labels:
    """Read what `Labels.save` wrote, or somebody in a spreadsheet.

    Raises:
        ValueError: if it is no such file, a number is none, a label is longer than 2,000 letters,
            or a feature has two.
    """
    suffix = _suffix(path)
    with naming(path):
        rows = [*(_csv_rows(path) if suffix == ".csv" else _json_rows(path))]
        texts: dict[Feature, str] = {}
        for place, feature, text in rows:
            if not isinstance(text, str) or len(text) > LONGEST:
                raise ValueError(
                    f"the label of {place} {feature} is {shown(text)}; a text of at most "
                    f"{LONGEST:,} letters would be right"
                )
            key = place, _number(feature)
            if texts.get(key, text) != text:
                raise ValueError(f"feature {feature} of {place} has two labels")
            texts[key] = text
    return Labels({key: text for key, text in texts.items() if text})


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix
    if suffix not in _WRITERS:
        raise ValueError(f"{path}: labels are kept in .json or .csv files, got {suffix!r}")
    return suffix


def _number(feature: str) -> int:
    if not (feature.isascii() and feature.isdigit() and len(feature) < 12):
        raise ValueError(f"a feature is a number from 0 on, got {shown(feature)}")
    return int(feature)


def _json_rows(path: str | Path) -> Iterator[tuple[str, str, object]]:
    content = require_keys(read_json(path), ("format", "labels"))
    places = content["labels"]
    if content["format"] != _FORMAT or not isinstance(places, dict):
        raise ValueError(f"it holds no labels of the kind {_FORMAT!r}")
    for place, texts in places.items():
        if not isinstance(texts, dict):
            raise ValueError(f"{shown(place)} holds {shown(texts)}; labels by feature are needed")
        for feature, text in texts.items():
            yield place, feature, text


def _csv_rows(path: str | Path) -> Iterator[tuple[str, str, object]]:
    columns, rows = read_table(path)
    if not {*_COLUMNS} <= {*columns}:
        raise ValueError(f"its columns are {shown(columns)}; {', '.join(_COLUMNS)} are needed")
    for row in rows:
        place, feature, label = (row[column] for column in _COLUMNS)
        yield str(place), str(feature), label


def _as_json(labels: Labels) -> str:
    places: dict[str, dict[str, str]] = {}
    for place, feature in sorted(labels):
        places.setdefault(place, {})[str(feature)] = labels[place, feature]
    return json.dumps({"format": _FORMAT, "labels": places}, indent=1, ensure_ascii=False) + "\n"


def _as_csv(labels: Labels) -> str:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((place, feature, labels[place, feature]) for place, feature in sorted(labels))
    return table.getvalue()


_WRITERS = {".json": _as_json, ".csv": _as_csv}
