"""Information-flow routes: the published code's numbers, a slow twin, and what they are not."""

import families
import numpy as np
import pytest
import torch
from test_golden import GOLDEN, Reference, our_reader

from circuits.scoring.flow import information_flow
from patching import memory
from patching.capture import capture, expand_writes
from patching.metrics import accuracy
from patching.model import Model
from patching.tasks import Prompt, Task

has_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="no reference numbers here")
# relative to the largest score; Llama: norms and rotary are in float32, differently rounded
FLOORS = {"b_gpt2tiny": 1e-6, "c_llama_gqa": 1e-5}


@has_golden
@pytest.mark.parametrize("folder", FLOORS)
def test_scores_are_those_of_the_published_code_where_those_are_finite(folder):
    reference = Reference(folder)
    expected, compared = group_means(reference)
    found = information_flow(reference.model, reference.task, batch_size=7).matrix
    error = (found - expected)[compared].abs().max() / expected[compared].abs().max()
    assert error < FLOORS[folder]
    # the reference has no number only where no token's prox is positive: layer 0 of GPT-2
    graph = reference.model.graph
    missing = graph.exists & ~compared
    assert int(missing.sum()) == (12 if folder == "b_gpt2tiny" else 0)
    assert bool(found.isfinite().all())


def group_means(reference: Reference) -> tuple[torch.Tensor, torch.Tensor]:
    """Their scores on our graph, readers of a group averaged, and where they are numbers."""
    graph = reference.model.graph
    total = torch.zeros(graph.exists.shape, dtype=torch.float64)
    count = torch.zeros(graph.exists.shape)
    names = reference.numbers["src_names"]
    rows = [graph.source_index(name.replace("input", "embed")) for name in names]
    theirs = reference.numbers["scores/information-flow-routes"]
    for column, name in zip(theirs.T, reference.numbers["dst_names"], strict=True):
        reader = our_reader(graph, str(name))
        total[rows, reader] += torch.from_numpy(np.ascontiguousarray(column).astype(np.float64))
        count[rows, reader] += 1
    mean = (total / count) * graph.exists
    return mean.nan_to_num(), mean.isfinite() & graph.exists


@pytest.fixture(scope="module", params=["gpt2", "llama", "gemma2", "olmo2", "neox", "granite"])
def model(request):
    return families.load(request.param, torch.float64)


def test_the_logits_reader_gets_what_the_formula_says_token_by_token(model):
    task = families.ragged_task()
    expected = torch.zeros(len(model.graph.sources), dtype=torch.float64)
    for batch in task.batches(1):
        run = capture(model, batch.clean, batch, at=batch.is_token)
        stream = final_stream(model, batch)
        written = expand_writes(model, run.writes)
        for t in range(written.shape[1]):
            y = stream[0, t]
            prox = [max(0.0, float(y.abs().sum() - (y - a).abs().sum())) for a in written[:, t]]
            if sum(prox):
                expected += torch.tensor(prox).double() / sum(prox) / written.shape[1]
    found = information_flow(model, task).matrix[:, -1]
    # a prompt run alone and in a batch: sums in float32 norms of Llama-like families
    torch.testing.assert_close(found, expected / len(task), atol=2e-6, rtol=0)


def final_stream(model, batch):
    seen = []
    model.answer_logits(batch.clean, batch, [("ln_final.hook_in", lambda x: seen.append(x))])
    return seen[0]


def test_shares_are_never_negative_and_of_one_reader_sum_to_one_at_most(model):
    matrix = information_flow(model, families.task()).matrix
    assert float(matrix.min()) >= 0
    assert float(matrix.sum(dim=0).max()) <= 1 + 1e-12
    assert float(matrix.sum()) > 0


def test_readers_of_one_stream_have_equal_scores(model):
    graph = model.graph
    matrix = information_flow(model, families.task()).matrix
    for layer in range(graph.n_layers):
        columns = matrix[:, graph.attention_readers(layer)]
        assert torch.equal(columns, columns[:, :1].expand_as(columns))


def test_flow_does_not_depend_on_batches_or_tiles(model):
    task = families.ragged_task()
    whole = information_flow(model, task).matrix
    with memory.budget(1):
        tiled = information_flow(model, task, batch_size=1).matrix
    # padding moves sums in float32 norms of Llama-like families
    assert (tiled - whole).abs().max() < 2e-6


def test_flow_asks_for_no_metric_and_no_corrupt_prompt(model):
    same = tuple(Prompt(p.clean, p.clean, p.answers) for p in families.task().prompts)
    alone = information_flow(model, Task("same", same), accuracy)
    torch.testing.assert_close(alone.matrix, information_flow(model, families.task()).matrix)
    assert alone.provenance["metric"] == "none (clean runs alone)"


def test_a_writer_that_writes_nothing_has_no_share():
    module = families.module("gpt2", torch.float64)
    with torch.no_grad():
        module.transformer.wpe.weight.zero_()
        for block in module.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
            block.mlp.c_proj.bias.zero_()
    model = Model.load(module)
    scores = information_flow(model, families.task())
    # only the embedding writes, so it is all that anybody sees
    assert scores.of("embed", "logits") == pytest.approx(1, abs=1e-12)
    assert float(scores.matrix[1:].abs().max()) == 0


def test_flow_refuses_token_ids_of_another_vocabulary(model):
    task = Task("big", (Prompt((5, 960), (5, 961), (7,), (8,)),))
    with pytest.raises(ValueError, match="has only 97 tokens"):
        information_flow(model, task)
