"""What a model does on one prompt, as the explorer is given it."""

import pytest
import torch

from circuits.circuit import Circuit
from circuits.explorer import Insides, explore, look_inside
from patching import tasks
from patching.anatomy.insides import softmax
from patching.graph import Graph
from patching.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load("toy-llama", dtype=torch.float64)


@pytest.fixture(scope="module")
def task(model):
    return tasks.ioi(model.tokenizer, n=3, seed=0)


@pytest.fixture(scope="module")
def inside(model, task) -> Insides:
    return look_inside(model, task, prompt=1, most=10**6, effects={"m0": 0.5})


def test_what_nodes_promote_adds_up_to_the_logits(model, task, inside):
    batch = next(tasks.Task("one", (task.prompts[1],)).batches(1))
    (logits,) = model.answer_logits(batch.clean, batch)
    total = torch.zeros(len(logits), dtype=torch.float64)
    for words in inside.promoted.values():
        # equal texts have equal sums: sorting both sides compares them whatever the order
        total += torch.tensor([by for _, by in sorted(words)], dtype=torch.float64)
    (_, words), *_ = inside.promoted.items()
    texts = [text for text, _ in words]
    assert len(set(texts)) == len(texts) == len(logits)
    expected = dict(zip(_texts(model, len(logits)), logits - logits.mean(), strict=True))
    found = dict(zip(sorted(texts), total, strict=True))
    difference = torch.stack([found[text] - expected[text] for text in texts])
    assert difference.abs().max() < 1e-5  # the family's norms work in float32; logits up to 10


def test_patterns_are_shares_of_the_prompts_tokens(task, inside):
    assert inside.patterns.shape[-1] == len(inside.tokens) == len(task.prompts[1].clean)
    torch.testing.assert_close(
        inside.patterns.sum(-1), torch.ones(inside.patterns.shape[:3]).double()
    )
    assert inside.effects == {"m0": 0.5}
    assert " -> " in inside.said


def test_scores_are_those_before_the_softmax_less_their_mean_over_a_querys_keys(
    model, task, inside
):
    batch, found = next(tasks.Task("one", (task.prompts[1],)).batches(1)), []
    places = [points.scores for block in model.blocks if (points := softmax(block))]
    model.answer_logits(batch.clean, batch, [(name, found.append) for name in places])
    scores = torch.stack([of_layer[0].double() for of_layer in found])
    n = scores.shape[-1]
    hidden = torch.ones(n, n).triu(1).bool()
    means = scores.masked_fill(hidden, 0).sum(-1, keepdim=True) / torch.arange(1, n + 1)[:, None]
    expected = (scores - means).masked_fill(hidden, torch.nan)
    # the softmax runs in float32, and shares down to 1e-6 of a row keep 7 digits
    torch.testing.assert_close(inside.scores, expected, atol=1e-4, rtol=0, equal_nan=True)


def test_a_prompt_or_node_that_is_not_there_and_another_model_are_refused(model, task, inside):
    with pytest.raises(ValueError, match="there is no prompt 3; ioi has 0 to 2"):
        look_inside(model, task, prompt=3)
    with pytest.raises(ValueError, match="cannot name 0 tokens; 1 is the least"):
        look_inside(model, task, most=0)
    with pytest.raises(ValueError, match="no node is named 'm99'; a0.h0 or m0 would be right"):
        look_inside(model, task, effects={"m99": 1.0})
    other = Circuit.from_edges(Graph(1, 1, 1), [("embed", "m0"), ("m0", "logits")])
    with pytest.raises(
        ValueError, match="the insides are of a model of .* layers with .* heads, the"
    ):
        explore(other, insides=inside)


def _texts(model, n):
    from patching.lens.text import token_texts

    return token_texts(model.tokenizer, range(n))
