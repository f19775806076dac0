"""EAP-GP: gradients along a path that follows the model rather than a straight line."""

from circuits.scores import Scores
from circuits.scoring.score import score
from patching.ablations import Ablation, resample
from patching.gathering import Recipe
from patching.metrics import Metric
from patching.model import Model
from patching.paths import adjusted
from patching.tasks.task import Task
from patching.work import Run


def eap_gp(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    steps: int = 5,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """EAP with gradients averaged along the adjusted path: down the logits' distance to the end's.

    It avoids stretches where the output is saturated. See `patching.paths.adjusted`, also for why
    it is not complete: steps are as long as 1, whatever lies between the ends. Zhang et al. 2025,
    arXiv:2502.06852. Costs three forwards, then two forwards and backwards a step.

    Raises:
        ValueError: if there are fewer than 1 steps, and as `score`.
    """
    recipe = Recipe(adjusted(steps), ablation=ablation)
    return score(model, task, metric, recipe, batch_size=batch_size, method="eap-gp", run=run)
