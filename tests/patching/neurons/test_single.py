"""Methods of one gradient or of one neuron at a time, by slow twins."""

import families
import pytest
import torch
from conflicting import conflicts

from patching import Model
from patching.anatomy.norms import find_norm
from patching.memory import budget
from patching.metrics import accuracy, logit_diff
from patching.neurons import Neurons, gradient_activation, relp_neurons
from patching.neurons.single import exact_ablation, log_probability_increase
from patching.rules import plain, relp
from patching.rules.rule import applied

# norms, rotations and softmaxes run in float32 in all of these but gpt2 and olmo2
FAMILIES = ["gpt2", "llama", "gemma2", "olmo2", "granite", "phi", "opt"]


def at_last(model, prompt, names, change=None, grad=False):
    """Activations at the last token by hook point, and the last logits, by plain hooks."""
    kept = {}

    def keep(name):
        def hook(x, hook):
            kept[name] = x.view_as(x) if grad else x.detach().clone()
            return kept[name]

        return name, hook

    hooks = [keep(name) for name in names]
    if grad:
        hooks.insert(0, ("blocks.0.hook_in", lambda x, hook: x.detach().requires_grad_()))
    logits = model.bridge.run_with_hooks(
        torch.tensor([prompt]), fwd_hooks=[*([change] if change else []), *hooks]
    )
    return kept, logits[0, -1]


def names_of(model):
    return [f"blocks.{i}.mlp.out.hook_in" for i in range(len(model.blocks))]


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_ablation_is_one_edited_run_a_neuron(family):
    model = Model.load(families.module(family, torch.float64))
    task, names = conflicts(n=2), names_of(model)
    shortlist = Neurons([(0, 3), (1, 5), (0, 7)])
    found = exact_ablation(model, task, neurons=shortlist).values
    silent = exact_ablation(model, task, neurons=shortlist, replacement="zero").values
    assert int(found.isfinite().sum()) == 2 * 3
    for row, conflict in enumerate(task.conflicts):
        without, _ = at_last(model, conflict.without_context, names)
        _, logits = at_last(model, conflict.with_context, names)
        whole = logits.softmax(-1)[conflict.answer[0]]
        for layer, neuron in shortlist:
            for values, new in ((found, without[names[layer]][0, -1, neuron]), (silent, 0.0)):

                def put(x, hook, new=new, neuron=neuron):
                    x = x.clone()
                    x[0, -1, neuron] = new
                    return x

                _, logits = at_last(model, conflict.with_context, [], (names[layer], put))
                lost = whole - logits.softmax(-1)[conflict.answer[0]]
                torch.testing.assert_close(
                    values[row, layer, neuron].double(), lost.double(), atol=1e-6, rtol=1e-4
                )


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("rule", [plain, relp])
def test_first_order_methods_are_difference_times_gradient(family, rule):
    model = Model.load(families.module(family, torch.float64))
    task, names = conflicts(n=2), names_of(model)
    found = relp_neurons(model, task, rule=rule).values
    product = gradient_activation(model, task).values
    for row, conflict in enumerate(task.conflicts):
        without, _ = at_last(model, conflict.without_context, names)
        with applied(model, rule):
            live, logits = at_last(model, conflict.with_context, names, grad=True)
        value = logits.softmax(-1)[conflict.answer[0]]
        slopes = torch.autograd.grad(value, [live[name] for name in names])
        for layer, (name, slope) in enumerate(zip(names, slopes, strict=True)):
            here = live[name][0, -1].detach()
            change = here - without[name][0, -1]
            close = {"atol": 1e-6, "rtol": 1e-4}
            torch.testing.assert_close(found[row, layer], change * slope[0, -1], **close)
            if rule is plain:
                torch.testing.assert_close(product[row, layer], here * slope[0, -1], **close)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probability_increase_is_one_unembedding_a_neuron(family):
    """By the run's own modules: the neuron's share of what the MLP adds to the stream."""
    model = Model.load(families.module(family, torch.float64))
    task, names = conflicts(n=2), names_of(model)
    frozen = log_probability_increase(model, task).values
    anew = log_probability_increase(model, task, scale="recompute").values
    with budget(1000):
        torch.testing.assert_close(log_probability_increase(model, task).values, frozen)
    streams = [f"blocks.{i}.hook_out" for i in range(2)]
    writes = [f"blocks.{i}.hook_mlp_out" for i in range(2)]
    totals = [f"blocks.{i}.ln2_post.hook_in" for i in range(2)]
    has_post = family in ("gemma2", "olmo2")
    wanted = [*names, *streams, *writes, *(totals if has_post else [])]
    for row, conflict in enumerate(task.conflicts):
        seen, _ = at_last(model, conflict.with_context, wanted)
        last = {name: x[0, -1] for name, x in seen.items()}
        for layer in range(2):
            h = last[streams[layer]] - last[writes[layer]]
            for neuron in (0, 7, 31):
                weight = model.bridge.blocks[layer].mlp.W_out[neuron].detach()
                write = last[names[layer]][neuron] * weight
                if has_post:
                    total = last[totals[layer]]
                    norm = model.blocks[layer].bridge.ln2_post.original_component
                    # an RMS norm divides by one number: gamma / sigma is its output over its input
                    write = write * (norm(total[None])[0] / total)
                write = write * (0.3 if family == "granite" else 1.0)
                for values, is_frozen in ((frozen, True), (anew, False)):
                    before = says(model, h, 0 * h, conflict.answer[0], is_frozen)
                    after = says(model, h, write, conflict.answer[0], is_frozen)
                    # norms and softcaps round to float32, logits are of order 10
                    torch.testing.assert_close(
                        values[row, layer, neuron].double(), after - before, atol=2e-5, rtol=1e-4
                    )


def says(model, h, write, word, is_frozen):
    normed = model.bridge.ln_final((h if is_frozen else h + write)[None, None])
    if is_frozen:
        norm = find_norm(model.bridge.ln_final)
        centred = h - h.mean() if norm.centred else h
        sigma = (centred.pow(2).mean() + norm.eps).sqrt()
        normed = normed + (write - write.mean() * norm.centred) * norm.gamma / sigma
    logits = model.bridge.unembed(normed.to(h.dtype))
    logits = model.bridge.adapter.apply_output_logits_transform(logits)
    return logits[0, 0].double().log_softmax(-1)[word].detach()


def test_bad_wishes_are_refused():
    model = Model.load("toy")
    task = conflicts(n=2)
    with pytest.raises(ValueError, match="scale is 'frozen' or 'recompute', got 'mine'"):
        log_probability_increase(model, task, scale="mine")
    with pytest.raises(ValueError, match="replacement is 'without context' or 'zero', got 'mean'"):
        exact_ablation(model, task, neurons=Neurons([(0, 1)]), replacement="mean")
    with pytest.raises(ValueError, match="at least one neuron; give the best by another method"):
        exact_ablation(model, task, neurons=Neurons([]))
    with pytest.raises(ValueError, match="no neuron 256 in layer 0 of toy"):
        exact_ablation(model, task, neurons=Neurons([(0, 256)]))
    for method in (gradient_activation, relp_neurons):
        with pytest.raises(ValueError, match="accuracy has no gradient to score neurons by"):
            method(model, task, metric=accuracy)
        assert method(model, task, metric=logit_diff).grid.quantity == "effect on logit-diff"
