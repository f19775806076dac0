"""The faithfulness an explorer shows: numbers of a curve, checked to be of the same circuits."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from circuits.circuit import Circuit
from circuits.explorer.content import Ordered
from circuits.judging.points import Curve
from circuits.scores import Ranking, Scores
from circuits.select import prune, top_n
from patching.files.parsing import number, provenance_json, read_json
from patching.metrics import respelled

T = TypeVar("T")


@dataclass(frozen=True)
class Level:
    """Faithfulness measured at one size: that of the circuit of the best `requested` edges.

    `low` to `high` is the 95 % interval over examples, NaN where none was taken; `edges` is what
    pruning left.
    """

    requested: int
    edges: int
    faithfulness: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """A curve as a page needs it: its levels, and what they depend on.

    `circuits` are those that were run, or None where a file does not hold them.
    """

    levels: tuple[Level, ...]
    ranking: Ranking
    pruned: bool
    metric: str
    ablation: str
    n_examples: int
    scores: Mapping[str, object]
    circuits: tuple[Circuit, ...] | None = None


def measured(curve: Curve) -> Measured:
    """What a curve measured."""
    stated = curve.provenance.get("scores")
    return Measured(
        levels=tuple(
            Level(p.requested, p.edges, p.faithfulness, p.low, p.high) for p in curve.points
        ),
        ranking=curve.ranking,
        pruned=curve.pruned,
        metric=curve.conditions.metric,
        ablation=curve.conditions.ablation,
        n_examples=len(curve.clean),
        scores=stated if isinstance(stated, Mapping) else {},
        circuits=curve.circuits,
    )


def load_levels(path: str | Path, scores: Scores | None = None) -> Measured:
    """Read a file of `circuits curve --json`; with several curves, the one of these scores.

    With `scores`, the circuits that were run are chosen from them again.

    Raises:
        ValueError: if the file holds no curve, or none of these scores.
    """
    try:
        content = read_json(path)
        rows = content if isinstance(content, list) else [content]
        found = [_from_json(row) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise ValueError(
            f"{path} holds no curve; what `circuits curve --json` prints would be right"
        ) from None
    if not found:
        raise ValueError(f"{path} holds no curve: its list is empty")
    if scores is None:
        return found[0]
    own = json.loads(provenance_json(scores.provenance))
    fitting = [one for one in found if one.scores == own]
    if not fitting:
        raise ValueError(f"{path} holds no curve of these scores, but of others")
    return _with_circuits(fitting[0], scores)


def fitting_levels(found: Measured, order: Ordered) -> tuple[list[Level], list[int]]:
    """The levels whose circuit is the first n edges of the list, by n; the sizes of the others.

    One that was pruned stands at its own size too, where it begins the list by itself. A curve
    read without its circuits is believed if the circuit was chosen in the way that the curve's
    were: the best edges, not pruned, by the same ranking.

    Raises:
        ValueError: if the curve is of other circuits at every size.
    """
    if found.circuits is None:
        levels = found.levels if _same_way(found, order.provenance) else ()
        placed = {x: [x.requested] for x in levels if x.requested <= len(order.edges)}
    else:
        pairs = zip(found.levels, found.circuits, strict=True)
        sizes = {level: _sizes_of(found, order, level, circuit) for level, circuit in pairs}
        placed = {level: ns for level, ns in sizes.items() if ns}
    at = {n: replace(level, requested=n) for level, ns in placed.items() for n in ns}
    fitting = [at[n] for n in sorted(at)]
    if not any(level.requested for level in fitting):
        raise ValueError(
            "the curve is of other circuits than these edges make at any size; a curve of the same "
            "scores with the same ranking would be right, given together with the scores"
        )
    return fitting, [level.requested for level in found.levels if level not in placed]


def level_rows(levels: Sequence[Level]) -> list[list[float | int | None]]:
    """Rows for the page; numbers that are not finite become null."""
    return [
        [
            level.requested,
            level.edges,
            *(
                value if math.isfinite(value) else None
                for value in (level.faithfulness, level.low, level.high)
            ),
        ]
        for level in levels
    ]


def _from_json(row: object) -> Measured:
    if not isinstance(row, dict):
        raise TypeError("no object")
    numbers = ("faithfulness", "low", "high")
    return Measured(
        levels=tuple(
            Level(
                _count(point["requested"]),
                _count(point["edges"]),
                *(math.nan if point[name] is None else number(point[name]) for name in numbers),
            )
            for point in row["points"]
        ),
        ranking=_one_of(row["ranking"], ("signed", "absolute")),
        pruned=_one_of(row["pruned"], (True, False)),
        metric=str(respelled(row["conditions"])["metric"]),
        ablation=str(row["conditions"]["ablation"]),
        n_examples=len(list(row["examples"]["clean"])),
        scores=dict(row["provenance"]["scores"]),
    )


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"a number of edges, not {value!r}")
    return value


def _one_of(value: T, allowed: Sequence[T]) -> T:
    if value not in allowed:
        raise ValueError(f"one of {allowed}, not {value!r}")
    return value


def _with_circuits(found: Measured, scores: Scores) -> Measured:
    most = scores.graph.n_edges
    levels = tuple(level for level in found.levels if level.requested <= most)
    whole = [top_n(scores, level.requested, ranking=found.ranking) for level in levels]
    circuits = [prune(circuit) for circuit in whole] if found.pruned else whole
    return Measured(**{**vars(found), "levels": levels, "circuits": tuple(circuits)})


def _sizes_of(found: Measured, order: Ordered, level: Level, circuit: Circuit) -> list[int]:
    """How many of the first edges make a circuit that was run, as the page shows them."""
    if level.requested > len(order.edges) or circuit.graph != order.graph:
        return []
    sizes = {level.requested, circuit.size or level.requested}
    prefixes = {n: order.prefix(n) for n in sizes}
    return [n for n, p in prefixes.items() if (prune(p) if found.pruned else p) == circuit]


def _same_way(found: Measured, provenance: Mapping[str, object]) -> bool:
    selection = provenance.get("selection")
    if not isinstance(selection, Mapping):
        return False
    rest = {key: value for key, value in provenance.items() if key != "selection"}
    same = rest == dict(found.scores) and selection.get("ranking") == found.ranking
    return same and selection.get("selector") == "top_n" and not selection.get("pruned")
