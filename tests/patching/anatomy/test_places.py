"""Names of activations: what they mean in every family, and what is said to wrong ones."""

import families
import pytest
import torch

from patching.anatomy.places import KINDS, find, of_kind, units
from patching.model import Model

HIDDEN = {
    "resid_mid": ("neox", "phi", "gptj"),
    "pattern": ("opt", "gptj", "gptneo"),
    "neurons": ("mixtral", "qwen3_moe", "olmoe"),
}


@pytest.fixture(scope="module", params=families.names())
def case(request):
    return request.param, families.load(request.param)


@pytest.fixture(scope="module")
def llama():
    return families.load("llama")


def test_the_stream_is_the_sum_of_what_is_written_to_it(case):
    """Before a layer, its attention and its MLP add up to after it, where the next one starts."""
    family, model = case
    names = ["embed", "r0.pre", "a0", "m0", "r0.post", "r1.pre"]
    names += [] if family in HIDDEN["resid_mid"] else ["r0.mid"]
    seen = model.run(torch.arange(4, 13)[None], cache=names)
    torch.testing.assert_close(seen["r0.pre"] + seen["a0"] + seen["m0"], seen["r0.post"])
    torch.testing.assert_close(seen["r0.post"], seen["r1.pre"])
    if "r0.mid" in names:
        assert torch.equal(seen["r0.pre"] + seen["a0"], seen["r0.mid"])
    assert torch.equal(seen["embed"], seen["r0.pre"]) is not model.learns_positions


def test_each_kind_has_one_place_a_layer_of_the_right_shape_or_says_why_not(case):
    family, model = case
    tokens = torch.arange(4, 13)[None]
    for kind in KINDS:
        if family in HIDDEN.get(kind, ()):
            with pytest.raises(ValueError, match="there is no place .*; take"):
                of_kind(model, kind)
            continue
        places = of_kind(model, kind)
        assert [place.layer for place in places] == [0, 1]
        seen = model.run(tokens, cache=[place.name for place in places])
        for place in places:
            assert find(model, place.name) == place
            value = seen[place.name]
            assert value.shape[place.pos_axis] == 9
            if labels := units(model, kind):
                assert value.shape[1 if kind == "pattern" else 2] == len(labels)
                name = (
                    f"m{place.layer}.{labels[-1]}"
                    if kind == "neurons"
                    else (f"a{place.layer}.{labels[-1]}.{kind}")
                )
                alone = model.run(tokens, cache=[name])[name]
                assert torch.equal(alone, value.select(1 if kind == "pattern" else 2, -1))


def test_an_mlp_shows_what_it_reads_and_what_it_returns(case):
    _, model = case
    block = model.blocks[1]
    seen = model.run(list(range(4, 13)), cache=["m1.in", "m1.out", "m1"])
    stream = model.run(list(range(4, 13)), cache=["r1.pre" if block.parallel else "r1.mid"])
    x = next(iter(stream.values.values()))
    expected = x if block.mlp_norm is None else block.mlp_norm(x)
    torch.testing.assert_close(seen["m1.in"], expected)
    is_last = torch.equal(seen["m1.out"], seen["m1"])
    assert is_last == (find(model, "m1.out").name == "m1")


def test_a_head_is_its_mixed_values(llama):
    assert find(llama, "a1.h2") == find(llama, "a1.h2.z")
    assert find(llama, "a1.h2").name == "a1.h2.z"


def test_a_pattern_is_a_distribution_over_earlier_tokens(llama):
    pattern = llama.run(list(range(4, 13)), cache=["a0.h3.pattern"])["a0.h3.pattern"][0]
    torch.testing.assert_close(pattern.sum(dim=-1), torch.ones_like(pattern[0]))
    assert not pattern.triu(diagonal=1).any()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("r9.pre", "no place 'r9.pre': LlamaForCausalLM has 2 layers, 0 to 1"),
        ("a0.h7.q", "layer 0 of LlamaForCausalLM has 4 heads, h0 to h3"),
        ("a0.g2.v", "has 2 key-value heads, g0 to g1"),
        ("m1.n48", "has 48 neurons, n0 to n47"),
        ("a0.h1.k", "heads share these, in 2 groups; name one such as 'a0.g0.k'"),
        ("a0.g1.q", "no heads share these; name one such as 'a0.h0.q'"),
        ("r0.mip", "no place 'r0.mip' in LlamaForCausalLM; did you mean r0.mid"),
        ("blocks.0.hook_resid_pre", "names look like r0.pre, a0.h1.z, a0, m0.n7"),
    ],
)
def test_wrong_names_are_answered_with_right_ones(llama, name, match):
    with pytest.raises(ValueError, match=match):
        find(llama, name)


def test_wrong_kinds_are_answered_with_right_ones(llama):
    with pytest.raises(ValueError, match="kind of place 'head': one of resid_pre, .*, neurons$"):
        of_kind(llama, "head")
    with pytest.raises(ValueError, match="did you mean 'mlp_out'"):
        of_kind(llama, "mlp")


def test_a_run_keeps_only_what_was_asked_for(llama):
    seen = llama.run([5, 6, 7], cache=["a0.h1.z", "m1"])
    assert set(seen.values) == {"a0.h1.z", "m1"}
    assert seen["a0.h1.z"].untyped_storage().nbytes() == seen["a0.h1.z"].numel() * 8
    with pytest.raises(ValueError, match=r"did not keep 'm0' \(it kept: a0.h1.z, m1\); ask for it"):
        seen["m0"]
    with pytest.raises(ValueError, match="it kept: none"):
        llama.run([5])["m0"]


def test_a_run_is_the_models_own(llama):
    tokens = torch.arange(4, 13)[None]
    with torch.no_grad():
        assert torch.equal(llama.run(tokens).logits, llama.bridge(tokens))
    assert not llama.run(tokens).logits.requires_grad


def test_prompts_may_be_text_where_there_is_a_tokenizer(llama):
    toy = Model.load("truth/induction")
    with pytest.raises(ValueError, match="has no tokenizer: give token ids, not text"):
        llama.run("a b")
    word = toy.tokenizer.decode([5])
    assert toy.run(f"{word} {word}").tokens[0, -2:].tolist() == [5, 5]


def test_prompts_that_are_none_are_refused(llama):
    for bad in ([], [-1], [97]):
        with pytest.raises(ValueError, match="at least one token id, each from 0 to 96"):
            llama.run(bad)
