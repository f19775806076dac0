"""Graphs of models that are unlike others: attention alone, and half precision."""

import families
import feature_laws
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeModel

from circuits.features import Convention, Transcoders, trace
from patching.model import Model

TOKENS = [1, 5, 6, 7]


@pytest.fixture(scope="module")
def attention_only():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_head": 8, "n_layers": 2, "n_heads": 4, "n_ctx": 32, "d_mlp": None}
    config = TransformerBridgeConfig(
        **sizes, d_vocab=families.VOCAB, attn_only=True, normalization_type="LN"
    )
    module = NativeModel(config).double().eval()
    return Model.load(
        build_bridge_from_module(
            module, "TransformerLensNative", tl_config=config, tokenizer=None, model_name="toy"
        )
    )


def test_a_model_of_attention_only_has_tokens_and_logits_for_nodes(attention_only):
    graph = trace(attention_only, TOKENS, "neurons", logits=2)
    assert [name.partition("@")[0].partition(".")[0] for name in graph.names] == [
        *["embed"] * 4,
        *["logit"] * 2,
    ]
    torch.testing.assert_close(graph.incoming(), graph.reads, atol=1e-6, rtol=0)
    assert graph.replacement == graph.completeness == 1.0


def test_transcoders_of_a_model_of_attention_only_are_refused(attention_only):
    made = feature_laws.synthetic(attention_only)
    with pytest.raises(ValueError, match="layer 0 of toy has no MLP"):
        trace(attention_only, TOKENS, made)


@pytest.mark.parametrize("kind", ["neurons", "transcoders"])
def test_half_precision_gives_the_graph_of_float32_to_its_digits(kind):
    def weights(dtype: torch.dtype) -> dict[tuple[str, str], float]:
        model = Model.load("toy-llama", dtype=dtype)
        made = Transcoders(model, feature_laws.synthetic(model)) if kind != "neurons" else kind
        graph = trace(
            model, TOKENS, made, aim=5, convention=Convention(most=60), prune=False, validity=4
        )
        gap = (graph.incoming() - graph.reads).abs().max() / graph.reads.abs().max()
        assert gap < (1e-4 if dtype == torch.float32 else 0.1)
        ends = zip(graph.sources.tolist(), graph.targets.tolist(), strict=True)
        names = [(graph.names[source], graph.names[target]) for source, target in ends]
        return dict(zip(names, graph.weights.tolist(), strict=True))

    wide, half = weights(torch.float32), weights(torch.bfloat16)
    both = [name for name in wide if name in half]
    assert len(both) > 0.6 * len(wide)  # features near their threshold flip
    pairs = torch.tensor([[wide[name], half[name]] for name in both])
    assert torch.corrcoef(pairs.T)[0, 1] > 0.98
