import families
import pytest
import torch
from conflicting import conflicts

from patching import Model
from patching.memory import budget
from patching.neurons import Conflict, ConflictTask
from patching.neurons.first_order import relp_neurons
from patching.neurons.integrated import conductance, context_tokens, ircan, knowledge_neurons
from patching.quadrature import left, midpoint, right
from patching.rules import plain

SHOWING = [name for name in families.names() if name not in ("mixtral", "qwen3_moe", "olmoe")]
# what runs in float64 throughout agrees to rounding; elsewhere norms, rotations and softmaxes run
# in float32, whose rounding (6e-8) passes two layers
CLOSE = {family: 1e-10 if family in families.TRUE_FLOAT64 else 1e-5 for family in SHOWING}


def twin(model, task, points, weights, *, memory=False):
    """The formula, run by run: plain hooks, whole prompts one at a time, all positions."""
    scores = []
    for conflict in task.conflicts:
        prompt = conflict.without_context if memory else conflict.with_context
        word = (conflict.memorised if memory else conflict.answer)[0]
        last = neurons(model, prompt)
        first = [0 * v for v in last] if memory else neurons(model, conflict.without_context)
        row = []
        for layer, (start, end) in enumerate(zip(first, last, strict=True)):
            gradient = torch.zeros_like(end)
            for alpha, weight in zip(points, weights, strict=True):
                point = (start + alpha * (end - start)).requires_grad_()
                value = probability(model, prompt, word, layer, point)
                gradient += weight * torch.autograd.grad(value, point)[0]
            row.append((end - start) * gradient)
        scores.append(torch.stack(row))
    return torch.stack(scores)


def name_of(layer):
    return f"blocks.{layer}.mlp.out.hook_in"


@torch.no_grad()
def neurons(model, prompt):
    kept = {}
    hooks = [
        (name_of(i), lambda x, hook, i=i: kept.update({i: x[0, -1].clone()}))
        for i in range(len(model.blocks))
    ]
    model.bridge.run_with_hooks(torch.tensor([prompt]), fwd_hooks=hooks)
    return [kept[i] for i in range(len(model.blocks))]


def probability(model, prompt, word, layer, values):
    def put(x, hook):
        return torch.cat([x[:, :-1], values[None, None]], dim=1)

    logits = model.bridge.run_with_hooks(torch.tensor([prompt]), fwd_hooks=[(name_of(layer), put)])
    return logits[0, -1].softmax(dim=-1)[word]


def agree(found, expected, close):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < close, float(error)


@pytest.mark.parametrize("family", SHOWING)
def test_both_variants_and_knowledge_neurons_are_their_formulas(family):
    model, close = Model.load(families.module(family, torch.float64)), CLOSE[family]
    task = conflicts(n=2)
    paper = twin(model, task, [0.5, 1.0], [0.5, 0.5])
    agree(ircan(model, task, steps=2).values, paper, close)
    released = twin(model, task, [0.5, 1.0], [0.25, 0.5])
    agree(ircan(model, task, steps=2, variant="released").values, released, close)
    knowledge = twin(model, task, [0.0, 0.5], [0.5, 0.5], memory=True)
    agree(knowledge_neurons(model, task, steps=2).values, knowledge, close)


@pytest.mark.parametrize(("family", "floor"), [("gpt2", 1e-9), ("llama", 1e-6), ("gemma2", 1e-6)])
def test_the_paper_variant_completes_and_the_released_one_does_not(family, floor):
    model = Model.load(families.module(family, torch.float64))
    task = conflicts(n=2)
    few, more = (
        ircan(model, task, steps=steps, quadrature=midpoint).completeness.abs().max()
        for steps in (10, 40)
    )
    # the midpoint rule is of second order: four times the steps, a sixteenth of the error
    assert more < few / 8 + floor
    released = ircan(model, task, steps=40, variant="released", quadrature=midpoint)
    assert released.completeness.abs().max() > 10 * more


def test_completeness_is_the_sum_less_the_change_of_probability():
    model = Model.load(families.module("gpt2", torch.float64))
    task = conflicts(n=2)
    scores = ircan(model, task, steps=3, quadrature=left)
    for row, conflict in enumerate(task.conflicts):
        prompt, word = conflict.with_context, conflict.answer[0]
        ends = neurons(model, prompt), neurons(model, conflict.without_context)
        for layer in range(2):
            high, low = (float(probability(model, prompt, word, layer, end[layer])) for end in ends)
            expected = scores.values[row, layer].sum() - (high - low)
            torch.testing.assert_close(
                scores.completeness[row, layer], expected, atol=1e-12, rtol=0
            )


def test_one_step_at_the_end_is_attribution_patching():
    model = Model.load(families.module("llama", torch.float64))
    one = ircan(model, conflicts(), steps=1, quadrature=right).values
    # norms and softmaxes run in float32 and in another order
    torch.testing.assert_close(
        relp_neurons(model, conflicts(), rule=plain).values, one, atol=1e-6, rtol=1e-4
    )


def test_small_batches_and_tight_memory_change_nothing():
    model = Model.load(families.module("gemma2", torch.float64))
    expected = ircan(model, conflicts(), steps=3).values
    with budget(1):
        scores = ircan(model, conflicts(), steps=3, batch_size=2)
    tight = scores.values
    assert scores.grid.provenance["memory"]["largest_tile"] == 1
    # float32 inside, in batches of other shapes
    torch.testing.assert_close(tight, expected, atol=1e-7, rtol=1e-4)


def test_the_context_is_what_lies_between_common_start_and_question():
    with_context, without_context = next(conflicts(n=2).batches(2))
    chosen = context_tokens(with_context, without_context)
    assert chosen[0].nonzero()[:, 0].tolist() == [1, 2, 3, 4]
    assert chosen[1].nonzero()[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_conductance_is_the_formula():
    model = Model.load(families.module("gpt2", torch.float64))
    task = conflicts(n=2)
    found = conductance(model, task, steps=3).values
    embedding = model.bridge.original_model.transformer.wte.weight
    everything = [i for c in task.conflicts for i in c.with_context]
    average = embedding[everything].mean(dim=0)
    for row, conflict in enumerate(task.conflicts):
        expected = slow_conductance(model, conflict, average, steps=3)
        torch.testing.assert_close(found[row], expected, atol=1e-12, rtol=1e-8)


def slow_conductance(model, conflict, average, steps):
    n_context = len(conflict.with_context) - len(conflict.without_context)
    seen, slopes = [], []
    for k in range(steps + 1):
        live = {}

        def move(x, hook, k=k):
            whole = x.detach().clone()
            places = slice(1, 1 + n_context)
            ids = torch.tensor(conflict.with_context[places])
            tokens = model.bridge.original_model.transformer.wte.weight[ids].detach()
            whole[0, places] += (1 - k / steps) * (average.detach() - tokens)
            return whole.requires_grad_()

        def keep(x, hook, live=live):
            live[hook.name] = x.view_as(x)
            return live[hook.name]

        hooks = [("blocks.0.hook_in", move), *((name_of(i), keep) for i in range(2))]
        logits = model.bridge.run_with_hooks(torch.tensor([conflict.with_context]), fwd_hooks=hooks)
        value = logits[0, -1].softmax(dim=-1)[conflict.answer[0]]
        tensors = [live[name_of(i)] for i in range(2)]
        slopes.append(torch.stack([g[0, -1] for g in torch.autograd.grad(value, tensors)]))
        seen.append(torch.stack([x[0, -1].detach() for x in tensors]))
    return sum(slopes[k] * (seen[k + 1] - seen[k]) for k in range(steps))


def test_bad_wishes_are_refused():
    model = Model.load("toy")
    for method in (ircan, knowledge_neurons, conductance):
        with pytest.raises(ValueError, match="at least 1 step, got steps=0"):
            method(model, conflicts(), steps=0)
    with pytest.raises(ValueError, match="'paper' or 'released', got 'mine'"):
        ircan(model, conflicts(), variant="mine")
    task = ConflictTask("no memory", (Conflict((1, 5), (1, 6, 5), (7,)),))
    with pytest.raises(ValueError, match="'no memory' has none in row 0"):
        knowledge_neurons(model, task)
