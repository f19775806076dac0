"""The laws of metrics: `(logits [batch, vocab] at the answer, batch) -> [batch]`."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.checks.law import require, require_equal
from patching.metrics import Metric
from patching.tasks.task import Batch, Prompt, Task

VOCAB = 13
_ROUNDING = 1e-12


def check_metric(metric: Metric, *, differentiable: bool = True) -> None:
    """Hold a metric to its laws, on random logits of rows with one to three answers.

    A name; one finite value a row, which no other row and no padding of answers has a part in, in
    any order; logits left as they were; larger is better: more for the answers never makes it
    less (a metric that compares with the clean run is largest there); if `differentiable`, a
    gradient that is finite, and of a row in its own logits alone.

    >>> from patching.metrics import accuracy, logit_diff
    >>> check_metric(logit_diff)
    >>> check_metric(accuracy, differentiable=False)

    Raises:
        AssertionError: if a law is broken, with the numbers.
    """
    logits = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(0)).double()
    clean = torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(1)).double()
    (batch,) = _task().batches(5)
    batch = replace(batch, clean_logits=clean)
    require(bool(getattr(metric, "__name__", "")), "a metric has a __name__", "it has none")
    _one_value_a_row(metric, logits, batch)
    _rows_apart(metric, logits, batch)
    _larger_is_better(metric, logits, batch, clean)
    if differentiable:
        _has_gradient(metric, logits, batch)


def _task() -> Task:
    """Rows with different numbers of answers, so that the batch pads them."""
    rows = (((1,), (2,)), ((3, 4), (5,)), ((6,), (7, 8, 9)), ((2, 3, 5), (1, 4)), ((0,), (12,)))
    return Task("answers", tuple(Prompt((1, 2), (1, 3), *row) for row in rows))


def _one_value_a_row(metric: Metric, logits: Float[Tensor, "batch vocab"], batch: Batch) -> None:
    law = "one finite value a row, and logits left as they were"
    before = logits.clone()
    values = metric(logits, batch)
    right = (len(batch),)
    require(values.shape == right, law, f"the shape is {tuple(values.shape)}, {right} is right")
    require(bool(values.isfinite().all()), law, f"values are {values.tolist()}")
    require(torch.equal(logits, before), law, "logits were changed in place")


def _rows_apart(metric: Metric, logits: Float[Tensor, "batch vocab"], batch: Batch) -> None:
    together = metric(logits, batch).double()
    task = _task()
    assert batch.clean_logits is not None, "made above"
    alone = []
    for i, prompt in enumerate(task.prompts):
        (one,) = Task("one", (prompt,)).batches(1)
        one = replace(one, clean_logits=batch.clean_logits[i : i + 1])
        alone.append(metric(logits[i : i + 1], one).double())
    law = "a row's value is its own: no other row and no padding of answers counts"
    require_equal(together, torch.cat(alone), law, _ROUNDING)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = metric(logits[order], batch.at(order)).double()
    require_equal(moved, together[order], "values follow their rows in any order", _ROUNDING)


def _larger_is_better(
    metric: Metric,
    logits: Float[Tensor, "batch vocab"],
    batch: Batch,
    clean: Float[Tensor, "batch vocab"],
) -> None:
    if _compares_with_clean(metric, logits, batch):
        law = "a metric that compares with the clean run is largest there"
        best, other = metric(clean, batch), metric(logits, batch)
        worst = int((best - other).argmin())
        found = f"{float(best[worst]):.4g} there, {float(other[worst]):.4g} elsewhere"
        require(bool((best >= other).all()), law, found)
        return
    law = "larger is better: a larger logit of all answers never makes it less"
    for size in (0.1, 3.0, 30.0):
        raised = logits.clone()
        for i, prompt in enumerate(_task().prompts):
            raised[i, list(prompt.answers)] += size
        lost = metric(logits, batch) - metric(raised, batch)
        worst = float(lost.max())
        require(worst <= _ROUNDING, law, f"{worst:.4g} are lost when answers gain {size} logits")


def _has_gradient(metric: Metric, logits: Float[Tensor, "batch vocab"], batch: Batch) -> None:
    law = "a gradient, finite and of each row in its own logits (else differentiable=False)"
    live = logits.clone().requires_grad_()
    values = metric(live, batch)
    require(values.requires_grad, law, "there is none: argmax, item() or detach() cut it off")
    (gradient,) = torch.autograd.grad(values[0], live)
    require(bool(gradient.isfinite().all()), law, "it is NaN or infinite")
    require(bool(gradient[0].any()), law, "it is 0 everywhere")
    require(not bool(gradient[1:].any()), law, "row 0 has a gradient in other rows' logits")


def _compares_with_clean(
    metric: Metric, logits: Float[Tensor, "batch vocab"], batch: Batch
) -> bool:
    """Whether other clean logits give another value, or none at all."""
    try:
        without = metric(logits, replace(batch, clean_logits=None))
    except (ValueError, AssertionError, TypeError, AttributeError):
        return True
    return not torch.equal(without, metric(logits, batch))
