import json

import pytest
import torch

from patching.grid import Grid
from patching.neurons import (
    Choice,
    Neurons,
    NeuronScores,
    chosen_in_each,
    layers_of,
    most_frequent,
    overlap,
    shared_neurons,
    stability,
    strongest,
)


def scores(*examples):
    """Each example is a list of layers, each a list of numbers."""
    values = torch.tensor(examples, dtype=torch.float64)
    axes = {
        "layer": tuple(f"m{i}" for i in range(values.shape[1])),
        "neuron": tuple(f"n{i}" for i in range(values.shape[2])),
    }
    return NeuronScores(Grid("score", values, axes, provenance={"method": "by hand"}))


BY_HAND = scores(
    [[10.0, 0.9, 1.0], [5.0, -20.0, 0.0]],
    [[2.0, 0.5, 0.1], [3.0, 3.0, 0.2]],
    [[-1.0, -2.0, -3.0], [0.0, -1.0, -1.0]],
)


def test_an_example_chooses_what_is_near_its_largest_score():
    chosen = chosen_in_each(BY_HAND)
    assert chosen[0].tolist() == [[True, False, True], [True, False, False]]
    assert chosen[1].tolist() == [[True, True, False], [True, True, False]]
    assert not chosen[2].any()  # nothing helps there


def test_at_most_z_are_chosen_the_first_of_equals():
    chosen = chosen_in_each(BY_HAND, Choice(z=1))
    assert chosen[0].nonzero().tolist() == [[0, 0]]
    assert chosen[1].nonzero().tolist() == [[1, 0]]


def test_neurons_that_were_not_scored_are_never_chosen():
    found = chosen_in_each(scores([[float("nan"), 1.0]]))
    assert found[0].tolist() == [[False, True]]


def test_the_most_frequent_are_ranked_by_count_then_total():
    found = most_frequent(BY_HAND, 5)
    assert found.names == ("m0.n0", "m1.n0", "m0.n1", "m0.n2", "m1.n1")
    # chosen twice: totals 11 (12 less 1) and 8; once: totals -0.6, -1.9, -18
    assert found.scores[0, 0] == 2.0 and found.scores[1, 1] == 1.0
    assert found.provenance["scores"] == {"method": "by hand"}
    assert found.take(2).names == ("m0.n0", "m1.n0")


def test_a_circuits_layers_restrict_the_choice():
    choice = Choice(layers=layers_of(["embed", "a0.h0", "m1", "logits"]))
    assert most_frequent(BY_HAND, 2, choice).names == ("m1.n0", "m1.n1")
    # the largest score is then m1's own: in the second row 0.2 is below a tenth of 3
    assert chosen_in_each(BY_HAND, choice)[1].tolist() == [[False] * 3, [True, True, False]]


def test_bad_wishes_are_refused():
    with pytest.raises(ValueError, match="the 6 most frequent neurons: the examples chose 5 in"):
        most_frequent(BY_HAND, 6)
    with pytest.raises(ValueError, match="the examples chose 5 in all; take 1 to 5"):
        most_frequent(BY_HAND, 0)
    with pytest.raises(ValueError, match="no example has a positive score"):
        most_frequent(scores([[-1.0, 0.0]]), 1)
    with pytest.raises(ValueError, match="no example has a positive score, so no neuron is shared"):
        shared_neurons(scores([[-1.0, 0.0]]))
    with pytest.raises(ValueError, match="fraction of the largest score, got 2.0"):
        Choice(ratio=2.0)
    with pytest.raises(ValueError, match="at least one neuron is chosen in each example, got z=0"):
        Choice(z=0)
    with pytest.raises(ValueError, match=r"the layers are 0 to 1, got \(2,\)"):
        most_frequent(BY_HAND, 1, Choice(layers=(2,)))
    with pytest.raises(ValueError, match="no MLP .* is among these nodes: embed, a0.h1"):
        layers_of(["embed", "a0.h1"])
    with pytest.raises(ValueError, match="at least one draw of examples is needed, got n=0"):
        stability(BY_HAND, 1, n=0)
    with pytest.raises(ValueError, match="shares and steps are between 0 and 1, got 0.0 and"):
        shared_neurons(BY_HAND, share=0.0)


def test_the_strongest_have_the_largest_mean():
    found = strongest(BY_HAND, 2)
    assert found.names == ("m0.n0", "m1.n0")
    assert found.scores == {(0, 0): pytest.approx(11 / 3), (1, 0): pytest.approx(8 / 3)}
    assert strongest(BY_HAND, 1, layers=(1,)).names == ("m1.n0",)
    # the second most frequent of these two harms more than it helps
    mixed = scores([[1.0, 0.5]], [[1.0, 0.5]], [[0.0, -9.0]])
    assert most_frequent(mixed, 2).names == ("m0.n0", "m0.n1")
    with pytest.raises(ValueError, match="the 2 strongest neurons: 1 have a positive mean score"):
        strongest(mixed, 2)


def test_a_neuron_that_every_example_prefers_is_always_taken():
    same = scores(*[[[3.0, 1.0, 0.0], [2.0, 0.0, 0.0]]] * 4)
    table = stability(same, 2, n=20)
    assert table.neuron.tolist() == ["m0.n0", "m1.n0"]
    assert table.taken.tolist() == [1.0, 1.0]
    assert table.examples.tolist() == [4, 4]


def test_what_hangs_on_few_examples_is_taken_less_often():
    # one in four prefers m0.n1; it is taken if the draw holds more of it: 1 - P(at most one...)
    mixed = scores(*[[[1.0, 0.0]]] * 3, [[0.0, 1.0]])
    table = stability(mixed, 1, n=400, seed=1).set_index("neuron").taken
    # m0.n1 needs 3 or 4 of 4 draws (or 2, where totals tie and the first place wins): 13/256
    assert table["m0.n1"] == pytest.approx(13 / 256, abs=0.04)
    assert table.sum() == pytest.approx(1.0)


def test_overlap_is_shared_over_all():
    table = overlap({"a": Neurons([(0, 1)]), "b": Neurons([(0, 1), (1, 1)])})
    assert table.values.tolist() == [[1.0, 0.5], [0.5, 1.0]]
    with pytest.raises(ValueError, match="'a' has no neurons"):
        overlap({"a": Neurons([])})
    with pytest.raises(ValueError, match="got none"):
        overlap({})


def test_knowledge_neurons_are_shared_by_a_share_that_gives_a_few():
    # neuron i is strong in 10 - i of ten prompts
    rows = [[[1.0 if row < 10 - i else 0.0 for i in range(10)]] for row in range(10)]
    found = shared_neurons(scores(*rows))
    assert found.provenance["selection"]["share"] == pytest.approx(0.7)
    assert found.names == ("m0.n0", "m0.n1", "m0.n2", "m0.n3")
    few = shared_neurons(scores(*rows), goal=(2, 2))
    assert len(few) == 2 and few.provenance["selection"]["share"] > 0.8
    many = shared_neurons(scores(*rows), goal=(8, 9))
    assert len(many) == 8


def test_neurons_are_a_set_with_an_order():
    found = Neurons([(3, 17), (0, 2)], {(3, 17): 0.5})
    assert found == Neurons([(0, 2), (3, 17)]) and hash(found) == hash(Neurons.named(*found.names))
    assert found != Neurons([(0, 2)]) and (3, 17) in found
    assert found.in_layers([0]).names == ("m0.n2",)
    assert found.take(1).scores == {(3, 17): 0.5}


def test_neurons_go_to_a_file_and_back(tmp_path):
    found = Neurons([(3, 17), (0, 2)], {(3, 17): 0.5}, {"method": "ircan"})
    found.save(tmp_path / "neurons.json")
    again = Neurons.load(tmp_path / "neurons.json")
    assert again.names == found.names
    assert (again.scores, again.provenance) == (found.scores, found.provenance)


def test_bad_neurons_are_refused(tmp_path):
    with pytest.raises(ValueError, match="m0.n1 is there twice"):
        Neurons([(0, 1), (0, 1)])
    with pytest.raises(ValueError, match=r"count from 0, got \(0, -1\)"):
        Neurons([(0, -1)])
    with pytest.raises(ValueError, match="m1.n1 has a score and is none of the neurons"):
        Neurons([(0, 1)], {(1, 1): 1.0})
    with pytest.raises(ValueError, match="cannot take 2 neurons: 1 were found"):
        Neurons([(0, 1)]).take(2)
    with pytest.raises(ValueError, match="'a0.h1' is no name of a neuron, such as 'm3.n17'"):
        Neurons.named("a0.h1")
    path = tmp_path / "n.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a whole JSON file"):
        Neurons.load(path)
    path.write_text(json.dumps({"neurons": []}))
    with pytest.raises(ValueError, match='it lacks "format": "neurons/1"'):
        Neurons.load(path)
