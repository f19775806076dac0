"""What is recovered of a loss: laws of copies and of nothing, and a twin written plainly."""

from dataclasses import replace

import families
import pytest
import torch
from torch.nn import functional

from patching.dictionaries import (
    Dictionaries,
    Dictionary,
    load_dictionaries,
    loss_recovered,
    quality,
    save_dictionaries,
)

ROWS = [[4, 5, 9, 11, 30, 2, 8], [9, 5, 30, 21]]


@pytest.fixture(scope="module")
def llama():
    return families.load("llama", torch.float64)


def dictionary(model, reads, writes, seed=0, n=24, later=()) -> Dictionary:
    """Random directions, of which the eight largest are kept."""
    width = model.blocks[0].w_o.shape[2]
    random = torch.Generator().manual_seed(seed)
    w_enc = torch.randn(width, n, generator=random, dtype=torch.float64)
    others = torch.randn(len(later), n, width, generator=random, dtype=torch.float64) / 8
    zero = torch.zeros(n, dtype=torch.float64)
    return Dictionary(
        name=f"random {writes}",
        reads=reads,
        writes=writes,
        w_enc=w_enc,
        b_enc=zero,
        w_dec=w_enc.T.contiguous() / 8,
        b_dec=torch.full((width,), 0.1, dtype=torch.float64),
        threshold=zero,
        k=8,
        later=dict(zip(later, others, strict=True)),
    )


def copies(model, place) -> Dictionary:
    eye = torch.eye(model.blocks[0].w_o.shape[2], dtype=torch.float64)
    one, zero = dictionary(model, place, place, n=2 * len(eye)), torch.zeros_like(eye[0])
    w_enc = torch.cat([eye, -eye], dim=1)
    return replace(one, w_enc=w_enc, w_dec=w_enc.T.contiguous(), b_dec=zero, k=None)


def test_copies_lose_nothing_and_nothing_loses_what_zeros_lose(llama):
    same = Dictionaries("copies", tuple(copies(llama, x) for x in ("m0", "m1", "r0.post")))
    found = loss_recovered(llama, same, ROWS)
    assert [one.places for one in found] == [("m0",), ("m1",), ("r0.post",), ("m0", "m1")]
    for one in found:
        assert one.rebuilt == pytest.approx(one.clean, abs=1e-12)
        assert one.removed != pytest.approx(one.clean, abs=1e-4)
    none = Dictionaries("none", tuple(replace(one, w_dec=0 * one.w_dec) for one in same))
    for one, other in zip(loss_recovered(llama, none, ROWS), found, strict=True):
        assert one.rebuilt == one.removed == other.removed
        assert one.recovered == (0 if one.removed > one.clean else None)


def by_hand(llama, several, row, places):
    """The sum of a row's losses where places are overwritten, layer by layer, by plain hooks."""
    tokens, read = torch.tensor([row]), {}

    def remember(one, x, hook):
        read[one.writes] = one.encode(x), x

    def overwrite(place, y, hook):
        own = next(one for one in several if one.writes == place)
        rebuilt = own.decode(*read[place])
        for one in several:
            if place in one.later:
                rebuilt = rebuilt + read[one.writes][0] @ one.later[place]
        return torch.cat([y[:, :1], rebuilt[:, 1:]], dim=1)

    hooks = []
    for one in several:
        layer = one.writes[1]
        name = {"m": "hook_mlp_out", "r": "hook_resid_post"}[one.writes[0]]
        reads = "mlp.hook_in" if one.reads.endswith(".in") else name
        hooks.append((f"blocks.{layer}.{reads}", lambda x, hook, one=one: remember(one, x, hook)))
        if one.writes in places:
            to = f"blocks.{layer}.{name}"
            hooks.append((to, lambda y, hook, place=one.writes: overwrite(place, y, hook)))
    with torch.no_grad():
        logits = llama.bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    return float(functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum"))


@pytest.mark.parametrize("across", [False, True])
def test_it_is_what_plain_hooks_say(llama, across):
    """Rows of unequal length, run together; features that write across layers too."""
    first = dictionary(llama, "m0.in", "m0", 1, later=("m1",) if across else ())
    members = (first, dictionary(llama, "m1.in", "m1", 2))
    if not across:
        members = (*members, dictionary(llama, "r0.post", "r0.post", 3))
    several = Dictionaries("random", members)
    n = sum(len(row) - 1 for row in ROWS)
    for one in loss_recovered(llama, several, ROWS):
        plain = sum(by_hand(llama, several, row, one.places) for row in ROWS) / n
        clean = sum(by_hand(llama, several, row, ()) for row in ROWS) / n
        assert one.rebuilt == pytest.approx(plain, abs=1e-12)
        assert one.clean == pytest.approx(clean, abs=1e-12)
        assert abs(one.rebuilt - one.clean) > 1e-4  # something was overwritten


def test_quality_is_kept_with_the_dictionaries(llama, tmp_path):
    several = Dictionaries("random", (dictionary(llama, "m0.in", "m0"), copies(llama, "r0.post")))
    found = quality(llama, several, ROWS)
    assert len(found.alone) == len(found.fits) == 2 and found.together == ()
    save_dictionaries(found.dictionaries, tmp_path)
    again = load_dictionaries(tmp_path)
    for fit, loss in zip(found.fits, found.alone, strict=True):
        said = again[fit.writes].facts["quality"]
        assert (said["fvu"], said["l0"], said["silent"]) == (fit.fvu, fit.l0, fit.silent)
        assert (said["loss"], said["loss_recovered"]) == (loss.rebuilt, loss.recovered)
        assert said["text"] == "2 prompts" and again[fit.writes].facts["l0"] == fit.l0


def test_a_loss_needs_a_next_token(llama):
    with pytest.raises(ValueError, match="give prompts of 2 tokens"):
        loss_recovered(llama, Dictionaries("x", (copies(llama, "m0"),)), [[4], [5]])
