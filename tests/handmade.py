"""Faithfulness curves of any numbers, as if they had been measured."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.points import Conditions, Curve
from patching.graph import Graph

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)


Numbers = Tensor | Sequence[float] | Sequence[Sequence[float]]


def curve(values: Numbers, clean: Numbers, corrupt: Numbers, **changes: object) -> Curve:
    """One row of values per circuit; everything else can be changed by name."""
    n = len(values)
    values, clean, corrupt = (
        torch.as_tensor(x, dtype=torch.float64) for x in (values, clean, corrupt)
    )
    fields = {
        "circuits": (Circuit.full(GRAPH),) * n,
        "shares": tuple((i + 1) / n for i in range(n)),
        "requested": (GRAPH.n_edges,) * n,
        "ranking": "signed",
        "values": values,
        "clean": clean,
        "corrupt": corrupt,
        "kl": -torch.ones_like(values),
        "accuracy": torch.ones_like(values),
        "intervals": torch.full((n, 2), math.nan, dtype=torch.float64),
        "uniform": torch.zeros(n, 0, dtype=torch.float64),
        "layer_matched": torch.zeros(n, 0, dtype=torch.float64),
        "pruned": True,
        "n_bootstrap": 0,
        "seed": 0,
        "conditions": Conditions(*"abcdefgh"),
        "provenance": {"model": "none"},
    }
    return Curve(**{**fields, **changes})
