"""Parts of a circuit to take out: nodes, edges, classes of edges, random sets. Runs no model.

A part is a `Circuit` too, so that `circuit - part` is what is left.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.circuit import Circuit, kind_of
from patching.graph import Graph

Parts = Mapping[str, Circuit]
Units = Callable[[Circuit], Parts]
"""How a circuit is cut into its smallest parts: `node_units` or `edge_units`."""


def node_units(circuit: Circuit) -> Parts:
    """Every head and MLP that writes into the circuit, with all its outgoing edges.

    All edges of the graph, not of the circuit alone: taken from the whole model, the node is gone.
    """
    graph = circuit.graph
    units = {}
    for i, node in enumerate(graph.sources):
        if kind_of(node.name) != "embed" and circuit.mask[i].any():
            mask = torch.zeros_like(graph.exists)
            mask[i] = graph.exists[i]
            units[node.name] = Circuit(mask, graph)
    return units


def edge_units(circuit: Circuit) -> Parts:
    """Every edge of the circuit alone, named as in `a3.h1->m5`."""
    return {
        f"{source}->{dest}": Circuit.from_edges(circuit.graph, [(source, dest)])
        for source, dest in circuit.edges
    }


def class_subsets(circuit: Circuit) -> Parts:
    """The circuit's edges out of heads, out of MLPs, and into queries, keys, values and gates.

    Classes of which the circuit has no edge are left out.
    """
    graph = circuit.graph
    kinds = [kind_of(node.name) for node in graph.sources]
    readers = [node.name[-2:] for node in graph.destinations]
    classes = {
        "out of heads": _rows(graph, [kind == "head" for kind in kinds]),
        "out of MLPs": _rows(graph, [kind == "mlp" for kind in kinds]),
        "into queries": _columns(graph, [reader == ".q" for reader in readers]),
        "into keys": _columns(graph, [reader == ".k" for reader in readers]),
        "into values": _columns(graph, [reader == ".v" for reader in readers]),
        "into gates": _columns(graph, [node.name.endswith(".gate") for node in graph.destinations]),
    }
    parts = {name: Circuit(mask & circuit.mask, graph) for name, mask in classes.items()}
    return {name: part for name, part in parts.items() if part.size}


def random_subsets(units: Parts, n: int, *, seed: int) -> Parts:
    """Random sets of units: each unit is in with probability 1/2, so each set equally likely.

    Raises:
        ValueError: if there are no units, or n is negative.
    """
    if not units:
        raise ValueError("there are no units to draw from: the circuit has none of this kind")
    if n < 0:
        raise ValueError(f"cannot draw {n} subsets; 0 is the least")
    masks = list(units.values())
    chosen = np.random.default_rng(seed).random((n, len(masks))) < 0.5
    graph = masks[0].graph
    return {
        f"random {i}": join(graph, [unit for unit, is_in in zip(masks, row, strict=True) if is_in])
        for i, row in enumerate(chosen)
    }


def join(graph: Graph, parts: Iterable[Circuit]) -> Circuit:
    """All edges of all parts, without scores."""
    mask = torch.zeros_like(graph.exists)
    for part in parts:
        mask |= part.mask
    return Circuit(mask, graph)


def without(circuit: Circuit, part: Circuit) -> Circuit:
    """The edges of `circuit` outside `part`, without scores or provenance: to be run, not kept."""
    return Circuit(circuit.mask & ~part.mask, circuit.graph)


def _rows(graph: Graph, chosen: Sequence[bool]) -> Bool[Tensor, "source dest"]:
    return graph.exists & torch.tensor(chosen)[:, None]


def _columns(graph: Graph, chosen: Sequence[bool]) -> Bool[Tensor, "source dest"]:
    return graph.exists & torch.tensor(chosen)[None, :]
