"""Token attribution over a task: one call for every method, and how far methods agree."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from patching.ablations import Ablation, Prepared
from patching.anatomy.blocks import EMBEDDING
from patching.capture import capture
from patching.grid import Grid
from patching.metrics import Metric, measure, name_of, require_slope
from patching.model import Model
from patching.progress import track
from patching.tasks.task import Batch, Task
from patching.token_attribution.methods import Method, Setting, input_x_gradient


def attribute_tokens(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    method: Method = input_x_gradient,
    baseline: Ablation | None = None,
    batch_size: int = 32,
) -> Grid:
    """What the token at each position does for the metric, per example, by one method.

    `baseline` says what a token is compared with: the corrupt prompt's embedding (`resample`), no
    embedding (`zero`) or a mean one (`mean(task)`); learned positions stay. Unless given, the
    method's own. Positions count from the first real token; those after a prompt's last hold 0.
    `clean` and `corrupt` of the grid are the metric of the clean run and of the baseline. Prompts
    and points of paths share passes of `batch_size` rows.

    >>> from patching import tasks
    >>> from patching.metrics import logit_diff
    >>> from patching.token_attribution import occlusion
    >>> model = Model.load("toy")
    >>> task = tasks.ioi(model.tokenizer, n=4, seed=0)
    >>> grid = attribute_tokens(model, task, logit_diff, method=occlusion())
    >>> tuple(grid.values.shape) == (4, task.max_length)
    True

    Raises:
        ValueError: if the metric has no gradient that the method could use, the model cannot read
            the task, pairs do not differ where the baseline is the corrupt prompt, or a pass would
            be empty.
    """
    prepared = (baseline or method.baseline)(model)
    _check(model, task, metric, method, prepared)
    found, ends, task = [], [], replace(task, padding="right")  # which changes no number
    batches = task.batches(batch_size, model.device)
    for batch in track(batches, "attributing to tokens", task.n_batches(batch_size)):
        setting, corrupt = _set(model, batch, metric, prepared, batch_size)
        found.append(_by_place(setting.batch, method.run(setting), task.max_length))
        ends.append((setting.values.cpu(), corrupt.cpu()))
    clean, corrupt = (torch.cat(values) for values in zip(*ends, strict=True))
    provenance = {
        "model": model.name,
        "task": task.hash,
        "method": method.name,
        "baseline": prepared.name if method.uses_baseline else None,
        "lengths": [prompt.n_tokens for prompt in task.prompts],
    }
    axes = {"pos": tuple(map(str, range(task.max_length)))}
    known = corrupt if method.uses_baseline else None
    quantity = f"{method.name} ({name_of(metric)})"
    return Grid(quantity, torch.cat(found), axes, clean, known, provenance)


def completeness_delta(grid: Grid) -> Float[Tensor, " example"]:
    """Sum of the attributions minus (metric(clean) - metric(baseline)), per example.

    0 for an exact path; for integrated gradients, the error of its steps.

    Raises:
        ValueError: if the grid is not by a method with a baseline.
    """
    if grid.clean is None or grid.corrupt is None:
        raise ValueError(f"{grid.quantity} has no baseline that its sum could be held against")
    return grid.values.sum(dim=1) - (grid.clean - grid.corrupt)


def agreement(grids: Mapping[str, Grid], *, absolute: bool = False) -> pd.DataFrame:
    """Spearman's rank correlation over positions between methods, mean over examples.

    With `absolute`, of absolute values, as is fair to methods without sign. Examples in which a
    method gives all positions the same value are left out of its means (NaN if that is all). With
    the corrupt prompt as baseline most methods give 0 wherever the pair does not differ, and agree
    on that: `baseline=zero` or `mean(task)` asks more of them.

    Raises:
        ValueError: if there are fewer than two grids, or they are not of the same task.
    """
    if len(grids) < 2:
        raise ValueError(f"agreement is between two methods at least, got {len(grids)}")
    tasks = {(grid.provenance.get("task"), tuple(grid.values.shape)) for grid in grids.values()}
    if len(tasks) > 1 or any("lengths" not in grid.provenance for grid in grids.values()):
        raise ValueError("agreement compares grids of `attribute_tokens` on one and the same task")
    ranks = {name: list(_ranks(grid, absolute)) for name, grid in grids.items()}
    table = [[_mean_product(one, other) for other in ranks.values()] for one in ranks.values()]
    return pd.DataFrame(table, index=list(ranks), columns=list(ranks))


def _set(
    model: Model, batch: Batch, metric: Metric, prepared: Prepared, size: int
) -> tuple[Setting, Float[Tensor, " batch"]]:
    """The setting of a batch, and the metric at the baseline."""
    tokens = prepared.tokens(batch)
    run = capture(model, batch.clean, batch, at=tokens)
    corrupt = capture(model, batch.corrupt, batch, at=tokens) if prepared.paired else None
    batch = replace(batch, clean_logits=run.logits)
    end = prepared.replace(batch, run, corrupt).embedding
    with torch.no_grad():
        logits = model.answer_logits(batch.clean, batch, [(EMBEDDING, lambda _: end)])
        values = measure(metric, run.logits, batch).double()
        return (
            Setting(model, metric, batch, run.embedding, end, values, size),
            measure(metric, logits, batch).double(),
        )


def _by_place(
    batch: Batch, values: Float[Tensor, "batch pos"], n: int
) -> Float[Tensor, "batch place"]:
    """Values up to the answer, nothing elsewhere, in as many columns as the task needs."""
    chosen = torch.where(batch.by_example(batch.up_to_answer.long()) > 0, values.double(), 0.0)
    out = chosen.new_zeros(len(chosen), n)
    out[:, : chosen.shape[1]] = chosen
    return out.cpu()


def _ranks(grid: Grid, absolute: bool) -> Iterator[np.ndarray | None]:
    """Standardised ranks of each example's positions; None where all are tied."""
    lengths = grid.provenance["lengths"]
    assert isinstance(lengths, list), "`attribute_tokens` lists them"
    for values, length in zip(grid.values, lengths, strict=True):
        row = (values.abs() if absolute else values)[:length].cpu().numpy()
        ranks = rankdata(row)
        ranks -= ranks.mean()
        size = float(np.sqrt((ranks**2).sum()))
        yield ranks / size if size else None


def _mean_product(one: list[np.ndarray | None], other: list[np.ndarray | None]) -> float:
    pairs = zip(one, other, strict=True)
    found = [float(a @ b) for a, b in pairs if a is not None and b is not None]
    return float(np.mean(found)) if found else float("nan")


def _check(model: Model, task: Task, metric: Metric, method: Method, prepared: Prepared) -> None:
    if method.differentiates:
        elsewhere = ", a path (`integrated_gradients`, `idgi`) or `occlusion()`"
        purpose = f"to score tokens by in {method.name}"
        require_slope(metric, purpose, at_clean=method.at_clean, elsewhere=elsewhere)
    model.check(task, metric)
    if prepared.paired and method.uses_baseline:
        task.require_contrast()
