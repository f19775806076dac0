"""Dictionaries at a model's places: norms that are not folded, measures, and what is refused."""

from dataclasses import replace

import families
import pytest
import torch

from patching.anatomy.places import find
from patching.dictionaries import Dictionaries, Dictionary, attach, fitted
from patching.dictionaries.beside import closest
from patching.dictionaries.fitting import flat
from patching.model import Model


@pytest.fixture(scope="module", params=["gpt2", "gemma2", "granite"])
def model(request):
    return families.load(request.param, torch.float64)


@pytest.fixture(scope="module")
def llama():
    return families.load("llama", torch.float64)


PROMPTS = [list(range(4, 13)), [9, 5, 30, 21, 7]]


def linear(matrix, reads, writes, bias=None) -> Dictionary:
    """`y_hat = x matrix + bias`, with features z and -z, one of which is active."""
    n = len(matrix)
    eye = torch.eye(n, dtype=torch.float64)
    return Dictionary(
        name=f"linear map to {writes}",
        reads=reads,
        writes=writes,
        w_enc=torch.cat([eye, -eye], dim=1),
        b_enc=torch.zeros(2 * n, dtype=torch.float64),
        w_dec=torch.cat([matrix, -matrix]),
        b_dec=torch.zeros(matrix.shape[1], dtype=torch.float64) if bias is None else bias,
        threshold=torch.zeros(2 * n, dtype=torch.float64),
    )


def copy_of(model, place: str) -> Dictionary:
    width = flat(model.run(PROMPTS[0], cache=[place])[place]).shape[-1]
    return linear(torch.eye(width, dtype=torch.float64), place, place)


def test_a_dictionary_that_copies_its_place_explains_everything(model):
    places = ["embed", "r1.pre", "r0.post", "a1", "a1.z", "m1", "m0.in"]
    copies = Dictionaries("copies", tuple(copy_of(model, place) for place in places))
    for place, fit in zip(places, attach(model, copies, PROMPTS).fits, strict=True):
        assert fit.fvu < 1e-25 and fit.l0 == fit.n_features / 2
        assert fit.reads == fit.writes == place


def test_what_reads_before_gamma_reads_the_normalised_stream(model):
    """`fitted` moves gamma and beta into the encoder, which then reads what the MLP reads."""
    block, d_model = model.blocks[1], model.blocks[1].w_o.shape[2]
    random = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    before = Dictionary(
        "before gamma", "m1.x_hat", "m1",
        normal(d_model, 20), normal(20), normal(20, d_model), normal(d_model),
        torch.zeros(20, dtype=torch.float64), skip=normal(d_model, d_model),
    )  # fmt: skip
    after = fitted(model, Dictionaries("one", (before,))).members[0]
    assert after.reads == "m1.in"
    stream = "r1.pre" if block.parallel else "r1.mid"
    seen = model.run(PROMPTS[0], cache=[stream, "m1.in"])
    x_hat = block.mlp_norm.x_hat(seen[stream])
    f = before.encode(x_hat)
    found = after.encode(seen["m1.in"])
    assert 0 < f.count_nonzero() < f.numel()
    # Hugging Face's norms compute in float32, also in float64 models
    torch.testing.assert_close(found, f, atol=2e-5, rtol=1e-5)
    expected = before.decode(f, x_hat)
    torch.testing.assert_close(after.decode(found, seen["m1.in"]), expected, atol=1e-4, rtol=1e-5)


def test_what_an_mlp_returns_is_brought_to_the_stream(model):
    """Scaled where the family scales it (Granite); a place of its own before a post-norm."""
    one = replace(copy_of(model, "m1.out"), reads="m1.out", writes="m1.out")
    (there,) = fitted(model, Dictionaries("one", (one,))).members
    inner = model.bridge.hook_dict["blocks.1.mlp.hook_out"]
    kept = {}
    inner.add_hook(lambda x, hook: kept.update(x=x.detach()))
    try:
        seen = model.run(PROMPTS[0], cache=["m1"])
    finally:
        inner.remove_hooks()
    if find(model, "m1.out").kind == "mlp_out":
        assert there.writes == "m1"
        rebuilt = there.decode(one.encode(kept["x"]))
        torch.testing.assert_close(rebuilt, seen["m1"], atol=1e-12, rtol=1e-12)
    else:
        assert there.writes == "m1.out"
        assert torch.equal(model.run(PROMPTS[0], cache=["m1.out"])["m1.out"], kept["x"])


def test_a_dictionary_at_a_wrong_place_is_refused_with_all_at_fault(llama):
    wrong = replace(
        copy_of(llama, "r0.post"), reads="r0.pre", b_dec=torch.full((32,), 9.0).double()
    )
    right = copy_of(llama, "m1")
    with pytest.raises(ValueError, match=r"unexplained, .* at most 1 .*: r0.post .from r0.pre.: "):
        attach(llama, Dictionaries("sae", (wrong, right)), PROMPTS)
    (bad, good) = attach(
        llama, Dictionaries("sae", (wrong, right)), PROMPTS, worst=float("inf")
    ).fits
    assert bad.fvu > 1 and good.fvu < 1e-25


def test_fvu_is_one_minus_the_share_that_is_rebuilt(llama):
    """By hand: half of every coordinate is rebuilt, so a quarter of the square about 0 is left."""
    one = copy_of(llama, "m1")
    half = replace(one, w_dec=one.w_dec / 2)
    (fit,) = attach(llama, Dictionaries("half", (half,)), PROMPTS).fits
    y = torch.cat([llama.run(row, cache=["m1"])["m1"][0, 1:] for row in PROMPTS])
    by_hand = (y / 2).square().sum() / (y - y.mean(dim=0)).square().sum()
    # other batches, and rotations in float32
    assert fit.fvu == pytest.approx(float(by_hand), rel=1e-6)


def test_what_was_published_of_l0_is_compared(llama):
    one = replace(copy_of(llama, "m1"), facts={"l0": 3})
    (fit,) = attach(llama, Dictionaries("one", (one,)), PROMPTS).fits
    assert fit.doubt == "32.0 features are active on a token; 3 were published"
    assert replace(fit, published_l0=30.0).doubt == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reads": "m9.in"}, "'linear map to m1': there is no place 'm9.in'.* 2 layers"),
        (
            {"reads": "a1.z", "w_enc": torch.zeros(31, 64).double()},
            "takes 31 numbers at a1.z, where",
        ),
        ({"reads": "a1.h1.z"}, "dictionaries are of whole places"),
        ({"reads": "m1.x_hat", "w_enc": torch.zeros(8, 64).double()}, "takes 8 numbers at m1.in"),
    ],
)
def test_what_cannot_hang_there_is_refused_before_any_run(llama, monkeypatch, changes, message):
    one = replace(copy_of(llama, "m1"), **changes)
    monkeypatch.setattr(Model, "run", lambda *_, **__: pytest.fail("nothing should be run"))
    with pytest.raises(ValueError, match=message):
        attach(llama, Dictionaries("one", (one,)), PROMPTS)


def test_a_gamma_of_almost_zero_hides_what_was_read_before_it():
    module = families.module("llama", torch.float64)
    module.model.layers[1].post_attention_layernorm.weight.data[3] = 0.0
    model = Model.load(module)
    one = linear(torch.eye(32).double(), "m1.x_hat", "m1")
    with pytest.raises(ValueError, match="almost 0 in 1 of 32 coordinates"):
        fitted(model, Dictionaries("one", (one,)))


def test_prompts_of_one_token_show_nothing(llama):
    with pytest.raises(ValueError, match="the first position of a prompt is left out"):
        attach(llama, Dictionaries("one", (copy_of(llama, "m1"),)), [[5], [6]])


def test_cross_layer_transcoders_are_measured_by_the_sum_of_all_below(llama):
    """Half of what m1 writes is read at m0's dictionary's place: a copy of m1 in two halves."""
    half = replace(copy_of(llama, "m1"), writes="m0", name="lower")
    nothing = torch.zeros_like(half.w_dec)
    lower = replace(half, w_dec=nothing, later={"m1": half.w_dec / 2})
    upper = replace(half, writes="m1", name="upper", w_dec=half.w_dec / 2)
    fits = attach(llama, Dictionaries("clt", (lower, upper)), PROMPTS, worst=9.0).fits
    assert fits[1].fvu < 1e-25 and fits[0].fvu > 0.5


def test_half_a_layer_off_is_refused_by_the_place_that_fits_better(llama):
    """What a low-rank dictionary was fitted to, it rebuilds best: the stream after layer 0."""
    y = torch.cat([llama.run(row, cache=["r0.post"])["r0.post"][0, 1:] for row in PROMPTS])
    mean = y.mean(dim=0)
    basis = torch.linalg.svd(y - mean).Vh[:6]
    low_rank = basis.T @ basis
    one = linear(low_rank, "r0.post", "r0.post", bias=mean - mean @ low_rank)
    (fit,) = attach(llama, Dictionaries("pca", (one,)), PROMPTS).fits
    assert fit.beside in ("r0.mid", "r1.mid") and fit.beside_fvu > fit.fvu
    moved = replace(one, reads="r0.mid", writes="r0.mid")
    with pytest.raises(ValueError, match=r"r0.mid: 0.* here, 0.* at r0.post. Say where it belongs"):
        attach(llama, Dictionaries("pca", (moved,)), PROMPTS)
    (fit,) = attach(llama, Dictionaries("pca", (moved,)), PROMPTS, beside=0).fits
    assert fit.is_misplaced() and fit.beside == "r0.post" and fit.fvu < 1


def test_places_beside_are_streams_in_order_and_the_same_place_of_layers_around(llama):
    eye = torch.eye(32, dtype=torch.float64)
    places = {"r1.pre": {"r0.mid", "r0.pre", "r1.mid", "r1.post"}, "m0": {"m1"}, "embed": set()}
    for place, around in places.items():
        looked = set()

        def fvus(moved, looked=looked):
            looked |= {one.writes for one in moved}
            return {one.writes: 0.5 for one in moved}

        closest(llama, Dictionaries("one", (linear(eye, place, place),)), fvus)
        assert looked == around
