import pytest
import torch

from circuits.circuit import Circuit
from circuits.judging.recovery import auprc, auroc, recovery
from circuits.scores import Scores
from patching.graph import Graph

GRAPH = Graph(n_layers=1, n_heads=1, n_kv_heads=1)


def tensors(merit: list[float], known: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(merit), torch.tensor(known).bool()


@pytest.mark.parametrize(
    ("merit", "known", "area"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([4, 3, 2, 1], [1, 0, 1, 0], 0.75),  # 3 of 4 pairs in order
        ([1, 1, 1, 1], [1, 0, 1, 0], 0.5),  # every pair is tied
        ([2, 1, 1, 0], [1, 1, 0, 0], 0.875),  # one tie among 4 pairs
    ],
)
def test_auroc_counts_pairs_and_ties_by_half(merit, known, area):
    assert auroc(*tensors([float(m) for m in merit], known)) == area


@pytest.mark.parametrize(
    ("merit", "known", "area"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0),
        ([4, 3, 2, 1], [0, 1, 0, 1], (1 / 2 + 2 / 4) / 2),
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([1, 1, 1, 1], [1, 0, 0, 0], 0.25),  # ties enter together
        ([2, 1, 1, 0], [1, 1, 0, 0], (1 + 2 / 3) / 2),
    ],
)
def test_auprc_is_the_average_precision(merit, known, area):
    assert auprc(*tensors([float(m) for m in merit], known)) == pytest.approx(area)


def test_auroc_is_the_area_under_a_curve_drawn_plainly():
    generator = torch.Generator().manual_seed(0)
    merit = torch.randint(0, 6, (40,), generator=generator).double()
    known = torch.rand(40, generator=generator) < 0.3
    rates = [(0.0, 0.0)]
    for level in sorted(set(merit.tolist()), reverse=True):
        taken = merit >= level
        rates.append(tuple(float(taken[side].double().mean()) for side in (~known, known)))
    steps = zip(rates, rates[1:], strict=False)
    area = sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in steps)
    assert auroc(merit, known) == pytest.approx(area)


def graded(known: Circuit) -> Scores:
    """Known edges get -2, -3, ...; others 0, 0.1, ..."""
    matrix = torch.zeros(GRAPH.exists.shape, dtype=torch.float64)
    for i, (s, d) in enumerate(GRAPH.exists.nonzero().tolist()):
        matrix[s, d] = -2.0 - i if known.mask[s, d] else i / 10
    return Scores(matrix, GRAPH, {})


def test_the_ranking_decides_whether_negative_scores_mark_edges():
    known = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m0", "logits")])
    absolute = recovery(graded(known), known, ranking="absolute")
    signed = recovery(graded(known), known, ranking="signed")
    assert (absolute.auroc, absolute.auprc) == (1, 1)
    assert signed.auroc == 0
    assert (absolute.n_known, absolute.n_others) == (2, GRAPH.n_edges - 2)
    assert absolute.undefined_because == ""


def test_only_active_edges_are_judged():
    known = Circuit.from_edges(GRAPH, [("embed", "m0"), ("m0", "logits")])
    active = known.mask.clone()
    active[GRAPH.edge_index("a0.h0", "m0")] = True
    found = recovery(graded(known), known, ranking="signed", active=active)
    assert (found.n_known, found.n_others) == (2, 1)


def test_undefined_is_said_as_undefined():
    full = Circuit.full(GRAPH)
    found = recovery(graded(full), full, ranking="absolute")
    assert (found.auroc, found.auprc) == (None, 1)
    n = GRAPH.n_edges
    assert found.undefined_because == f"of {n} edges judged {n} are of the known circuit"
    nothing = recovery(graded(full), Circuit.empty(GRAPH), ranking="absolute")
    assert (nothing.auroc, nothing.auprc) == (None, None)
    none = recovery(graded(full), full, ranking="signed", active=torch.zeros_like(GRAPH.exists))
    assert none.undefined_because == "of 0 edges judged 0 are of the known circuit"


def test_circuits_and_edges_of_another_graph_are_refused():
    full = Circuit.full(GRAPH)
    with pytest.raises(ValueError, match="scores and known circuit are of different graphs"):
        recovery(graded(full), Circuit.full(Graph(2, 1, 1)), ranking="signed")
    with pytest.raises(ValueError, match=r"active edges of this graph have the shape \(3, 5\)"):
        recovery(graded(full), full, ranking="signed", active=torch.ones(2, 2).bool())
