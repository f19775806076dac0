"""Reweighted neurons: scaling, its undoing, its controls and its export."""

import families
import pytest
import torch
import toys
from transformers.pytorch_utils import Conv1D

from patching.anatomy.insides import neurons as points_of
from patching.metrics import logit_diff
from patching.model import Model
from patching.neurons.editing import count_neurons, export_edited, random_like, scale_neurons
from patching.neurons.selection import Neurons

FAMILIES = [name for name in families.names() if name not in families.FLOAT32_ONLY]
CHOSEN = Neurons([(1, 3), (0, 5), (1, 40)])
TOKENS = torch.tensor([[5, 9, 11, 30, 7, 8], [4, 4, 60, 61, 62, 63]])


def weights_of(model: Model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.bridge.parameters()]


def scale_columns_(model: Model, neurons: Neurons, beta: float) -> None:
    """The edit as the paper words it: columns of the output projection."""
    for layer, neuron in neurons:
        projection = getattr(model.blocks[layer].bridge.mlp, "out").original_component  # noqa: B009
        if isinstance(projection, Conv1D):
            projection.weight.data[neuron] *= beta
        else:
            projection.weight.data[:, neuron] *= beta


@pytest.mark.parametrize("family", FAMILIES)
def test_scaling_an_activation_is_scaling_a_column_of_the_output_projection(family):
    model = families.load(family)
    before = model.run(TOKENS).logits
    with scale_neurons(model, CHOSEN, 3.5):
        scaled = model.run(TOKENS).logits
    assert torch.equal(model.run(TOKENS).logits, before)
    scale_columns_(model, CHOSEN, 3.5)
    expected = model.run(TOKENS).logits
    # one product is rounded in another order; where a family computes parts in float32 (rotary
    # positions, softmax, norms), an input that differs by 1e-16 may round to the next float32
    tolerance = 1e-12 if family in families.TRUE_FLOAT64 else 1e-6
    assert (scaled - expected).abs().max() <= tolerance * expected.abs().max()
    assert (scaled - before).abs().max() > 1e-3


def test_on_the_linear_toy_the_metric_is_worked_out_by_hand():
    """The one neuron writes (5x, -5x, 0, 0) with x = 2 in the clean run, so m0 is worth 10 of 8."""
    model, task = toys.linear_model(), toys.task()
    (batch,) = task.batches(1)
    for beta, metric in ((0.0, -2), (0.5, 3), (1.0, 8), (2.0, 18), (3.0, 28)):
        with scale_neurons(model, Neurons([(0, 0)]), beta):
            found = logit_diff(model.answer_logits(batch.clean, batch), batch)
        assert found.item() == pytest.approx(metric, abs=1e-12)


def test_weights_and_runs_are_bit_identical_afterwards_even_after_an_error(gpt2):
    weights, before = weights_of(gpt2), gpt2.run(TOKENS).logits
    with pytest.raises(RuntimeError, match="on purpose"), scale_neurons(gpt2, CHOSEN, 0.0):
        assert not torch.equal(gpt2.run(TOKENS).logits, before)
        raise RuntimeError("on purpose")
    assert all(map(torch.equal, weights, weights_of(gpt2)))
    assert torch.equal(gpt2.run(TOKENS).logits, before)


def test_beta_0_erases_and_beta_1_leaves(gpt2):
    seen = {}

    def keep(tensor: torch.Tensor, hook: object) -> None:
        seen["post"] = tensor.detach()

    # a hook that is added later sees what earlier ones have made of the activation
    later = [(points_of(gpt2.blocks[1]).post, keep)]
    with scale_neurons(gpt2, CHOSEN, 0.0), gpt2.bridge.hooks(fwd_hooks=later):
        gpt2.run(TOKENS)
    assert (seen["post"][..., [3, 40]] == 0).all()
    assert (seen["post"][..., 4] != 0).all()
    with scale_neurons(gpt2, CHOSEN, 1.0):
        unchanged = gpt2.run(TOKENS).logits
    assert torch.equal(unchanged, gpt2.run(TOKENS).logits)


def test_edits_inside_edits_multiply(gpt2):
    first, second = Neurons([(0, 5), (1, 3)]), Neurons([(1, 3), (1, 9)])
    with scale_neurons(gpt2, first, 2.0):
        alone = gpt2.run(TOKENS).logits
        with scale_neurons(gpt2, second, 4.0):
            both = gpt2.run(TOKENS).logits
        assert torch.equal(gpt2.run(TOKENS).logits, alone)
    with (
        scale_neurons(gpt2, Neurons([(0, 5)]), 2.0),
        scale_neurons(gpt2, Neurons([(1, 9)]), 4.0),
        scale_neurons(gpt2, Neurons([(1, 3)]), 8.0),
    ):
        assert torch.equal(gpt2.run(TOKENS).logits, both)  # powers of two are exact


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_generation_inside_is_that_of_the_edited_weights(family):
    model = families.load(family)
    prompt = TOKENS[:1]
    options = {"max_new_tokens": 6, "do_sample": False, "verbose": False, "stop_at_eos": False}
    with scale_neurons(model, CHOSEN, 30.0):
        cached = model.bridge.generate(prompt, **options)
        plain = model.bridge.generate(prompt, use_past_kv_cache=False, **options)
    before = model.bridge.generate(prompt, **options)
    scale_columns_(model, CHOSEN, 30.0)
    expected = model.bridge.generate(prompt, **options)
    assert torch.equal(cached, expected)
    assert torch.equal(plain, expected)
    assert not torch.equal(before, expected)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "phi3", "gemma2", "granite"])
def test_an_exported_model_computes_what_the_edited_one_does(family, tmp_path):
    model = families.load(family)
    weights = weights_of(model)
    with scale_neurons(model, CHOSEN, 4.0):
        expected = model.run(TOKENS).logits
    folder = export_edited(model, CHOSEN, 4.0, tmp_path / "new" / "edited")
    assert all(map(torch.equal, weights, weights_of(model)))
    again = Model.load(folder, dtype=model.dtype)
    found = again.run(TOKENS).logits
    tolerance = 1e-12 if family in families.TRUE_FLOAT64 else 1e-6
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_an_export_carries_the_tokenizer(tmp_path):
    model = Model.load("toy")
    folder = export_edited(model, Neurons([(0, 1)]), 2.0, tmp_path / "edited")
    again = Model.load(folder)
    text = "The capital of France is"
    assert again.tokenizer.encode(text) == model.tokenizer.encode(text)
    assert list(tmp_path.iterdir()) == [folder]  # nothing half-written is left beside it


def test_a_control_has_the_same_layers_and_counts_and_no_common_neuron(gpt2):
    chosen = Neurons([(0, n) for n in range(60)] + [(1, 7), (1, 8)])
    drawn = random_like(chosen, gpt2, seed=4)
    assert [layer for layer, _ in drawn].count(0) == 60
    assert [layer for layer, _ in drawn].count(1) == 2
    assert not set(drawn) & set(chosen)
    assert drawn == random_like(chosen, gpt2, seed=4)
    assert drawn != random_like(chosen, gpt2, seed=5)


def test_neurons_are_counted_by_the_projection_not_by_the_configuration():
    """The library's d_mlp is wrong for OPT."""
    assert count_neurons(families.load("opt").blocks[0]) == 64


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_a_strange_beta_is_refused(gpt2, beta):
    with pytest.raises(ValueError, match=f"from 0 .erase. .* got {beta}"):
        scale_neurons(gpt2, CHOSEN, beta).__enter__()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ([(2, 0)], "no layer 2 in .* whose layers are 0 to 1"),
        ([(1, 128)], "no neuron 128 in layer 1 of .* neurons 0 to 127"),
    ],
)
def test_neurons_of_another_model_are_refused(gpt2, chosen, said):
    for act in (
        lambda: scale_neurons(gpt2, Neurons(chosen), 2.0).__enter__(),
        lambda: random_like(Neurons(chosen), gpt2),
    ):
        with pytest.raises(ValueError, match=said):
            act()


def test_mixtures_of_experts_are_refused():
    with pytest.raises(ValueError, match="shows no neurons in m0: .*mixtures of experts"):
        scale_neurons(families.load("mixtral"), Neurons([(0, 1)]), 2.0).__enter__()


def test_a_control_needs_as_many_other_neurons(gpt2):
    with pytest.raises(ValueError, match="65 of the 128 neurons of layer 0 .* leaves 63"):
        random_like(Neurons([(0, n) for n in range(65)]), gpt2)


def test_an_export_does_not_write_over_anything(gpt2, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep me")
    with pytest.raises(ValueError, match="full is there already"):
        export_edited(gpt2, CHOSEN, 2.0, tmp_path / "full")


def test_an_export_of_a_model_that_was_changed_elsewhere_is_refused(tmp_path):
    """Hooks that stay on the model are not in its weights."""
    model = families.load("gpt2")
    model.bridge.add_hook(points_of(model.blocks[0]).post, lambda x, hook: 2 * x)
    with pytest.raises(ValueError, match="cannot be written: a plain copy"):
        export_edited(model, CHOSEN, 2.0, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()
