"""What edge scores are gathered by: gradients at the readers of edges."""

from functools import partial

from circuits.provenance import facts_of
from patching.gathering import Job, Recipe
from patching.gradients import GradientSum, ReaderGradients
from patching.metrics import Metric
from patching.model import Model
from patching.tasks.task import Task


def prepare(model: Model, task: Task, metric: Metric, recipe: Recipe) -> Job[ReaderGradients]:
    """A job for a task, after a check that everything fits together, before any expensive work.

    Raises:
        ValueError: as `Job.check`.
    """
    prepared = recipe.ablation(model)
    readers = partial(GradientSum, model, rule=recipe.rule)
    facts, short = facts_of(prepared.name), not recipe.rule.parts
    job = Job(model, metric, recipe, prepared, readers, facts=facts, short=short)
    job.check(task, "to score edges by", elsewhere=", or integrate over inputs (eap_ig)")
    return job
