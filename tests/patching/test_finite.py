"""NaN and infinite numbers are found where they arise; sums are not made in a narrow type."""

import sys

import families
import pytest
import torch

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.scoring.score import score
from patching.ablations import Constants, mean
from patching.capture import capture
from patching.gathering import Recipe
from patching.gradients import GradientSum
from patching.live import Start
from patching.metrics import logit_diff
from patching.model import Model
from patching.paths import along_inputs
from patching.tasks import Prompt, Task


def small(dtype: torch.dtype = torch.float32) -> Model:
    return Model.load(families.module("gpt2", dtype))


def spoil(model: Model, part: str, value: float, row: int | None = None) -> None:
    """Put a value into the weights after the model has been proven."""
    ((_, weights),) = [(n, p) for n, p in model.bridge.named_parameters() if n.endswith(part)]
    (weights if row is None else weights[row]).data.fill_(value)


def weights_of(model: Model, words: str) -> str:
    names = [n for n, _ in model.bridge.named_parameters() if all(w in n for w in words.split())]
    return names[0]


def test_an_infinite_weight_is_named_by_its_layer():
    model = small()
    spoil(model, weights_of(model, "h.1. c_proj bias"), float("inf"))
    message = (
        r"scores came out as NaN.* row 0 \(and \d+ more\) .*clean prompt, first at layer 1's M"
    )
    with pytest.raises(ValueError, match=message):
        score(model, families.task(), logit_diff, Recipe())


def test_evaluation_names_the_layer_as_well():
    model = small()
    spoil(model, weights_of(model, "h.0. c_proj bias"), float("nan"))
    circuit = Circuit.full(model.graph)
    with pytest.raises(ValueError, match="the metric came out as NaN.*first at layer 0's MLP"):
        evaluate(model, families.task(), [circuit], logit_diff)


def test_a_row_that_overflows_alone_is_named():
    model = small()
    prompts = tuple(Prompt((word, 6, 7), (8, 6, 7), (9,), (10,)) for word in (5, 11))
    spoil(model, weights_of(model, "wte weight"), float("inf"), row=11)
    with pytest.raises(ValueError, match="row 1 of the batch, clean prompt, first at the embeddi"):
        score(model, Task("one bad row", prompts), logit_diff, Recipe())


def test_only_the_corrupt_run_may_be_bad():
    model = Model.load(families.module("llama", torch.float32))  # unembeds by other weights
    prompts = (Prompt((5, 6, 7), (11, 6, 7), (9,), (10,)),)
    spoil(model, weights_of(model, "embed_tokens weight"), float("inf"), row=11)
    with pytest.raises(ValueError, match="row 0 of the batch, corrupt prompt, first at the embed"):
        score(model, Task("bad corrupt row", prompts), logit_diff, Recipe())


def test_a_narrow_type_is_suspected():
    model = small(torch.float16)
    spoil(model, weights_of(model, "h.0. c_proj bias"), 6e4)
    spoil(model, weights_of(model, "h.1. c_proj bias"), 6e4)  # 120,000: more than 65,504
    with pytest.raises(ValueError, match="after layer 1; float16 overflows early, load .* float32"):
        score(model, families.task(), logit_diff, Recipe())


def test_finite_runs_with_a_bad_result_are_said_to_be_so(monkeypatch):
    def overflowing(*args: object) -> torch.Tensor:
        return torch.full(model.graph.exists.shape, torch.inf, dtype=torch.float64)

    model = small()
    monkeypatch.setattr(sys.modules["circuits.scoring.score"], "edge_scores", overflowing)
    with pytest.raises(
        ValueError,
        match="both plain runs are finite, so the metric is not, or a gradient or a run betw",
    ):
        score(model, families.task(), logit_diff, Recipe())


@pytest.fixture(scope="module")
def half() -> Model:
    return small(torch.bfloat16)


def test_writes_and_gradients_of_a_bfloat16_model_are_float32(half):
    (batch,) = families.task().batches(100)
    run = capture(half, batch.clean, batch)
    for part in (run.writes.embed, *run.writes.heads, *run.writes.mlps):
        assert part.dtype == torch.float32
    sums = GradientSum(half, batch.can_differ)
    sums.add(batch, logit_diff, Start(1.0, batch.clean))
    found = sums.finish()
    for part in (found.logits, *found.mlps, *(layer.projected for layer in found.attention)):
        assert part.dtype == torch.float32


@pytest.mark.slow
def test_a_thousand_steps_of_a_thousandth_are_one(half):
    """1000 x .001 in bfloat16 is 0.5: a sum in the model's type would stop growing."""
    (batch,) = families.task(1, 6).batches(1)
    once, often = (GradientSum(half, batch.can_differ) for _ in range(2))
    once.add(batch, logit_diff, Start(1.0, batch.clean))
    for _ in range(400):
        often.add(batch, logit_diff, Start(1 / 400, batch.clean))
    # float32 keeps 400 additions to within 400 * 2^-24 = 2.4e-5 of the sum
    torch.testing.assert_close(often.finish().logits, once.finish().logits, rtol=3e-5, atol=1e-7)


def test_the_mean_of_equal_prompts_is_each_of_them(half):
    prompt = families.task(1, 6).prompts[0]
    one, many = (Task("equal", (prompt,) * n) for n in (1, 300))
    alone, together = (mean(task, batch_size=100)(half) for task in (one, many))
    assert isinstance(alone, Constants) and isinstance(together, Constants)
    # float64 sums of the same float32 values, up to rounding of batches of another size in bfloat16
    torch.testing.assert_close(together.writes.embed, alone.writes.embed, rtol=1e-12, atol=0)


def test_bfloat16_scores_are_those_of_float32_up_to_the_rounding_of_activations(half):
    """bfloat16 keeps 8 bits: 2^-8 = .4 % at each of some 10 roundings on the way of a score."""
    wide = Model.load(families.module("gpt2", torch.bfloat16).float())
    task = families.task()
    rough: Scores = score(half, task, logit_diff, Recipe(along_inputs(8)))
    fine: Scores = score(wide, task, logit_diff, Recipe(along_inputs(8)))
    assert (rough.matrix - fine.matrix).abs().max() < 0.05 * fine.matrix.abs().max()
    assert rough.completeness is not None and rough.completeness.dtype == torch.float64
