"""Scorers judged on a circuit whose edges are known: hand-wired induction among noisy heads.

The induction head's softmax is saturated. At the clean run its slope is all but zero, so that EAP
does not see what feeds its queries and keys; integrated gradients and exact patching do.
"""

import pytest
import torch

from circuits import Circuit
from circuits.recovery import recovery
from circuits.scoring import eap, eap_ig
from circuits.scoring.single_edges import exact
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import induction


@pytest.fixture(scope="module")
def wired():
    return induction("noise", n=48)


@pytest.fixture(scope="module")
def model(wired):
    return Model.load(wired.model, dtype=torch.float64)


def auroc(model, wired, scorer):
    edges = [tuple(edge.split("->")) for edge in sorted(wired.active_edges)]
    known = Circuit.from_edges(model.graph, edges)
    scores = scorer(model, wired.task, logit_diff, batch_size=len(wired.task))
    return recovery(scores, known, ranking="absolute").auroc


def test_exact_patching_finds_every_edge_of_a_known_circuit(model, wired):
    assert auroc(model, wired, exact) == 1


def test_integrated_gradients_find_nearly_every_edge_of_a_known_circuit(model, wired):
    assert auroc(model, wired, eap_ig) >= 0.99


def test_gradients_at_the_clean_run_miss_what_a_saturated_softmax_reads(model, wired):
    assert auroc(model, wired, eap) <= 0.90
