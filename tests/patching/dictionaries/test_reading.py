"""Every published format against its own formula; what is refused, and in which words."""

import json
from functools import partial
from pathlib import Path

import pytest
import stored
import torch
from safetensors.torch import save_file

from patching.dictionaries import Dictionary, load_dictionaries
from patching.files.tensors import read_tensor_file

GOLDEN = Path(__file__).parents[4] / "shared/golden/features/transcoders"
TIGHT = 2e-6  # as the readers were held against the publishing programs, in float32
SAE = stored.saelens

ONE_PLACE = {
    "saelens": (SAE, "r1.post", "r1.post"),
    "saelens without b_dec": (partial(SAE, applies=False), "r1.post", "r1.post"),
    "saelens gated": (partial(SAE, kind="gated"), "r1.post", "r1.post"),
    "saelens topk": (partial(SAE, kind="topk"), "r1.post", "r1.post"),
    "saelens jumprelu": (partial(SAE, kind="jumprelu"), "r1.post", "r1.post"),
    "saelens transcoder": (partial(SAE, kind="transcoder"), "m1.in", "m1"),
    "saelens skip": (partial(SAE, kind="jumprelu_skip_transcoder"), "m1.in", "m1"),
    "old saelens": (partial(SAE, old=True), "r1.post", "r1.post"),
    "old saelens topk": (partial(SAE, old=True, activation="topk"), "r1.post", "r1.post"),
    "old saelens jumprelu": (partial(SAE, kind="jumprelu", old=True), "r1.post", "r1.post"),
    "gemma scope 2": (stored.gemma_scope_2, "m5.in", "m5"),
    **{
        f"dictionary_learning {kind}": (
            partial(stored.dictionary_learning, kind=kind),
            "r2.post",
            "r2.post",
        )
        for kind in (
            "AutoEncoder",
            "AutoEncoderNew",
            "GatedAutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "JumpReluAutoEncoder",
        )
    },
    "llama scope": (stored.llama_scope, "m8.x_hat", "m8"),
    "llama scope plain": (partial(stored.llama_scope, decoder_norm=False), "m8.x_hat", "m8"),
}


@pytest.fixture
def x():
    return torch.randn(40, stored.D_IN, generator=torch.Generator().manual_seed(3))


def assert_equal(one: Dictionary, x, twin) -> None:
    f, y = twin(x)
    assert 0 < f.count_nonzero() < f.numel(), "features that never or always fire show nothing"
    found = one.encode(x)
    torch.testing.assert_close(found, f, atol=TIGHT * float(f.max()), rtol=0)
    torch.testing.assert_close(one.decode(found, x), y, atol=TIGHT * float(y.abs().max()), rtol=0)


@pytest.mark.parametrize("case", ONE_PLACE)
def test_a_format_is_told_by_its_files_and_computes_what_its_program_does(tmp_path, case, x):
    write, reads, writes = ONE_PLACE[case]
    twin = write(tmp_path / "one")
    (one,) = load_dictionaries(tmp_path / "one")
    assert (one.reads, one.writes) == (reads, writes)
    assert_equal(one, x, twin)


@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify_folders_are_named_after_their_places(tmp_path, x, transcode):
    name = "layers.3.mlp" if transcode else "layers.3"
    twin = stored.sparsify(tmp_path / name, transcode=transcode)
    (one,) = load_dictionaries(tmp_path)
    assert (one.reads, one.writes) == (("m3.in", "m3.out") if transcode else ("r3.post", "r3.post"))
    assert_equal(one, x, twin)


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k", "r20.post", "r20.post"),
        ("gemma-scope-2b-pt-mlp/layer_3", "m3", "m3"),
        ("gemma-scope-9b-it-att/layer_3", "a3.z", "a3.z"),
        ("gemma-scope-2b-pt-transcoders/layer_3", "m3.x_hat", "m3"),
        ("gemma-scope-2b-pt-res/embedding/width_4k", "embed", "embed"),
    ],
)
def test_gemma_scope_says_where_it_belongs_by_its_folders(tmp_path, x, name, reads, writes):
    twin = stored.gemma_scope(tmp_path / name, lower="mlp" in name, embedding="embed" in name)
    (one,) = load_dictionaries(tmp_path / name)
    assert (one.reads, one.writes) == (reads, writes)
    assert_equal(one, x, twin)


def test_places_can_be_given_where_no_file_says_them(tmp_path, x):
    twin = stored.gemma_scope(tmp_path / "somewhere")
    with pytest.raises(ValueError, match="does not say where it belongs.*give reads= and writes="):
        load_dictionaries(tmp_path)
    (one,) = load_dictionaries(tmp_path, reads="r3.post")
    assert one.writes == "r3.post"
    assert_equal(one, x, twin)
    with pytest.raises(ValueError, match="writes='m3' needs reads= too"):
        load_dictionaries(tmp_path, writes="m3")


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kind", ["relu", "skip", "jump_relu", "topk"])
def test_a_set_of_circuit_tracer_has_one_dictionary_a_layer(tmp_path, x, kind, listed):
    twins = stored.circuit_tracer(tmp_path, kind, listed=listed)
    both = load_dictionaries(tmp_path)
    assert [(one.reads, one.writes) for one in both] == [("m0.in", "m0"), ("m1.in", "m1")]
    for one, twin in zip(both, twins, strict=True):
        assert_equal(one, x, twin)


@pytest.mark.parametrize(
    ("write", "reads"),
    [(stored.circuit_tracer_clt, "r{}.mid"), (stored.gemma_scope_2_clt, "m{}.in")],
)
def test_cross_layer_transcoders_write_to_all_later_layers(tmp_path, x, write, reads):
    twin = write(tmp_path / "clt")
    several = load_dictionaries(tmp_path / "clt")
    assert [one.reads for one in several] == [reads.format(i) for i in range(3)]
    assert [tuple(one.decoders) for one in several] == [("m0", "m1", "m2"), ("m1", "m2"), ("m2",)]
    f, y = twin(x)
    found = [one.encode(x) for one in several]
    for one, wanted in zip(found, f, strict=True):
        torch.testing.assert_close(one, wanted, atol=TIGHT * float(wanted.max()), rtol=0)
    rebuilt = several.decode(found, [x] * 3)
    for layer in range(3):
        wanted = y[layer]
        atol = 5e-6 * float(wanted.abs().max())  # three sums instead of one
        torch.testing.assert_close(rebuilt[f"m{layer}"], wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", ["AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK"])
def test_dictionary_learning_is_told_by_its_tensors_where_nothing_names_it(tmp_path, x, kind):
    twin = stored.dictionary_learning(tmp_path / "one", kind, said=False)
    if kind == "AutoEncoderTopK":  # stored with a threshold that its encoder ignores, as BatchTopK
        twin = stored.dictionary_learning(tmp_path / "two", "BatchTopKSAE", said=False)
        assert_equal(load_dictionaries(tmp_path / "two").members[0], x, twin)
    else:
        assert_equal(load_dictionaries(tmp_path / "one").members[0], x, twin)


def test_folders_of_dictionaries_are_read_together_in_the_order_of_layers(tmp_path):
    for layer in (10, 2):
        stored.sparsify(tmp_path / f"layers.{layer}.mlp")
    several = load_dictionaries(tmp_path)
    assert [one.writes for one in several] == ["m2.out", "m10.out"]


def test_decoders_stay_in_their_file(tmp_path):
    """Until rows are asked for: what was read lies where the file is mapped into memory."""
    stored.circuit_tracer(tmp_path)
    one = load_dictionaries(tmp_path).members[0]
    (path,) = tmp_path.glob("layer_0*")
    there = read_tensor_file(path)[0]["W_dec"]
    assert one.w_dec.untyped_storage().nbytes() >= there.untyped_storage().nbytes()
    assert torch.equal(one.w_dec, there)


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs the shared data")
def test_the_reference_transcoders_are_read():
    several = load_dictionaries(GOLDEN)
    assert [one.writes for one in several] == [f"m{i}.out" for i in range(5)]
    assert {(one.k, one.n_features) for one in several} == {(12, 512)}
    assert several.members[0].facts["model_name"] == "stories260K"


def changed_settings(tmp_path, write, file, **changes):
    write(tmp_path / "one")
    path = tmp_path / "one" / file
    said = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("write", "file", "changes", "message"),
    [
        (SAE, "cfg.json", {"normalize_activations": "layer_norm"}, "anew at every token .layer_n"),
        (SAE, "cfg.json", {"architecture": "temporal"}, "architecture is 'temporal'; standard, "),
        (SAE, "cfg.json", {"activation_fn": "abstopk"}, "function is 'abstopk'; relu or topk"),
        (SAE, "cfg.json", {"metadata": {"hook_name": "blocks.0.hook_mlp_in"}}, "nothing here says"),
        (SAE, "cfg.json", {"hook_head_index": 3}, "it reads one head"),
        (stored.sparsify, "cfg.json", {"activation": "groupmax"}, "activation is 'groupmax'"),
        (stored.sparsify, "cfg.json", {"k": 2.5}, "its k is 2.5; a whole number"),
        (SAE, "cfg.json", {"architecture": "topk", "k": 90}, "keeps the 90 largest of 12 features"),
        (stored.gemma_scope_2, "config.json", {"architecture": "x"}, "is 'x'; jump_relu can"),
        (stored.llama_scope, "hyperparams.json", {"norm_activation": "token-wise"}, "every token"),
        (stored.llama_scope, "hyperparams.json", {"act_fn": "gelu"}, "act_fn is 'gelu'"),
    ],
)
def test_kinds_that_are_not_of_the_form_are_refused_by_name(
    tmp_path, write, file, changes, message
):
    changed_settings(tmp_path, write, file, **changes)
    with pytest.raises(ValueError, match=f"one: .*{message}"):
        load_dictionaries(tmp_path)


def rewritten(folder, name, change):
    tensors, _ = read_tensor_file(folder / name)
    tensors = {key: value.clone() for key, value in tensors.items()}
    change(tensors)
    save_file(tensors, folder / name)


def test_numbers_that_are_none_are_refused_before_any_work(tmp_path):
    stored.circuit_tracer(tmp_path)
    rewritten(tmp_path, "layer_1.safetensors", lambda t: t["W_dec"].__setitem__((3, 1), torch.nan))
    with pytest.raises(ValueError, match=r"layer_1.safetensors: decoder for m1 of .* holds NaN"):
        load_dictionaries(tmp_path)


def test_a_tensor_that_is_missing_or_no_floats_is_named(tmp_path):
    stored.circuit_tracer(tmp_path / "a")
    rewritten(tmp_path / "a", "layer_0.safetensors", lambda t: t.pop("b_enc"))
    with pytest.raises(ValueError, match="layer_0.safetensors: it lacks the tensor 'b_enc'"):
        load_dictionaries(tmp_path / "a")
    stored.saelens(tmp_path / "b")
    rewritten(
        tmp_path / "b",
        "sae_weights.safetensors",
        lambda t: t.update(b_dec=t["b_dec"].to(torch.int8)),
    )
    with pytest.raises(ValueError, match="is stored in int8; floats of 16, 32 or 64 bits"):
        load_dictionaries(tmp_path / "b")


def test_a_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    torch.save({"encoder.weight": Evil()}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae.pt is no whole .pt file of plain tensors"):
        load_dictionaries(tmp_path)


def test_damaged_files_are_refused(tmp_path):
    stored.saelens(tmp_path / "a")
    weights = tmp_path / "a" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_dictionaries(tmp_path / "a")
    stored.circuit_tracer(tmp_path / "b")
    (tmp_path / "b" / "config.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="is no YAML of plain values"):
        load_dictionaries(tmp_path / "b")
    (tmp_path / "b" / "config.yaml").write_text("transcoders: [../secret.safetensors]")
    with pytest.raises(ValueError, match="it lists the file '../secret.safetensors'"):
        load_dictionaries(tmp_path / "b", reads="m{}.in", writes="m{}")


def test_a_folder_without_dictionaries_and_a_name_that_is_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no dictionaries of a format .*: SAELens, Llama"):
        load_dictionaries(tmp_path)
    with pytest.raises(ValueError, match="no folder 'nowhere', and it is no hub name"):
        load_dictionaries("nowhere")
