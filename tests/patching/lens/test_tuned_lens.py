"""Tuned lens: it learns, goes on after an interruption, and knows whose it is."""

import lensed
import pytest
import torch

from patching.lens import load_tuned_lens, logit_lens, train_tuned_lens, training
from patching.lens.tuned import TunedLens
from patching.models import TOY_GENERATORS


@pytest.fixture(scope="module")
def gpt2():
    return lensed.of_family("gpt2")


@pytest.fixture(scope="module")
def toy():
    return lensed.toy()


@pytest.fixture(scope="module")
def split(toy):
    return TOY_GENERATORS["facts"](toy.tokenizer, 48, 0).split(0.7)


@pytest.fixture(scope="module")
def tuned(toy, split):
    return train_tuned_lens(toy, split[0], steps=30, rate=3e-3)


def test_it_comes_nearer_to_the_last_layer_on_prompts_it_has_not_seen(toy, split, tuned):
    prompts = [list(prompt.clean) for prompt in split[1].prompts]
    positions = [1, 3, -1]
    plain = logit_lens(toy, prompts, "resid_pre", positions=positions).kl().mean.mean(dim=1)
    found = logit_lens(toy, prompts, "resid_pre", positions=positions, tuned=tuned)
    assert (found.kl().mean.mean(dim=1) < 0.5 * plain).all()
    assert found.kl().provenance["method"] == "tuned lens"


def test_training_lowers_the_distance_step_by_step(toy, split):
    prompts, distances = [list(p.clean) for p in split[0].prompts[:4]], []
    for steps in (1, 8, 24):
        lens = train_tuned_lens(toy, prompts, steps=steps)
        read = logit_lens(toy, prompts, "resid_pre", positions=-1, tuned=lens)
        distances.append(float(read.kl().mean.sum()))
    assert distances[0] > distances[1] > distances[2]


def test_before_training_it_is_the_logit_lens_and_at_the_last_layer_always(toy, tuned):
    zero = TunedLens(0 * tuned.maps, 0 * tuned.offsets, tuned.provenance)
    text = "The capital of France is"
    plain, started, trained = (logit_lens(toy, text, tuned=t) for t in (None, zero, tuned))
    torch.testing.assert_close(started.logits(), plain.logits())
    assert torch.equal(trained.logits("r3.post"), plain.logits("r3.post"))
    assert not torch.allclose(trained.logits("r0.post"), plain.logits("r0.post"))


def test_a_stream_is_read_alike_under_both_its_names(toy, tuned):
    text = "The capital of France is"
    lens = logit_lens(toy, text, ["r1.post", "r2.pre"], tuned=tuned)
    assert torch.equal(lens.logits("r1.post"), lens.logits("r2.pre"))


def test_the_map_is_the_formula_written_out(tuned):
    h = torch.randn(5, tuned.maps.shape[1])
    rows = [x + tuned.maps[2] @ x + tuned.offsets[2] for x in h]
    torch.testing.assert_close(tuned(h, 2), torch.stack(rows))


def test_the_first_step_is_adams_on_the_gradient_of_the_distance(gpt2):
    """Adam's first step has the size of the rate everywhere, against the gradient's sign."""
    rows = [[5, 9, 3, 7], [4, 4, 8, 2]]
    lens = train_tuned_lens(gpt2, rows, steps=1, rate=1e-3)
    seen, own = {}, gpt2.bridge(torch.tensor(rows)).log_softmax(-1).detach()
    with gpt2.bridge.hooks([("blocks.1.hook_in", lambda t, hook: seen.update(h=t.detach()))]):
        gpt2.bridge(torch.tensor(rows))
    offset = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    read = gpt2.bridge.unembed(gpt2.bridge.ln_final(seen["h"] + offset)).log_softmax(-1)
    (own.exp() * (own - read)).sum(-1).mean().backward()
    expected = -1e-3 * offset.grad.sign().float()
    torch.testing.assert_close(lens.offsets[1], expected, atol=1e-7, rtol=0)  # Adam's own 1e-8


@pytest.mark.parametrize("stop", [4, 6])
def test_an_interrupted_training_ends_in_the_same_lens_bit_for_bit(
    gpt2, tmp_path, monkeypatch, stop
):
    monkeypatch.setattr(training, "_EVERY", 4)
    rows, file = [[5, 9, 3], [4, 4, 8, 2], [7, 6, 5]], tmp_path / "training.safetensors"
    whole = train_tuned_lens(gpt2, rows, steps=9, batch_size=2)
    step = training._Trainer.step

    def interrupted(self, prompts, plan, number):
        if number == stop:
            raise KeyboardInterrupt
        step(self, prompts, plan, number)

    with monkeypatch.context() as patch:
        patch.setattr(training._Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_tuned_lens(gpt2, rows, steps=9, batch_size=2, checkpoint=file)
    counted = []
    monkeypatch.setattr(
        training._Trainer, "step", lambda self, *a: (counted.append(a[-1]), step(self, *a))[1]
    )
    resumed = train_tuned_lens(gpt2, rows, steps=9, batch_size=2, checkpoint=file)
    assert counted == list(range(4, 9))
    assert torch.equal(resumed.maps, whole.maps)
    assert torch.equal(resumed.offsets, whole.offsets)
    counted.clear()
    finished = train_tuned_lens(gpt2, rows, steps=9, batch_size=2, checkpoint=file)
    assert counted == []
    assert torch.equal(finished.maps, whole.maps)


def test_every_prompt_is_seen_before_any_comes_again():
    plan = training.Plan(steps=6, seed=1, batch_size=2, rate=1.0)
    for epoch in range(2):
        rows = [row for step in range(3) for row in plan.rows(3 * epoch + step, 6)]
        assert sorted(rows) == list(range(6))
    assert plan.rows(0, 600) != training.Plan(6, 2, 2, 1.0).rows(0, 600)
    assert plan.rows(5, 1) == [0]


def test_a_saved_lens_comes_back_as_it_was(toy, tuned, tmp_path):
    tuned.save(tmp_path / "lens.safetensors")
    found = load_tuned_lens(tmp_path / "lens.safetensors", toy)
    assert torch.equal(found.maps, tuned.maps)
    assert torch.equal(found.offsets, tuned.offsets)
    assert found.provenance == tuned.provenance
    assert found.provenance["weights"] == toy.weights


def test_a_lens_of_another_model_is_refused(gpt2, tuned, tmp_path):
    with pytest.raises(ValueError, match=r"trained for toy \(weights .*\), and GPT2LMHeadModel"):
        logit_lens(gpt2, [5, 6], tuned=tuned)
    tuned.save(tmp_path / "lens.safetensors")
    with pytest.raises(ValueError, match=r"trained for toy"):
        load_tuned_lens(tmp_path / "lens.safetensors", gpt2)


def test_only_streams_between_layers_can_be_read(toy, tuned):
    for nodes in ("attn_out", "resid_mid", "a0.h1", "m0.n3", "embed"):
        with pytest.raises(ValueError, match=r"a tuned lens reads the streams between layers"):
            logit_lens(toy, "The", nodes, tuned=tuned)


def test_files_that_are_no_lens_are_refused(toy, tuned, gpt2, tmp_path):
    broken, other = tmp_path / "broken.safetensors", tmp_path / "checkpoint.safetensors"
    broken.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"broken.safetensors is not a whole safetensors file"):
        load_tuned_lens(broken, toy)
    train_tuned_lens(gpt2, [[5, 6]], steps=1, checkpoint=other)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is no tuned lens"):
        load_tuned_lens(other, gpt2)
    with pytest.raises(ValueError, match=r"belongs to another training: its steps is 1, not 2"):
        train_tuned_lens(gpt2, [[5, 6]], steps=2, checkpoint=other)


def test_impossible_trainings_are_refused(gpt2):
    with pytest.raises(ValueError, match=r"steps must be at least 1, got 0"):
        train_tuned_lens(gpt2, [[5, 6]], steps=0)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        train_tuned_lens(gpt2, [[5, 6]], batch_size=0)
    with pytest.raises(ValueError, match=r"rate must be above 0, got -1.0"):
        train_tuned_lens(gpt2, [[5, 6]], rate=-1.0)
    with pytest.raises(ValueError, match=r"got no prompts"):
        train_tuned_lens(gpt2, [])
