"""Laws of the gradient engine, held against plain autograd through a fresh Hugging Face model."""

from collections.abc import Callable, Iterator

import families
import pytest
import torch
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING, FINAL_STREAM, Block
from patching.anatomy.norms import Norm, find_norm
from patching.gradients import GradientSum, ReaderGradients, through_norm
from patching.live import Point, Start
from patching.metrics import Metric, logit_diff, measure, prob_diff
from patching.model import Model
from patching.tasks import Batch, Prompt, Task

FIRST_LAYER = {"gpt2": "transformer.h.0"}  # elsewhere: model.layers.0
D_MODEL = 32
FAMILIES = ("gpt2", "llama", "gemma2", "olmo2")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family) -> Model:
    return families.load(family, torch.float64)


@pytest.fixture
def batch() -> Batch:
    (made,) = families.task().batches(3)
    return made


def floor(family: str) -> float:
    """Relative rounding floor: Llama's and Gemma's norms and rotations run in float32."""
    return 1e-12 if family in families.TRUE_FLOAT64 else 2e-6


def assert_same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal but for `tolerance` of the largest entry, which must not be zero."""
    assert found.shape == expected.shape
    size = expected.abs().max()
    assert size > 0
    assert (found - expected).abs().max() / size < tolerance


def ragged(padding: str = "right") -> Task:
    """Random prompts of 4, 9 and 6 tokens; the first difference is at position 1."""
    generator = torch.Generator().manual_seed(5)
    prompts = []
    for i, length in enumerate((4, 9, 6)):
        clean = torch.randint(4, families.VOCAB, (length,), generator=generator).tolist()
        corrupt = (clean[0], clean[1] % 90 + 5, *clean[2:])
        prompts.append(Prompt(tuple(clean), corrupt, (20 + i,), (30 + i,)))
    return Task("ragged", tuple(prompts), padding="left" if padding == "left" else "right")


def gradients(model: Model, batch: Batch) -> tuple[Point, ReaderGradients]:
    total = GradientSum(model, batch.can_differ)
    point = total.add(batch, logit_diff, Start(1.0, batch.clean))
    return point, total.finish()


def plain_gradient(
    family: str, batch: Batch, metric: Metric, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Values and gradient at the stream that enters the first block, without any of our code."""
    module, streams = families.module(family, torch.float64).requires_grad_(False), []

    def root(layer: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        streams.append(change(args[0]).detach().requires_grad_())
        return streams[0], *args[1:]

    place = FIRST_LAYER.get(family, "model.layers.0")
    module.get_submodule(place).register_forward_pre_hook(root)
    logits = module(batch.clean).logits[torch.arange(len(batch)), batch.answer_pos]
    values = measure(metric, logits, batch)
    (gradient,) = torch.autograd.grad(values.sum(), streams)
    return values.detach(), gradient


def norms(block: Block) -> Iterator[Norm]:
    for norm in (block.attention_norm, block.mlp_norm, block.post_attention_norm):
        if norm is not None:
            yield norm


@pytest.mark.parametrize("metric", [logit_diff, prob_diff])
def test_the_gradient_at_the_embedding_is_plain_autograds(family, model, batch, metric):
    values, expected = plain_gradient(family, batch, metric, change=lambda stream: stream)
    total = GradientSum(model, batch.can_differ)
    point = total.add(batch, metric, Start(1.0, batch.clean))
    assert_same(point.values, values, floor(family))
    assert_same(point.embedding_gradient, expected, floor(family))


def test_the_gradient_from_another_embedding_is_taken_there(family, model, batch):
    def halve(stream: Tensor) -> Tensor:
        return 0.5 * stream

    streams: list[Tensor] = []
    model.answer_logits(batch.clean, batch, [(EMBEDDING, streams.append)])
    values, expected = plain_gradient(family, batch, logit_diff, change=halve)
    start = Start(1.0, batch.clean, embedding=halve(streams[0]))
    point = GradientSum(model, batch.can_differ).add(batch, logit_diff, start)
    assert_same(point.values, values, floor(family))
    assert_same(point.embedding_gradient, expected, floor(family))


def test_the_gradients_at_all_readers_add_up_to_the_embeddings(family, model, batch):
    """What the embedding does to the metric it does through its readers, all of them."""
    point, sums = gradients(model, batch)
    total = sums.logits + torch.stack(sums.mlps).sum(dim=0)
    for block, attention in zip(model.blocks, sums.attention, strict=True):
        along_x_hat = torch.einsum("st,std->td", attention.radial.sum(-1), attention.x_hat)
        total = total + block.pull_back_qkv(attention.projected).sum(dim=0) - along_x_hat / D_MODEL
    assert_same(total, point.embedding_gradient[batch.can_differ], floor(family))


def test_the_logits_reader_is_the_input_of_the_final_norm(family, model, batch):
    streams: list[Tensor] = []

    def root(stream: Tensor) -> Tensor:
        streams.append(stream.detach().requires_grad_())
        return streams[0]

    with torch.enable_grad():
        logits = model.answer_logits(batch.clean, batch, [(FINAL_STREAM, root)])
        (expected,) = torch.autograd.grad(logit_diff(logits, batch).sum(), streams)
    _, sums = gradients(model, batch)
    assert_same(sums.logits, expected[batch.can_differ], floor(family))


def test_through_norm_is_autograd_through_the_norm_module(family, model):
    generator = torch.Generator().manual_seed(0)
    final = find_norm(model.bridge.ln_final)
    assert final is not None
    for norm in [*(n for block in model.blocks for n in norms(block)), final]:
        x = torch.randn(5, D_MODEL, generator=generator, dtype=torch.float64).requires_grad_()
        g = torch.randn(5, D_MODEL, generator=generator, dtype=torch.float64)
        (expected,) = torch.autograd.grad((norm(x) * g).sum(), x)
        # LayerNorm is in float64; Hugging Face's RMSNorms are in float32, whatever the model's
        tolerance = 1e-12 if norm.centred else 2e-6
        assert_same(through_norm(norm, g, x.detach()), expected, tolerance)


def assert_same_gradients(model: Model, padding: str, tolerance: float) -> None:
    """A padded batch of three against its examples one by one."""
    (whole,) = ragged(padding).batches(3)
    point, together = gradients(model, whole)
    points, parts = zip(*(gradients(model, single) for single in ragged().batches(1)), strict=True)
    real = whole.is_token
    alone = torch.cat([single.embedding_gradient[0] for single in points])
    assert_same(point.values, torch.cat([single.values for single in points]), tolerance)
    assert_same(point.embedding_gradient[real], alone, tolerance)
    assert not point.embedding_gradient[~real].any(), "padding reaches no answer"
    assert_same(together.logits, torch.cat([part.logits for part in parts]), tolerance)
    for layer, found in enumerate(together.attention):
        singles = [part.attention[layer] for part in parts]
        mlp = torch.cat([part.mlps[layer] for part in parts])
        assert_same(together.mlps[layer], mlp, tolerance)
        assert_same(found.projected, torch.cat([one.projected for one in singles]), tolerance)
        if len(found.x_hat):
            assert_same(found.x_hat, torch.cat([one.x_hat for one in singles], dim=1), tolerance)
            assert_same(found.radial, torch.cat([one.radial for one in singles], dim=1), tolerance)


def test_a_batch_padded_right_gives_each_examples_own_gradients(family, model):
    assert_same_gradients(model, "right", floor(family))


def test_a_batch_padded_left_gives_each_examples_own_gradients(family):
    model = Model.load(families.module(family, torch.float32))
    # a backward pass of two layers in float32, in another order: some ulps (1.2e-7) a step
    assert_same_gradients(model, "left", 2e-5)


def test_left_padding_that_gives_nan_is_refused_with_the_way_out(family, model):
    if family == "gpt2":
        assert_same_gradients(model, "left", floor(family))
        return
    with pytest.raises(ValueError, match="gives NaN under left padding in torch.float64"):
        assert_same_gradients(model, "left", floor(family))


def test_weights_of_points_add_up(model, batch):
    """The same run twice, with weights 0.25 and 0.75, is the run once."""
    _, once = gradients(model, batch)
    total = GradientSum(model, batch.can_differ)
    for weight in (0.25, 0.75):
        total.add(batch, logit_diff, Start(weight, batch.clean))
    twice = total.finish()
    # the same float64 numbers, weighted by exact quarters and added: one rounding each
    assert_same(twice.logits, once.logits, 1e-14)
    for layer in range(model.graph.n_layers):
        assert_same(twice.mlps[layer], once.mlps[layer], 1e-14)
        found, expected = twice.attention[layer], once.attention[layer]
        assert_same(found.projected, expected.projected, 1e-14)
        if len(expected.x_hat):
            assert_same(found.x_hat, expected.x_hat.repeat(2, 1, 1), 1e-14)
            assert_same(found.radial.sum(0), expected.radial.sum(0), 1e-14)


def test_gradients_leave_the_parameters_without_any(model, batch):
    gradients(model, batch)
    assert all(parameter.grad is None for parameter in model.bridge.parameters())
