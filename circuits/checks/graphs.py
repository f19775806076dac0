"""Graphs of several shapes, with scores and circuits, to try selectors and exporters on."""

import torch

from circuits.circuit import Circuit
from circuits.scores import Scores
from circuits.select import random_circuit
from patching.graph import Graph

GRAPHS = (
    Graph(1, 1, 1),
    Graph(2, 3, 3),
    Graph(3, 4, 2),
    Graph(2, 2, 1, parallel=True),
)


def tied_scores(graph: Graph, seed: int = 0) -> Scores:
    """Small whole numbers: many ties, many zeros, both signs."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-3, 4, graph.exists.shape, generator=generator)
    return Scores(whole.double() * graph.exists, graph, {"method": "dice"})


def scored_circuit(graph: Graph, n: int) -> Circuit:
    """Random edges with scores of all sizes and a provenance that needs quoting."""
    mask = random_circuit(graph, n, seed=0).mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).double()
    noise *= 10.0 ** torch.arange(-9, noise.shape[1] - 9)  # of all sizes, so that digits matter
    return Circuit(mask, graph, noise * graph.exists, {"task": 'a "quoted" <task> & ü\x01 -->'})
