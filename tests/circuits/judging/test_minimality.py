import pytest
import toys

from circuits.circuit import Circuit
from circuits.judging.completeness import NOTHING
from circuits.judging.minimality import minimality
from circuits.judging.subsets import edge_units, node_units
from circuits.running.trial import Trial, prepare
from patching.metrics import logit_diff

VALUES, DIRECT, _, MLP_OUT = EDGES = (
    ("embed", "a0.h0.v"),
    ("a0.h0", "logits"),
    ("a0.h0", "m0"),
    ("m0", "logits"),
)


@pytest.fixture(scope="module")
def trial() -> Trial:
    return prepare(toys.linear_model(), toys.task(2), logit_diff)


@pytest.fixture
def circuit(trial) -> Circuit:
    """All of head 0's ways, and queries that do nothing: 3 + 10 - 2 = 11."""
    return Circuit.from_edges(trial.model.graph, [*EDGES, ("embed", "a0.h0.q")])


def test_the_effect_of_every_edge_by_hand(trial, circuit):
    found = minimality(trial, circuit, edge_units(circuit), {})
    effects = dict(zip(found.units, found.effects[:, 0].tolist(), strict=True))
    assert effects == pytest.approx(
        {
            "embed->a0.h0.v": 8,
            "a0.h0->logits": -2,
            "a0.h0->m0": 10,
            "m0->logits": 10,
            "embed->a0.h0.q": 0,
        },
        abs=1e-9,
    )
    assert found.idle() == ["embed->a0.h0.q"]
    assert found.shares.tolist() == pytest.approx([0, 1.6, 2, 0.4, 2], abs=1e-9)


def test_the_part_beside_which_a_unit_matters_most_is_found(trial, circuit):
    graph = circuit.graph
    parts = {
        "the MLP": Circuit.from_edges(graph, [MLP_OUT]),
        "the way out": Circuit.from_edges(graph, [DIRECT]),
    }
    units = {"values": Circuit.from_edges(graph, [VALUES])}
    found = minimality(trial, circuit, units, parts)
    # beside the MLP head 0 can only hurt, by 2; without its way out it only helps, by 10
    assert found.effects.tolist() == [pytest.approx([8, -2, 10])]
    assert found.found == ["the way out"]
    row = found.to_dataframe().iloc[0]
    assert (row["alone"], row["effect"]) == pytest.approx((8, 10))
    assert row["beside"] == "the way out"


def test_a_unit_within_the_part_is_first_put_back(trial, circuit):
    part = Circuit.from_edges(circuit.graph, [DIRECT, MLP_OUT])
    unit = {"out": Circuit.from_edges(circuit.graph, [MLP_OUT])}
    found = minimality(trial, circuit, unit, {"both": part})
    assert found.parts == (NOTHING, "both")
    assert found.effects.tolist() == [pytest.approx([10, 10])]


def test_nodes_are_taken_out_whole(trial, circuit):
    found = minimality(trial, circuit, node_units(circuit), {})
    assert found.units == ("a0.h0", "m0")
    assert found.effects[:, 0].tolist() == pytest.approx([8, 10])


def test_no_units_are_refused(trial, circuit):
    with pytest.raises(ValueError, match="there are no units to take out"):
        minimality(trial, circuit, {}, {})
