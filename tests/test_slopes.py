"""Whatever differentiates refuses, in our words, a metric of one's own that cannot be."""

import families
import pytest
from conflicting import conflicts

from circuits import METHODS, edge_pruning, optimal_outside, subnetwork_probing, uniform_sampling
from circuits.circuit import Circuit
from circuits.scoring import curvature
from patching.attribution import (
    atp_star,
    attribute,
    attribution_patching,
    grad_drop,
    qk_fix,
)
from patching.descent import Schedule
from patching.metrics import logit_diff
from patching.model import Model
from patching.neurons import (
    gradient_activation,
    relp_neurons,
)
from patching.optimal import optimal
from patching.token_attribution import attribute_tokens, gradient_norm, integrated_gradients

ONE_STEP = Schedule(steps=1, batch_size=2)


def argmax_is_right(logits, batch):
    return (logits.argmax(dim=1) == batch.answers[:, 0]).to(logits.dtype)


def detached(logits, batch):
    return logit_diff(logits, batch).detach()


def empty(model):
    return Circuit(model.graph.exists & False, model.graph)


SCORERS = {
    f"circuits: {name}": lambda model, metric, method=method: method.function(
        model, families.task(), metric
    )
    for name, method in METHODS.items()
    if method.by_gradient
}
LEARNERS = {
    "edge pruning": lambda model, metric: edge_pruning(
        model, families.task(), metric, size=4, schedule=ONE_STEP
    ),
    "subnetwork probing": lambda model, metric: subnetwork_probing(
        model, families.task(), metric, size=4, schedule=ONE_STEP
    ),
    "uniform sampling": lambda model, metric: uniform_sampling(
        model, families.task(), metric, size=4, schedule=ONE_STEP
    ),
    "constants outside a circuit": lambda model, metric: optimal_outside(
        model, families.task(), empty(model), metric, schedule=ONE_STEP
    ),
    "constants": lambda model, metric: optimal(model, families.task(), metric, schedule=ONE_STEP),
}
OTHERS = {
    "curvature": lambda model, metric: curvature(model, families.task(), metric),
    "writers": lambda model, metric: attribute(model, families.task(), metric),
    "places": lambda model, metric: attribution_patching(model, families.task(), metric),
    "places, QK fix": lambda model, metric: qk_fix(model, families.task(), metric),
    "places, GradDrop": lambda model, metric: grad_drop(model, families.task(), metric),
    "places, AtP*": lambda model, metric: atp_star(model, families.task(), metric),
    "tokens": lambda model, metric: attribute_tokens(model, families.task(), metric),
    "tokens, norm": lambda model, metric: attribute_tokens(
        model, families.task(), metric, method=gradient_norm
    ),
    "tokens, path": lambda model, metric: attribute_tokens(
        model, families.task(), metric, method=integrated_gradients(2)
    ),
    "neurons": lambda model, metric: gradient_activation(model, conflicts(), metric=metric),
    "neurons, RelP": lambda model, metric: relp_neurons(model, conflicts(), metric=metric),
}
DIFFERENTIATING = {**SCORERS, **LEARNERS, **OTHERS}


@pytest.fixture(scope="module")
def gpt2() -> Model:
    return Model.load(families.shaken_gpt2())


@pytest.mark.parametrize("metric", [argmax_is_right, detached], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("what", DIFFERENTIATING)
def test_a_metric_that_is_cut_off_from_the_logits_is_refused(what, metric, gpt2):
    with pytest.raises(ValueError, match=f"the metric {metric.__name__} has no gradient: its val"):
        DIFFERENTIATING[what](gpt2, metric)
