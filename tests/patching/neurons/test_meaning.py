import families
import pytest
import torch

from patching import Model
from patching.neurons import Neurons, top_activations, toy_conflicts, vocabulary_effects


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "granite", "opt"])
def test_effects_are_what_a_little_more_of_the_neuron_does_to_the_logits(family):
    """By slope: the model's own last norm and unembedding, around a stream of denominator 1."""
    model = Model.load(families.module(family, torch.float64))
    neurons = Neurons([(1, 3)])
    table = vocabulary_effects(model, neurons, k=97).query("sign == 'promotes'")
    found = torch.zeros(97, dtype=torch.float64)
    found[torch.tensor(table.token.to_numpy())] = torch.tensor(table.effect.to_numpy())
    expected = effects(model, family)
    torch.testing.assert_close(found, expected - expected.mean(), atol=1e-5, rtol=1e-4)
    assert table.effect.is_monotonic_decreasing


def effects(model, family):
    row = model.bridge.blocks[1].mlp.W_out[3].detach()
    if family == "gemma2":
        row = row * (1 + model.blocks[1].bridge.ln2_post.original_component.weight.detach())
    row = row * (0.3 if family == "granite" else 1.0)
    norm = model.bridge.ln_final.original_component
    weight = norm.weight.detach() + (1.0 if family == "gemma2" else 0.0)
    row = row - row.mean() if family in ("gpt2", "opt") else row
    scale = 1 / model.bridge.cfg.to_dict().get("logits_scaling", 1.0) if family == "granite" else 1
    return model.bridge.unembed.original_component.weight.detach() @ (row * weight) * scale


def test_what_suppresses_is_the_other_end():
    table = vocabulary_effects(Model.load("toy"), Neurons([(3, 7), (0, 1)]), k=3)
    assert table.neuron.tolist() == ["m3.n7"] * 6 + ["m0.n1"] * 6
    for _, part in table.groupby("neuron"):
        assert (
            part[part.sign == "promotes"].effect.min()
            > part[part.sign == "suppresses"].effect.max()
        )
    assert all(isinstance(text, str) for text in table.text)


def test_top_activations_are_the_largest_of_all_real_tokens():
    model = Model.load("toy")
    task = toy_conflicts(model.tokenizer, n=5).with_context
    neurons = Neurons([(2, 11), (0, 3), (2, 4)])
    table = top_activations(model, task, neurons, k=4, batch_size=2)
    for place in neurons:
        name = f"m{place[0]}.n{place[1]}"
        values = torch.cat([model.run(p.clean, cache=[name])[name][0] for p in task.prompts])
        part = table[table.neuron == name]
        expected = values.sort(descending=True).values[:4]
        torch.testing.assert_close(
            torch.tensor(part.activation.to_numpy()).float(), expected, atol=1e-5, rtol=1e-4
        )
        best = part.iloc[0]
        here = model.run(task.prompts[best.prompt].clean, cache=[name])[name][0, best.position]
        assert float(here) == pytest.approx(best.activation, abs=1e-5)
        word = model.tokenizer.decode([task.prompts[best.prompt].clean[best.position]])
        assert best.text.strip() == word.strip()


def test_bad_wishes_are_refused():
    model = Model.load("toy")
    task = toy_conflicts(model.tokenizer, n=2).with_context
    with pytest.raises(ValueError, match="at least one token of each neuron, got k=0"):
        vocabulary_effects(model, Neurons([(0, 1)]), k=0)
    with pytest.raises(ValueError, match="no neurons were given"):
        top_activations(model, task, Neurons([]))
    with pytest.raises(ValueError, match="no layer 9 in toy"):
        top_activations(model, task, Neurons([(9, 1)]))
