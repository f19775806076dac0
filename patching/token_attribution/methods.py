"""Methods of token attribution: what each embedding at each position does for the metric.

A method is given one batch with both ends of its path, and returns one number per position.
Positive: the token helps the metric, compared with the baseline (gradient norms have no sign).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.ablations import Ablation, resample, zero
from patching.anatomy.blocks import EMBEDDING, widen
from patching.metrics import Metric, measure, measure_sloped
from patching.model import Hook, Model
from patching.modes import with_gradients, without_gradients
from patching.quadrature import Quadrature, midpoint
from patching.rules import Rule, plain
from patching.rules.recipes import attn_lrp
from patching.tasks.task import Batch


@dataclass(frozen=True, eq=False)
class Setting:
    """One batch to be attributed: its embeddings, the clean ones and the baseline's.

    `values` is the metric of the clean run, `size` the number of rows in a pass.
    """

    model: Model
    metric: Metric
    batch: Batch
    clean: Float[Tensor, "row pos d_model"]
    baseline: Float[Tensor, "row pos d_model"]
    values: Float[Tensor, " batch"]
    size: int

    @property
    def difference(self) -> Float[Tensor, "row pos d_model"]:
        """Clean minus baseline, in float64."""
        return self.clean.double() - self.baseline.double()


@dataclass(frozen=True)
class Method:
    """A way to attribute, with the baseline it takes unless told otherwise.

    `uses_baseline` and `differentiates` say what a method needs; `at_clean` that its gradient is
    that of the clean run alone.
    """

    name: str
    run: Callable[[Setting], Float[Tensor, "batch pos"]]
    baseline: Ablation = resample
    uses_baseline: bool = True
    differentiates: bool = True
    at_clean: bool = False


def integrated_gradients(steps: int = 50, quadrature: Quadrature = midpoint) -> Method:
    """`(x - x') . mean gradient` on the straight path from the baseline x' to x.

    The sum over positions tends to metric(clean) - metric(baseline) as steps grow in number: see
    `completeness_delta`. Sundararajan et al. 2017, arXiv:1703.01365.

    Raises:
        ValueError: if there are fewer than 1 steps.
    """
    points, weights = quadrature(_at_least_one(steps))
    return Method(f"integrated-gradients-{steps}", partial(_integrated, points, weights))


def idgi(steps: int = 50) -> Method:
    """Integrated gradients with each step's change of the metric shared out by squared gradient.

    Step j adds `(f(x_j+1) - f(x_j)) g^2 / |g|^2`, g the gradient at x_j: the sum over positions is
    metric(clean) - metric(baseline) with any number of steps, unless a gradient vanishes. Positions
    where nothing changes on the path get a share too: so the paper has it. Yang et al. 2023 (IDGI),
    arXiv:2303.14242.

    Raises:
        ValueError: if there are fewer than 1 steps.
    """
    return Method(f"idgi-{steps}", partial(_important_direction, _at_least_one(steps)))


def relevance(rule: Rule = attn_lrp) -> Method:
    """`(x - x') . gradient` under a backward rule, x' being no token at all unless told otherwise.

    With `attn_lrp` the relevance of Achtibat et al. 2024, arXiv:2402.05602; learned positions keep
    theirs, which is not shown.
    """
    run = partial(_at_clean, rule)
    return Method(f"relevance-{rule.name}", run, baseline=zero, at_clean=True)


def occlusion(token: int | None = None) -> Method:
    """Exact: the metric less that with one token replaced, by its corrupt partner or `token`.

    Tokens that equal their replacement get 0. One row of a pass for each other token.
    """
    name = "occlusion" if token is None else f"occlusion-{token}"
    uses_baseline = token is None
    return Method(name, partial(_occluded, token), resample, uses_baseline, differentiates=False)


def _norms(setting: Setting) -> Float[Tensor, "batch pos"]:
    found = torch.cat([gradient for _, gradient in _clean_gradients(setting, plain)])
    return setting.batch.by_example(found).norm(dim=-1)


def _at_clean(rule: Rule, setting: Setting) -> Float[Tensor, "batch pos"]:
    found = [
        (setting.difference[rows] * gradient).sum(dim=-1)
        for rows, gradient in _clean_gradients(setting, rule)
    ]
    return setting.batch.by_example(torch.cat(found))


gradient_norm = Method("gradient-norm", _norms, uses_baseline=False, at_clean=True)
"""Length of the metric's gradient at each embedding: how much the token matters, without sign."""

input_x_gradient = Method("input-x-gradient", partial(_at_clean, plain), at_clean=True)
"""`(x - x') . gradient` at the clean run: first-order effect of the token against its baseline."""


def _integrated(
    points: list[float], weights: list[float], setting: Setting
) -> Float[Tensor, "batch pos"]:
    total = torch.zeros_like(setting.clean[:, :, 0], dtype=torch.float64)
    weight = torch.tensor(weights, dtype=torch.float64, device=total.device)
    for at, _, gradient in _along_path(setting, points):
        parts = (setting.difference[at.rows] * gradient).sum(dim=-1)
        total.index_add_(0, at.rows, parts * weight[at.part.by_row(at.steps), None])
    return setting.batch.by_example(total)


def _important_direction(steps: int, setting: Setting) -> Float[Tensor, "batch pos"]:
    n, length = len(setting.batch), setting.batch.clean.shape[1]
    shares = torch.zeros(n, steps, length, dtype=torch.float64, device=setting.clean.device)
    values = shares.new_empty(n, steps + 1)
    values[:, steps] = setting.values
    for at, value, gradient in _along_path(setting, [j / steps for j in range(steps)]):
        squares = at.part.by_example(gradient.square().sum(dim=-1) * at.part.up_to_answer)
        total = squares.sum(dim=1, keepdim=True)
        shares[at.examples, at.steps] = squares / torch.where(
            total == 0, torch.ones_like(total), total
        )
        values[at.examples, at.steps] = value
    return (shares * values.diff(dim=1)[:, :, None]).sum(dim=1)


@without_gradients
def _occluded(token: int | None, setting: Setting) -> Float[Tensor, "batch pos"]:
    batch = setting.batch
    vocab = int(setting.model.bridge.cfg.d_vocab)
    if token is not None and not 0 <= token < vocab:
        raise ValueError(
            f"the token {token} cannot replace others: ids of {setting.model.name} are 0 to "
            f"{vocab - 1}"
        )
    other = batch.corrupt if token is None else torch.full_like(batch.clean, token)
    differs = batch.by_example(((batch.clean != other) & batch.up_to_answer).long())
    examples, columns = differs.nonzero(as_tuple=True)
    result = torch.zeros_like(differs, dtype=torch.float64)
    chunks = zip(examples.split(setting.size), columns.split(setting.size), strict=True)
    for example, column in chunks:
        part, rows = batch.at(example), batch.rows_of(example)
        at, tokens = part.by_row(column), part.clean.clone()
        tokens[torch.arange(len(rows), device=rows.device), at] = other[rows, at]
        values = measure(setting.metric, setting.model.answer_logits(tokens, part), part)
        result[example, column] = setting.values[example] - values.double()
    return result


@dataclass(frozen=True)
class _At:
    """Some examples at some steps of a path, and the rows of the batch that they are."""

    part: Batch
    examples: Int[Tensor, " chosen"]
    steps: Int[Tensor, " chosen"]
    rows: Int[Tensor, " row"]


def _along_path(
    setting: Setting, points: list[float]
) -> Iterator[tuple[_At, Float[Tensor, " chosen"], Float[Tensor, "row pos d_model"]]]:
    """Metric and gradient of examples at points, which run from baseline (0) to clean (1)."""
    device = setting.clean.device
    start, end = widen(setting.baseline), widen(setting.clean)
    at = torch.tensor(points, dtype=end.dtype, device=device)
    steps = torch.arange(len(points), device=device).repeat(len(setting.batch))
    examples = torch.arange(len(setting.batch), device=device).repeat_interleave(len(points))
    chunks = zip(examples.split(setting.size), steps.split(setting.size), strict=True)
    for example, step in chunks:
        part, rows = setting.batch.at(example), setting.batch.rows_of(example)
        share = at[part.by_row(step), None, None]
        embedding = torch.lerp(start[rows], end[rows], share).to(setting.clean.dtype)
        yield _At(part, example, step, rows), *_differentiate(setting, part, embedding, plain)


def _clean_gradients(
    setting: Setting, rule: Rule
) -> Iterator[tuple[Int[Tensor, " row"], Float[Tensor, "row pos d_model"]]]:
    everything = torch.arange(len(setting.batch), device=setting.clean.device)
    for examples in everything.split(setting.size):
        part, rows = setting.batch.at(examples), setting.batch.rows_of(examples)
        yield rows, _differentiate(setting, part, setting.clean[rows], rule)[1]


def _differentiate(
    setting: Setting,
    batch: Batch,
    embedding: Float[Tensor, "row pos d_model"],
    rule: Rule,
) -> tuple[Float[Tensor, " chosen"], Float[Tensor, "row pos d_model"]]:
    """The metric of runs from these embeddings, and its gradient there, in float64."""
    start = embedding.detach().requires_grad_()
    root: tuple[str, Hook] = (EMBEDDING, lambda _: start)
    ruled = rule.start(setting.model)
    with with_gradients():
        logits = setting.model.answer_logits(batch.clean, batch, [root, *ruled.hooks])
        values = measure_sloped(setting.metric, logits, batch)
        (gradient,) = torch.autograd.grad(values.sum(), [start])
    ruled.check()
    return values.detach().double(), gradient.double()


def _at_least_one(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"a path has at least 1 step, got {steps}")
    return steps


TOKEN_METHODS: dict[str, Method] = {
    "gradient-norm": gradient_norm,
    "input-x-gradient": input_x_gradient,
    "integrated-gradients": integrated_gradients(),
    "idgi": idgi(),
    "attn-lrp": relevance(),
    "occlusion": occlusion(),
}
