"""The explorer of circuits that keep spans apart: what the page knows, and what lights up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from browser import needs_browser, visit

from circuits.circuit import Circuit
from circuits.explorer import Insides, explore
from circuits.explorer.content import ordered
from circuits.explorer.span_keys import span_keys
from circuits.judging.uncertainty import Uncertain
from circuits.scores import Scores
from circuits.spans import collapsed
from patching.graph import Graph
from patching.span_graph import SpanGraph

GRAPH = SpanGraph.of(Graph(2, 2, 2), ("rest", "IO", "end"))
EDGES = [("embed", "a0.h1.v@IO"), ("a0.h1", "m1@end"), ("m1", "logits@end"), ("embed", "m1@IO")]
CIRCUIT = Circuit.from_edges(GRAPH, [*EDGES, ("embed", "m1@end")])


def test_a_span_knows_the_places_of_its_edges_in_the_list():
    order = ordered(collapsed(CIRCUIT), None, "absolute")
    found = span_keys(CIRCUIT, order)
    assert found is not None and found["names"] == ["rest", "IO", "end"]
    assert collapsed(CIRCUIT).edges == [
        ("embed", "a0.h1.v"),
        ("embed", "m1"),
        ("a0.h1", "m1"),
        ("m1", "logits"),
    ]
    assert found["at"] == ["", "AAABAA==", "AQACAAMA"]  # none; 0, 1; 1, 2, 3
    assert span_keys(collapsed(CIRCUIT), order) is None


def test_scores_are_at_the_span_where_they_are_largest():
    matrix = GRAPH.exists.double() * torch.tensor([1.0, -3.0, 2.0]).double().repeat(15)
    scores = Scores(matrix, GRAPH, {"model": "none"})
    found = span_keys(scores, ordered(collapsed(scores), None, "absolute"))
    assert found is not None and isinstance(found["at"], list)
    assert [len(some) > 0 for some in found["at"]] == [False, True, False]
    assert "none" in explore(scores).content
    nothing = torch.zeros_like(matrix)
    with pytest.raises(ValueError, match="uncertainty in the explorer knows no spans"):
        explore(Uncertain(scores, nothing, nothing, nothing, 3, "signed", 10))


ACT = """
const lit = () => lines(".edge", ".lit");
const bar = $$("#spans button");
said.bar = bar.map((one) => one.textContent);
said.above = $("#prompt").hidden;
enter(bar[1]);
said.pointed = lit();
enter(bar[1], "pointerleave");
said.left = $$(".faded").length;
await click(bar[2]);
said.held = [lit(), bar[2].getAttribute("aria-pressed")];
await click(bar[2]);
said.let_go = $$(".faded").length;
"""


@needs_browser
def test_a_span_of_the_prompt_lights_up_its_edges(tmp_path):
    seen = Insides(
        model="m",
        said="",
        tokens=("To", " Ann", " from"),
        patterns=torch.from_numpy(np.tri(3)).expand(2, 2, 3, 3),
        promoted={},
        effects={},
        spans=("rest", "IO", "end"),
    )
    said = visit(explore(CIRCUIT, insides=seen).content, ACT, tmp_path).said
    assert said == {
        "bar": ["To", "·AnnIO", "·fromend"],
        "above": True,
        "pointed": 2,
        "left": 0,
        "held": [3, "true"],
        "let_go": 0,
    }
    plain = visit(explore(CIRCUIT).content, ACT.split("said.above")[0], tmp_path).said
    assert plain == {"bar": ["rest", "IO", "end"]}
    none = explore(collapsed(CIRCUIT), insides=replace(seen, spans=())).content
    hidden = visit(none, 'said.hidden = [$("#spans").hidden, $("#prompt").hidden];', tmp_path).said
    assert hidden == {"hidden": [True, False]}
