"""Do numbers hang on what must not matter: the side of padding, the type of the weights?"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.doctor.finding import Finding, at_least, at_most
from circuits.scoring import eap
from patching.anatomy.blocks import find_blocks
from patching.memory import free_bytes
from patching.metrics import Metric, measure
from patching.model import Model
from patching.modes import without_gradients
from patching.tasks.task import PaddingSide, Task

_NOISE = {torch.float64: 1e-6, torch.float32: 1e-4}
_NOISE_HALF = 5e-2
HALF = (torch.bfloat16, torch.float16)


def padding(model: Model, task: Task) -> Finding:
    """Prompts of several lengths in one batch, padded right and left, against each alone.

    A family that cannot be padded on the left in this dtype is refused there by the model itself,
    which is said and no fault.
    """
    ragged = _ragged(task)
    alone = _logits(model, ragged, "right", 1)
    errors = {"right": _error(_logits(model, ragged, "right", len(ragged)), alone)}
    refused = ""
    try:
        errors["left"] = _error(_logits(model, ragged, "left", len(ragged)), alone)
    except ValueError as error:
        refused = f" Left padding is refused: {error}."
    limit = _NOISE.get(model.dtype, _NOISE_HALF)
    worst = max(errors, key=errors.__getitem__)
    return Finding(
        name="padding does not matter",
        subject="model",
        verdict=at_most(errors[worst], limit, 100 * limit),
        measured=errors[worst],
        threshold=limit,
        unit="relative error",
        means="Logits of prompts padded to one length, against each prompt alone." + refused,
        advice=f"Padding on the {worst} changes results; "
        "take prompts of one length (task.of_length()) or batch_size=1.",
        details=tuple(errors.items()),
    )


def noise(model: Model, task: Task, metric: Metric) -> list[Finding]:
    """The metric and EAP of a model in half precision against a float32 copy of it."""
    wide = _widened(model)
    gap = _values(wide, task, metric, clean=True) - _values(wide, task, metric, clean=False)
    found = _values(model, task, metric, clean=True) - _values(model, task, metric, clean=False)
    size = float(gap.mean().abs())
    off = float((found - gap).abs().mean()) / size if size else float("inf")
    ours, theirs = (eap(m, task, metric).matrix[model.graph.exists] for m in (model, wide))
    alike = float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])
    name = str(model.dtype).removeprefix("torch.")
    advice = "Load the model in float32 (dtype=torch.float32, --dtype float32)."
    return [
        Finding(
            name="dtype noise of the metric",
            subject="model",
            verdict=at_most(off, 0.1, 0.5),
            measured=off,
            threshold=0.1,
            unit="of the gap",
            means=f"How far {name} moves a prompt's clean-corrupt gap from float32's.",
            advice=advice,
        ),
        Finding(
            name="dtype noise of scores",
            more_is_better=True,
            subject="model",
            verdict=at_least(alike, 0.98, 0.8),
            measured=alike,
            threshold=0.98,
            unit="Pearson",
            means=f"EAP of all edges in {name} against float32.",
            advice=advice,
        ),
    ]


def why_no_copy(model: Model) -> str:
    """Why a float32 copy cannot be made; empty if it can."""
    needed = 4 * sum(p.numel() for p in model.bridge.parameters())
    free = free_bytes(model.device)
    if len({p.device for p in model.bridge.parameters()}) > 1:
        return "the model lies on several devices"
    if needed > free / 2:
        return f"a float32 copy takes {needed / 2**30:.1f} GiB, of {free / 2**30:.1f} GiB free"
    return ""


def _widened(model: Model) -> Model:
    copied = copy.deepcopy(model.bridge)
    copied.to(dtype=torch.float32, print_details=False)
    return replace(model, bridge=copied, blocks=find_blocks(copied))


def _ragged(task: Task) -> Task:
    """The task with some prompts shortened at the front, so that lengths differ."""
    prompts = [
        p
        if len(p.clean) <= 3 or p.answer_positions
        else replace(p, clean=p.clean[i % 3 :], corrupt=p.corrupt[i % 3 :], spans=())
        for i, p in enumerate(task.prompts)
    ]
    return replace(task, prompts=tuple(prompts))


@without_gradients
def _logits(model: Model, task: Task, side: PaddingSide, size: int) -> Float[Tensor, "row vocab"]:
    batches = replace(task, padding=side).batches(size, model.device)
    return torch.cat([model.answer_logits(batch.clean, batch) for batch in batches])


def _error(found: Float[Tensor, "row vocab"], expected: Float[Tensor, "row vocab"]) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@without_gradients
def _values(model: Model, task: Task, metric: Metric, *, clean: bool) -> Float[Tensor, " row"]:
    values: Sequence[Tensor] = [
        measure(metric, model.answer_logits(b.clean if clean else b.corrupt, b), b).double().cpu()
        for b in task.batches(len(task), model.device)
    ]
    return torch.cat(list(values))
