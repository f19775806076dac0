"""Features changed in runs: by just so much, there and nowhere else."""

from functools import partial

import pytest
import torch
from transformers import DynamicCache

from patching.dictionaries import (
    Dictionary,
    add_feature,
    freeze_attention,
    scale_feature,
    set_feature,
)
from patching.dictionaries.samples import fills_cache, own_text
from patching.intervene import intervening
from patching.model import Model

TOKENS = [1, 5, 6, 7]


@pytest.fixture(scope="module")
def toy():
    return Model.load("toy-llama")


@pytest.fixture(scope="module")
def dictionary(toy):
    generator = torch.Generator().manual_seed(0)
    d, n = toy.blocks[0].w_o.shape[-1], 6

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    later = {"m2": 3 * draw(n, d)}
    tensors = draw(d, n), draw(n), 3 * draw(n, d), draw(d), torch.zeros(n)
    return Dictionary("random", "m1.in", "m1", *tensors, later=later)


@pytest.mark.parametrize(
    ("change", "new"),
    [
        (set_feature, lambda old: torch.full_like(old, 2.0)),
        (scale_feature, lambda old: 2.0 * old),
        (add_feature, lambda old: old + 2.0),
    ],
)
def test_a_change_writes_the_difference_where_it_is_asked(toy, dictionary, change, new):
    names = ["m1.in", "m1"]
    plain = toy.run(TOKENS, cache=names)
    with intervening(toy, *change(dictionary, 3, 2.0, positions=2)):
        changed = toy.run(TOKENS, cache=names)
    old = dictionary.encode(plain["m1.in"])[..., 3]
    expected = torch.zeros_like(plain["m1"])
    expected[:, 2] = (new(old) - old)[:, 2, None] * dictionary.w_dec[3]
    torch.testing.assert_close(changed["m1"] - plain["m1"], expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(changed.logits[:, 3], plain.logits[:, 3])


def test_later_layers_get_what_is_written_there(toy, dictionary):
    """With the same stream before, layer 2's MLP writes its own, and the later decoder's row."""
    only_here = Dictionary(*[getattr(dictionary, x) for x in _FIELDS])
    seen = []
    for one in (dictionary, only_here):
        with intervening(toy, *add_feature(one, 3, 2.0)):
            seen.append(toy.run(TOKENS, cache=["m2"])["m2"])
    row = 2.0 * dictionary.later["m2"][3]
    torch.testing.assert_close(seen[0] - seen[1], row.expand_as(seen[0]), atol=1e-4, rtol=1e-4)


_FIELDS = ("name", "reads", "writes", "w_enc", "b_enc", "w_dec", "b_dec", "threshold")


def test_held_attention_stays_whatever_is_changed_before(toy, dictionary):
    places = [f"a{layer}.pattern" for layer in (2, 3)]
    plain = toy.run(TOKENS, cache=places)
    change = add_feature(dictionary, 3, 5.0)
    with intervening(toy, *change):
        free = toy.run(TOKENS, cache=places)
    with intervening(toy, *freeze_attention(toy, TOKENS), *change):
        held = toy.run(TOKENS, cache=places)
    for place in places:
        assert not torch.allclose(free[place], plain[place], atol=1e-3)
        torch.testing.assert_close(held[place], plain[place], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(held.logits, free.logits) and not torch.allclose(
        held.logits, plain.logits
    )


@pytest.mark.parametrize("held", [False, True])
def test_generated_text_is_changed_with_a_cache_as_without(toy, dictionary, held):
    tokens = torch.tensor([TOKENS])
    if not fills_cache(toy, tokens):
        pytest.skip("this version of transformers fills no cache here")
    frozen = freeze_attention(toy, TOKENS) if held else ()
    made = []
    for cache in (True, False):
        with intervening(toy, *frozen, *set_feature(dictionary, 3, 6.0)):
            made.append(
                toy.bridge.generate(
                    tokens,
                    max_new_tokens=3,
                    do_sample=False,
                    use_past_kv_cache=cache,
                    stop_at_eos=False,
                    verbose=False,
                )
            )
    assert torch.equal(made[0], made[1])


def test_a_cache_that_is_not_filled_is_noticed(toy, dictionary, monkeypatch):
    """As under transformers 5.24, where the library's attention leaves the cache as it was."""
    rows = own_text(toy, n=2, length=6).rows
    monkeypatch.setattr(DynamicCache, "get_seq_length", lambda *_, **__: 0)
    assert not fills_cache(toy, torch.tensor([TOKENS]))
    assert own_text(toy, n=2, length=6).rows == rows
    generate = partial(toy.bridge.generate, torch.tensor([TOKENS]), max_new_tokens=2, verbose=False)
    with intervening(toy, *set_feature(dictionary, 3, 6.0)):
        with pytest.raises(ValueError, match="does not fill the cache.*use_past_kv_cache=False"):
            generate()
        generate(use_past_kv_cache=False)


def test_attention_is_held_at_that_of_one_prompt(toy, dictionary):
    with pytest.raises(ValueError, match="that of one prompt, got 2"):
        freeze_attention(toy, [[1, 5], [1, 6]])
    with pytest.raises(ValueError, match="there is no feature 9"):
        set_feature(dictionary, 9, 1.0)
