"""The edges of a circuit that are drawn where all are too many."""

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.circuit import Circuit
from circuits.select import prune


def strongest(circuit: Circuit, n: int) -> Circuit:
    """At most n edges by |score|, the first ones without scores, and none that dangles.

    They are as many of the strongest as leave n that join `embed` to `logits` among themselves;
    where these are fewer than half of n, the n strongest as they are.
    """
    if circuit.size <= n:
        return circuit
    order = _by_strength(circuit)
    joined = _joined(circuit, order, n)
    return joined if 2 * joined.size >= n else _first(circuit, order, n)


def _joined(circuit: Circuit, order: Int[Tensor, " edge"], n: int) -> Circuit:
    """The most of the first edges, in which those that dangle are left out: by halving."""
    low, high = n, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        if prune(_first(circuit, order, middle)).size <= n:
            low = middle
        else:
            high = middle - 1
    return prune(_first(circuit, order, low))


def _by_strength(circuit: Circuit) -> Int[Tensor, " edge"]:
    """The circuit's edges as flat indices, the strongest first; ties in order."""
    size = circuit.mask.double() if circuit.scores is None else circuit.scores.abs()
    size = size.where(circuit.mask, -1.0).flatten()
    return size.sort(descending=True, stable=True).indices[: circuit.size]


def _first(circuit: Circuit, order: Int[Tensor, " edge"], n: int) -> Circuit:
    mask = torch.zeros_like(circuit.mask)
    mask.view(-1)[order[:n]] = True
    return Circuit(mask, circuit.graph, circuit.scores)
