"""What is written as SAELens' format is read again as it was; what SAELens has nothing for."""

import json
from dataclasses import replace

import pytest
import stored
import torch

from patching.dictionaries import Dictionaries, load_dictionaries, save_dictionaries
from patching.dictionaries.published import hook_of, place_of

X = torch.randn(20, stored.D_IN, generator=torch.Generator().manual_seed(3))


def loaded(tmp_path, kind):
    stored.saelens(tmp_path / "theirs", kind)
    return load_dictionaries(tmp_path / "theirs")


def assert_same(one, other):
    assert (one.reads, one.writes, one.k) == (other.reads, other.writes, other.k)
    f = one.encode(X)
    assert torch.equal(f, other.encode(X))
    assert torch.equal(one.decode(f, X), other.decode(f, X))


@pytest.mark.parametrize("kind", ["standard", "gated", "topk", "jumprelu", "skip_transcoder"])
def test_a_round_trip_changes_nothing(tmp_path, kind):
    several = loaded(tmp_path, kind)
    (folder,) = save_dictionaries(several, tmp_path / "ours")
    again = load_dictionaries(folder)
    assert_same(several.members[0], again.members[0])
    assert again.members[0].facts["model_name"] == "toy"
    said = json.loads((folder / "cfg.json").read_text())
    assert said["architecture"] == ("jumprelu" if kind == "gated" else kind)
    assert said["apply_b_dec_to_input"] is False  # it is folded into b_enc


def test_top_k_transcoders_of_several_layers_come_back(tmp_path):
    stored.circuit_tracer(tmp_path / "theirs", "topk")
    several = load_dictionaries(tmp_path / "theirs")
    assert len(save_dictionaries(several, tmp_path / "ours")) == 2
    for one, other in zip(several, load_dictionaries(tmp_path / "ours"), strict=True):
        assert_same(one, other)


def test_what_saelens_has_nothing_for_is_refused_before_anything_is_written(tmp_path):
    stored.circuit_tracer_clt(tmp_path / "clt")
    with pytest.raises(ValueError, match="writes at 3 places, and SAELens has nothing"):
        save_dictionaries(load_dictionaries(tmp_path / "clt"), tmp_path / "ours")
    one = loaded(tmp_path, "topk").members[0]
    both = replace(one, threshold=torch.ones_like(one.threshold))
    with pytest.raises(ValueError, match="has thresholds and keeps the k largest"):
        save_dictionaries(Dictionaries("both", (both,)), tmp_path / "ours")
    with pytest.raises(ValueError, match="no hook name is published .* 'm1.x'"):
        save_dictionaries(Dictionaries("x", (replace(one, writes="m1.x"),)), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("place", ["embed", "r3.pre", "r10.post", "m2.in", "m2", "m2.out", "a0.z"])
def test_a_place_is_published_under_a_name_that_means_it(place):
    assert place_of(hook_of(place)) == place


@pytest.mark.parametrize(
    ("hook", "place"),
    [
        ("model.layers.7", "r7.post"),
        ("transformer.h.2.mlp", "m2.out"),
        ("model.layers.4.self_attn.o_proj.input", "a4.z"),
        ("mlp_3", "m3.out"),
        ("attn_out_layer3", "a3"),
        ("model.embed_tokens", "embed"),
    ],
)
def test_names_of_other_programs_mean_places(hook, place):
    assert place_of(hook) == place


def test_a_name_that_means_no_place_is_refused_with_what_to_say():
    with pytest.raises(ValueError, match="'blocks.1.hook_mlp_in' is; say where .* reads='m3.in'"):
        place_of("blocks.1.hook_mlp_in")
