"""The QK fix and GradDrop for edges: slow twins, first order, saturation, and refusals."""

from dataclasses import dataclass, replace

import families
import pytest
import torch
import toys
from oracles import _writes, brute_force_eap
from pattern_twins import pattern_slopes

from circuits.scoring import Recipe, along_inputs, eap, score
from circuits.scoring.dropping import atp_star, grad_drop, without_layer
from circuits.scoring.patterns import qk_fix
from patching import memory
from patching.ablations import Prepared, Replacement, resample, zero
from patching.metrics import accuracy, logit_diff
from patching.model import Model
from patching.models import induction
from patching.rules import RULES, plain, relp
from patching.tasks import Prompt, Task

ROUNDING = 2e-6  # relative: the float32 norms of Llama-like families


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3", "gemma2", "neox"])
def model(request):
    return families.load(request.param, torch.float64)


def readers(graph):
    """Query and key readers, as (layer, 'q' or 'k', number, column)."""
    for layer in range(graph.n_layers):
        for letter, span in (("q", graph.q_readers(layer)), ("k", graph.k_readers(layer))):
            for number, column in enumerate(range(span.start, span.stop)):
                yield layer, letter, number, column


def test_qk_fix_is_what_patching_one_edge_at_a_time_does_to_the_patterns(model):
    """Whole runs by the library's own per-head inputs, one edge at a time."""
    task = families.task(2)
    (batch,) = task.batches(2)
    expected = slow_qk_fix(model, batch)
    found = qk_fix(model, task, logit_diff).matrix
    plain = eap(model, task, logit_diff).matrix
    columns = [column for *_, column in readers(model.graph)]
    error = (found - expected)[:, columns].abs().max() / expected.abs().max()
    assert error < ROUNDING
    others = [j for j in range(found.shape[1]) if j not in columns]
    assert torch.equal(found[:, others], plain[:, others])
    assert (found - plain).abs().max() > 1e-3 * plain.abs().max()  # the fix does something


def slow_qk_fix(model, batch):
    bridge, graph = model.bridge, model.graph
    slopes, patterns = pattern_slopes(model, batch, batch.clean)
    bridge.set_use_split_qkv_input(True)
    bridge.set_use_attn_result(True)
    scores = torch.zeros(graph.exists.shape, dtype=torch.float64)
    try:
        difference = _writes(model, batch.clean) - _writes(model, batch.corrupt)
        for layer, letter, number, column in readers(graph):
            for source in graph.exists[:, column].nonzero().flatten().tolist():
                seen = {}

                def patch(x, hook, source=source, number=number):
                    x = x.clone()
                    x[:, :, number] -= difference[source]
                    return x

                def keep(pattern, hook, seen=seen):
                    seen["pattern"] = pattern.clone()

                hooks = [
                    (f"blocks.{layer}.attn.hook_{letter}_input", patch),
                    (f"blocks.{layer}.attn.hook_pattern", keep),
                ]
                with torch.no_grad(), bridge.hooks(fwd_hooks=hooks):
                    bridge(batch.clean)
                change = slopes[layer] * (patterns[layer] - seen["pattern"])
                scores[source, column] = change.sum() / len(batch)
    finally:
        bridge.set_use_split_qkv_input(False)
        bridge.set_use_attn_result(False)
    return scores


@dataclass(frozen=True)
class Nearly:
    """Clean writes with a small step towards what an ablation replaces them by."""

    inner: Prepared
    share: float
    name: str = "nearly"
    paired: bool = True

    def tokens(self, batch):
        return self.inner.tokens(batch)

    def replace(self, batch, clean, corrupt):
        whole = self.inner.replace(batch, clean, corrupt)
        step = (whole.writes - clean.writes).map(lambda part: self.share * part)
        embedding = torch.lerp(clean.embedding, whole.embedding, self.share)
        return Replacement(clean.writes + step, embedding)


def test_qk_fix_is_plain_eap_to_first_order(gpt2):
    """What is left is second order: a tenth of the step leaves a tenth of the relative error."""
    errors = []
    for share in (1e-4, 1e-5):
        ablation = lambda m, share=share: Nearly(resample(m), share)  # noqa: E731
        fixed = qk_fix(gpt2, families.task(), logit_diff, ablation=ablation).matrix
        plain = eap(gpt2, families.task(), logit_diff, ablation=ablation).matrix
        errors.append(float((fixed - plain).abs().max() / plain.abs().max()))
    assert errors[0] < 1e-2
    assert errors[1] < 0.2 * errors[0]


def test_qk_fix_sees_what_a_saturated_softmax_hides():
    """Hand-wired induction: what moves the induction head's attention has no gradient at all."""
    wired = induction("noise")
    model = Model.load(wired.model, tokenizer=wired.tokenizer)
    plain, fixed = (scorer(model, wired.task, logit_diff) for scorer in (eap, qk_fix))
    for edge in (("a0.h1", "a1.h3.k"), ("embed", "a1.h3.q")):
        assert abs(plain.of(*edge)) < 1e-6
        # a third of the prompts replaces the key's token and a third the query's; there the head
        # attends elsewhere, and what it is worth to the logits is lost
        assert fixed.of(*edge) == pytest.approx(fixed.of("a1.h3", "logits") / 3, rel=0.01)
    best = {f"{source}->{dest}" for source, dest, _ in fixed.top(5, ranking="absolute")}
    assert len(best & wired.active_edges) == 4  # the fifth is no matter of queries and keys


def test_qk_fix_does_not_depend_on_batches_or_tiles(model):
    whole = qk_fix(model, families.ragged_task(), logit_diff).matrix
    with memory.budget(1):
        tiled = qk_fix(model, families.ragged_task(), logit_diff, batch_size=1).matrix
    assert (tiled - whole).abs().max() < ROUNDING * whole.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_padding_left_and_right_gives_the_same_scores_in_float32(family):
    model = Model.load(families.module(family, torch.float32))
    for scorer in (qk_fix, grad_drop, atp_star):
        right = scorer(model, families.ragged_task(), logit_diff).matrix
        left = scorer(model, replace(families.ragged_task(), padding="left"), logit_diff).matrix
        # float32: some hundred additions of terms as large as the largest score
        assert (left - right).abs().max() < 5e-5 * right.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_grad_drop_is_eap_with_one_layers_writes_cut_off_averaged_over_layers(family):
    model = Model.load(families.module(family, torch.float64))
    (batch,) = families.task().batches(16)
    passes = []
    for block in model.blocks:
        names = (block.attention_out, block.mlp_out)
        cut = [(name, lambda x, hook: x.detach() + 0 * x) for name in names]
        with model.bridge.hooks(fwd_hooks=cut):
            scores, known = brute_force_eap(model, batch, logit_diff)
        passes.append(scores.abs())
        assert float(scores[:, model.graph.attention_readers(block.index)].abs().max()) == 0
    expected = sum(passes) / (len(passes) - 1)
    found = grad_drop(model, families.task(), logit_diff).matrix
    error = (found - expected)[:, known].abs().max() / expected.abs().max()
    assert error < ROUNDING


def test_grad_drop_combines_with_any_rule_and_path(gpt2):
    recipe = Recipe(along_inputs(2), rule=relp)
    found = grad_drop(gpt2, families.task(), logit_diff, recipe=recipe)
    assert found.provenance["options"]["rule"] == "relp"
    assert found.provenance["options"]["steps"] == 2
    signed = score(gpt2, families.task(), logit_diff, recipe).matrix
    # the metric reads the last stream directly, whatever layer is dropped: 2 passes over 1
    torch.testing.assert_close(found.matrix[:, -1], 2 * signed[:, -1].abs())


def test_atp_star_is_grad_drop_of_the_fixed_scores(model):
    found = atp_star(model, families.task(), logit_diff)
    parts = [
        qk_fix(model, families.task(), logit_diff, rule=without_layer(plain, i))
        for i in range(model.graph.n_layers)
    ]
    torch.testing.assert_close(found.matrix, sum(p.matrix.abs() for p in parts))  # over 2 - 1
    assert found.provenance["method"] == "atp-star"
    assert float(found.matrix.min()) >= 0


@pytest.mark.parametrize("scorer", [qk_fix, grad_drop, atp_star])
class TestEveryScorer:
    def test_leaves_no_hooks_no_gradients_and_the_same_model(self, scorer, gpt2):
        (batch,) = families.task().batches(16)
        logits = gpt2.answer_logits(batch.clean, batch)
        blocks = list(gpt2.bridge.original_model.transformer.h)
        scorer(gpt2, families.task(), logit_diff)
        points = gpt2.bridge.hook_dict.values()
        assert not any(point.fwd_hooks or point.bwd_hooks for point in points)
        assert all(parameter.grad is None for parameter in gpt2.bridge.parameters())
        assert list(gpt2.bridge.original_model.transformer.h) == blocks
        assert torch.equal(gpt2.answer_logits(batch.clean, batch), logits)

    def test_refuses_a_metric_without_gradient(self, scorer, gpt2):
        with pytest.raises(ValueError, match="accuracy has no gradient"):
            scorer(gpt2, families.task(), accuracy)

    def test_refuses_pairs_that_do_not_differ(self, scorer, gpt2):
        same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
        with pytest.raises(ValueError, match="corrupt prompt equal to the clean one in row 0"):
            scorer(gpt2, same, logit_diff)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_qk_fix_takes_the_slope_at_the_pattern_by_any_rule(gpt2, rule):
    """Rules that cut patterns off, or change the softmax's gradient, leave this slope alone."""
    fixed = qk_fix(gpt2, families.task(), logit_diff, rule=rule).matrix
    signed = score(gpt2, families.task(), logit_diff, Recipe(rule=rule)).matrix
    for readers_of in (gpt2.graph.q_readers, gpt2.graph.k_readers):
        assert float(fixed[:, readers_of(0)].abs().max()) > 0
        assert float(fixed[:, readers_of(1)].abs().max()) > 0
    assert torch.equal(fixed[:, gpt2.graph.v_readers(0)], signed[:, gpt2.graph.v_readers(0)])


def test_qk_fix_works_without_a_corrupt_run(gpt2):
    assert bool(qk_fix(gpt2, families.task(), logit_diff, ablation=zero).matrix.isfinite().all())


@pytest.mark.parametrize("family", ["opt", "gptj", "gptneo"])
def test_qk_fix_refuses_attention_that_hooks_do_not_reach(family):
    model = Model.load(families.module(family, torch.float64))
    with pytest.raises(ValueError, match=r"no hook reaches those of .* \(a0, a1\)"):
        qk_fix(model, families.task(), logit_diff)


@pytest.mark.parametrize("family", ["olmo2", "olmoe"])
def test_qk_fix_refuses_norms_that_mix_heads(family):
    model = Model.load(families.module(family, families.best_dtype(family)))
    with pytest.raises(ValueError, match="one norm spans the queries"):
        qk_fix(model, families.task(), logit_diff)


def test_grad_drop_needs_two_layers():
    with pytest.raises(ValueError, match="has 1 layer, take eap"):
        grad_drop(toys.linear_model(), toys.task(3), logit_diff)
