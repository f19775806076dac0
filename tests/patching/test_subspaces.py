"""Compression of a head's subspaces against plain hooks, and its two ends."""

import families
import pytest
import torch

from patching import attention
from patching.anatomy.places import find
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.tasks import Prompt, Task


@pytest.mark.parametrize(
    ("family", "place"),
    [("gpt2", "a1.h3.q"), ("llama", "a0.g1.k"), ("gemma3", "a1.g0.v"), ("gptj", "a1.h0.q")],
)
def test_compression_is_the_projection_written_out_by_svd(family, place):
    model, task = Model.load(families.module(family, torch.float64)), families.ragged_task()
    where, rows = find(model, place), []
    for batch in task.batches(1):
        with torch.no_grad():
            keep = (where.hook, lambda x: rows.append(where.view(x)[0]))
            model.answer_logits(batch.clean, batch, [keep])
    mean = torch.cat(rows).mean(dim=0)
    basis = torch.linalg.svd(torch.cat(rows) - mean, full_matrices=False).Vh[:3]

    def project(whole):
        whole = whole.clone()
        part = where.view(whole)
        part.copy_(mean + (part - mean) @ basis.T @ basis)
        return whole

    expected = []
    for batch in task.batches(1):
        with torch.no_grad():
            logits = model.answer_logits(batch.clean, batch, [(where.hook, project)])
        expected.append(logit_diff(logits, batch))
    found = attention.compress(model, task, logit_diff, place, ranks=[3, 0], batch_size=4)
    # norms and softmax run in float32 in some families
    torch.testing.assert_close(found.values[:, 0], torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found.values[:, 0], found.clean, atol=1e-3)


@pytest.mark.parametrize("metric", [logit_diff, kl])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_full_rank_is_the_clean_run_to_the_last_bit(dtype, metric):
    model = Model.load(families.module("llama", torch.float64), dtype=dtype)
    found = attention.compress(model, families.task(), metric, "a1.h2.q", ranks=[8])
    assert torch.equal(found.values[:, 0], found.clean)


def test_rank_counts_up_to_the_variance_and_padding_changes_nothing():
    model = Model.load(families.module("gpt2", torch.float64))
    right, left = (
        attention.compress(model, families.ragged_task(padding=side), logit_diff, "a0.h1.v")
        for side in ("right", "left")
    )
    assert torch.equal(right.values, left.values)
    assert right.axes["rank"] == tuple(map(str, range(9)))
    variance = right.provenance["variance"]
    assert sum(variance) == pytest.approx(1) and variance == sorted(variance, reverse=True)


def test_directions_may_be_found_on_another_task():
    model = Model.load(families.module("gpt2", torch.float64))
    own = attention.compress(model, families.ragged_task(), logit_diff, "a0.h1.v", ranks=[2])
    other = attention.compress(
        model,
        families.ragged_task(),
        logit_diff,
        "a0.h1.v",
        ranks=[2],
        fit=families.task(3, 9, seed=1),
    )
    assert not torch.allclose(own.values, other.values)


def test_the_drawing_shows_both_runs_and_refuses_other_grids():
    model = Model.load("truth/induction")
    task = Task("t", (Prompt((1, 5, 6, 5), (1, 7, 6, 5), (6,), (8,)),) * 2)
    grid = attention.compress(model, task, logit_diff, "a1.h3.v", ranks=[0, 4, 32])
    (axes,) = attention.draw_ranks(grid).axes
    assert [line.get_label() for line in axes.lines] == ["at this rank", "clean", "corrupt"]
    with pytest.raises(ValueError, match="draws a grid over rank"):
        attention.draw_ranks(attention.copying_scores(model))


def test_what_cannot_be_compressed_is_refused_before_any_run(monkeypatch):
    model, task = Model.load(families.module("llama", torch.float64)), families.task()
    monkeypatch.setattr(Model, "answer_logits", None)
    with pytest.raises(ValueError, match="ranks go from 0 to 8, .* got \\[9\\]"):
        attention.compress(model, task, logit_diff, "a0.h0.q", ranks=[9])
    with pytest.raises(ValueError, match="ranks go from 0 to 8, .* got \\[\\]"):
        attention.compress(model, task, logit_diff, "a0.h0.q", ranks=[])
    for name in ("a0.h0", "m0", "a0.q"):
        with pytest.raises(ValueError, match=f"'{name}' is not the queries, keys or values"):
            attention.compress(model, task, logit_diff, name)
    with pytest.raises(ValueError, match="heads share these, in 2 groups"):
        attention.compress(model, task, logit_diff, "a0.h0.k")
    with pytest.raises(ValueError, match="at least one row, got batch_size=0"):
        attention.compress(model, task, logit_diff, "a0.h0.q", batch_size=0)
