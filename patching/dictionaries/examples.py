"""What a feature is about: where it was largest in a text, and which tokens its writes promote.

Of every dictionary, one pass over the text finds the largest values of all features at once; only
the features that are asked for are told of.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.fitting import flat
from patching.dictionaries.several import Dictionaries
from patching.files.brief import briefly
from patching.files.parsing import naming, number, read_json, require_keys, shown
from patching.files.whole import write_text
from patching.lens.prompts import Prompts, Source, read_prompts
from patching.lens.text import token_texts
from patching.lens.vocabulary import find_vocabulary
from patching.model import Model
from patching.modes import without_gradients

_FORMAT = "feature examples 1"
_AROUND = 12  # tokens before and after the largest value


@dataclass(frozen=True)
class Context:
    """Some tokens with the feature's value at each; `at` is where it is largest."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    at: int


@dataclass(frozen=True)
class Example:
    """What is known of one feature: `frequency` is the share of tokens on which it is active.

    `contexts` begin with the largest value. `promoted` and `suppressed` are the tokens whose logits
    its writes raise and lower most, at a place in the stream (of others, none).
    """

    place: str
    feature: int
    frequency: float
    largest: float
    contexts: tuple[Context, ...]
    promoted: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()


@briefly
@dataclass(frozen=True)
class Examples:
    """Examples of features, by place and number; `facts` say of which model and text."""

    found: Mapping[tuple[str, int], Example]
    facts: Mapping[str, object] = field(default_factory=dict)

    def __getitem__(self, feature: tuple[str, int]) -> Example:
        return self.found[feature]

    def __len__(self) -> int:
        return len(self.found)

    def save(self, path: str | Path) -> None:
        """Write a JSON file that `load_examples` reads."""
        rows = [asdict(self.found[key]) for key in sorted(self.found)]
        content = {"format": _FORMAT, "facts": dict(self.facts), "features": rows}
        write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


@dataclass(frozen=True, eq=False)
class Asked:
    """Units of one place, by number, and what each writes to the stream for a value of 1.

    `values` are those of the units, `[batch pos chosen]`, given what is at the place `reads`.
    """

    units: tuple[int, ...]
    reads: str
    values: Callable[[Float[Tensor, "batch pos width"]], Float[Tensor, "batch pos chosen"]]
    writes: Float[Tensor, "chosen d_out"] | None


@without_gradients
def feature_examples(
    model: Model,
    dictionaries: Dictionaries,
    prompts: Source | Prompts,
    features: Mapping[str, Sequence[int]],
    *,
    k: int = 5,
    batch_size: int = 8,
) -> Examples:
    """Where features are largest in a text, and what they promote.

    Args:
        model: whose activations.
        dictionaries: at its places, as `attach` returns them.
        prompts: the text; of each prompt, at most one context is shown of a feature, and the first
            position is left out.
        features: which, by the place that they write at.
        k: contexts and tokens of each.
        batch_size: prompts a run.

    Raises:
        ValueError: if prompts do not fit the model, there is no such dictionary or feature, or k
            is less than 1.
    """
    members = {place: dictionaries[place] for place in features}
    asked = {place: asked_of(members[place], [*ids]) for place, ids in features.items()}
    return examples_of(model, prompts, asked, k=k, batch_size=batch_size)


@without_gradients
def examples_of(
    model: Model,
    prompts: Source | Prompts,
    asked: Mapping[str, Asked],
    *,
    k: int = 5,
    batch_size: int = 8,
) -> Examples:
    """The same of any units, by the place that they write at; see `feature_examples`.

    Raises:
        ValueError: if prompts do not fit the model, or k is less than 1.
    """
    if k < 1:
        raise ValueError(f"at least one context is needed, got k={k}")
    read = read_prompts(model, prompts)
    seen: dict[str, list[Tensor]] = {place: [] for place in asked}
    for tokens in read.batches(batch_size, model.device):
        run = model.run(tokens, cache=sorted({one.reads for one in asked.values()}))
        for place, one in asked.items():
            seen[place] += list(one.values(flat(run[one.reads])).cpu())
    lengths = torch.tensor([len(row) for row in read.rows])
    found: dict[tuple[str, int], Example] = {}
    for place, one in asked.items():
        told = _promotions(model, one.writes, len(one.units), k)
        for j, unit in enumerate(one.units):
            values = [f[: int(n), j] for f, n in zip(seen[place], lengths, strict=True)]
            contexts = _contexts(model, read.rows, values, k)
            found[place, unit] = _example(place, unit, values, contexts, told[j])
    facts = {"model": model.name, "text": read.name, "tokens": read.hash, **model.identity.facts}
    return Examples(found, facts)


def load_examples(path: str | Path) -> Examples:
    """Read what `Examples.save` wrote.

    Raises:
        ValueError: if it is no such file.
    """
    with naming(path):
        content = require_keys(read_json(path), ("format", "facts", "features"))
        rows, facts = content["features"], content["facts"]
        if (
            content["format"] != _FORMAT
            or not isinstance(rows, list)
            or not isinstance(facts, dict)
        ):
            raise ValueError(f"it holds no examples of the kind {_FORMAT!r}")
        found = [_read_example(row) for row in rows]
    return Examples({(one.place, one.feature): one for one in found}, facts)


def _contexts(
    model: Model, rows: Sequence[Sequence[int]], values: Sequence[Tensor], k: int
) -> tuple[Context, ...]:
    """One of each prompt, the largest first; prompts where it is never active are left out."""
    peaks = torch.tensor([float(f[1:].max()) if len(f) > 1 else 0.0 for f in values])
    made = []
    for row in peaks.argsort(descending=True, stable=True)[:k].tolist():
        if peaks[row] <= 0:
            break
        at = 1 + int(values[row][1:].argmax())
        part = slice(max(0, at - _AROUND), at + _AROUND + 1)
        shown_values = tuple(round(value, 6) for value in values[row][part].tolist())
        texts = token_texts(model.tokenizer, rows[row][part])
        made.append(Context(texts, shown_values, at - part.start))
    return tuple(made)


def _example(
    place: str,
    feature: int,
    values: Sequence[Float[Tensor, " pos"]],
    contexts: tuple[Context, ...],
    told: tuple[tuple[str, ...], tuple[str, ...]],
) -> Example:
    late = torch.cat([f[1:] for f in values])
    return Example(
        place=place,
        feature=feature,
        frequency=float((late > 0).double().mean()) if len(late) else 0.0,
        largest=float(late.max()) if len(late) else 0.0,
        contexts=contexts,
        promoted=told[0],
        suppressed=told[1],
    )


def asked_of(one: Dictionary, features: Sequence[int]) -> Asked:
    """Features of a dictionary; its writes, where those are to the stream."""
    chosen = torch.tensor(features, dtype=torch.long)
    writes = one.writes_of(chosen)  # says which there are
    to_stream = not one.writes.endswith((".z", ".in", ".out"))

    def values(x: Tensor) -> Tensor:
        return one.encode(x)[..., chosen]

    return Asked(tuple(features), one.reads, values, writes if to_stream else None)


def _promotions(
    model: Model, rows: Float[Tensor, "chosen d_out"] | None, n: int, k: int
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tokens that each unit's writes raise and lower most, through the final norm's gamma."""
    vocabulary = find_vocabulary(model)
    if rows is None or rows.shape[1] != vocabulary.weight.shape[1]:
        return [((), ())] * n
    rows = rows.to(vocabulary.weight.device)
    logits = vocabulary.promotions(rows, rows.new_ones(n, 1))
    most = min(k, logits.shape[1])

    def tokens(ids: Tensor) -> tuple[str, ...]:
        return token_texts(model.tokenizer, ids.tolist())

    best, worst = logits.topk(most).indices, logits.topk(most, largest=False).indices
    return [(tokens(a), tokens(b)) for a, b in zip(best, worst, strict=True)]


def _read_example(row: object) -> Example:
    """One feature of a file.

    Raises:
        ValueError: if a part is missing or of another kind.
    """
    names = ("place", "feature", "frequency", "largest", "contexts", "promoted", "suppressed")
    said = require_keys(row, names)
    contexts, feature = said["contexts"], said["feature"]
    if not isinstance(contexts, list) or not isinstance(feature, int):
        raise ValueError(f"a feature with contexts would be right, got {shown(row)}")
    return Example(
        place=str(said["place"]),
        feature=feature,
        frequency=number(said["frequency"]),
        largest=number(said["largest"]),
        contexts=tuple(map(_read_context, contexts)),
        promoted=_texts(said["promoted"]),
        suppressed=_texts(said["suppressed"]),
    )


def _read_context(row: object) -> Context:
    said = require_keys(row, ("tokens", "values", "at"))
    tokens, values, at = _texts(said["tokens"]), said["values"], said["at"]
    if not isinstance(values, list) or len(values) != len(tokens) or not isinstance(at, int):
        raise ValueError(f"tokens with as many values would be right, got {shown(row)}")
    if not 0 <= at < len(tokens):
        raise ValueError(f"a context of {len(tokens)} tokens has no place {at}")
    return Context(tokens, tuple(map(number, values)), at)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"a list of texts would be right, got {shown(value)}")
    return tuple(value)
