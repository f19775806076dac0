"""Keys and values for every query head: sums of groups, a plain model's gradients, refusals."""

import copy

import families
import pytest
import torch
import zoo
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from circuits import Circuit, eap, eap_ig, evaluate, random_circuit
from circuits.grouping import join_circuit, join_scores
from circuits.scoring import relp
from patching.anatomy.ungrouping import Ungrouped
from patching.metrics import logit_diff
from patching.model import Model

GROUPED = ("llama", "qwen3", "gemma2", "olmo2", "phi3", "mixtral")  # scales, fused, experts


@pytest.fixture(scope="module", params=GROUPED)
def pair(request):
    """A model as it is, and with keys and values for every query head."""
    module = families.module(request.param, families.best_dtype(request.param))
    return Model.load(copy.deepcopy(module)), Model.load(Ungrouped(module))


@pytest.mark.parametrize("score", [eap, eap_ig, relp])
def test_scores_of_a_groups_query_heads_sum_to_the_groups(pair, score):
    grouped, wide = pair
    assert wide.graph == grouped.graph.ungrouped
    task = families.task()
    whole, parts = score(grouped, task, logit_diff), score(wide, task, logit_diff)
    joined = join_scores(parts, grouped.graph).matrix
    size = whole.matrix.abs().max()  # norms, rotation and softmax may run in float32
    torch.testing.assert_close(joined / size, whole.matrix / size, atol=5e-6, rtol=0)
    heads = parts.matrix[:, wide.graph.k_readers(1)].unflatten(1, (grouped.graph.n_kv_heads, -1))
    assert float((heads[..., 0] - heads[..., 1]).abs().max() / size) > 1e-3  # no equal shares


def test_a_circuit_of_whole_groups_does_the_same_in_both(pair):
    grouped, wide = pair
    circuits = [random_circuit(grouped.graph, n, seed=n) for n in (40, 70)]
    split = [_of_all_heads(circuit, wide) for circuit in circuits]
    assert [join_circuit(circuit, grouped.graph) for circuit in split] == circuits
    values = evaluate(grouped, families.task(), circuits, logit_diff).values
    found = evaluate(wide, families.task(), split, logit_diff).values
    torch.testing.assert_close(found, values, atol=2e-4, rtol=1e-4)  # float32 in parts


def _of_all_heads(circuit: Circuit, wide: Model) -> Circuit:
    group = wide.graph.n_heads // circuit.graph.n_kv_heads
    edges = []
    for source, dest in circuit.edges:
        layer, dot, rest = dest.partition(".g")
        number, _, letter = rest.partition(".")
        heads = range(int(number) * group, (int(number) + 1) * group) if dot else ()
        edges += [(source, f"{layer}.h{h}.{letter}") for h in heads] or [(source, dest)]
    return Circuit.from_edges(wide.graph, edges)


def test_scores_are_those_of_a_plain_model_with_every_heads_keys_and_values_apart(monkeypatch):
    """By loops over heads: the gradient behind the repetition, by head, and its way back."""
    plain, task = families.module("llama", torch.float64), families.task()
    scores = eap(Model.load(Ungrouped(copy.deepcopy(plain))), task, logit_diff)
    expected = _twin(plain, task, monkeypatch)
    size = scores.matrix.abs().max()
    assert len(expected) == 2 * 4 * 6  # keys and values of four heads, from six writers
    for edge, value in expected.items():
        assert abs(scores.of(*edge) - value) < 1e-6 * size, edge  # norms run in float32


def _twin(plain, task, monkeypatch) -> dict[tuple[str, str], float]:
    """The edges into layer 1's keys and values, of the plain model of Hugging Face's."""
    batch = task.batch(0, len(task), torch.device("cpu"))
    (at_corrupt, *_), (at_clean, stream, repeated, values) = (
        _seen(plain, tokens, batch, monkeypatch) for tokens in (batch.corrupt, batch.clean)
    )
    slopes = torch.autograd.grad(values.sum(), repeated, retain_graph=True)
    found = {}
    for letter, tensor, slope in zip("kv", repeated, slopes, strict=True):
        for h in range(4):
            alone = torch.zeros_like(slope)
            alone[:, h] = slope[:, h]
            (back,) = torch.autograd.grad(tensor, stream, alone, retain_graph=True)
            for source in at_clean:
                moved = at_clean[source] - at_corrupt[source]
                found[source, f"a1.h{h}.{letter}"] = float((moved * back).sum()) / len(task)
    return found


def _seen(plain, tokens, batch, monkeypatch):
    """What is written before layer 1, layer 1's stream, its repeated keys and values, the gaps."""
    layers = plain.model.layers
    kept: dict[str, Tensor] = {}
    repeated: list[Tensor] = []

    def repeat(x: Tensor, n: int) -> Tensor:
        repeated.append(x.repeat_interleave(n, dim=1))
        return repeated[-1]

    def keep(name: str, module: nn.Module, *passed: object) -> None:
        found = passed[-1]
        kept[name] = found[0] if isinstance(found, tuple) else found

    monkeypatch.setattr(modeling_llama, "repeat_kv", repeat)
    handles = [
        plain.model.embed_tokens.register_forward_hook(lambda *p: keep("embed", *p)),
        layers[0].self_attn.o_proj.register_forward_pre_hook(lambda *p: keep("z", *p)),
        layers[0].mlp.register_forward_hook(lambda *p: keep("m0", *p)),
        layers[1].register_forward_pre_hook(lambda *p: keep("stream", *p)),
    ]
    logits = plain(tokens, use_cache=False).logits[torch.arange(len(tokens)), batch.answer_pos]
    for handle in handles:
        handle.remove()
    z, w = kept["z"].detach().unflatten(-1, (4, -1)), layers[0].self_attn.o_proj.weight.detach()
    heads = torch.einsum("bphd,ohd->bpho", z, w.unflatten(1, (4, -1)))
    writes = {"embed": kept["embed"].detach(), "m0": kept["m0"].detach()}
    writes |= {f"a0.h{h}": heads[:, :, h] for h in range(4)}
    return writes, kept["stream"], repeated[2:4], logit_diff(logits, batch)


def test_what_is_not_shared_stays_as_it_is():
    module = families.module("gpt2", torch.float64)
    plain = Model.load(copy.deepcopy(module))
    assert Model.load(Ungrouped(module)).identity == plain.identity


def test_the_two_are_different_models_of_the_same_weights():
    grouped, wide = Model.load("toy-llama"), Model.load(Ungrouped("toy-llama"))
    assert wide.weights == grouped.weights
    assert wide.identity.config != grouped.identity.config
    assert wide.opened.reference is not None
    assert wide.opened.reference.wishes.ungrouped


@pytest.mark.parametrize("name", ["GPTBigCodeForCausalLM", "FalconForCausalLM:7b"])
def test_shared_keys_inside_one_projection_are_refused(name):
    with pytest.raises(ValueError, match="is refused: its keys and values are no projections of"):
        Model.load(Ungrouped(zoo.build(name)))


def test_a_bridge_is_refused():
    bridge = Model.load("toy-llama").bridge
    with pytest.raises(ValueError, match="a TransformerBridge is wrapped already, with the keys"):
        Model.load(Ungrouped(bridge))


def test_scores_and_circuits_of_neither_graph_are_refused():
    model = Model.load("toy-llama")
    other = Circuit.full(Model.load("truth/induction").graph)
    with pytest.raises(ValueError, match="the circuit is of another graph"):
        join_circuit(other, model.graph)
