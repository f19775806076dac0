"""Models of attention only: no MLP in the graph, circuits against plain hooks, every method."""

import copy
import json
from collections.abc import Callable
from functools import partial

import families
import pytest
import torch
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeModel

from circuits import METHODS, Circuit, eap, evaluate, exact, load_circuit, top_n
from circuits.drawing.pictures import picture
from circuits.export import to_mib_json
from circuits.judging.chance import uniform_nodes
from circuits.nodes import inner_nodes, top_nodes
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.model import Model

KINDS = {
    "LN": {"normalization_type": "LN"},
    "no norm": {"normalization_type": None},
    "no scale": {"normalization_type": "LNPre"},
    "rotary": {"normalization_type": "RMS", "positional_embedding_type": "rotary"},
    "grouped": {"normalization_type": "LN", "n_key_value_heads": 2},
}
INSIDE = ("gim", "qk-fix", "atp-star")  # need the softmax, which these attentions do not show


def plain_and_bridge(**changes: object) -> tuple[nn.Module, TransformerBridge]:
    sizes = {"d_model": 32, "d_head": 8, "n_layers": 2, "n_heads": 4, "n_ctx": 32, "d_mlp": None}
    config = TransformerBridgeConfig(
        **{**sizes, "d_vocab": families.VOCAB, "attn_only": True, **changes}
    )
    torch.manual_seed(0)
    module = NativeModel(config).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    plain = copy.deepcopy(module)
    bridge = build_bridge_from_module(
        module, "TransformerLensNative", tl_config=config, tokenizer=None, model_name="toy"
    )
    return plain, bridge


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def pair(request):
    plain, bridge = plain_and_bridge(**request.param)
    return plain, Model.load(bridge)


@pytest.fixture(scope="module")
def model():
    return Model.load(plain_and_bridge()[1])


def test_the_graph_has_heads_and_no_mlp(model):
    graph = model.graph
    assert graph.describe() == "2 layers of attention only, 4 heads, 4 key-value heads"
    # layer 0 reads the embedding, layer 1 and the logits what is before them
    assert graph.n_edges == 12 * 1 + 12 * 5 + 9
    assert not any("m" in (source[0], dest[0]) for source, dest in Circuit.full(graph).edges)
    assert Graph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph
    assert graph.fingerprint != Graph(2, 4, 4).fingerprint
    with pytest.raises(ValueError, match="no edge embed->m0: this graph is of attention only"):
        graph.edge_index("embed", "m0")


def test_circuits_are_what_plain_hooks_on_the_plain_model_give(pair):
    plain, model = pair
    edges, changes = (
        Circuit.full(model.graph).edges,
        {
            ("layers.0.attn.o", True): lambda source, _: source == "a0.h1",
            ("layers.1.attn.q", False): lambda _, dest: dest.startswith("a1.") and dest[-1] == "q",
            ("layers.1.attn.k", False): lambda _, dest: dest.startswith("a1.") and dest[-1] == "k",
            ("layers.1.attn", False): lambda source, _: source.startswith("a1."),
        },
    )
    task = families.task()
    batch = task.batch(0, len(task), torch.device("cpu"))
    kept = [[edge for edge in edges if not lacks(*edge)] for lacks in changes.values()]
    circuits = [Circuit.from_edges(model.graph, some) for some in (edges, [], *kept)]
    expected = [_gaps(plain, batch.clean, batch), _gaps(plain, batch.corrupt, batch)]
    expected += [_hooked(plain, path, before, batch) for path, before in changes]
    found = evaluate(model, task, circuits, logit_diff).values
    torch.testing.assert_close(found, torch.stack(expected).double(), atol=1e-6, rtol=1e-6)


def _gaps(plain, tokens, batch) -> Tensor:
    with torch.no_grad():
        logits = plain(tokens)[torch.arange(len(tokens)), batch.answer_pos]
    return logit_diff(logits, batch)


def _hooked(plain, path: str, head_alone: bool, batch) -> Tensor:
    """The clean run in which a module's output (or one head of its input) is the corrupt run's."""
    module, seen = plain.get_submodule(path), []
    register = module.register_forward_pre_hook if head_alone else module.register_forward_hook
    handle = register(lambda _, *passed: seen.append(_first(passed[-1]).clone()))
    _gaps(plain, batch.corrupt, batch)
    handle.remove()
    change: Callable[..., object] = partial(_put, seen[0], slice(8, 16) if head_alone else ...)
    handle = register(change)
    gaps = _gaps(plain, batch.clean, batch)
    handle.remove()
    return gaps


def _first(passed: object) -> Tensor:
    return passed[0] if isinstance(passed, tuple) else passed


def _put(corrupt: Tensor, where, module: nn.Module, *passed: object) -> object:
    found = passed[-1]
    mixed = _first(found).clone()
    mixed[..., where] = corrupt[..., where]
    return (mixed, *found[1:]) if isinstance(found, tuple) else mixed


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_heads_alone_or_refuses_in_words(model, name):
    if name in INSIDE:
        with pytest.raises(ValueError, match="no hook|cannot take"):
            METHODS[name].function(model, families.task(), logit_diff)
        return
    scores = METHODS[name].function(model, families.task(), logit_diff)
    circuit = top_n(scores, 20, ranking="absolute")
    assert scores.matrix.any()
    assert set(inner_nodes(circuit)) <= set(model.graph.inner)


def test_one_edge_at_a_time_is_exact(model):
    """As large as the change of the metric when that edge alone is left out."""
    edge, task = ("a0.h1", "a1.h2.v"), families.task()
    found = exact(model, task, logit_diff, edges=[edge]).of(*edge)
    mask = model.graph.exists.clone()
    mask[model.graph.edge_index(*edge)] = False
    values = evaluate(model, task, [Circuit(mask, model.graph)], logit_diff)
    assert found == pytest.approx(float((values.clean - values.values[0]).mean()))


def test_nodes_are_heads_and_files_and_pictures_know_no_others(model, tmp_path):
    scores = eap(model, families.task(), logit_diff)
    everything = top_nodes(scores, 8, ranking="absolute")
    assert everything == Circuit.full(model.graph)
    with pytest.raises(ValueError, match="cannot choose 9 nodes; this graph has 8 heads"):
        top_nodes(scores, 9, ranking="absolute")
    some = top_nodes(scores, 3, ranking="absolute")
    assert all(len(inner_nodes(one)) == 3 for one in uniform_nodes(some, 20, seed=0))
    some.save(tmp_path / "c.json")
    assert load_circuit(tmp_path / "c.json") == some
    assert picture(some) is not None
    with pytest.raises(ValueError, match="EAP-IG's graphs have an MLP in every layer"):
        to_mib_json(scores, tmp_path / "s.json", d_model=32)


def test_the_bridge_that_was_given_is_left_as_it_was():
    _, bridge = plain_and_bridge()
    tokens = torch.arange(12)[None]
    before = bridge(tokens)
    model = Model.load(bridge)
    assert torch.equal(bridge(tokens), before)
    assert torch.equal(model.run(tokens).logits, before)
    assert not hasattr(bridge.blocks[0], "mlp")
