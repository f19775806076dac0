"""Provenance of what is known of edges: what it was made from and how."""

from collections.abc import Mapping

from patching import provenance
from patching.metrics import Metric
from patching.model import Model
from patching.tasks.task import Task


def describe(
    model: Model,
    task: Task,
    metric: Metric,
    method: str,
    options: Mapping[str, object],
    *,
    ablation: str,
) -> dict[str, object]:
    """Everything a reader needs to make the result again: `patching.provenance`, for edges."""
    facts = facts_of(ablation)
    return provenance.describe(model, task, metric, method, options, facts=facts)


def facts_of(ablation: str) -> dict[str, object]:
    """What provenance of edges says besides."""
    return {
        "ablation": ablation,
        "positions": "summed over all tokens up to the answer",
        "sign": "clean - corrupt: positive helps the metric in the clean run",
    }
