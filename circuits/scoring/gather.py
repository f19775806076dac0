"""What edge scores are gathered by: gradients at the readers of edges."""

from functools import partial

from circuits.provenance import facts_of
from patching.gathering import Job, Recipe
from patching.gradients import GradientSum, ReaderGradients
from patching.metrics import Metric
from patching.model import Model
from patching.rules import RULES, Rule
from patching.tasks.task import Task


def prepare(model: Model, task: Task, metric: Metric, recipe: Recipe) -> Job[ReaderGradients]:
    """A job for a task, after a check that everything fits together, before any expensive work.

    Raises:
        ValueError: as `Job.check`.
    """
    prepared = recipe.ablation(model)
    readers = partial(GradientSum, model, rule=recipe.rule)
    facts, short = facts_of(prepared.name), _narrows(model, recipe.rule)
    job = Job(model, metric, recipe, prepared, readers, facts=facts, short=short)
    job.check(task, "to score edges by", elsewhere=", or integrate over inputs (eap_ig)")
    return job


def _narrows(model: Model, rule: Rule) -> bool:
    """Whether a rule's sites have all of their points where layers work on the same tokens.

    Of rules that are not ours nobody knows, and a norm behind the MLP is on both sides.
    """
    known = rule in RULES.values() and all(b.post_mlp_norm is None for b in model.blocks)
    return known or not rule.parts
