"""Interventions: held against plain hooks of the model library; what a run keeps; refusals."""

import families
import pytest
import torch

from patching.anatomy.blocks import EMBEDDING, POSITIONS
from patching.anatomy.places import KINDS, find, of_kind
from patching.intervene import (
    Intervention,
    add,
    embedding_sigma,
    intervening,
    mean,
    noise,
    patch,
    resample,
    scale,
    zero,
)
from patching.model import Model

FAMILIES = ["gpt2", "llama", "gemma2", "neox", "opt", "olmoe"]
WITHOUT = {
    "resid_mid": ("neox", "phi", "gptj"),
    "pattern": ("opt", "gptj", "gptneo"),
    "neurons": ("mixtral", "qwen3_moe", "olmoe"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return families.load(request.param)


@pytest.fixture(scope="module")
def llama():
    return families.load("llama")


def family_of(model: Model) -> str:
    kinds = {families.config(name).__class__.__name__: name for name in FAMILIES}
    return kinds[type(model.bridge.original_model.config).__name__]


def prompts(n: int = 3, length: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, families.VOCAB, (n, length), generator=generator)


@torch.no_grad()
def hooked(model: Model, tokens: torch.Tensor, name: str, change) -> torch.Tensor:
    """The library's own way."""
    return model.bridge.run_with_hooks(tokens, fwd_hooks=[(name, change)])


def test_the_whole_of_another_runs_stream_gives_that_run(model):
    """At the first block's input and the last one's output, through every way of running."""
    clean, corrupt = prompts(seed=1), prompts(seed=2)
    places = ["r0.pre", "r1.post"] + ([] if model.graph.parallel else ["r1.mid"])
    other = model.run(corrupt, cache=places)
    for place in ("r0.pre", "r1.post"):
        with intervening(model, patch(place, other)):
            torch.testing.assert_close(model.run(clean).logits, other.logits)
            torch.testing.assert_close(model.bridge(clean), other.logits)
    before = model.run(clean).logits
    if not model.graph.parallel:  # the stream's middle is all that later blocks and norms see
        with intervening(model, patch("r1.mid", other)):
            torch.testing.assert_close(model.run(clean).logits, other.logits)
    assert torch.equal(model.run(clean).logits, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_at_a_position_equals_a_plain_hook(model, kind):
    if family_of(model) in WITHOUT.get(kind, ()):
        with pytest.raises(ValueError, match="there is no place"):
            of_kind(model, kind)
        return
    place = of_kind(model, kind)[1]
    clean, corrupt = prompts(seed=1), prompts(seed=2)
    other = model.run(corrupt, cache=[place.name, "r1.pre"])
    mine = model.run(clean, cache=["r1.pre"])

    def change(tensor, hook):
        value = other[place.name]
        if kind == "resid_mid":  # what attention must write for the stream to be the other run's
            value = value - mine["r1.pre"]
        out = tensor.clone()
        if place.pos_axis == 2:
            out[:, :, [2, 5]] = value[:, :, [2, 5]]
        else:
            out[:, [2, 5]] = value[:, [2, 5]]
        return out

    expected = hooked(model, clean, place.hook, change)
    with intervening(model, patch(place.name, other, positions=(2, 5))):
        found = model.run(clean).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (found - model.run(clean).logits).abs().max() > 1e-3


def test_the_streams_middle_really_reaches_the_stream(gpt2):
    """The library's own hook point there is a branch, whose edits only the MLP sees."""
    tokens = prompts()
    with intervening(gpt2, zero("r1.mid")):
        seen = gpt2.run(tokens, cache=["r1.mid", "r1.post", "m1"])
    assert seen["r1.mid"].abs().max() < 1e-12
    torch.testing.assert_close(seen["r1.post"], seen["m1"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda n, v: zero(n, 3), lambda x, v: 0 * x),
        (lambda n, v: mean(n, v, 3), lambda x, v: v.expand_as(x)),
        (lambda n, v: add(n, v, 3), lambda x, v: x + v),
        (lambda n, v: scale(n, -2.0, 3), lambda x, v: -2 * x),
        (lambda n, v: Intervention(n, torch.relu, 3), lambda x, v: x.relu()),
    ],
    ids=["zero", "mean", "add", "scale", "own"],
)
@pytest.mark.parametrize("name", ["a1.h2.z", "a0.g1.v", "m1.n5", "r1.pre"])
def test_each_change_does_what_its_formula_says(llama, make, expected, name):
    tokens, place = prompts(), find(llama, name)
    plain = llama.run(tokens, cache=[name])[name]
    vector = torch.linspace(-1, 1, plain[0, 0].numel(), dtype=plain.dtype).view_as(plain[0, 0])

    def change(tensor, hook):
        out = tensor.clone()
        place.view(out)[:, 3] = expected(place.view(out)[:, 3], vector)
        return out

    with intervening(llama, make(name, vector)):
        seen = llama.run(tokens, cache=[name])
    assert torch.equal(seen.logits, hooked(llama, tokens, place.hook, change))
    wanted = plain.clone()
    wanted[:, 3] = expected(plain[:, 3], vector)
    assert torch.equal(seen[name], wanted)


def test_several_at_one_place_act_in_order(gpt2):
    tokens = prompts()
    plain = gpt2.run(tokens, cache=["m0"])["m0"]
    with intervening(gpt2, scale("m0", 3.0), add("m0", torch.ones(32, dtype=torch.float64))):
        assert torch.equal(gpt2.run(tokens, cache=["m0"])["m0"], 3 * plain + 1)
    with intervening(gpt2, zero("m0")), intervening(gpt2, add("m0", torch.ones(32).double())):
        assert torch.equal(gpt2.run(tokens, cache=["m0"])["m0"], torch.ones_like(plain))


def test_the_embedding_leaves_learned_positions_alone(gpt2):
    tokens = prompts()
    with intervening(gpt2, zero("embed")):
        seen = {}
        hooks = [(n, lambda x, hook, n=n: seen.update({n: x})) for n in (EMBEDDING, POSITIONS)]
        with gpt2.bridge.hooks(fwd_hooks=hooks):
            gpt2.run(tokens)
    torch.testing.assert_close(seen[EMBEDDING], seen[POSITIONS].expand_as(seen[EMBEDDING]))


def test_noise_is_the_same_in_every_run_and_as_wide_as_asked(gpt2):
    tokens = prompts(n=40)
    plain = gpt2.run(tokens, cache=["embed"])["embed"]
    with intervening(gpt2, noise("embed", 0.5, (1, 2), seed=4)):
        first, second = (gpt2.run(tokens, cache=["embed"])["embed"] for _ in range(2))
    assert torch.equal(first, second)
    drawn = (first - plain)[:, [1, 2]]
    # 2,560 draws: the standard error of their spread is 0.5 / sqrt(5120) = 0.007
    assert drawn.std() == pytest.approx(0.5, abs=0.03)
    untouched = [0, 3, 4, 5, 6]
    assert torch.equal(first[:, untouched], plain[:, untouched])


@pytest.mark.parametrize("family", ["gpt2", "gemma"])
def test_embedding_sigma_is_three_standard_deviations_of_what_enters_the_stream(family):
    model = families.load(family)
    weight = model.bridge.original_model.get_input_embeddings().weight.double()
    scaled = 32**0.5 if family == "gemma" else 1.0  # Gemma multiplies by sqrt(d_model)
    expected = 3 * scaled * float(weight.std(correction=0))
    assert embedding_sigma(model) == pytest.approx(expected, rel=1e-6)


def test_resampling_takes_each_row_from_some_other_prompt(gpt2):
    tokens, source = prompts(n=30), gpt2.run(prompts(n=4, seed=5), cache=["a1.h0"])
    with intervening(gpt2, resample("a1.h0", source, seed=1)):
        found = gpt2.run(tokens, cache=["a1.h0.z"])["a1.h0.z"]
    rows = [(found[i] == source["a1.h0"]).flatten(1).all(1).nonzero().item() for i in range(30)]
    assert set(rows) == {0, 1, 2, 3}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("positions", [None, (1, 3)])
def test_generating_is_the_same_with_and_without_a_cache(family, positions):
    """Under an intervention on the prompt, or on every token: both equal a loop of plain runs."""
    model, tokens = families.load(family), prompts(n=1)
    vector = torch.linspace(-40, 40, 32, dtype=torch.float64)
    changes = [
        add("r0.post", vector, positions),
        scale("a1.h0.v" if family in ("gpt2", "opt") else "a1.g0.v", 2.0, positions),
    ]
    plain = greedy(model, tokens)
    with intervening(model, *changes):
        expected = greedy(model, tokens)
        for cached in (True, False):
            found = model.bridge.generate(
                tokens,
                max_new_tokens=5,
                do_sample=False,
                use_past_kv_cache=cached,
                stop_at_eos=False,
                verbose=False,
                return_type="tokens",
            )
            assert found.tolist() == expected.tolist()
        changed = model.run(tokens).logits
    assert greedy(model, tokens).tolist() == plain.tolist()
    assert (changed - model.run(tokens).logits).abs().max() > 0.1


def greedy(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    for _ in range(5):
        tokens = torch.cat([tokens, model.run(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens


def test_a_patched_prompt_stays_patched_while_generating(gpt2):
    tokens, other = prompts(n=1), gpt2.run(prompts(n=1, seed=3), cache=["r0.post"])
    with intervening(gpt2, patch("r0.post", other)):
        cached, plain = (
            gpt2.bridge.generate(
                tokens,
                max_new_tokens=4,
                do_sample=False,
                use_past_kv_cache=cached,
                stop_at_eos=False,
                verbose=False,
                return_type="tokens",
            )
            for cached in (True, False)
        )
    assert cached.tolist() == plain.tolist()


def test_positions_count_from_the_first_real_token():
    model = Model.load(families.module("llama", torch.float32))
    row = prompts(n=1, length=5)
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), row], dim=1)
    is_token = torch.tensor([[False] * 2 + [True] * 5])
    with intervening(model, zero("r1.pre", 3)):
        alone = model.run(row).logits
        together = model.run(padded, is_token=is_token).logits
    # float32, other shapes of sums: rounding of the order of 1e-6 of logits around 10
    torch.testing.assert_close(together[:, 2:], alone, rtol=1e-4, atol=1e-4)


def test_everything_is_undone_also_after_an_error(gpt2):
    tokens = prompts()
    before = gpt2.run(tokens).logits
    n_hooks = count_hooks(gpt2)
    with pytest.raises(ZeroDivisionError), intervening(gpt2, zero("m0"), zero("r1.mid", 2)):
        gpt2.run(tokens)
        1 / 0  # noqa: B018
    assert torch.equal(gpt2.run(tokens).logits, before)
    assert count_hooks(gpt2) == n_hooks


def count_hooks(model: Model) -> int:
    modules = list(model.bridge.modules()) + list(model.bridge.original_model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_gradients_flow_through_an_intervention(gpt2):
    tokens = prompts()
    vector = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    with intervening(gpt2, add("r1.pre", vector)):
        gpt2.bridge(tokens).sum().backward()
    assert vector.grad is not None and vector.grad.abs().max() > 0


def refused(model, match, *interventions):
    """The message comes, and before anything ran."""
    ran = []
    watch = model.bridge.hooks(fwd_hooks=[(EMBEDDING, lambda x, hook: ran.append(1))])
    with watch, pytest.raises(ValueError, match=match), intervening(model, *interventions):
        model.run(prompts())
    assert not ran


def test_what_does_not_fit_is_refused_before_the_run(gpt2):
    short = gpt2.run(prompts(length=5), cache=["m0", "a0.h1", "a0.pattern"])
    refused(gpt2, "comes from prompts of 5 tokens, and this run has 7", patch("m0", short))
    refused(gpt2, "at position 7, and the prompt in row 0 has 7 positions, 0 to 6", zero("m0", 7))
    refused(gpt2, r"has shape \[1, 1, 5\].*\[3, 7, 32\] would fit", add("m0", torch.ones(5)))
    refused(gpt2, r"has shape \[3, 5, 8\].*\[3, 2, 8\]", patch("a0.h1", short["a0.h1"], (1, 2)))
    refused(gpt2, r"has shape \[3, 4, 1, 5\].*\[3, 4, 1, 7\]", patch("a0.pattern", short, 1))
    refused(gpt2, "no place 'a0.h9'.*4 heads", zero("a0.h9"))
    with pytest.raises(
        ValueError, match="at position 6, and the run it comes from has 5 positions"
    ):
        patch("m0", short, 6)
    with pytest.raises(ValueError, match=r"did not keep 'm1' \(it kept: m0, a0.h1, a0.pattern\)"):
        patch("m1", short)
    for bad in ((), (-1,), (2, 2)):
        with pytest.raises(ValueError, match="give different numbers, counted from 0"):
            zero("m0", bad)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        noise("embed", -1.0, 0)


def test_a_run_of_other_rows_is_refused_but_one_row_serves_all(gpt2):
    two, one = (gpt2.run(prompts(n=n, seed=7), cache=["m0"]) for n in (2, 1))
    refused(gpt2, r"has shape \[2, 7, 32\]; with this run's 3 prompts", patch("m0", two))
    with intervening(gpt2, patch("m0", one)):
        seen = gpt2.run(prompts(), cache=["m0"])
    assert torch.equal(seen["m0"], one["m0"].expand(3, -1, -1))
