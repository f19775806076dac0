"""Comparing a result with its repetition: number by number, with a verdict. Runs nothing."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from circuits.repeating.recorded import Named, Recorded
from patching.metrics import respelled

Verdict = Literal["same", "differs"]

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""The largest difference put down to rounding, over the largest number of its group, by dtype.

About a thousand roundings of the type: other libraries or devices add up in another order, through
tens of layers, forward and back. The same machine and versions give the same bits.
"""

MUST_BE_SAME = {
    "weights": "weights",
    "config": "config",
    "inside": "model in memory",
    "tokens": "prompts",
    "conflicts": "conflicts",
}
"""Hashes in a provenance, and what they are of."""

_TOLD = ("model", "revision", "tokenizer", "task", "metric", "dtype", "device")
"""What else a provenance says of its inputs, beside versions and the files that options name."""


@dataclass(frozen=True)
class Fact:
    """Something a result says of how it was made, before and now."""

    name: str
    before: str
    now: str


@dataclass(frozen=True)
class Numbers:
    """One group of numbers, compared.

    `largest` is the largest absolute difference, at `where`; `relative` that over the largest
    number of the recorded group; `ranks` the rank correlation (Spearman's), NaN where there is
    none. `only_before` and `only_now` are the labels that the other result lacks.
    """

    name: str
    n: int
    bitwise: bool
    largest: float
    where: str
    relative: float
    ranks: float
    only_before: tuple[str, ...]
    only_now: tuple[str, ...]

    def is_within(self, tolerance: float) -> bool:
        """Whether both have the same labels, and numbers that differ by no more than that."""
        return not self.only_before and not self.only_now and self.relative <= tolerance


@dataclass(frozen=True)
class Comparison:
    """A result and its repetition.

    `inputs` says which prompts, weights or files are not what they were; `facts` what else was
    other (versions, device), which alone makes no difference. `texts` are texts that differ.
    """

    path: str
    command: tuple[str, ...]
    inputs: tuple[Fact, ...]
    facts: tuple[Fact, ...]
    numbers: tuple[Numbers, ...]
    texts: tuple[Fact, ...]
    tolerance: float

    @property
    def bitwise(self) -> bool:
        """Whether every number is the same to the last bit."""
        return all(n.bitwise and n.is_within(0.0) for n in self.numbers)

    @property
    def verdict(self) -> Verdict:
        """Whether the result was repeated: same inputs, texts, and numbers but for rounding."""
        within = all(numbers.is_within(self.tolerance) for numbers in self.numbers)
        return "same" if within and not self.inputs and not self.texts else "differs"

    @property
    def exit_code(self) -> int:
        """0 if it is the same, 1 if it differs; 2 is left for what cannot be repeated."""
        return 0 if self.verdict == "same" else 1

    def to_dict(self) -> dict[str, object]:
        """Everything, in values that fit into JSON; numbers that do not become None."""
        numbers = [
            {key: _finite(value) for key, value in asdict(one).items()} for one in self.numbers
        ]
        return {
            "path": self.path,
            "verdict": self.verdict,
            "bitwise": self.bitwise,
            "tolerance": self.tolerance,
            "command": list(self.command),
            "inputs": [asdict(fact) for fact in self.inputs],
            "facts": [asdict(fact) for fact in self.facts],
            "numbers": numbers,
            "texts": [asdict(fact) for fact in self.texts],
        }


def compare_numbers(name: str, before: Named, now: Named) -> Numbers:
    """Two groups of numbers by their labels; undefined numbers equal each other only."""
    shared = [label for label in before if label in now]
    gaps = {label: _gap(before[label], now[label]) for label in shared}
    where = max(gaps, key=gaps.__getitem__, default="")
    largest = gaps.get(where, 0.0)
    scale = max((abs(x) for x in before.values() if math.isfinite(x)), default=0.0)
    return Numbers(
        name=name,
        n=len(shared),
        bitwise=all(gap == 0 for gap in gaps.values()),
        largest=largest,
        where=where if largest else "",
        relative=0.0 if largest == 0 else largest / scale if scale else math.inf,
        ranks=_ranks([before[label] for label in shared], [now[label] for label in shared]),
        only_before=tuple(label for label in before if label not in now),
        only_now=tuple(label for label in now if label not in before),
    )


def compare_all(before: Recorded, now: Recorded) -> tuple[Numbers, ...]:
    """Every group of numbers that either result has."""
    groups = {**before.numbers, **now.numbers}
    return tuple(
        compare_numbers(name, before.numbers.get(name, {}), now.numbers.get(name, {}))
        for name in groups
    )


def differing_texts(before: Recorded, now: Recorded) -> tuple[Fact, ...]:
    """Texts that are not what they were, by their label; a missing one is empty."""
    groups = {**before.texts, **now.texts}
    pairs = [(before.texts.get(name, {}), now.texts.get(name, {})) for name in groups]
    return tuple(
        Fact(label, old.get(label, ""), new.get(label, ""))
        for old, new in pairs
        for label in {**old, **new}
        if old.get(label) != new.get(label)
    )


def differing_inputs(before: Mapping[str, object], now: Mapping[str, object]) -> tuple[Fact, ...]:
    """Weights, prompts and files that do not have the hash they had."""
    old, new = hashes(before), hashes(now)
    return tuple(
        Fact(name, old[name], new.get(name, "-")) for name in old if old[name] != new.get(name)
    )


def differing_facts(before: Mapping[str, object], now: Mapping[str, object]) -> tuple[Fact, ...]:
    """Model, task, files, device, dtype and versions that are not what they were."""
    old, new = _facts(before), _facts(now)
    return tuple(
        Fact(name, before, new.get(name, "-"))
        for name, before in old.items()
        if before != new.get(name)
    )


def made_by(provenance: Mapping[str, object]) -> Mapping[str, object]:
    """What says how the numbers came about: for chosen neurons, that of the scores."""
    scores = provenance.get("scores")
    return {**scores, **provenance} if isinstance(scores, Mapping) else provenance


def hashes(provenance: Mapping[str, object]) -> dict[str, str]:
    """What a result was made from, and its hash."""
    said = made_by(provenance)
    found = {what: str(said[name]) for name, what in MUST_BE_SAME.items() if name in said}
    for group in ("inputs", "functions"):
        within = provenance.get(group)
        found |= {str(k): str(v) for k, v in within.items()} if isinstance(within, Mapping) else {}
    return found


def _facts(provenance: Mapping[str, object]) -> dict[str, str]:
    said = respelled(made_by(provenance))
    facts = {name: said.get(name) for name in _TOLD}
    for group in ("versions", "files"):
        within = said.get(group)
        facts |= within if isinstance(within, Mapping) else {}
    return {name: "-" if value is None else str(value) for name, value in facts.items()}


def _gap(before: float, now: float) -> float:
    if math.isnan(before) or math.isnan(now):
        return 0.0 if math.isnan(before) and math.isnan(now) else math.inf
    return 0.0 if before == now else abs(before - now)


def _ranks(before: list[float], now: list[float]) -> float:
    """Spearman's rank correlation, with mean ranks for ties; NaN without two different numbers."""
    import pandas  # slow to import

    old, new = pandas.Series(before, dtype=float).rank(), pandas.Series(now, dtype=float).rank()
    if old.nunique() < 2 or new.nunique() < 2:
        return math.nan
    return float(old.corr(new))


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
