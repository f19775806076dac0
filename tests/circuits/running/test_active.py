"""Runs inside a circuit: what evaluate says, on any text, undone exactly, and what is refused."""

import families
import pytest
import torch
from torch import Tensor

from circuits import Circuit, random_circuit
from circuits.running.evaluation import evaluate
from circuits.running.inside import active
from patching.ablations import Ablation, mean, positional_mean, resample, zero
from patching.anatomy.stack import skipping
from patching.graph import Graph
from patching.model import Model
from patching.tasks import Prompt, Task
from patching.tasks.task import Batch

FAMILIES = ("gpt2", "llama", "gemma2", "neox", "phi")
TASK = families.task()
ABLATIONS = {"zero": zero, "mean": mean(TASK), "positional mean": positional_mean(TASK)}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return families.load(family, torch.float64)


def circuits_of(graph: Graph) -> list[Circuit]:
    """None, some and all edges."""
    some = [random_circuit(graph, graph.n_edges * part // 10, seed=part) for part in (1, 5, 9)]
    return [Circuit.empty(graph), *some, Circuit.full(graph)]


def text(n: int = 7, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(4, families.VOCAB, (batch, n), generator=generator)


def at_answers(logits: Tensor, batch: Batch) -> Tensor:
    return logits[torch.arange(len(batch)), batch.answer_pos]


def seen_by_evaluate(model: Model, circuit: Circuit, ablation: Ablation) -> Tensor:
    """All logits that a metric is given for the circuit: it comes before the reference runs."""
    seen: list[Tensor] = []

    def note(logits: Tensor, batch: Batch) -> Tensor:
        seen.append(logits)
        return logits[:, 0]

    evaluate(model, TASK, [circuit], note, ablation=ablation)
    return seen[0]


@pytest.mark.parametrize("name", ABLATIONS)
def test_inside_any_circuit_the_answer_logits_are_those_that_evaluate_measures(model, family, name):
    """Sums of some forty terms of order ten, from other ends: 1e-11 is far above float64.

    Some families norm in float32, whatever their weights are: rounded there, sums may differ.
    """
    tolerance = 1e-11 if family in families.TRUE_FLOAT64 else 3e-6
    (batch,) = TASK.batches(16)
    for circuit in circuits_of(model.graph):
        expected = seen_by_evaluate(model, circuit, ABLATIONS[name])
        with active(circuit, model, ABLATIONS[name]):
            inside = at_answers(model.bridge(batch.clean), batch)
        torch.testing.assert_close(inside, expected, atol=tolerance, rtol=1e-11)


def test_inside_the_full_circuit_the_model_is_itself_to_the_bit(model):
    plain = model.bridge(text())
    for ablation in ABLATIONS.values():
        with active(Circuit.full(model.graph), model, ablation):
            assert torch.equal(model.bridge(text()), plain)


def test_every_position_is_ablated_as_if_the_text_ended_there(model):
    """Causal models: logits at t are the last ones of the text cut after t."""
    tokens, circuit = text(), random_circuit(model.graph, model.graph.n_edges // 2, seed=4)
    with active(circuit, model, ABLATIONS["positional mean"]):
        whole = model.bridge(tokens)
        for n in range(1, tokens.shape[1] + 1):
            last = model.bridge(tokens[:, :n])[:, -1]
            torch.testing.assert_close(whole[:, n - 1], last, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("name", ABLATIONS)
def test_greedy_generation_equals_step_by_step_full_runs(model, name):
    """Six new tokens go beyond Gemma's window of four; the means know nine positions."""
    circuit = random_circuit(model.graph, model.graph.n_edges // 2, seed=2)
    expected = plain = text(3)
    for _ in range(6):
        plain = torch.cat([plain, model.bridge(plain)[:, -1:].argmax(dim=-1)], dim=1)
    with active(circuit, model, ABLATIONS[name]):
        for _ in range(6):
            best = model.bridge(expected)[:, -1:].argmax(dim=-1)
            expected = torch.cat([expected, best], dim=1)
        for cached in (True, False):
            made = generate(model, text(3), 6, cached=cached)
            assert torch.equal(made, expected), f"with a cache: {cached}"
    assert not torch.equal(expected, plain), "the circuit should say something else"


def generate(model: Model, tokens: Tensor, n: int, *, cached: bool = True) -> Tensor:
    made = model.bridge.generate(
        tokens,
        max_new_tokens=n,
        do_sample=False,
        stop_at_eos=False,
        use_past_kv_cache=cached,
        verbose=False,
    )
    assert isinstance(made, Tensor)
    return made


def test_padding_on_either_side_changes_nothing(gpt2):
    prompts = (
        Prompt((5, 6, 7, 8), (9, 6, 7, 8), (10,), (11,)),
        Prompt((5, 6, 7, 8, 9, 10), (5, 6, 7, 12, 9, 10), (10,), (11,)),
    )
    circuit = random_circuit(gpt2.graph, 50, seed=1)
    ablation = positional_mean(Task("right", prompts), mixed_lengths=True)
    alone = []
    with active(circuit, gpt2, ablation):
        for prompt in prompts:
            alone.append(gpt2.bridge(torch.tensor([prompt.clean]))[0, -1])
        for side in ("left", "right"):
            (batch,) = Task(side, prompts, padding=side).batches(2)
            together = gpt2.answer_logits(batch.clean, batch)
            torch.testing.assert_close(together, torch.stack(alone), atol=1e-10, rtol=1e-10)


def test_other_hooks_inside_see_the_writers_of_the_circuit(gpt2):
    """Under zero ablation with no edge kept, the first head's values are those of a zero input."""
    block = gpt2.blocks[0]
    with active(Circuit.empty(gpt2.graph), gpt2, zero):
        _, cache = gpt2.bridge.run_with_cache(text())
        again = gpt2.bridge(text())
    values = cache[block.qkv[2]]
    first, other = values[0, 0], values[1, 0]  # position 0: learned positions alone
    torch.testing.assert_close(first, other, atol=1e-12, rtol=0)
    with active(Circuit.empty(gpt2.graph), gpt2, zero):
        torch.testing.assert_close(gpt2.bridge(text()), again, atol=0, rtol=0)


def test_parts_of_the_model_called_by_themselves_are_left_alone(gpt2):
    stream = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = gpt2.bridge.ln_final(stream)
    with active(Circuit.empty(gpt2.graph), gpt2, zero):
        gpt2.bridge(text())
        assert torch.equal(gpt2.bridge.ln_final(stream), expected)


def test_leaving_the_circuit_undoes_everything_even_after_an_error(model):
    original = model.bridge.original_model
    plain, circuit = model.bridge(text()), Circuit.empty(model.graph)
    hooks = len(original._forward_hooks), len(original._forward_pre_hooks)
    with active(circuit, model, zero):
        assert not torch.equal(model.bridge(text()), plain)
    assert torch.equal(model.bridge(text()), plain)
    with pytest.raises(RuntimeError, match="stop here"), active(circuit, model, zero):
        raise RuntimeError("stop here")
    assert torch.equal(model.bridge(text()), plain)
    assert (len(original._forward_hooks), len(original._forward_pre_hooks)) == hooks


def test_a_run_that_fails_does_not_spoil_the_next_one(gpt2):
    def fail(tensor: Tensor, hook: object) -> None:
        raise RuntimeError("stop here")

    with active(Circuit.empty(gpt2.graph), gpt2, zero):
        expected = gpt2.bridge(text())
        with pytest.raises(RuntimeError, match="stop here"):
            gpt2.bridge.run_with_hooks(text(5), fwd_hooks=[(gpt2.blocks[1].stream_in, fail)])
        assert torch.equal(gpt2.bridge(text()), expected)


def test_gradients_reach_through_a_circuit(gpt2):
    """A finite difference of the last logit, along one direction of the embedding."""
    circuit = random_circuit(gpt2.graph, 60, seed=3)
    direction = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    size = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def logit(size: Tensor) -> Tensor:
        def shift(embed: Tensor, hook: object) -> Tensor:
            return embed + size * direction

        hooks = [("embed.hook_out", shift)]
        return gpt2.bridge.run_with_hooks(text(), fwd_hooks=hooks)[0, -1, 5]

    with active(circuit, gpt2, zero):
        (slope,) = torch.autograd.grad(logit(size), size)
        with torch.no_grad():
            step = torch.tensor(1e-5, dtype=torch.float64)
            measured = (logit(step) - logit(-step)) / 2e-5
    torch.testing.assert_close(slope, measured, atol=1e-7, rtol=1e-6)


def test_values_from_paired_prompts_are_refused(gpt2):
    with pytest.raises(ValueError, match="resample.*own pairs.*zero, mean or positional_mean"):
        active(Circuit.full(gpt2.graph), gpt2, resample)


def test_a_circuit_of_another_graph_is_refused(gpt2):
    with pytest.raises(ValueError, match="of another graph .3 sequential layers"):
        active(Circuit.full(Graph(3, 4, 4)), gpt2, zero)


def test_a_circuit_inside_a_circuit_is_refused(gpt2):
    circuit = Circuit.empty(gpt2.graph)
    with active(circuit, gpt2, zero):
        with pytest.raises(ValueError, match="inside a circuit already"):
            active(circuit, gpt2, zero).__enter__()
        inside = gpt2.bridge(text())
    with active(circuit, gpt2, zero):
        assert torch.equal(gpt2.bridge(text()), inside)


def test_text_longer_than_the_positional_means_is_refused(gpt2):
    with active(Circuit.empty(gpt2.graph), gpt2, ABLATIONS["positional mean"]):
        with pytest.raises(ValueError, match="has 10 tokens, and the positional means know only 9"):
            gpt2.bridge(text(10))
        with pytest.raises(ValueError, match="has 10 tokens, and the positional means know only 9"):
            generate(gpt2, text(7), 6)


def test_positions_that_cannot_be_known_are_refused(gpt2):
    with (
        active(Circuit.empty(gpt2.graph), gpt2, ABLATIONS["positional mean"]),
        pytest.raises(ValueError, match=r"a mask of shape \[2, 5\]"),
    ):
        gpt2.bridge.original_model(text(5), attention_mask=torch.ones(2, 1, 5, 5))


def test_a_run_that_does_not_start_from_tokens_is_refused(gpt2):
    stream = torch.zeros(2, 7, 32, dtype=torch.float64)
    with (
        active(Circuit.empty(gpt2.graph), gpt2, zero),
        pytest.raises(ValueError, match="starts from token ids at the first layer.*got NoneType"),
    ):
        gpt2.bridge(stream, start_at_layer=1)


def test_a_run_that_leaves_out_layers_is_refused(gpt2):
    with (
        active(Circuit.empty(gpt2.graph), gpt2, zero),
        skipping(gpt2.bridge, 1, as_tuple=gpt2.blocks_return_tuples),
        pytest.raises(ValueError, match="left out layers"),
    ):
        gpt2.bridge(text())
