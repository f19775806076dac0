"""What a result on the disk holds: its numbers by name, its texts, and where they came from.

Scores and circuits are read as such, any other JSON number by number. Runs nothing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from circuits.circuit import Circuit, load_circuit
from circuits.scores import Scores, load_scores
from patching.files.parsing import naming, number, read_json

OF_A_SEARCH = ("scores.safetensors", "circuit.json", "measurements.json")
"""What in the folder of `circuits discover` holds numbers."""

Named = Mapping[str, float]

_FILES = ("scores", "circuit")  # keys whose text is the path of a file, which may have moved


@dataclass(frozen=True)
class Recorded:
    """The content of a result.

    Numbers and texts stand in groups (`points.faithfulness`), each with a label that says where
    in the result (`points[3].faithfulness`, `embed->m0`). NaN stands for what is undefined.
    """

    numbers: Mapping[str, Named]
    texts: Mapping[str, Mapping[str, str]]
    provenance: Mapping[str, object]


def read_result(path: Path) -> Recorded:
    """The content of a file of scores, a circuit, any other JSON, or the folder of a search.

    Raises:
        ValueError: if it is none of these.
    """
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".safetensors":
        return of_scores(load_scores(path))
    if path.suffix != ".json":
        raise ValueError(
            f"{path} is no result: those are .safetensors, .json and the folders of "
            "`circuits discover`"
        )
    content = read_json(path)
    if is_circuit(content):
        return of_circuit(load_circuit(path))
    with naming(path):
        return of_json(content)


def of_scores(scores: Scores) -> Recorded:
    """Scores, one number per edge."""
    edges = scores.graph.exists.nonzero().tolist()
    sources, dests = scores.graph.sources, scores.graph.destinations
    names = [f"{sources[s].name}->{dests[d].name}" for s, d in edges]
    values = scores.matrix[scores.graph.exists].tolist()
    return Recorded({"scores": dict(zip(names, values, strict=True))}, {}, scores.provenance)


def of_circuit(circuit: Circuit) -> Recorded:
    """A circuit: the scores of its edges, undefined where it has none."""
    edges = {
        f"{source}->{dest}": math.nan if score is None else score
        for source, dest, score in circuit.scored_edges()
    }
    return Recorded({"edges": edges}, {}, circuit.provenance)


def of_json(content: object) -> Recorded:
    """Any JSON; `provenance` stands aside, that of the first row where every row has its own.

    Raises:
        ValueError: if a number is too large for a float.
    """
    numbers: dict[str, dict[str, float]] = {}
    texts: dict[str, dict[str, str]] = {}
    for group, label, value in _leaves(content, "", ""):
        if isinstance(value, str | bool):
            texts.setdefault(group, {})[label] = str(value)
        else:
            numbers.setdefault(group, {})[label] = math.nan if value is None else number(value)
    first = content[0] if isinstance(content, list) and content else content
    said = first.get("provenance") if isinstance(first, Mapping) else None
    return Recorded(numbers, texts, said if isinstance(said, Mapping) else {})


def is_circuit(content: object) -> bool:
    """Whether JSON is a circuit."""
    return isinstance(content, Mapping) and {"edges", "graph"} <= content.keys()


def _of_folder(folder: Path) -> Recorded:
    lacking = [name for name in OF_A_SEARCH if not (folder / name).is_file()]
    if lacking:
        raise ValueError(
            f"{folder} is not what `circuits discover` wrote: it lacks {', '.join(lacking)}"
        )
    parts = {Path(name).stem: read_result(folder / name) for name in OF_A_SEARCH}
    return Recorded(
        {_joined(stem, g): part for stem, one in parts.items() for g, part in one.numbers.items()},
        {_joined(stem, g): part for stem, one in parts.items() for g, part in one.texts.items()},
        parts["scores"].provenance,
    )


def _joined(stem: str, group: str) -> str:
    return stem if stem == group else f"{stem} {group}"


def _leaves(
    value: object, group: str, label: str
) -> Iterator[tuple[str, str, str | float | int | bool | None]]:
    """Everything in JSON that holds nothing else: its group, its label and its value."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key != "provenance" and not (key in _FILES and isinstance(part, str)):
                dot = "." if label else ""
                yield from _leaves(
                    part, f"{group}{'.' if group else ''}{key}", f"{label}{dot}{key}"
                )
    elif isinstance(value, list):
        for i, part in enumerate(value):
            name = part.get("name", i) if isinstance(part, Mapping) else i
            yield from _leaves(part, group, f"{label}[{name}]")
    elif value is None or isinstance(value, str | float | int | bool):
        yield group, label, value
