"""Exact sweeps: held against loops of single hooks, TransformerLens' own sweeps, and laws."""

import itertools
from dataclasses import replace

import families
import pytest
import torch
from transformer_lens import patching as library

from patching import memory
from patching.activation import activation_patching, as_share, neuron_patching, span_patching
from patching.anatomy.places import KINDS, of_kind, units
from patching.intervene import intervening, patch, scale, zero
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.tasks import Prompt, Task

WITHOUT = {
    "resid_mid": ("neox", "phi", "gptj"),
    "pattern": ("opt", "gptj", "gptneo"),
    "neurons": ("mixtral", "qwen3_moe", "olmoe"),
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return families.load(request.param)


@torch.no_grad()
def slow(model: Model, task: Task, what: str, over: tuple[str, ...], direction="denoising"):
    """One run of the whole batch for each patch, `[example layer pos unit]`, by plain hooks."""
    batch = next(task.batches(len(task)))
    base, source = batch.corrupt, batch.clean
    if direction == "noising":
        base, source = source, base
    values = values_to_put(model, what, base, source)
    n_pos = task.max_length if "pos" in over else 1
    n_units = len(units(model, what)) if "head" in over else 1
    out = torch.zeros(len(batch), len(model.blocks), n_pos, n_units, dtype=torch.float64)

    def measured(*hooks):
        logits = model.bridge.run_with_hooks(base, fwd_hooks=list(hooks))
        return logit_diff(logits[torch.arange(len(batch)), batch.answer_pos], batch)

    unpatched = measured()
    for place in of_kind(model, what):
        for pos, unit in itertools.product(range(n_pos), range(n_units)):
            at = [slice(None)] * values[place.layer].ndim
            if "pos" in over:
                at[place.pos_axis] = pos
            if "head" in over:
                at[1 if what == "pattern" else 2] = unit
            hook = put(values[place.layer], tuple(at))
            out[:, place.layer, pos, unit] = measured((place.hook, hook)) - unpatched
    return out if direction == "denoising" else -out


def values_to_put(model: Model, what: str, base: torch.Tensor, source: torch.Tensor):
    """By layer. For the stream after attention: what attention must write to make it so."""
    hooks = [place.hook for place in of_kind(model, what)]
    streams = [block.stream_in for block in model.blocks]
    _, theirs = model.bridge.run_with_cache(source, names_filter=hooks + streams)
    _, mine = model.bridge.run_with_cache(base, names_filter=streams)
    values = [theirs[hook] for hook in hooks]
    if what == "resid_mid":
        values = [v + theirs[s] - mine[s] for v, s in zip(values, streams, strict=True)]
    return values


def put(values: torch.Tensor, at: tuple):
    def hook(live, hook):
        live = live.clone()
        live[at] = values[at]
        return live

    return hook


def assert_equal(found, expected, tolerance=1e-10):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))
    assert expected.abs().max() > 1e-3, "a sweep of nothing shows nothing"


@pytest.mark.parametrize("what", KINDS)
def test_layer_by_position_equals_a_loop_of_single_hooks(model, what):
    direction = "noising" if what in ("resid_mid", "mlp_out", "z", "v") else "denoising"
    found = activation_patching(model, families.task(), logit_diff, what, direction=direction)
    expected = slow(model, families.task(), what, ("layer", "pos"), direction)
    assert list(found.axes) == ["layer", "pos"]
    assert_equal(found.values, expected[..., 0])


@pytest.mark.parametrize(
    ("what", "direction"),
    [("z", "denoising"), ("z", "noising"), ("q", "noising"), ("k", "denoising"), ("v", "noising")],
)
def test_layer_by_head_equals_a_loop_of_single_hooks(model, what, direction):
    over = ("layer", "head")
    found = activation_patching(model, families.task(), logit_diff, what, over, direction=direction)
    expected = slow(model, families.task(), what, over, direction)
    assert found.axes["head"] == units(model, what)
    assert_equal(found.values, expected[:, :, 0])


@pytest.mark.parametrize("what", ["z", "v", "pattern"])
def test_head_by_position_equals_a_loop_of_single_hooks(model, what):
    over = ("head", "pos")
    found = activation_patching(model, families.task(), logit_diff, what, over)
    expected = slow(model, families.task(), what, over)
    assert found.axes["head"][0] == f"a0.{units(model, what)[0]}"
    assert_equal(found.values, expected.transpose(2, 3).flatten(1, 2))


@pytest.mark.parametrize("what", ["resid_post", "mlp_out", "neurons", "z"])
def test_whole_layers_equal_a_loop_of_single_hooks(model, what):
    found = activation_patching(model, families.task(), logit_diff, what, ("layer",))
    assert_equal(found.values, slow(model, families.task(), what, ("layer",))[:, :, 0, 0])


@pytest.mark.parametrize("family", families.names())
def test_every_family_equals_a_loop_of_single_hooks(family):
    model, task = families.load(family), families.task(2, 7)
    # families that compute in float32 round a little otherwise in batches of other sizes
    tolerance = 1e-5 if family in families.FLOAT32_ONLY else 1e-10
    for what, over in (
        ("resid_pre", ("layer", "pos")),
        ("mlp_out", ("layer",)),
        ("z", ("layer", "head")),
    ):
        found = activation_patching(model, task, logit_diff, what, over).values
        expected = slow(model, task, what, over)
        assert_equal(found, expected.reshape(found.shape), tolerance)
    for what, hidden in WITHOUT.items():
        if family in hidden:
            with pytest.raises(ValueError, match="there is no place"):
                activation_patching(model, task, logit_diff, what)


def test_neurons_equal_single_interventions(model):
    task = families.task()
    batch = next(task.batches(len(task)))
    found = neuron_patching(model, task, logit_diff, [1])
    assert found.axes["layer"] == ("1",)
    source = model.run(batch.clean, cache=["m1.neurons"])["m1.neurons"]
    for neuron in (0, 17, 40):
        with intervening(model, patch(f"m1.n{neuron}", source[..., neuron])):
            patched = logit_diff(model.answer_logits(batch.corrupt, batch), batch)
        effect = patched.detach() - found.corrupt
        torch.testing.assert_close(found.values[:, 0, neuron], effect, rtol=0, atol=1e-10)


@pytest.mark.parametrize("what", ["resid_pre", "attn_out", "mlp_out"])
def test_the_librarys_own_sweep_gives_the_same(gpt2, what):
    """`transformer_lens.patching` gives the patched metric of the corrupt run with clean parts."""
    task = families.task()
    batch = next(task.batches(len(task)))
    _, cache = gpt2.bridge.run_with_cache(batch.clean)
    sweep = getattr(library, f"get_act_patch_{what}")
    expected = sweep(gpt2.bridge, batch.corrupt, cache, last_token_metric(batch)).double()
    found = activation_patching(gpt2, task, logit_diff, what)
    # the library stores its results in float32
    torch.testing.assert_close(found.mean + found.corrupt.mean(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("what", ["z", "q", "k", "v", "pattern"])
def test_the_librarys_own_head_sweep_gives_the_same(gpt2, what):
    task = families.task()
    batch = next(task.batches(len(task)))
    _, cache = gpt2.bridge.run_with_cache(batch.clean)
    name = {"z": "out"}.get(what, what)
    sweep = getattr(library, f"get_act_patch_attn_head_{name}_all_pos")
    expected = sweep(gpt2.bridge, batch.corrupt, cache, last_token_metric(batch)).double()
    found = activation_patching(gpt2, task, logit_diff, what, ("layer", "head"))
    torch.testing.assert_close(found.mean + found.corrupt.mean(), expected, rtol=1e-6, atol=1e-5)


def last_token_metric(batch):
    def metric(logits):
        return logit_diff(logits[torch.arange(len(batch)), batch.answer_pos], batch).mean()

    return metric


def test_patching_everything_gives_the_other_run(model):
    for what, layer in (("resid_pre", "0"), ("resid_post", "1")):
        grid = activation_patching(model, families.task(), logit_diff, what, ("layer",))
        gap = grid.clean - grid.corrupt
        torch.testing.assert_close(grid.select(layer=layer).values, gap)
        assert as_share(grid).at(layer=layer) == pytest.approx(1.0)
        noising = activation_patching(
            model, families.task(), logit_diff, what, ("layer",), direction="noising"
        )
        torch.testing.assert_close(noising.select(layer=layer).values, gap)


def test_a_span_of_one_position_and_one_of_all_are_what_they_say(model):
    task = families.task()
    spans = {"third": range(2, 3), "rest": range(3, 9), "all": range(9)}
    found = span_patching(model, task, logit_diff, spans, "resid_mid")
    alone = activation_patching(model, task, logit_diff, "resid_mid")
    whole = activation_patching(model, task, logit_diff, "resid_mid", ("layer",))
    torch.testing.assert_close(found.select(span="third").values, alone.select(pos="2").values)
    torch.testing.assert_close(found.select(span="all").values, whole.values)
    with intervening(
        model, patch("r0.mid", model.run(next(task.batches(9)).clean, ["r0.mid"]), range(3, 9))
    ):
        batch = next(task.batches(9))
        patched = logit_diff(model.answer_logits(batch.corrupt, batch), batch).detach()
    effect = patched - found.corrupt
    torch.testing.assert_close(found.values[:, 0, 1], effect, rtol=0, atol=1e-10)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize(
    ("what", "over"), [("resid_pre", ("layer", "pos")), ("z", ("head", "pos"))]
)
def test_prompts_of_different_lengths_give_what_each_gives_alone(gpt2, padding, what, over):
    task = replace(families.ragged_task(), padding=padding)
    together = activation_patching(gpt2, task, logit_diff, what, over)
    for i, prompt in enumerate(task.prompts):
        alone = activation_patching(gpt2, Task("one", (prompt,)), logit_diff, what, over)
        n = len(prompt.clean)
        torch.testing.assert_close(together.values[i : i + 1, :, :n], alone.values)
        assert not together.values[i, :, n:].any()


def test_batches_and_tiles_change_nothing(model):
    whole = activation_patching(model, families.task(), logit_diff, "z", ("head", "pos"))
    with memory.budget(120_000) as ledger:
        small = activation_patching(
            model, families.task(), logit_diff, "z", ("head", "pos"), batch_size=2
        )
    assert ledger.largest_tile < 24
    torch.testing.assert_close(small.values, whole.values)


def test_a_sweep_under_an_intervention_is_one_of_the_changed_model(gpt2):
    with intervening(gpt2, zero("a0.h1"), scale("r1.pre", 0.5, 3)):
        found = activation_patching(gpt2, families.task(), logit_diff, "attn_out")
        expected = slow(gpt2, families.task(), "attn_out", ("layer", "pos"))
    assert_equal(found.values, expected[..., 0])
    plain = activation_patching(gpt2, families.task(), logit_diff, "attn_out")
    assert (found.values - plain.values).abs().max() > 1e-3
    with (
        intervening(gpt2, zero("m0", 2)),
        pytest.raises(ValueError, match="'m0' cannot be changed during a sweep"),
    ):
        activation_patching(gpt2, families.task(), logit_diff)


def test_metrics_that_need_the_clean_run_have_it(model):
    grid = activation_patching(model, families.task(), kl, "resid_pre", ("layer",))
    assert grid.clean.abs().max() < 1e-12
    torch.testing.assert_close(grid.values[:, 0], -grid.corrupt)


def test_results_say_where_they_come_from_and_can_be_drawn(gpt2):
    grid = activation_patching(gpt2, families.task(), logit_diff)
    assert grid.provenance["metric"] == "logit-diff"
    assert grid.provenance["direction"] == "denoising"
    assert as_share(grid).quantity == "effect, share of the clean-corrupt gap"
    assert grid.plot().axes[0].get_xlabel() == "pos"
    assert list(grid.to_dataframe(n=10).columns) == ["layer", "pos", "mean", "low", "high"]


def test_nothing_is_left_behind(gpt2):
    tokens = torch.arange(4, 10)[None]
    before = gpt2.run(tokens).logits
    activation_patching(gpt2, families.task(), logit_diff, "mlp_out")
    assert torch.equal(gpt2.run(tokens).logits, before)
    assert not any(
        len(m._forward_hooks) for m in gpt2.bridge.modules() if "Hook" in type(m).__name__
    )


def test_what_cannot_be_swept_is_refused(gpt2):
    task = families.task()

    def refused(match, call=activation_patching, *args, **options):
        with pytest.raises(ValueError, match=match):
            call(gpt2, task, logit_diff, *args, **options)

    refused("no kind of place 'resid'.*did you mean 'resid_pre'", activation_patching, "resid")
    refused("a sweep goes over layer, pos; .*; got pos, layer", over=("pos", "layer"))
    refused("got nothing", over=())
    refused("got head$", over="head")
    refused("resid_pre has no heads; sweep z", over=("layer", "head"))
    refused("'denoising' or 'noising', got 'both'", direction="both")
    refused("different layers from 0 to 1.*got \\[2\\]", neuron_patching, [2])
    refused("different layers from 0 to 1.*got \\[\\]", neuron_patching, [])
    refused("got no spans", span_patching, {})
    refused("'subject' is range\\(8, 11\\).*0 to 8", span_patching, {"subject": range(8, 11)})
    same = Task("same", (Prompt((5, 6), (5, 6), (7,), (8,)),))
    with pytest.raises(ValueError, match="a corrupt prompt equal to the clean one"):
        activation_patching(gpt2, same, logit_diff)
    grid = activation_patching(gpt2, task, logit_diff, over=("layer",))
    with pytest.raises(ValueError, match="there is no gap"):
        as_share(replace(grid, clean=grid.corrupt))
    with pytest.raises(ValueError, match="does not know the metric"):
        as_share(replace(grid, clean=None))
