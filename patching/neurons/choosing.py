"""Choosing neurons: in each example, then by how many examples choose them. Knows no model.

A neuron is chosen in an example if its score there is positive, at least `ratio` of the largest
one, and among the `z` largest; `most_frequent` takes those that most examples choose (Shi et al.
2024, arXiv:2406.18406, as released: ratio 0.1 and z 20).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.neurons.scores import NeuronScores
from patching.neurons.selection import Neuron, Neurons, name_of

RATIO, Z = 0.1, 20


@dataclass(frozen=True)
class Choice:
    """How neurons are chosen in each example: `ratio` of the largest score, at most `z` of them.

    `layers` restricts the choice; the largest score is then that of these layers.

    Raises:
        ValueError: if the ratio is not from 0 to 1, or z is less than 1.
    """

    ratio: float = RATIO
    z: int = Z
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"the ratio is a fraction of the largest score, got {self.ratio}")
        if self.z < 1:
            raise ValueError(f"at least one neuron is chosen in each example, got z={self.z}")


def chosen_in_each(
    scores: NeuronScores, choice: Choice = Choice()
) -> Bool[Tensor, "example layer neuron"]:
    """Which neurons each example chooses; in an example without a positive score, none.

    Of equal scores at the end of the `z` largest, the first in the order of layers and neurons.

    Raises:
        ValueError: if a layer of the choice is not in the scores.
    """
    values = _restricted(scores.values, choice.layers)
    flat = values.flatten(1)
    largest = flat.amax(dim=1, keepdim=True)
    enough = (flat > 0) & (flat >= choice.ratio * largest)
    order = flat.argsort(dim=1, descending=True, stable=True)[:, : choice.z]
    among = torch.zeros_like(enough).scatter_(1, order, True)
    return (enough & among).view_as(values)


def most_frequent(scores: NeuronScores, h: int, choice: Choice = Choice()) -> Neurons:
    """The h neurons that most examples choose, the most frequent first.

    Ties go to the larger total score, then to the first in the order of layers and neurons. The
    neurons' scores are the numbers of examples that chose them.

    Raises:
        ValueError: if h is less than 1 or larger than the number of neurons that any example
            chose, and as `chosen_in_each`.
    """
    chosen = chosen_in_each(scores, choice)
    ranked = _ranked(chosen.sum(dim=0), scores.values)
    if not 1 <= h <= len(ranked):
        raise ValueError(
            f"cannot take the {h} most frequent neurons: the examples chose {len(ranked)} in all; "
            f"take 1 to {len(ranked)}, or choose more in each example (a smaller ratio, a larger z)"
            if ranked
            else f"cannot take the {h} most frequent neurons: no example has a positive score"
        )
    counts = chosen.sum(dim=0)
    how = {"ratio": choice.ratio, "z": choice.z, "h": h, "layers": choice.layers}
    return Neurons(
        ranked[:h],
        {place: float(counts[place]) for place in ranked[:h]},
        {"scores": dict(scores.grid.provenance), "selection": how},
    )


def strongest(scores: NeuronScores, h: int, layers: tuple[int, ...] | None = None) -> Neurons:
    """The h neurons of largest mean score over examples, if positive; theirs are the scores kept.

    Ours, for comparison: `most_frequent` counts examples that a neuron helps and is blind to
    those that it harms, so that its choice can have a negative mean. Ties go to the first in the
    order of layers and neurons.

    Raises:
        ValueError: if h is less than 1 or larger than the number of neurons of positive mean, or
            there is no such layer.
    """
    mean = _restricted(scores.values.double(), layers).mean(dim=0)
    order = mean.flatten().argsort(descending=True, stable=True).tolist()
    places = [divmod(i, mean.shape[1]) for i in order[: int((mean > 0).sum())]]
    if not 1 <= h <= len(places):
        raise ValueError(
            f"cannot take the {h} strongest neurons: {len(places)} have a positive mean score"
        )
    how = {"by": "mean", "h": h, "layers": layers}
    found = {place: float(mean[place]) for place in places[:h]}
    return Neurons(places[:h], found, {"scores": dict(scores.grid.provenance), "selection": how})


def stability(
    scores: NeuronScores, h: int, choice: Choice = Choice(), *, n: int = 100, seed: int = 0
) -> pd.DataFrame:
    """How often each neuron is among the h most frequent when examples are drawn anew.

    One row a neuron that was ever taken: `neuron`, `taken` (share of `n` draws with replacement)
    and `examples` (how many choose it), the most often taken first. A draw in which fewer than h
    are chosen takes those.

    Raises:
        ValueError: if n is less than 1, and as `most_frequent`.
    """
    if n < 1:
        raise ValueError(f"at least one draw of examples is needed, got n={n}")
    most_frequent(scores, h, choice)
    chosen = chosen_in_each(scores, choice)
    generator = torch.Generator().manual_seed(seed)
    times: dict[Neuron, int] = {}
    for _ in range(n):
        rows = torch.randint(len(chosen), (len(chosen),), generator=generator)
        for place in _ranked(chosen[rows].sum(dim=0), scores.values[rows])[:h]:
            times[place] = times.get(place, 0) + 1
    counts = chosen.sum(dim=0)
    table = [(name_of(p), count / n, int(counts[p])) for p, count in sorted(times.items())]
    frame = pd.DataFrame(table, columns=["neuron", "taken", "examples"])
    return frame.sort_values("taken", ascending=False, kind="stable", ignore_index=True)


def overlap(sets: Mapping[str, Neurons]) -> pd.DataFrame:
    """How much sets of neurons share: one row and column a set, shared neurons over all of both.

    >>> sets = {"a": Neurons([(0, 1), (0, 2)]), "b": Neurons([(0, 2), (3, 4), (0, 1)])}
    >>> overlap(sets).round(2).loc["a"].tolist()
    [1.0, 0.67]

    Raises:
        ValueError: if there are no sets, or one is empty.
    """
    empty = [name for name, neurons in sets.items() if not len(neurons)]
    if not sets or empty:
        what = f"{empty[0]!r} has no neurons" if empty else "got none"
        raise ValueError(f"overlap compares sets of at least one neuron; {what}")
    shares = [
        [len(set(a) & set(b)) / len(set(a) | set(b)) for b in sets.values()] for a in sets.values()
    ]
    return pd.DataFrame(shares, index=list(sets), columns=list(sets))


def shared_neurons(
    scores: NeuronScores,
    *,
    ratio: float = 0.2,
    share: float = 0.7,
    goal: tuple[int, int] = (2, 5),
    step: float = 0.05,
) -> Neurons:
    """Knowledge neurons: those at least `ratio` of the largest score in a share of the prompts.

    The share moves by `step` until there are as many as `goal` says; where no share gives that
    many, the one nearest to it is kept. The share taken is in the provenance. Meant for prompts
    that express one fact. Dai et al. 2022, arXiv:2104.08696, section 3.2.

    Raises:
        ValueError: if a share or step is not between 0 and 1, or no example has a positive score.
    """
    if not (0 < share <= 1 and 0 < step < 1):
        raise ValueError(f"shares and steps are between 0 and 1, got {share} and {step}")
    chosen = chosen_in_each(scores, Choice(ratio, scores.values[0].numel()))
    counts = chosen.sum(dim=0)
    ranked = _ranked(counts, scores.values)
    if not ranked:
        raise ValueError("no example has a positive score, so no neuron is shared")
    taken = _adjust(counts, len(chosen), share, goal, step)
    places = [place for place in ranked if counts[place] >= taken * len(chosen)]
    how = {"ratio": ratio, "share": taken, "goal": list(goal)}
    found = {place: float(counts[place]) for place in places}
    return Neurons(places, found, {"scores": dict(scores.grid.provenance), "selection": how})


def layers_of(nodes: Iterable[str]) -> tuple[int, ...]:
    """The layers whose MLPs are among some nodes of a circuit, for `Choice`.

    >>> layers_of(["embed", "a0.h1", "m3", "m0", "logits"])
    (0, 3)

    Raises:
        ValueError: if no node is an MLP.
    """
    nodes = list(nodes)
    found = sorted({int(node[1:]) for node in nodes if re.fullmatch(r"m\d+", node)})
    if not found:
        raise ValueError(f"no MLP (m0, m1, ...) is among these nodes: {', '.join(nodes) or 'none'}")
    return tuple(found)


def _adjust(
    counts: Int[Tensor, "layer neuron"],
    n: int,
    share: float,
    goal: tuple[int, int],
    step: float,
) -> float:
    """The share nearest to the first one, in steps, that gives a number within the goal."""
    reach = int(1 / step) + 1
    shares = [share + sign * k * step for k in range(reach) for sign in (1, -1)]
    shares = [min(max(s, 1 / n), 1.0) for s in shares if -step < s < 1 + step]

    def miss(wanted: float) -> int:
        found = int((counts >= max(1.0, wanted * n)).sum())
        return max(goal[0] - found, found - goal[1], 0)

    return min(shares, key=miss)  # the first of equals: the nearest


def _ranked(
    counts: Int[Tensor, "layer neuron"], values: Float[Tensor, "example layer neuron"]
) -> list[Neuron]:
    """Neurons that some example chose: by count, then total score, then layer and neuron."""
    totals = values.double().nan_to_num().sum(dim=0)
    places = [(int(layer), int(neuron)) for layer, neuron in counts.nonzero().tolist()]
    return sorted(places, key=lambda place: (-int(counts[place]), -float(totals[place]), place))


def _restricted(
    values: Float[Tensor, "example layer neuron"], layers: tuple[int, ...] | None
) -> Float[Tensor, "example layer neuron"]:
    values = values.nan_to_num(nan=-torch.inf)
    if layers is None:
        return values
    n_layers = values.shape[1]
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong or not layers:
        raise ValueError(f"the layers are 0 to {n_layers - 1}, got {layers}")
    kept = torch.zeros(n_layers, dtype=torch.bool)
    kept[list(layers)] = True
    return values.masked_fill(~kept[None, :, None], -torch.inf)
