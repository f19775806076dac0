"""AtP* for activations: slow twins of the QK fix and GradDrop, saturation, refusals."""

from dataclasses import replace

import families
import pytest
import torch
import toys
from pattern_twins import pattern_slopes

from patching.attribution import atp_star, attribution_patching, grad_drop, qk_fix
from patching.attribution.patterns import columns_moved
from patching.metrics import accuracy, logit_diff
from patching.model import Model
from patching.models import induction
from patching.rules import RULES

ROUNDING = 2e-6  # relative: the float32 softmax and norms of Llama-like families


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3", "gemma2", "neox"])
def model(request):
    return families.load(request.param, torch.float64)


def assert_close(found, expected, tolerance=ROUNDING):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_moving_one_column_at_a_time_is_what_softmax_makes_of_it(scale):
    generator = torch.Generator().manual_seed(0)
    scores, patched, slopes = (
        torch.randn(5, 2, 7, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    scores, patched = scale * scores, scale * patched
    scores[..., 5:] = patched[..., 5:] = torch.finfo(torch.float32).min  # masked
    scores[0, :, 1:] = patched[0, :, 1:] = torch.finfo(torch.float32).min  # the first token
    expected = torch.zeros_like(scores)
    for column in range(7):
        one = scores.clone()
        one[..., column] = patched[..., column]
        change = scores.softmax(dim=-1) - one.softmax(dim=-1)
        expected[..., column] = (slopes * change).sum(dim=-1)
    found = columns_moved(slopes, scores, patched)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


def test_a_saturated_column_keeps_what_the_others_weigh():
    """All but one key share e^-200: the total less that key would leave nothing of them."""
    scores = torch.tensor([[[200.0, 0.0, 0.0]]], dtype=torch.float64)
    patched = torch.tensor([[[0.0, 0.0, 0.0]]], dtype=torch.float64)
    slopes = torch.tensor([[[3.0, 0.0, 6.0]]], dtype=torch.float64)
    # 1 -> 1/3 of a slope of 3, and 0 -> 2/3 of the others' mean slope of 3: nothing moves
    assert columns_moved(slopes, scores, patched)[0, 0, 0] == pytest.approx(0, abs=1e-12)
    slopes[..., 0] = 0.0
    assert columns_moved(slopes, scores, patched)[0, 0, 0] == pytest.approx(-2)


def slow_qk_fix(model, batch, direction):
    """Whole runs by the library's own hooks, one position of one head at a time."""
    noising = direction == "noising"
    base, other = (batch.clean, batch.corrupt) if noising else (batch.corrupt, batch.clean)
    slopes, patterns = pattern_slopes(model, batch, base)
    n_layers, n_pos = model.graph.n_layers, base.shape[1]
    found = {}
    for letter in "qk":
        names = [f"blocks.{i}.attn.{letter}.hook_out" for i in range(n_layers)]
        values = {}

        def keep(x, hook, values=values):
            values[hook.name] = x.clone()

        with torch.no_grad(), model.bridge.hooks(fwd_hooks=[(name, keep) for name in names]):
            model.bridge(other)
        heads = values[names[0]].shape[2]
        scores = torch.zeros(len(batch), n_layers, n_pos, heads, dtype=torch.float64)
        for i, name in enumerate(names):
            for pos in range(n_pos):
                for head in range(heads):
                    seen = {}

                    def patch(x, hook, value=values[name], pos=pos, head=head):
                        x = x.clone()
                        x[:, pos, head] = value[:, pos, head]
                        return x

                    def look(pattern, hook, seen=seen):
                        seen["pattern"] = pattern.clone()

                    hooks = [(name, patch), (f"blocks.{i}.attn.hook_pattern", look)]
                    with torch.no_grad(), model.bridge.hooks(fwd_hooks=hooks):
                        model.bridge(base)
                    moved = slopes[i] * (patterns[i] - seen["pattern"])
                    scores[:, i, pos, head] = moved.flatten(1).sum(dim=1)
        found[letter] = scores if noising else -scores
    return found


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_qk_fix_is_what_patching_one_position_at_a_time_does_to_the_patterns(model, direction):
    task = families.task(2, length=7)
    (batch,) = task.batches(2)
    expected = slow_qk_fix(model, batch, direction)
    found = qk_fix(model, task, logit_diff, direction=direction)
    first_order = attribution_patching(model, task, logit_diff, direction=direction)
    for letter in "qk":
        assert_close(found[letter].values, expected[letter])
        difference = found[letter].values - first_order[letter].values
        assert difference.abs().max() > 1e-3 * expected[letter].abs().max()  # it does something
    for kind in ("z", "v", "mlp_out", "attn_out"):
        assert torch.equal(found[kind].values, first_order[kind].values)


def test_qk_fix_is_attribution_patching_where_runs_hardly_differ(gpt2):
    """Tokens with embeddings a step apart: what is left is second order."""
    embedding = gpt2.bridge.original_model.transformer.wte.weight
    task = families.task(1)
    (prompt,) = task.prompts
    kept = embedding.detach().clone()
    errors = []
    try:
        for step in (1e-3, 1e-4):
            with torch.no_grad():
                for clean, corrupt in zip(prompt.clean, prompt.corrupt, strict=True):
                    if clean != corrupt:
                        embedding[corrupt] = torch.lerp(kept[clean], kept[corrupt], step)
            found = qk_fix(gpt2, task, logit_diff, kinds=["q", "k"])
            plain = attribution_patching(gpt2, task, logit_diff, kinds=["q", "k"])
            pairs = [(found[kind].values, plain[kind].values) for kind in "qk"]
            errors.append(max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
    finally:
        with torch.no_grad():
            embedding.copy_(kept)
    assert errors[0] < 5e-2
    assert errors[1] < 0.2 * errors[0]


def test_qk_fix_sees_what_a_saturated_softmax_hides():
    """Hand-wired induction: what moves the induction head's attention has no gradient at all."""
    wired = induction("noise")
    model = Model.load(wired.model, tokenizer=wired.tokenizer)
    options = {"direction": "noising", "kinds": ["z", "q", "k"]}
    plain, fixed = (
        scorer(model, wired.task, logit_diff, **options)
        for scorer in (attribution_patching, qk_fix)
    )
    over = ["layer", "head"]
    induces = fixed.pick("z", over).at(layer="1", head="h3")
    for kind in "qk":
        assert abs(plain.pick(kind, over).at(layer="1", head="h3")) < 1e-6
        # where another token stands in for the one looked for, the head attends elsewhere
        assert fixed.pick(kind, over).at(layer="1", head="h3") > 0.2 * induces


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_qk_fix_takes_the_slope_at_the_pattern_by_any_rule(gpt2, rule):
    found = qk_fix(gpt2, families.task(), logit_diff, rule=rule)
    for kind in "qk":
        assert float(found[kind].values.abs().amax(dim=(0, 2, 3)).min()) > 0


def test_qk_fix_does_not_depend_on_batches_or_the_side_of_padding():
    model = Model.load(families.module("llama", torch.float32))
    whole = qk_fix(model, families.ragged_task(), logit_diff)
    single = qk_fix(
        model, replace(families.ragged_task(), padding="left"), logit_diff, batch_size=2
    )
    for kind, grid in whole.items():
        # float32: some hundred additions of terms as large as the largest score
        assert_close(single[kind].values, grid.values, 5e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2", "opt"])
def test_grad_drop_is_the_mean_size_over_gradients_that_each_miss_a_layer(family):
    model = Model.load(families.module(family, torch.float64))
    kinds = ["attn_out", "mlp_out", "z", "q", "k", "v"]
    passes = []
    for i in range(model.graph.n_layers):
        names = [f"blocks.{i}.hook_attn_out", f"blocks.{i}.hook_mlp_out"]
        cut = [(name, lambda x, hook: x.detach() + 0 * x) for name in names]
        with model.bridge.hooks(fwd_hooks=cut):
            scores = attribution_patching(model, families.task(), logit_diff, kinds=kinds)
        passes.append({kind: grid.mean for kind, grid in scores.items()})
        for kind in "zqkv":
            assert float(passes[-1][kind][i].abs().max()) == 0
        for kind in ("attn_out", "mlp_out"):  # kept after the cut there, where a slope remains
            passes[-1][kind][i] = 0
    found = grad_drop(model, families.task(), logit_diff, kinds=kinds)
    for kind in kinds:
        expected = sum(scores[kind].abs() for scores in passes) / (len(passes) - 1)
        assert_close(found[kind].values[0], expected, 1e-12)


def test_all_positions_together_are_added_up_before_the_sign_goes(gpt2):
    together = grad_drop(gpt2, families.task(), logit_diff, by_position=False, batch_size=2)
    each = grad_drop(gpt2, families.task(), logit_diff)
    assert list(together["v"].axes) == ["layer", "head"]
    assert list(together["attn_out"].axes) == ["layer"]
    summed = each["v"].values.sum(dim=2)
    assert (together["v"].values <= summed + 1e-12).all()
    assert (together["v"].values < summed - 1e-6).any()


def test_atp_star_is_grad_drop_with_the_fixed_queries_and_keys(gpt2):
    found = atp_star(gpt2, families.task(), logit_diff)
    dropped = grad_drop(gpt2, families.task(), logit_diff)
    for kind in ("attn_out", "mlp_out", "z", "v"):
        assert torch.equal(found[kind].values, dropped[kind].values)
    # without layer 0 the slope at layer 1's patterns is the whole one, for nothing else of
    # layer 1 or later is left out; without layer 1 it is 0
    fixed = qk_fix(gpt2, families.task(), logit_diff)
    for kind in "qk":
        torch.testing.assert_close(found[kind].values[0, 1], fixed[kind].mean[1].abs())
    assert found["q"].provenance["method"] == "atp-star"
    assert found["q"].provenance["sign"] == "absolute values: no sign"
    assert found["q"].values.shape[0] == len(found["q"].clean) == 1


@pytest.mark.parametrize("family", ["opt", "gptj", "gptneo"])
@pytest.mark.parametrize("scorer", [qk_fix, atp_star])
def test_attention_that_hooks_do_not_reach_is_refused(scorer, family):
    model = Model.load(families.module(family, torch.float64))
    with pytest.raises(ValueError, match=r"no hook reaches those of .* \(a0, a1\).*or grad_drop"):
        scorer(model, families.task(), logit_diff)


def test_norms_that_mix_heads_are_refused():
    model = Model.load(families.module("olmo2", torch.float64))
    with pytest.raises(ValueError, match="one norm spans the queries"):
        qk_fix(model, families.task(), logit_diff)


@pytest.mark.parametrize("scorer", [grad_drop, atp_star])
class TestEveryDroppingScorer:
    def test_needs_two_layers(self, scorer):
        with pytest.raises(ValueError, match="has 1 layer, take attribution_patching"):
            scorer(toys.linear_model(), toys.task(3), logit_diff)

    def test_refuses_the_stream(self, scorer, gpt2):
        with pytest.raises(ValueError, match="resid_pre is the whole stream"):
            scorer(gpt2, families.task(), logit_diff, kinds=["z", "resid_pre"])

    def test_refuses_a_metric_without_gradient(self, scorer, gpt2):
        with pytest.raises(ValueError, match="accuracy has no gradient"):
            scorer(gpt2, families.task(), accuracy)

    def test_refuses_to_add_up_sizes(self, scorer, gpt2):
        found = scorer(gpt2, families.task(), logit_diff)
        with pytest.raises(ValueError, match="scores without a sign do not add up"):
            found.pick("z", over=["layer", "head"])

    def test_leaves_no_hooks(self, scorer, gpt2):
        scorer(gpt2, families.task(), logit_diff)
        points = gpt2.bridge.hook_dict.values()
        assert not any(point.fwd_hooks or point.bwd_hooks for point in points)
