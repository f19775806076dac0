"""AtP*'s repairs of attribution patching, for edges: GradDrop, and both it and the QK fix.

Where a direct and an indirect effect cancel, the gradient is small by accident; so GradDrop takes
it anew with each layer's contribution left out of it. The QK fix is in `patterns`.

Kramár et al. 2024, arXiv:2403.00745, who define both for nodes.
"""

from collections.abc import Callable, Mapping

import torch

from circuits.scores import Scores
from circuits.scoring.batches import whole
from circuits.scoring.patterns import qk_fix
from circuits.scoring.score import score
from patching.ablations import Ablation, resample
from patching.attribution.dropping import require_layers
from patching.gathering import Recipe
from patching.metrics import Metric
from patching.model import Model
from patching.paths import at_clean
from patching.rules import Rule, plain
from patching.rules.sites import Part, Site, Unruled
from patching.tasks.task import Task
from patching.work import Run

ScoreByRule = Callable[[Rule], Scores]


def grad_drop(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    recipe: Recipe = Recipe(),  # noqa: B008 - a frozen value
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """Scores with each layer in turn left out of the gradient: the mean of their absolute values.

    In pass l no gradient flows through what layer l's attention and MLP write, so edges into layer
    l score 0; hence the sum over layers is divided by one less than their number. Absolute values
    are taken of means over prompts. The scores have no sign, and edges out of a writer do not sum
    to its node score. Costs one `score` a layer,
    forward passes included.

    Kramár et al. 2024, arXiv:2403.00745.

    Raises:
        ValueError: if the model has fewer than 2 layers, and as `score`.
    """

    def by_rule(rule: Rule) -> Scores:
        dropped = Recipe(recipe.path, rule, recipe.ablation)
        return score(model, task, metric, dropped, batch_size=batch_size, run=run)

    options = {**recipe.path.options, "rule": recipe.rule.name, "path": recipe.path.name}
    return _over_dropped_layers(model, recipe.rule, by_rule, method="grad-drop", options=options)


def atp_star(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """Both repairs: `grad_drop` of `qk_fix`. Not signed and not additive, as `grad_drop`.

    Kramár et al. 2024, arXiv:2403.00745.

    Raises:
        ValueError: as `grad_drop` and `qk_fix`.
    """

    def by_rule(rule: Rule) -> Scores:
        return qk_fix(
            model, task, metric, rule=rule, ablation=ablation, batch_size=batch_size, run=run
        )

    options = {"rule": plain.name, "path": at_clean.name}
    return _over_dropped_layers(model, plain, by_rule, method="atp-star", options=options)


def without_layer(rule: Rule, layer: int) -> Rule:
    """The rule, with no gradient through what one layer's attention and MLP write."""
    name = f"{rule.name}, no gradient through layer {layer}"
    return Rule(name, (*rule.parts, _drop(layer)), rule.freezes_norms)


def _drop(layer: int) -> Part:
    def part(model: Model) -> list[Site | Unruled]:
        block = model.blocks[layer]
        writers = ((f"a{layer}", block.attention_out), (f"m{layer}", block.mlp_out))
        return [Site("drop", place, ((name, torch.Tensor.detach),)) for place, name in writers]

    return part


def _over_dropped_layers(
    model: Model,
    rule: Rule,
    by_rule: ScoreByRule,
    *,
    method: str,
    options: Mapping[str, object],
) -> Scores:
    n = model.graph.n_layers
    require_layers(model, instead="eap")
    with whole():
        passes = [by_rule(without_layer(rule, layer)) for layer in range(n)]
    total = torch.stack([scores.matrix.abs() for scores in passes]).sum(dim=0) / (n - 1)
    changes = {"method": method, "options": dict(options), "sign": "absolute values: no sign"}
    return Scores(total, passes[0].graph, {**passes[0].provenance, **changes})
