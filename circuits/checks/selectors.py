"""The laws of selectors: `(scores, n, *, ranking) -> Circuit`."""

from collections.abc import Callable

import torch

from circuits.checks.graphs import GRAPHS, tied_scores
from circuits.checks.law import require
from circuits.circuit import Circuit
from circuits.scores import Scores
from patching.graph import Graph

Selector = Callable[..., Circuit]


def check_selector(selector: Selector, *, sized: bool = True) -> None:
    """Hold a selector to its laws, on graphs of several shapes with many equal scores.

    A circuit of the same graph, the same at every call, with its edges' scores, that tells in
    `provenance["selection"]` what was asked for and how many edges came of it; the scores are left
    as they were. If `sized`, its number is how many edges are wanted, else it is a threshold: it
    takes n edges exactly, all of them for n = all, and refuses what the graph does not have.

    >>> from circuits.select import threshold, top_n
    >>> check_selector(top_n)
    >>> check_selector(threshold, sized=False)

    Raises:
        AssertionError: if a law is broken, with the numbers.
    """
    for graph in GRAPHS:
        for ranking in ("absolute", "signed"):

            def select(scores: Scores, n: int, ranking: str = ranking) -> Circuit:
                return selector(scores, n, ranking=ranking)

            _all_obey(select, graph)
            if sized:
                _takes_n(select, graph)
    _refuses_rankings(selector)


def _all_obey(select: Callable[[Scores, int], Circuit], graph: Graph) -> None:
    scores = tied_scores(graph)
    before = scores.matrix.clone()
    first, second = (select(scores, min(2, graph.n_edges)) for _ in range(2))
    law = "a circuit of the scores' graph comes out"
    require(isinstance(first, Circuit), law, f"a {type(first).__name__} was returned")
    require(first.graph == graph, law, f"the graph is {first.graph.describe()}")
    law = "equal calls give equal circuits, and leave the scores alone"
    require(first == second, law, f"{len(first - second)} edges differ")
    require(torch.equal(scores.matrix, before), law, "scores were changed")
    law = "edges keep their scores"
    require(first.scores is not None, law, "the circuit has none")
    for source, dest, score in first.scored_edges():
        found = f"{source}->{dest} has {score}, not {scores.of(source, dest)}"
        require(score == scores.of(source, dest), law, found)
    law = "provenance['selection'] tells 'requested' and 'size'"
    said = first.provenance.get("selection")
    require(isinstance(said, dict) and "requested" in said, law, f"it is {said!r}")
    size = said.get("size") if isinstance(said, dict) else None
    require(size == len(first), law, f"size is {size}, and there are {len(first)} edges")


def _takes_n(select: Callable[[Scores, int], Circuit], graph: Graph) -> None:
    scores = tied_scores(graph)
    law = "as many edges as were asked for"
    for n in (0, 1, graph.n_edges // 2, graph.n_edges):
        found = len(select(scores, n))
        require(found == n, law, f"{found} edges instead of {n} of {graph.n_edges}")
    law = "numbers that the graph does not have are refused with a ValueError"
    for n in (-1, graph.n_edges + 1):
        require(_is_refused(lambda n=n: select(scores, n)), law, f"{n} of {graph.n_edges} went by")


def _refuses_rankings(selector: Selector) -> None:
    scores = tied_scores(GRAPHS[0])
    law = "an unknown ranking is refused"
    require(_is_refused(lambda: selector(scores, 1, ranking="best")), law, "'best' went by")


def _is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except (ValueError, TypeError):  # the second where types are checked at run time
        return True
    return False
