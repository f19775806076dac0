"""Attribution patching of all kinds at once: an autograd twin, laws, exact on linear models."""

from dataclasses import replace

import families
import pytest
import torch
import toys

from circuits.scoring import Recipe, score
from patching.anatomy.insides import neurons, softmax
from patching.anatomy.places import of_kind
from patching.attribution import attribution_patching
from patching.attribution.patterns import require_patterns
from patching.metrics import accuracy, kl, logit_diff
from patching.model import Model
from patching.paths import along_activations, along_inputs, at_both
from patching.rules import RULES, plain, relp, relp_ah
from patching.rules.sites import Unruled
from patching.tasks import Prompt, Task

STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS = ("z", "q", "k", "v")


@pytest.fixture(scope="module")
def llama():
    return families.load("llama", torch.float64)


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def shown_kinds(model):
    """All that the family shows, by what the blocks say of themselves."""
    block = model.blocks[0]
    kinds = [kind for kind in (*STREAM, *HEADS) if kind != "resid_mid" or not block.parallel]
    kinds += ["pattern"] if softmax(block) else []
    return [*kinds, "neurons"] if neurons(block) else kinds


def slow_scores(model, batch, base, other):
    """(clean - corrupt) . gradient at `base`, by torch alone, `[example layer pos (head)]`."""
    names = [
        f"blocks.{i}.{name}"
        for i in range(model.graph.n_layers)
        for name in (
            *("hook_in", "hook_out", "hook_attn_out", "hook_mlp_out", "attn.o.hook_in"),
            *("attn.q.hook_out", "attn.k.hook_out", "attn.v.hook_out", "attn.hook_pattern"),
            "mlp.out.hook_in",
        )
        if f"blocks.{i}.{name}" in model.bridge.hook_dict
    ]

    def run(tokens):
        live = {}

        def keep(x, hook, name):
            live[name] = x.view_as(x)
            return live[name]

        hooks = [(n, lambda x, hook, n=n: keep(x, hook, n)) for n in names]
        root = ("blocks.0.hook_in", lambda x, hook: x.detach().requires_grad_())
        with model.bridge.hooks(fwd_hooks=[root, *hooks]):
            logits = model.bridge(tokens)
        return live, logits[torch.arange(len(batch)), batch.answer_pos]

    (at_base, logits), (at_other, _) = run(base), run(other)
    sign = 1 if base is batch.clean else -1
    values = logit_diff(logits, batch).sum()
    slopes = torch.autograd.grad(values, list(at_base.values()), allow_unused=True)
    slope = dict(zip(at_base, slopes, strict=True))

    def of(hook, part=None):
        out = []
        for i in range(model.graph.n_layers):
            prefix = f"blocks.{i}."
            move = at_base[prefix + hook] - at_other[prefix + hook]
            if part is not None:
                move = move + at_base[prefix + part] - at_other[prefix + part]
            out.append(sign * move.double() * slope[prefix + hook].double())
        return torch.stack(out, dim=1).detach()

    found = {
        "resid_pre": of("hook_in").sum(-1),
        "resid_mid": of("hook_attn_out", "hook_in").sum(-1),
        "resid_post": of("hook_out").sum(-1),
        "attn_out": of("hook_attn_out").sum(-1),
        "mlp_out": of("hook_mlp_out").sum(-1),
        "z": of("attn.o.hook_in").sum(-1),
        **{x: of(f"attn.{x}.hook_out").sum(-1) for x in "qkv"},
    }
    if softmax(model.blocks[0]):
        found["pattern"] = of("attn.hook_pattern").sum(-1).transpose(2, 3)
    if neurons(model.blocks[0]):
        found["neurons"] = of("mlp.out.hook_in").sum(dim=2)
    return found


@pytest.mark.parametrize("family", families.names())
def test_every_kind_is_the_difference_times_the_gradient_in_every_family(family):
    model = Model.load(families.module(family, families.best_dtype(family)))
    task = families.task(2)
    (batch,) = task.batches(2)
    expected = slow_scores(model, batch, batch.corrupt, batch.clean)
    found = attribution_patching(model, task, logit_diff, kinds=shown_kinds(model))
    # float64, or float32 where nothing else runs: the same products in another order
    tolerance = 1e-5 if family in families.FLOAT32_ONLY else 1e-12
    for kind, grid in found.items():
        assert_close(grid.values, expected[kind], tolerance)


def test_noising_takes_the_gradient_at_the_clean_run(gpt2):
    (batch,) = families.task(2).batches(2)
    expected = slow_scores(gpt2, batch, batch.clean, batch.corrupt)
    found = attribution_patching(gpt2, families.task(2), logit_diff, direction="noising")
    for kind, grid in found.items():
        assert_close(grid.values, expected[kind], 1e-12)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_on_a_linear_model_scores_are_the_exact_effects_of_patching(direction):
    model, task = toys.linear_model(), toys.task(2)
    (batch,) = task.batches(2)
    base, other = batch.corrupt, batch.clean
    if direction == "noising":
        base, other = other, base
    found = attribution_patching(model, task, logit_diff, direction=direction)
    for kind, grid in found.items():
        (place,) = of_kind(model, kind)
        for pos in range(2):
            exact = abs(patched(model, batch, base, other, place, pos))
            score = abs(grid.values[:, 0, pos].reshape(2, -1).sum(dim=1))
            assert score.tolist() == pytest.approx(exact.tolist(), abs=1e-9), (kind, pos)
    gap = found["resid_post"].clean - found["resid_post"].corrupt
    assert gap.tolist() == [toys.CLEAN - toys.CORRUPT] * 2
    assert found["z"].values[0, 0, 1].tolist() == pytest.approx([8, -3], abs=1e-9)
    assert found["mlp_out"].at(layer="0", pos="1") == pytest.approx(10, abs=1e-9)
    assert found["resid_pre"].values.sum() == pytest.approx(2 * 5, abs=1e-9)


def patched(model, batch, base, other, place, pos):
    """How far one exact patch at one position moves the metric."""
    kept = {}
    hooks = [(name, lambda x, n=name: kept.update({n: x.clone()})) for name in place.hooks]
    model.answer_logits(other, batch, hooks)
    seen = {}

    def keep_first(x):
        seen["offset"] = x

    def put(x):
        x = x.clone()
        x[:, pos] = kept[place.hook][:, pos]
        if place.offset is not None:
            x[:, pos] += kept[place.offset[0]][:, pos] - seen["offset"][:, pos]
        return x

    hooks = [] if place.offset is None else [(place.offset[0], keep_first)]
    moved = model.answer_logits(base, batch, [*hooks, (place.hook, put)])
    still = model.answer_logits(base, batch)
    return logit_diff(moved, batch) - logit_diff(still, batch)


@pytest.mark.parametrize("rule", ["plain", "relp", "relp-ah", "attn-lrp", "gim"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_writers_score_is_the_sum_of_its_edges_scores(family, rule):
    model = Model.load(families.module(family, torch.float64))
    edges = score(model, families.task(), logit_diff, Recipe(rule=RULES[rule])).node_scores()
    found = attribution_patching(
        model, families.task(), logit_diff, direction="noising", rule=RULES[rule]
    )
    graph = model.graph
    heads = torch.stack([edges[graph.head_sources(i)] for i in range(graph.n_layers)])
    mlps = edges[[graph.mlp_source(i) for i in range(graph.n_layers)]]
    tolerance = 2e-6  # the float32 norms of Llama-like families
    assert_close(found["resid_pre"].mean.sum(dim=1)[:1], edges[:1], tolerance)
    assert_close(found.pick("mlp_out", over=["layer"]).mean, mlps, tolerance)
    assert_close(found.pick("attn_out", over=["layer"]).mean, heads.sum(dim=1), tolerance)
    if model.blocks[0].post_attention_norm is None:
        assert_close(found.pick("z", over=["layer", "head"]).mean, heads, tolerance)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "phi3"])
def test_heads_add_up_to_attention_and_neurons_to_the_mlp_where_no_norm_follows(family):
    model = Model.load(families.module(family, torch.float64))
    kinds = ["attn_out", "mlp_out", "z", "neurons"]
    found = attribution_patching(model, families.ragged_task(), logit_diff, kinds=kinds)
    over = ["layer", "pos"]
    assert_close(found.pick("z", over).values, found["attn_out"].values, 1e-9)
    mlp = found.pick("mlp_out", ["layer"]).values
    assert_close(found.pick("neurons", ["layer"]).values, mlp, 1e-9)


def test_the_stream_after_a_layer_is_the_stream_before_the_next(llama):
    found = attribution_patching(llama, families.task(), logit_diff)
    after, before = found["resid_post"].values, found["resid_pre"].values
    torch.testing.assert_close(after[:, :-1], before[:, 1:], rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_integrated_over_inputs_the_first_stream_adds_up_to_the_gap_of_every_example(family):
    model = Model.load(families.module(family, torch.float64))
    path = along_inputs(20)
    found = attribution_patching(model, families.task(), logit_diff, direction=path)["resid_pre"]
    gap = found.clean - found.corrupt
    total = found.values[:, 0].sum(dim=1)
    # midpoint rule: second order in the step, 1/20
    assert ((total - gap).abs() < 2e-2 * gap.abs().max()).all()
    coarse = attribution_patching(model, families.task(), logit_diff, direction=along_inputs(4))
    error = (coarse["resid_pre"].values[:, 0].sum(dim=1) - gap).abs().max()
    assert (total - gap).abs().max() < 0.1 * error


def test_at_both_ends_is_the_mean_of_both_directions(gpt2):
    both, one, other = (
        attribution_patching(gpt2, families.task(), logit_diff, direction=direction)
        for direction in (at_both, "denoising", "noising")
    )
    for kind, grid in both.items():
        mean = (one[kind].values + other[kind].values) / 2
        torch.testing.assert_close(grid.values, mean)


def test_scores_do_not_depend_on_batches(llama):
    whole = attribution_patching(llama, families.ragged_task(), logit_diff, rule=relp)
    single = attribution_patching(
        llama, families.ragged_task(), logit_diff, rule=relp, batch_size=1
    )
    for kind, grid in whole.items():
        # float32 norms, five forwards and backwards: 1.2e-7 each where rows are added otherwise
        assert_close(single[kind].values, grid.values, 5e-6)
        assert float(grid.values[:, :, :2].abs().max()) == 0  # the first tokens do not differ


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_positions_count_from_the_first_real_token_on_either_side_of_padding(family):
    model = Model.load(families.module(family, torch.float32))
    right = attribution_patching(model, families.ragged_task(), logit_diff)
    left = attribution_patching(model, replace(families.ragged_task(), padding="left"), logit_diff)
    for kind, grid in right.items():
        # float32: some hundred additions of terms as large as the largest score
        assert_close(left[kind].values, grid.values, 5e-5)


def test_half_precision_adds_up_in_float32():
    model = Model.load(families.module("gpt2", torch.bfloat16))
    exact = Model.load(families.module("gpt2", torch.float32))
    found, expected = (
        attribution_patching(m, families.task(), logit_diff)["mlp_out"].values
        for m in (model, exact)
    )
    assert found.dtype == torch.float64
    # eight bits, and a gradient through two layers: a few parts in a hundred
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_fixed_patterns_leave_queries_and_keys_without_a_score(gpt2):
    found = attribution_patching(gpt2, families.task(), logit_diff, rule=relp_ah)
    assert float(found["q"].values.abs().max()) == float(found["k"].values.abs().max()) == 0
    assert float(found["v"].values.abs().max()) > 0
    slopes = attribution_patching(
        gpt2, families.task(), logit_diff, rule=relp_ah, kinds=["pattern"]
    )
    assert float(slopes["pattern"].values.abs().max()) > 0  # of what meets the values


def test_a_grid_says_what_it_is_and_where_it_comes_from(llama):
    found = attribution_patching(llama, families.task(), logit_diff, rule=relp)
    grid = found["k"]
    assert list(grid.axes) == ["layer", "pos", "head"]
    assert grid.axes["head"] == ("g0", "g1")
    assert grid.quantity == "estimated effect"
    assert grid.provenance["direction"] == "denoising"
    assert grid.provenance["what"] == "k"
    assert grid.provenance["options"]["rule"] == "relp"
    assert len(grid.clean) == len(families.task()) == len(grid.values)
    assert "neurons" not in found
    assert len(found) == len(list(found)) == 9


def test_kl_has_a_slope_at_the_corrupt_run(gpt2):
    found = attribution_patching(gpt2, families.task(), kl)
    assert float(found["resid_pre"].values.abs().max()) > 0
    assert float(found["resid_pre"].clean.abs().max()) < 1e-12


def test_picking_sums_and_orders_axes(gpt2):
    found = attribution_patching(gpt2, families.task(), logit_diff)
    picked = found.pick("z", over=["head", "layer"])
    torch.testing.assert_close(picked.values, found["z"].values.sum(dim=2).transpose(1, 2))
    assert list(picked.axes) == ["head", "layer"]
    every = found.pick("z", over=["head", "pos"])
    assert every.at(head="a1.h2", pos="8") == float(found["z"].mean[1, 8, 2])


def test_the_model_is_left_as_it_was(gpt2):
    before = {n: p.clone() for n, p in gpt2.bridge.named_parameters()}
    attribution_patching(gpt2, families.task(), logit_diff, rule=relp, direction=along_inputs(2))
    assert not any(point.fwd_hooks or point.bwd_hooks for point in gpt2.bridge.hook_dict.values())
    for name, parameter in gpt2.bridge.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


SAME = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": accuracy}, "accuracy has no gradient"),
        ({"metric": kl, "direction": "noising"}, "kl has no slope at the clean run"),
        ({"metric": kl, "direction": at_both}, "kl has no slope at the clean run"),
        ({"direction": "denoise"}, "a direction is 'denoising' or 'noising', got 'denoise'"),
        ({"direction": along_activations()}, "the path 'activations' replaces what writers write"),
        ({"kinds": ["resid"]}, "there is no kind of place 'resid'"),
        ({"kinds": []}, "got no kinds"),
        ({"task": SAME}, "corrupt prompt equal to the clean one in row 0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_input_is_explained(gpt2, changes, said):
    options = {"task": families.task(), "metric": logit_diff, **changes}
    with pytest.raises(ValueError, match=said):
        attribution_patching(gpt2, **options)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda found: found["neurons"], r"no scores of 'neurons' here.*ask for kinds=\['neur"),
        (lambda found: found["nothing"], "there are no scores of 'nothing' here, but of"),
        (lambda found: found.pick("z", ["layer", "neuron"]), "have the axes layer, pos, head"),
        (lambda found: found.pick("z", ["layer", "layer"]), "cannot pick over layer, layer"),
        (lambda found: found.pick("z", ["head"]), "several layers do not add up"),
    ],
)
def test_wrong_picks_are_explained(gpt2, wrong, said):
    found = attribution_patching(gpt2, families.task(), logit_diff)
    with pytest.raises(ValueError, match=said):
        wrong(found)


def test_plain_is_the_rule_by_default(gpt2):
    found, same = (
        attribution_patching(gpt2, families.task(), logit_diff, **options)
        for options in ({}, {"rule": plain})
    )
    assert torch.equal(found["z"].values, same["z"].values)


def test_the_qk_fix_refuses_norms_of_heads_that_it_does_not_know(gpt2, monkeypatch):
    norm = Unruled("head norm", "blocks.0.attn.q_norm", "each head has a norm of its own")
    monkeypatch.setattr("patching.attribution.patterns.head_norms", lambda model: [norm])
    with pytest.raises(ValueError, match="q_norm is no norm that is known here; take exact"):
        require_patterns(gpt2, instead="exact")
