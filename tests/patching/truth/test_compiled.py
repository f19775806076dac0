"""Compiled models compute what the program means, in both formats, with norms that do nothing."""

import pytest
import torch
from torch.testing import assert_close

from patching.model import Model
from patching.models.truth import (
    Head,
    Lookup,
    Program,
    compile_gpt2,
    compile_llama,
    first,
    marked,
    previous,
    same,
)
from patching.models.truth.meaning import run

FORMATS = (compile_gpt2, compile_llama)
WORDS = tuple("abcd")
NEXT = {("a",): "b", ("b",): "c", ("c",): "d", ("d",): "a"}
# Everything at once: each way to attend, a copy of a copy, tables of one and of two slots.
EVERYTHING = Program(
    WORDS,
    (
        Head(0, 0, previous(), "token", "before"),
        Head(0, 1, previous(3), "token", "long before"),
        Head(0, 2, first(), "token", "start"),
        Lookup(0, ("token",), NEXT, otherwise="d", into="next"),
        Head(1, 0, same("next", "before"), "before", "found"),
        Head(1, 3, marked("b", "long before"), "token", "marked"),
        Lookup(1, ("found", "before"), {("b", "a"): "c", ("c", "b"): "a"}, "b", "table"),
    ),
    ("found", "marked", "table", "start", "long before"),
    n_positions=12,
)


def ids(program, words):
    return torch.tensor([[program.vocabulary.index(word) for word in words]])


def words_of(program):
    """Prompts in which no match is split."""
    for text in ("a b c d", "d", "c a d b", "b d a c", "b a c"):
        yield ["<bos>", *text.split()]


@pytest.mark.parametrize("compile_program", FORMATS)
def test_logits_are_shares_of_the_answer_slots_times_ten(compile_program):
    model = compile_program(EVERYTHING, dtype=torch.float64).model
    for prompt in words_of(EVERYTHING):
        answer = run(EVERYTHING, prompt).answer(EVERYTHING)
        expected = [10 * answer.count(word) / len(answer) for word in EVERYTHING.vocabulary]
        with torch.no_grad():
            found = model(ids(EVERYTHING, prompt)).logits[0, -1]
        # Softmax tails of e^-25, and float32 inside Llama.
        assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=2e-5, rtol=0)


@pytest.mark.parametrize("compile_program", FORMATS)
def test_every_norm_gives_back_the_stream_it_was_given(compile_program):
    model = compile_program(EVERYTHING, dtype=torch.float64).model
    seen = []
    for name, module in model.named_modules():
        if "norm" in name or "ln_" in name:
            module.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    with torch.no_grad():
        model(ids(EVERYTHING, ["<bos>", *"abcd"]))
    assert len(seen) == 5
    for stream, normed in seen:
        # In Llama the norm is taken in float32; softmax tails of e^-25 change the length.
        assert_close(normed, stream, atol=1e-6, rtol=0)


@pytest.mark.parametrize("compile_program", FORMATS)
def test_unused_heads_and_mlps_are_silent_but_for_the_noise_asked_for(compile_program):
    echo = Program(WORDS, (Head(0, 1, previous(), "token", "old"),), ("old",))
    for noise in (0.0, 0.02):
        model = Model.load(compile_program(echo, noise=noise).model)
        loud = torch.stack([block.w_o.abs().amax(dim=(1, 2)) > 0 for block in model.blocks])
        assert loud.sum() == (8 if noise else 1)
        assert loud[0, 1]
        out = [value for name, value in model.bridge.named_parameters() if _writes(name)]
        assert out and not any(value.any() for value in out)
    spread = model.blocks[1].w_o.std().item()
    assert spread == pytest.approx(0.02, rel=0.1)


def _writes(name):
    return "mlp" in name and ("c_proj" in name or "down_proj" in name or ".out." in name)


@pytest.mark.parametrize("compile_program", FORMATS)
def test_compiling_twice_gives_the_same_weights_and_touches_no_global_seed(compile_program):
    before = torch.random.get_rng_state()
    one, two = (compile_program(EVERYTHING, noise=0.1).model.state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("compile_program", FORMATS)
def test_the_tokenizer_writes_the_programs_words_after_one_bos(compile_program):
    tokenizer = compile_program(EVERYTHING).tokenizer
    assert tokenizer.encode("a d") == ids(EVERYTHING, ["<bos>", "a", "d"])[0].tolist()
    assert tokenizer.model_max_length == 12


def test_more_words_than_the_slow_rotations_hold_are_refused_in_the_llama_format():
    many = tuple(f"w{i}" for i in range(65))
    program = Program(many, (Head(0, 0, first(), "token", "x"),), ("x",))
    with pytest.raises(ValueError, match="65 words does not fit.*at most 64 would"):
        compile_llama(program)
    most = Program(many[:64], (Head(0, 0, marked("w63"), "token", "x"),), ("x",))
    model = compile_llama(most).model
    with torch.no_grad():
        answer = model(ids(most, ["<bos>", "w63", "w5"])).logits[0, -1].argmax()
    assert most.vocabulary[answer] == "w63"


def test_positions_that_rotations_cannot_tell_apart_are_refused_in_the_llama_format():
    far = Program(WORDS, (Head(0, 0, previous(6), "token", "old"),), ("old",))
    with pytest.raises(ValueError, match="cannot tell the token 6 back.*in 24 positions"):
        compile_llama(far)
    assert compile_gpt2(far).structural == far.structural
