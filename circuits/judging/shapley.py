"""Shapley values of heads: each one's fair share of what all of them together do for the metric.

The value of a set of players is the metric with only those live, the other players ablated (all
their outgoing edges removed) and everything else as it is. A player's share is its mean gain when
it joins, over random orders of joining; in every order the gains of all sum to
metric(clean) - metric(all players ablated). Shapley 1953; Castro et al. 2009 (sampling).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from patching.ablations import Ablation, prepared_for, resample
from patching.attention.pattern_grid import head_axes
from patching.files.brief import briefly
from patching.graph import Graph
from patching.grid import Grid
from patching.intervals import LEVEL
from patching.memory import in_tiles
from patching.metrics import Metric, name_of
from patching.model import Model
from patching.tasks.task import Task

Live = frozenset[int]
"""Players that have joined."""


@briefly
@dataclass(frozen=True, eq=False)
class Shapley:
    """Shapley values of the players, in units of the metric; positive helps it.

    `grid` holds them per example, its axes layer and head if the players are all heads, else node;
    its `clean` is the metric with all players live, its `corrupt` with all ablated, and the values
    sum to the difference. Its own interval is over examples. `gains` are means over examples in
    each order of joining, and `interval` says how far the sampled orders can be trusted.
    """

    players: tuple[str, ...]
    grid: Grid
    gains: Float[Tensor, "order player"]
    rows: int

    @property
    def values(self) -> Float[Tensor, " player"]:
        """The mean over orders and examples."""
        return self.gains.mean(dim=0)

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % t interval of each value over orders; NaN for one order."""
        numbers = self.gains.numpy()
        n = len(numbers)
        if n < 2:
            nothing = np.full(len(self.players), np.nan)
            return nothing, nothing
        reach = stats.t.ppf((1 + LEVEL) / 2, n - 1) * numbers.std(axis=0, ddof=1) / n**0.5
        return numbers.mean(axis=0) - reach, numbers.mean(axis=0) + reach

    def to_dataframe(self) -> pd.DataFrame:
        """One row per player in falling order of value, with the interval over orders."""
        low, high = self.interval()
        columns = {"player": self.players, "value": self.values.numpy(), "low": low, "high": high}
        table = pd.DataFrame(columns).sort_values("value", ascending=False, kind="stable")
        return table.reset_index(drop=True)


def shapley_values(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    players: Sequence[str] | None = None,
    orders: int = 8,
    ablation: Ablation = resample,
    seed: int = 0,
) -> Shapley:
    """Shapley values of all heads, or of the named writers, from so many random orders of joining.

    See `shapley_cost` for the number of forward rows. Sets that come up again are run once.

    >>> from patching import tasks
    >>> from patching.metrics import logit_diff
    >>> model = Model.load("toy")
    >>> task = tasks.ioi(model.tokenizer, n=4, seed=0)
    >>> found = shapley_values(model, task, logit_diff, players=["a1.h0", "a2.h0", "m0"], orders=2)
    >>> tuple(found.grid.values.shape), found.rows
    ((4, 3), 20)

    Raises:
        ValueError: if there are no such players, one is named twice, there is no order, the model
            cannot read the task, or pairs do not differ.
    """
    names = _names(model.graph, players)
    drawn = _draw(len(names), orders, seed)
    values = _evaluate(model, task, metric, ablation, (names, _sets(drawn)))
    gains = torch.zeros(orders, len(names), len(task), dtype=torch.float64)
    for i, order in enumerate(drawn):
        before = values[frozenset()]
        for n, player in enumerate(order, start=1):
            now = values[frozenset(order[:n])]
            gains[i, player] = now - before
            before = now
    everyone = frozenset(range(len(names)))
    shares = gains.mean(dim=0).T
    axes: Mapping[str, tuple[str, ...]] = {"node": names}
    if players is None:
        axes = head_axes(model)
        shares = shares.reshape(len(task), model.graph.n_layers, model.graph.n_heads)
    made_by = {
        "orders": orders,
        "seed": seed,
        "ablation": prepared_for(model, ablation).name,
        "task": task.hash,
    }
    quantity = f"Shapley value ({name_of(metric)})"
    grid = Grid(quantity, shares, axes, values[everyone], values[frozenset()], made_by)
    return Shapley(names, grid, gains.mean(dim=2), len(values) * len(task))


def shapley_cost(
    model: Model,
    task: Task,
    *,
    players: Sequence[str] | None = None,
    orders: int = 8,
    seed: int = 0,
) -> int:
    """The forward rows that `shapley_values` takes, beside the clean and the corrupt run.

    At most `((players - 1) * orders + 2) * examples`.

    Raises:
        ValueError: as `shapley_values`, where nothing needs to be run.
    """
    names = _names(model.graph, players)
    return len(_sets(_draw(len(names), orders, seed))) * len(task)


def _names(graph: Graph, players: Sequence[str] | None) -> tuple[str, ...]:
    heads = tuple(
        graph.sources[i].name
        for layer in range(graph.n_layers)
        for i in range(graph.head_sources(layer).start, graph.head_sources(layer).stop)
    )
    names = heads if players is None else tuple(players)
    if not names:
        raise ValueError("there are no players; name at least one writer, such as 'a0.h0'")
    for name in names:
        graph.source_index(name)
        if names.count(name) > 1:
            raise ValueError(f"the player {name!r} is named twice")
    return names


def _draw(n_players: int, orders: int, seed: int) -> list[list[int]]:
    if orders < 1:
        raise ValueError(f"Shapley values need at least one order of joining, got {orders}")
    draw = np.random.default_rng(seed)
    return [draw.permutation(n_players).tolist() for _ in range(orders)]


def _sets(orders: Sequence[Sequence[int]]) -> list[Live]:
    """All sets that come up while players join, each once."""
    sets = (frozenset(order[:n]) for order in orders for n in range(len(order) + 1))
    return list(dict.fromkeys(sets))


def _evaluate(
    model: Model,
    task: Task,
    metric: Metric,
    ablation: Ablation,
    game: tuple[Sequence[str], Sequence[Live]],
) -> dict[Live, Float[Tensor, " example"]]:
    """The value of every set, on every example."""
    names, sets = game
    sources = [model.graph.source_index(name) for name in names]
    values: dict[Live, Tensor] = {}

    def work(span: slice) -> None:
        circuits = [_live_circuit(model.graph, sources, live) for live in sets[span]]
        found = evaluate(model, task, circuits, metric, ablation=ablation)
        values.update(zip(sets[span], found.values, strict=True))

    in_tiles(len(sets), model.graph.exists.numel(), torch.device("cpu"), work)
    return values


def _live_circuit(graph: Graph, sources: Sequence[int], live: Live) -> Circuit:
    """All edges but those out of players that have not joined."""
    mask = graph.exists.clone()
    mask[[source for i, source in enumerate(sources) if i not in live]] = False
    return Circuit(mask, graph)
