"""Sets of neurons. A neuron is `(layer, index)`: an input of an MLP's output projection, `m3.n17`.

Knows no model and no scores: `choosing` makes sets from scores.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from patching.files.parsing import number, read_json, require_keys, shown
from patching.files.whole import write_text

Neuron = tuple[int, int]

_NAME = re.compile(r"m(\d+)\.n(\d+)", re.ASCII)
_FORMAT = "neurons/1"


@dataclass(frozen=True, eq=False)
class Neurons:
    """Neurons, each once, the best first. Two are equal if they hold the same neurons.

    `scores` may say what each is worth; `provenance` how they were found.

    >>> chosen = Neurons([(3, 17), (0, 2)])
    >>> chosen.names
    ('m3.n17', 'm0.n2')
    >>> (0, 2) in chosen, chosen == Neurons.named("m0.n2", "m3.n17"), chosen.take(1).names
    (True, True, ('m3.n17',))

    Raises:
        ValueError: if one is negative or there twice, or a score is of none of them.
    """

    places: Sequence[Neuron] | Iterable[Neuron]
    scores: Mapping[Neuron, float] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = tuple((int(layer), int(neuron)) for layer, neuron in self.places)
        object.__setattr__(self, "places", places)
        seen: set[Neuron] = set()
        for place in places:
            if min(place) < 0:
                raise ValueError(f"layers and neurons count from 0, got {place}")
            if place in seen:
                raise ValueError(f"the neuron {name_of(place)} is there twice")
            seen.add(place)
        for place in self.scores:
            if place not in seen:
                raise ValueError(f"{name_of(place)} has a score and is none of the neurons")

    @staticmethod
    def named(*names: str) -> "Neurons":
        """Neurons by their names, such as `m3.n17`.

        Raises:
            ValueError: if a name is no neuron's.
        """
        return Neurons(parse_name(name) for name in names)

    @staticmethod
    def load(path: str | Path) -> "Neurons":
        """Neurons from a file that `save` wrote.

        Raises:
            ValueError: if it is no such file.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f'{path} is no file of neurons: it lacks "format": "{_FORMAT}"')
        try:
            return _from_content(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the neurons, their scores and where they come from as JSON, whole or not at all."""
        rows = [{"name": name_of(place), "score": self.scores.get(place)} for place in self]
        content = {"format": _FORMAT, "neurons": rows, "provenance": dict(self.provenance)}
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1))

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(tuple(self.places))

    def __contains__(self, place: object) -> bool:
        return place in tuple(self.places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Neurons) and set(self) == set(other)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, the best first."""
        return tuple(map(name_of, self))

    def take(self, h: int) -> "Neurons":
        """The first `h`.

        Raises:
            ValueError: if that is none, or more than there are.
        """
        if not 1 <= h <= len(self):
            raise ValueError(f"cannot take {h} neurons: {len(self)} were found, so take 1 to that")
        return self._only(list(self)[:h])

    def in_layers(self, layers: Iterable[int]) -> "Neurons":
        """Those in some layers."""
        wanted = set(layers)
        return self._only([place for place in self if place[0] in wanted])

    def _only(self, places: list[Neuron]) -> "Neurons":
        scores = {place: self.scores[place] for place in places if place in self.scores}
        return Neurons(places, scores, self.provenance)


def _from_content(content: dict[str, object]) -> Neurons:
    require_keys(content, ("format", "neurons"), ("provenance",))
    rows, provenance = content["neurons"], content.get("provenance", {})
    if not isinstance(rows, list) or not isinstance(provenance, dict):
        raise ValueError("neurons are a list and the provenance is an object")
    places, scores = [], {}
    for i, row in enumerate(rows):
        values = require_keys(row, ("name",), ("score",))
        name, score = values["name"], values.get("score")
        if not isinstance(name, str):
            raise ValueError(f"neuron {i} has the name {shown(name)}, which is no text")
        places.append(parse_name(name))
        if score is not None:
            scores[places[-1]] = number(score)
    return Neurons(places, scores, provenance)


def name_of(place: Neuron) -> str:
    """A neuron's name: `m3.n17`."""
    return f"m{place[0]}.n{place[1]}"


def parse_name(name: str) -> Neuron:
    """The neuron with a name.

    Raises:
        ValueError: if it is no neuron's name.
    """
    found = _NAME.fullmatch(name)
    if found is None or len(name) > 20:
        raise ValueError(f"{name[:40]!r} is no name of a neuron, such as 'm3.n17'")
    return int(found[1]), int(found[2])
