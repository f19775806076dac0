"""Causal tracing: held against one hooked run for each draw, layer and position; laws; refusals."""

import families
import pytest
import torch

from patching.activation import as_share
from patching.anatomy.blocks import EMBEDDING
from patching.anatomy.places import of_kind
from patching.intervene import embedding_sigma
from patching.metrics import logit_diff, prob_diff
from patching.model import Model
from patching.tasks import Prompt, Task
from patching.tracing import Noise, causal_tracing

NOISE = Noise(sigma=2.0, samples=2, seed=5)


@torch.no_grad()
def slow(model: Model, prompt: Prompt, span: range, what: str, window: int) -> torch.Tensor:
    """ROME's loop: effect of every layer and position, mean over draws."""
    task = Task("one", (prompt,))
    batch, places = next(task.batches(1)), of_kind(model, what)
    clean = model.run(batch.clean, cache=[place.name for place in places])
    generator = torch.Generator().manual_seed(NOISE.seed)
    drawn = torch.randn(2, len(span), 32, generator=generator, dtype=torch.float64)
    out = torch.zeros(2, len(places), len(prompt.clean), dtype=torch.float64)
    for i in range(2):

        def disturb(x, hook, i=i):
            x = x.clone()
            x[0, list(span)] += 2.0 * drawn[i]
            return x

        def run(*hooks, disturb=disturb):
            logits = model.bridge.run_with_hooks(
                batch.clean, fwd_hooks=[(EMBEDDING, disturb), *hooks]
            )
            return float(logit_diff(logits[:, -1], batch))

        noised = run()

        for layer in range(len(places)):
            start = layer - window // 2
            some = places[max(0, start) : start + window]
            for pos in range(len(prompt.clean)):
                hooks = [(place.hook, restore(clean[place.name], pos)) for place in some]
                out[i, layer, pos] = run(*hooks) - noised
    return out.mean(0)


def restore(value: torch.Tensor, pos: int):
    def hook(x, hook):
        x = x.clone()
        x[:, pos] = value[:, pos]
        return x

    return hook


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("what", "window"), [("resid_post", 1), ("mlp_out", 2), ("attn_out", 1)])
def test_every_effect_equals_that_of_single_hooks(family, what, window):
    model, task = families.load(family), families.ragged_task((6, 7))
    spans = [range(1, 3), range(2, 3)]
    found = causal_tracing(model, task, logit_diff, spans, what=what, window=window, noise=NOISE)
    for i, (prompt, span) in enumerate(zip(task.prompts, spans, strict=True)):
        expected = slow(model, prompt, span, what, window)
        n = len(prompt.clean)
        torch.testing.assert_close(found.values[i, :, :n], expected, rtol=0, atol=1e-9)
        assert not found.values[i, :, n:].any()
    assert found.values.abs().max() > 1e-2


def test_restoring_the_only_noised_token_at_the_bottom_restores_everything(gpt2):
    grid = causal_tracing(
        gpt2, families.task(), prob_diff, range(3, 4), what="resid_pre", noise=NOISE
    )
    total = grid.clean - grid.corrupt
    torch.testing.assert_close(grid.values[:, 0, 3], total)
    assert as_share(grid).at(layer="0", pos="3") == pytest.approx(1.0)


def test_the_middle_of_the_stream_can_be_restored_too(gpt2):
    """Restoring attention's write and the stream before it is the same, at the first layer."""
    grid = causal_tracing(
        gpt2, families.task(), logit_diff, range(3, 4), what="resid_mid", noise=NOISE
    )
    last = causal_tracing(
        gpt2, families.task(), logit_diff, range(3, 4), what="resid_post", noise=NOISE
    )
    # from the middle of a layer on, a token's MLP is a function of what was restored
    torch.testing.assert_close(grid.values, last.values)


def test_noise_is_by_default_three_standard_deviations_wide(gpt2):
    grid = causal_tracing(gpt2, families.task(1), logit_diff, range(2, 3), noise=Noise(samples=1))
    assert grid.provenance["sigma"] == pytest.approx(embedding_sigma(gpt2))
    wide = Noise(sigma=embedding_sigma(gpt2), samples=1)
    again = causal_tracing(gpt2, families.task(1), logit_diff, range(2, 3), noise=wide)
    assert torch.equal(grid.values, again.values)


def test_what_cannot_be_traced_is_refused(gpt2):
    def refused(match, subject=range(1, 2), **options):
        with pytest.raises(ValueError, match=match):
            causal_tracing(gpt2, families.task(2), logit_diff, subject, **options)

    refused("restores one of resid_pre, .*; got z", what="z")
    refused("a window is 1 to 2 layers.*got 3", what="mlp_out", window=3)
    refused("resid_post is restored one layer at a time", window=2)
    refused("at least one sample and a positive sigma, got 0", noise=Noise(samples=0))
    refused("positive sigma, got 10 and -1", noise=Noise(sigma=-1.0))
    refused("the subject of row 0 is range\\(8, 10\\).*0 to 8", range(8, 10))
    refused("the subject of row 1 is range\\(2, 2\\)", [range(1, 2), range(2, 2)])
    refused("got the subject of 1 prompts, and task 'random' has 2", [range(1, 2)])
