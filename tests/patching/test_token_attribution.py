"""Token attribution: the linear toy, slow twins, and what each method's sum must be."""

import families
import numpy as np
import pytest
import torch
import toys
from scipy.stats import spearmanr

from patching import ablations
from patching.anatomy.blocks import EMBEDDING
from patching.grid import Grid
from patching.metrics import accuracy, kl, logit_diff
from patching.model import Model
from patching.rules import relp_ah
from patching.tasks import Prompt, Task
from patching.token_attribution import (
    TOKEN_METHODS,
    agreement,
    attribute_tokens,
    completeness_delta,
    draw_tokens,
    gradient_norm,
    idgi,
    input_x_gradient,
    integrated_gradients,
    occlusion,
    relevance,
)


@pytest.mark.parametrize("family", families.names())
def test_input_x_gradient_is_that_of_hugging_face_in_every_family(family):
    dtype = families.best_dtype(family)
    model, judge = (families.module(family, dtype) for _ in range(2))
    model, task = Model.load(model), families.task()
    (batch,) = task.batches(len(task))
    table = judge.get_input_embeddings()
    clean, corrupt = (table(x).detach() for x in (batch.clean, batch.corrupt))
    clean.requires_grad_()
    logits = judge(inputs_embeds=clean).logits[:, -1]
    (gradient,) = torch.autograd.grad(logit_diff(logits, batch).sum(), clean)
    expected = (gradient * (clean - corrupt)).sum(dim=-1).detach().double()
    found = attribute_tokens(model, task, logit_diff, batch_size=2).values
    # float32 somewhere in most families; relative to the largest score
    assert (found - expected).abs().max() < 3e-5 * expected.abs().max()


def test_methods_agree_where_the_model_is_linear():
    model, task = toys.linear_model(), toys.task(2)
    for method in (input_x_gradient, integrated_gradients(3), occlusion()):
        found = attribute_tokens(model, task, logit_diff, method=method)
        expected = [[toys.CLEAN - toys.CORRUPT, 0.0]] * 2
        torch.testing.assert_close(found.values, torch.tensor(expected, dtype=torch.float64))
        assert found.clean.tolist() == pytest.approx([toys.CLEAN] * 2)
        assert found.corrupt.tolist() == pytest.approx([toys.CORRUPT] * 2)


@pytest.mark.parametrize("baseline", [ablations.resample, ablations.zero, None])
def test_path_methods_are_their_formulas_written_out(gpt2, baseline):
    """One example and one point at a time; None stands for the mean embedding of a task."""
    task, steps = families.ragged_task(), 4
    ablation = ablations.mean(task) if baseline is None else baseline
    grids = [
        attribute_tokens(gpt2, task, logit_diff, method=m, baseline=ablation, batch_size=5)
        for m in (integrated_gradients(steps), idgi(steps))
    ]
    weights = gpt2.bridge.embed.original_component.weight.detach()
    ids = torch.tensor([i for prompt in task.prompts for i in prompt.clean])
    for row, batch in enumerate(task.batches(1)):
        n = batch.clean.shape[1]
        positions = gpt2.bridge.pos_embed.original_component.weight.detach()[:n]
        end = weights[batch.clean[0]] + positions
        start = {
            ablations.resample: weights[batch.corrupt[0]] + positions,
            ablations.zero: positions,
            None: weights[ids].mean(dim=0) + positions,
        }[baseline]

        def at(alpha, batch=batch, start=start, end=end):
            x = torch.lerp(start, end, alpha)[None].requires_grad_()
            value = logit_diff(
                gpt2.answer_logits(batch.clean, batch, [(EMBEDDING, lambda _: x)]), batch
            )
            return value.item(), torch.autograd.grad(value.sum(), x)[0][0]

        gradients = [at((k + 0.5) / steps)[1] for k in range(steps)]
        expected = ((end - start) * sum(gradients) / steps).sum(dim=1)
        torch.testing.assert_close(grids[0].values[row, :n], expected)
        points = [at(k / steps) for k in range(steps + 1)]
        expected = torch.zeros(n, dtype=torch.float64)
        for (value, g), (after, _) in zip(points, points[1:], strict=False):
            expected += ((g * g) * (after - value) / (g * g).sum()).sum(dim=1)
        torch.testing.assert_close(grids[1].values[row, :n], expected)
        assert (grids[0].values[row, n:] == 0).all()
        assert grids[0].corrupt[row].item() == pytest.approx(points[0][0])


def test_fifty_midpoint_steps_are_complete_to_a_thousandth_on_the_toy(toy):
    from patching import tasks

    task = tasks.ioi(toy.tokenizer, n=6, seed=0)
    for baseline in (ablations.resample, ablations.mean(task)):
        grid = attribute_tokens(
            toy, task, logit_diff, method=integrated_gradients(50), baseline=baseline
        )
        delta, gap = completeness_delta(grid), (grid.clean - grid.corrupt).abs()
        assert delta.abs().max() < 1e-3 * gap.mean() and delta.abs().max() > 0


def test_idgi_is_complete_with_any_number_of_steps(gpt2):
    for steps in (1, 3):
        grid = attribute_tokens(gpt2, families.ragged_task(), logit_diff, method=idgi(steps))
        # every step's change is shared out, whole
        torch.testing.assert_close(completeness_delta(grid), torch.zeros(3, dtype=torch.float64))


def test_relevance_without_biases_is_conserved():
    """RelP+AH on a model of RMS norms: x . gradient at all tokens is the metric."""
    model = Model.load(families.module("llama", torch.float64))
    grid = attribute_tokens(model, families.ragged_task(), logit_diff, method=relevance(relp_ah))
    # norms run in float32
    torch.testing.assert_close(grid.values.sum(dim=1), grid.clean, rtol=1e-5, atol=1e-5)


def test_gradient_norms_are_lengths(gpt2):
    task = families.ragged_task()
    found = attribute_tokens(gpt2, task, logit_diff, method=gradient_norm)
    (batch,) = Task("first", task.prompts[:1]).batches(1)
    roots = []

    def root(embedding):
        roots.append(embedding.detach().requires_grad_())
        return roots[0]

    value = logit_diff(gpt2.answer_logits(batch.clean, batch, [(EMBEDDING, root)]), batch)
    (gradient,) = torch.autograd.grad(value.sum(), roots)
    torch.testing.assert_close(found.values[0], gradient[0].norm(dim=-1))
    assert found.corrupt is None
    with pytest.raises(ValueError, match="gradient-norm .* has no baseline"):
        completeness_delta(found)


@pytest.mark.parametrize("token", [None, 11])
def test_occlusion_is_a_loop_of_single_replacements(gpt2, token):
    task = families.ragged_task()
    found = attribute_tokens(gpt2, task, logit_diff, method=occlusion(token), batch_size=4).values
    for row, batch in enumerate(task.batches(1)):
        with torch.no_grad():
            clean = logit_diff(gpt2.answer_logits(batch.clean, batch), batch)
            for pos in range(batch.clean.shape[1]):
                tokens = batch.clean.clone()
                tokens[0, pos] = batch.corrupt[0, pos] if token is None else token
                value = logit_diff(gpt2.answer_logits(tokens, batch), batch)
                torch.testing.assert_close(found[row, pos], (clean - value)[0])
        assert (found[row, batch.clean.shape[1] :] == 0).all()


def test_padding_and_batches_change_no_attribution(gpt2):
    short = {"integrated-gradients": integrated_gradients(2), "idgi": idgi(2)}
    for name, method in (TOKEN_METHODS | short).items():
        one, other = (
            attribute_tokens(
                gpt2, families.ragged_task(padding=side), logit_diff, method=method, batch_size=size
            ).values
            for side, size in (("right", 2), ("left", 64))
        )
        # sums of another shape round otherwise
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)


def test_agreement_is_the_mean_of_spearmans_correlations(gpt2):
    grids = {
        name: attribute_tokens(
            gpt2, families.ragged_task(), logit_diff, method=method, baseline=ablations.zero
        )
        for name, method in (("norm", gradient_norm), ("ixg", input_x_gradient), ("idgi", idgi(3)))
    }
    table, sizes = agreement(grids), agreement(grids, absolute=True)
    lengths = (9, 6, 7)
    for found, change in ((table, lambda x: x), (sizes, np.abs)):
        pairs = zip(grids["norm"].values.numpy(), grids["ixg"].values.numpy(), lengths, strict=True)
        expected = np.mean([spearmanr(change(a[:n]), change(b[:n])).statistic for a, b, n in pairs])
        assert found.loc["norm", "ixg"] == pytest.approx(expected)
        assert np.diag(found).tolist() == pytest.approx([1, 1, 1])
        assert (found.to_numpy() == found.to_numpy().T).all()
    flat = Grid("flat", torch.zeros(3, 9), grids["ixg"].axes, provenance=grids["ixg"].provenance)
    assert np.isnan(agreement({"flat": flat, "ixg": grids["ixg"]}).loc["flat", "ixg"])


def test_the_drawing_shows_every_token_with_its_number(toy):
    from patching import tasks

    task = tasks.ioi(toy.tokenizer, n=2, seed=0)
    grid = attribute_tokens(toy, task, logit_diff, method=occlusion())
    figure = draw_tokens(toy, task, grid, example=1, title="Occlusion")
    shown = [text.get_text() for text in figure.axes[0].texts]
    n = len(task.prompts[1].clean)
    assert len(shown) == 2 * n and shown[0] == "<bos>"
    assert f"{float(grid.values[1, n - 1]):.2g}" == shown[-1]
    with pytest.raises(ValueError, match="there is no example 2: the task has 0 to 1"):
        draw_tokens(toy, task, grid, example=2)
    with pytest.raises(ValueError, match="not one of `attribute_tokens` on this task"):
        draw_tokens(toy, task.take(1), grid)


def test_what_cannot_be_attributed_is_refused(gpt2):
    same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
    with pytest.raises(
        ValueError, match="accuracy has no gradient to score tokens by in input-x-gradient"
    ):
        attribute_tokens(gpt2, families.ragged_task(), accuracy)
    with pytest.raises(
        ValueError, match="kl has no slope at the clean run to score tokens by in gradient-norm"
    ):
        attribute_tokens(gpt2, families.ragged_task(), kl, method=gradient_norm)
    with pytest.raises(ValueError, match="a corrupt prompt equal to the clean one in row 0"):
        attribute_tokens(gpt2, same, logit_diff)
    with pytest.raises(ValueError, match="holds token id 500"):
        attribute_tokens(gpt2, Task("far", (Prompt((5, 500), (5, 6), (7,), (8,)),)), logit_diff)
    with pytest.raises(ValueError, match="the token 500 cannot replace others"):
        attribute_tokens(gpt2, families.ragged_task(), logit_diff, method=occlusion(500))
    with pytest.raises(ValueError, match="a path has at least 1 step, got 0"):
        idgi(0)
    with pytest.raises(ValueError, match="a path has at least 1 step, got 0"):
        integrated_gradients(0)
    with pytest.raises(ValueError, match="at least one example, got batch_size=0"):
        attribute_tokens(gpt2, families.ragged_task(), logit_diff, batch_size=0)
    grid = attribute_tokens(gpt2, same, logit_diff, method=gradient_norm)
    with pytest.raises(ValueError, match="between two methods at least, got 1"):
        agreement({"a": grid})
    with pytest.raises(ValueError, match="on one and the same task"):
        agreement({"a": grid, "b": attribute_tokens(gpt2, families.ragged_task(), logit_diff)})


def test_a_half_precision_model_is_attributed_as_its_full_twin():
    full = Model.load(families.module("llama", torch.float32))
    half = Model.load(families.module("llama", torch.float32), dtype=torch.bfloat16)
    for method in (input_x_gradient, integrated_gradients(2), occlusion()):
        expected, found = (
            attribute_tokens(m, families.task(), logit_diff, method=method).values
            for m in (full, half)
        )
        # a bfloat16 has 8 bits, and two layers of random weights lose a few of them
        assert (found - expected).abs().max() < 0.15 * expected.abs().max()


def test_kl_and_accuracy_work_where_they_can(gpt2):
    along = attribute_tokens(gpt2, families.ragged_task(), kl, method=idgi(2))
    torch.testing.assert_close(along.values.sum(dim=1), -along.corrupt)
    assert attribute_tokens(
        gpt2, families.ragged_task(), accuracy, method=occlusion()
    ).values.shape == (3, 9)
