"""The named methods: each is one backward rule on one path; for `run`, see `score`."""

from circuits.scores import Scores
from circuits.scoring.score import score
from patching.ablations import Ablation, resample
from patching.gathering import Recipe
from patching.metrics import Metric
from patching.model import Model
from patching.paths import along_activations, along_inputs, at_both, at_clean
from patching.quadrature import Quadrature, midpoint
from patching.rules import gim as gim_rule
from patching.rules import relp as relp_rule
from patching.rules import relp_ah as relp_ah_rule
from patching.tasks.task import Task
from patching.work import Run


def eap(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """Edge attribution patching: (clean - corrupt write) times the reader's gradient, clean run.

    First-order estimate of what the metric loses when one edge is corrupted. Costs two forwards
    and one backward. Syed et al. 2023, arXiv:2310.10348.

    Raises:
        ValueError: as `score`.
    """
    recipe = Recipe(at_clean, ablation=ablation)
    return score(model, task, metric, recipe, batch_size=batch_size, method="eap", run=run)


def eap_ig(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    steps: int = 5,
    quadrature: Quadrature = midpoint,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """EAP with gradients integrated over embeddings between the corrupt and the clean prompt.

    Position embeddings and everything else are those of the clean run. The completeness delta
    (the embedding's scores minus the clean-corrupt gap) of each example comes with the scores
    and shrinks with the number of steps. Costs two forwards, then one forward and one backward a
    step. Hanna et al. 2024, arXiv:2403.17806, whose code takes `quadrature=left`.

    Raises:
        ValueError: if there are fewer than 1 steps, and as `score`.
    """
    recipe = Recipe(along_inputs(steps, quadrature), ablation=ablation)
    return score(model, task, metric, recipe, batch_size=batch_size, method="eap-ig", run=run)


def clean_corrupt(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """Half the gradient at the clean run and half at the corrupt one: a trapezoid on real runs.

    Hanna et al. 2024, arXiv:2403.17806 ("clean-corrupted"). Costs two forwards and two backwards.

    Raises:
        ValueError: as `score`.
    """
    recipe = Recipe(at_both)
    return score(
        model, task, metric, recipe, batch_size=batch_size, method="clean-corrupt", run=run
    )


def ig_activations(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    steps: int = 5,
    quadrature: Quadrature = midpoint,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """EAP with gradients integrated over each group's write in turn, averaged over all groups.

    As released with EAP-IG, which takes `quadrature=right`; the textbook form is the path
    `along_activations(own_edges_only=True)`. Marks et al. 2024, arXiv:2403.19647; Hanna et al.
    2024, arXiv:2403.17806. Costs two forwards, then (2 layers + 1) forwards and backwards a step.

    Raises:
        ValueError: if there are fewer than 1 steps, and as `score`.
    """
    recipe = Recipe(along_activations(steps, quadrature), ablation=ablation)
    return score(
        model, task, metric, recipe, batch_size=batch_size, method="ig-activations", run=run
    )


def relp(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """Relevance patching: EAP with the gradient replaced by relevance (LN, identity, half rules).

    Rezaei Jafari et al. 2025, arXiv:2508.21258. Costs what EAP costs.

    Raises:
        ValueError: as `score`.
    """
    recipe = Recipe(at_clean, relp_rule, ablation)
    return score(model, task, metric, recipe, batch_size=batch_size, method="relp", run=run)


def relp_ah(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """RelP with attention patterns held fixed: nothing flows to queries and keys.

    Rezaei Jafari et al. 2025, arXiv:2508.21258 (AH rule: Ali et al. 2022, arXiv:2202.07304).

    Raises:
        ValueError: as `score`.
    """
    recipe = Recipe(at_clean, relp_ah_rule, ablation)
    return score(model, task, metric, recipe, batch_size=batch_size, method="relp-ah", run=run)


def gim(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """Gradient interaction modifications: EAP with norms frozen and softmax at temperature 2.

    Edin et al. 2025, arXiv:2505.17630. Costs what EAP costs.

    Raises:
        ValueError: as `score`, and where the family's attention cannot take the softmax rule.
    """
    recipe = Recipe(at_clean, gim_rule, ablation)
    return score(model, task, metric, recipe, batch_size=batch_size, method="gim", run=run)
