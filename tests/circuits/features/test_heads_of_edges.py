"""Which heads carry an edge: one that mixes what it did without the source takes its part away."""

import feature_laws
import pytest
import torch

from circuits.features import Convention, Transcoders, heads_through, trace
from patching.lens.direct import Aim
from patching.model import Model

TOKENS = [1, 5, 6, 7]
DIFFERENCE = Aim(torch.tensor([[5, 6]]), torch.tensor([[1.0, -1.0]], dtype=torch.float64))


@pytest.fixture(scope="module")
def toy():
    return Model.load("toy-llama")


@pytest.fixture(scope="module")
def features(toy):
    return Transcoders(toy, feature_laws.synthetic(toy))


@pytest.mark.parametrize("aim", [5, DIFFERENCE], ids=["a token", "a difference"])
def test_holding_a_head_takes_away_its_part_of_an_edge(toy, features, aim):
    graph = trace(
        toy, TOKENS, features, aim=aim, convention=Convention(keep=1.0), prune=False, validity=0
    )
    subject = feature_laws.subject(toy, features, tokens=TOKENS, aim=aim)
    target = graph.names[-1]
    for kind in ("embed@1", "m0.f", "m0.error@0"):
        source = next(name for name in graph.names if name.startswith(kind))
        through = heads_through(toy, graph, features, source=source, target=target)
        edge = feature_laws.edge_with_heads_held(subject, graph, source, [])
        size = float(through.abs().max())
        assert edge == pytest.approx(graph.of(source, target), abs=1e-3 * size)
        for layer, head in ((1, 0), (3, 2)):
            left = feature_laws.edge_with_heads_held(subject, graph, source, [(layer, head)])
            assert edge - left == pytest.approx(float(through[layer, head]), abs=1e-3 * size)


def test_an_error_holds_what_units_write_that_are_no_nodes(toy):
    """Of few neurons; pruned graphs are split as whole ones are."""
    few = Convention(keep=1.0, most=20)
    whole = trace(toy, TOKENS, "neurons", aim=5, convention=few, prune=False, validity=0)
    source, target = "m2.error@2", whole.names[-1]
    through = heads_through(toy, whole, "neurons", source=source, target=target)
    # behind layer 2 and before the last position, all goes through heads of layer 3
    assert float(through[3].sum()) == pytest.approx(whole.of(source, target), rel=1e-3)
    assert not bool(through[:3].any())
    assert whole.of(source, target) != 0


def test_heads_are_asked_of_nodes_that_read_and_write(toy, features):
    graph = trace(toy, TOKENS, features, logits=1, prune=False, validity=0)
    logit = graph.names[-1]
    for source, target, message in (
        (logit, logit, "writes nothing; a source is a feature, error or embedding"),
        ("embed@0", "embed@1", "'embed@1' reads nothing"),
        ("embed@9", logit, "no node named 'embed@9'"),
    ):
        with pytest.raises(ValueError, match=message):
            heads_through(toy, graph, features, source=source, target=target)
