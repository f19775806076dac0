"""Steer and see: units of a graph changed in the real model, one at a time, beside what it foresaw.

Knows nothing of how units are drawn.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.features.graph import FEATURE, LOGIT, FeatureGraph
from circuits.features.trace import Traced, ready
from circuits.features.units import Features
from circuits.features.validity import total_effects
from patching.files.brief import briefly
from patching.intervene import Intervention, intervening
from patching.lens.text import token_texts
from patching.model import Model
from patching.modes import without_gradients
from patching.progress import Progress


@dataclass(frozen=True)
class Steered:
    """One unit at one position, its activation times a factor.

    `changes` are those of the targets' logits (less the mean over the vocabulary), `foreseen` what
    the graph says of them; `tokens` what the model then says next, with probabilities.
    """

    node: str
    factor: float
    changes: tuple[float, ...]
    foreseen: tuple[float, ...]
    tokens: tuple[tuple[str, float], ...]


@briefly
@dataclass(frozen=True)
class Steering:
    """What came of it: `targets` names logits, `tokens` what is said without a change."""

    targets: tuple[str, ...]
    tokens: tuple[tuple[str, float], ...]
    rows: tuple[Steered, ...]

    @property
    def agreement(self) -> float | None:
        """The correlation of foreseen with real changes; None where there are too few."""
        if len(self.rows) * len(self.targets) < 2:
            return None
        foreseen = torch.tensor([row.foreseen for row in self.rows], dtype=torch.float64)
        real = torch.tensor([row.changes for row in self.rows], dtype=torch.float64)
        if not bool(foreseen.any() and real.any()):
            return None
        found = float(torch.corrcoef(torch.stack([foreseen.flatten(), real.flatten()]))[0, 1])
        return round(found, 4) if isfinite(found) else None

    def content(self) -> dict[str, object]:
        """All of it in values that fit into JSON."""
        return {**asdict(self), "agreement": self.agreement}


@without_gradients
def steer(
    model: Model,
    graph: FeatureGraph,
    features: Traced,
    *,
    n: int = 20,
    factors: Sequence[float | int] = (0.0, 2.0),
    most: int = 5,
) -> Steering:
    """Change the `n` units of most influence in the real model, with nothing held.

    Every unit is changed at its own position, by the interventions of `patching`: dictionaries'
    features by `scale_feature`, neurons by `scale`; each factor costs a run of the prompt. What is
    foreseen is of the edges that this graph kept: `(factor - 1)` times a unit's total effect.

    >>> from circuits.features import trace
    >>> model = Model.load("toy-llama")
    >>> graph = trace(model, [1, 5, 6], "neurons", logits=1, validity=0)
    >>> len(steer(model, graph, "neurons", n=2).rows)
    4

    Args:
        model: that the graph is of.
        graph: with the prompt.
        features: that the graph is of.
        n: how many units.
        factors: 0 removes a unit, 2 doubles it.
        most: tokens named of what is said next.

    Raises:
        ValueError: if features do not fit the model or the graph, or nothing is asked for.
    """
    if n < 1 or most < 1 or not factors:
        raise ValueError(f"one unit, factor and token are the least, got {n}, {factors}, {most}")
    features = matching(model, graph, features)
    nodes = graph.nodes
    ends = ((nodes.kinds == LOGIT) & (nodes.indices >= 0)).nonzero()[:, 0]
    units = nodes.influences.where(nodes.kinds == FEATURE, -1).argsort(descending=True, stable=True)
    chosen = units[: min(n, int((nodes.kinds == FEATURE).sum()))].tolist()
    effects = total_effects(graph)[torch.isin((nodes.kinds == LOGIT).nonzero()[:, 0], ends)]
    ids, before = nodes.indices[ends], _logits(model, graph, ())
    rows: list[Steered] = []
    with Progress("steering", len(chosen) * len(factors)) as progress:
        for unit in chosen:
            where = (int(nodes.layers[unit]), int(nodes.indices[unit]), int(nodes.positions[unit]))
            for factor in factors:
                after = _logits(model, graph, features.scaled(*where, factor))
                changes = (after - before)[ids].tolist()
                foreseen = ((factor - 1) * effects[:, unit]).tolist()
                said = _likeliest(model, after, most)
                name = graph.names[unit]
                rows.append(Steered(name, float(factor), _short(changes), _short(foreseen), said))
                progress.at(len(rows))
    targets = tuple(graph.names[i] for i in ends.tolist())
    return Steering(targets, _likeliest(model, before, most), tuple(rows))


def matching(model: Model, graph: FeatureGraph, features: Traced) -> Features:
    """Features made ready, if the graph is of them.

    Raises:
        ValueError: if it is of others, as far as its facts say.
    """
    made = ready(model, features)
    made.points(model)
    letter, known = graph.facts.get("letter", made.letter), graph.facts.get("dictionaries")
    if letter != made.letter or (known is not None and known != made.facts.get("dictionaries")):
        raise ValueError(
            f"the graph is of {graph.facts.get('features', 'other features')}, not of these "
            f"{made.name}; give those that it was traced through"
        )
    return made


def _logits(
    model: Model, graph: FeatureGraph, changes: Sequence[Intervention]
) -> Float[Tensor, " vocab"]:
    """The last position's, less their mean."""
    with intervening(model, *changes):
        logits = model.run(graph.tokens.tolist()).logits[0, -1].double().cpu()
    return logits - logits.mean()


def _likeliest(
    model: Model, logits: Float[Tensor, " vocab"], most: int
) -> tuple[tuple[str, float], ...]:
    found = logits.softmax(dim=-1).topk(min(most, len(logits)))
    texts = token_texts(model.tokenizer, found.indices.tolist())
    return tuple(zip(texts, _short(found.values.tolist()), strict=True))


def _short(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in values)
