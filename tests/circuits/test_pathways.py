"""Path patching: whole numbers by hand, a slow twin, and what is refused."""

import families
import pytest
import torch
import toys

from circuits.circuit import Circuit
from circuits.pathways import head_to_head, path, path_patching
from circuits.running.evaluation import evaluate
from circuits.scoring import exact
from patching.anatomy.blocks import FINAL_STREAM
from patching.capture import capture, expand_writes
from patching.graph import Graph
from patching.metrics import logit_diff


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2", "neox"])
def model(request):
    return families.load(request.param)


@pytest.fixture(scope="module")
def linear():
    return toys.linear_model()


def patched(model, ways, **options):
    task = toys.task(2)
    found = path_patching(model, task, logit_diff, ways, **options)
    return [float(found.mean[i]) for i in range(len(ways))]


def test_paths_of_a_linear_model_cost_what_flows_along_them(linear):
    graph = linear.graph
    ways = [
        path(graph, "a0.h0 -> logits"),  # -2 without the MLP's part
        path(graph, "a0.h0 -> m0 -> logits"),
        path(graph, "embed -> a0.h0.v -> m0 -> logits"),
        path(graph, "embed -> a0.h1.v -> logits"),
        path(graph, "a0.h0 -> m0 -> logits") | path(graph, "a0.h0 -> logits"),
    ]
    assert patched(linear, ways) == pytest.approx([-2, 10, 10, -3, 8], abs=1e-9)


def test_unfrozen_all_that_follows_the_first_edges_is_live(linear):
    ways = [path(linear.graph, "embed -> a0.h0.v -> logits")]
    assert patched(linear, ways, freeze_others=False) == pytest.approx([8], abs=1e-9)
    assert patched(linear, ways) == pytest.approx([-2], abs=1e-9)


def test_the_whole_graph_is_the_corrupt_run_and_a_way_to_nowhere_changes_nothing(model):
    task, graph = families.task(), model.graph
    everything = Circuit.full(graph)
    nowhere = Circuit.from_edges(graph, [("embed", "a1.h0.q")])
    found = path_patching(model, task, logit_diff, [everything, nowhere])
    gap = found.clean - found.corrupt
    torch.testing.assert_close(found.values[:, 0], gap, atol=1e-5, rtol=0)  # norms in float32
    assert float(found.values[:, 1].abs().max()) < 1e-5


def test_one_way_through_a_head_equals_a_slow_twin(model):
    """The head's input has one writer's change, and the logits have the head's: by plain hooks."""
    graph, task = model.graph, families.task()
    (batch,) = task.batches(len(task))
    clean, corrupt = (
        expand_writes(model, capture(model, tokens, batch, at=batch.is_token).writes)
        for tokens in (batch.clean, batch.corrupt)
    )
    sender, receiver = graph.source_index("embed"), graph.source_index("a1.h2")
    change = (corrupt - clean)[sender].view(*batch.clean.shape, -1)
    block, after = model.blocks[1], {}

    def queries(live):
        x = block.attention_norm(after["stream"] + change)
        w, b = block.w_qkv[0][2], block.b_qkv[0]
        out = live.clone()
        out[:, :, 2] = x @ w if b is None else x @ w + b[2]
        return out

    hooks = [
        (block.stream_in, lambda x: after.update(stream=x)),
        (block.qkv[0], queries),
        (block.z, lambda z: after.update(z=z)),
    ]
    if block.post_attention_norm is not None:
        hooks.append((block.attention_sum, lambda x: after.update(total=x)))
    model.answer_logits(batch.clean, batch, hooks)
    total = after.get("total")
    live = block.head_input(
        after["z"].flatten(0, 1), None if total is None else total.flatten(0, 1)
    )
    moved = (block.head_writes(live)[2] - clean[receiver]).view(*batch.clean.shape, -1)
    expected = logit_diff(
        model.answer_logits(batch.clean, batch, [(FINAL_STREAM, lambda x: x + moved)]), batch
    )
    found = path_patching(model, task, logit_diff, [path(graph, "embed -> a1.h2.q -> logits")])
    error = (found.clean - found.values[:, 0] - expected).abs().max()
    assert error < (1e-9 if model.name == "GPT2LMHeadModel" else 1e-5)  # norms in float32


def test_heads_into_a_reader_are_its_edges_patched_one_by_one(model):
    task = families.task()
    found = head_to_head(model, task, logit_diff, ["a1.h0.q", "logits"])
    both = [
        evaluate(
            model,
            task,
            [Circuit.full(model.graph) - Circuit.from_edges(model.graph, edges)],
            logit_diff,
        )
        for edges in ([("a0.h3", "a1.h0.q"), ("a0.h3", "logits")], [("a1.h3", "logits")])
    ]
    expected = [float((one.clean - one.values[0]).mean()) for one in both]
    assert [found.at(layer="0", head="3"), found.at(layer="1", head="3")] == pytest.approx(
        expected, abs=1e-9
    )
    only = head_to_head(model, task, logit_diff, ["a1.h0.q"])
    assert only.mean[1].abs().max() == 0
    scores = exact(model, task, logit_diff, edges=[("a0.h1", "a1.h0.q")])
    assert only.at(layer="0", head="1") == pytest.approx(scores.of("a0.h1", "a1.h0.q"), abs=1e-9)


def test_frozen_the_receiver_speaks_to_the_logits_alone(linear):
    found = head_to_head(linear, toys.task(2), logit_diff, ["m0"], freeze_others=True)
    assert found.mean.tolist()[0] == pytest.approx([10, 0], abs=1e-9)


def test_a_shared_reader_is_followed_by_one_of_its_heads():
    graph = Graph(2, 4, 2)
    way = path(graph, "a0.h1 -> a1.g1.k -> a1.h3 -> logits")
    assert way.edges == [("a0.h1", "a1.g1.k"), ("a1.h3", "logits")]
    with pytest.raises(ValueError, match="several heads read a1.g1.k; name the one"):
        path(graph, "a0.h1 -> a1.g1.k -> a1.h1 -> logits")  # of the other group


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a0.h1", "is no path"),
        ("a0.h1 -> a9.h1.q", "no destination named 'a9.h1.q'"),
        ("a1.h1 -> a0.h1.q", "no edge a1.h1->a0.h1.q"),
    ],
)
def test_what_is_no_path_is_refused(names, said):
    with pytest.raises(ValueError, match=said):
        path(Graph(2, 4, 4), names)


def test_wrong_paths_are_refused(linear):
    task, graph = toys.task(2), linear.graph
    with pytest.raises(ValueError, match="no paths to patch"):
        path_patching(linear, task, logit_diff, [])
    with pytest.raises(ValueError, match="path 0 has no edges"):
        path_patching(linear, task, logit_diff, [Circuit.empty(graph)])
    with pytest.raises(ValueError, match="path 0 is of another graph"):
        path_patching(linear, task, logit_diff, [Circuit.full(Graph(3, 4, 4))])
    with pytest.raises(ValueError, match="no head writes before a0.h0.q"):
        head_to_head(linear, task, logit_diff, ["a0.h0.q"])
    crossed = path(graph, "m0 -> logits") | path(graph, "embed -> a0.h0.v")
    with pytest.raises(ValueError, match="begins at m0 and also leads into a0.h0.v"):
        path_patching(linear, task, logit_diff, [crossed])
