"""Published code's exact edge scores on fixed weights, where they lie about.

The reference is corrupt - clean (the opposite sign). On Llama it gives every query head its own
key and value readers, one edge at a time, which is no sum of ours: q, m and logits are compared.
"""

import pytest
import test_golden
import torch

from circuits.scoring.single_edges import exact
from patching.metrics import logit_diff

pytestmark = test_golden.pytestmark

FLOORS = {"b_gpt2tiny": 1e-12, "c_llama_gqa": 1e-5}  # Llama: norms and rotary are in float32


@pytest.mark.parametrize("folder", FLOORS)
def test_exact_scores_are_those_of_the_published_code(folder):
    reference = test_golden.Reference(folder)
    graph = reference.model.graph
    expected = -reference.matrix(reference.numbers["scores/exact_fixed"])
    found = exact(reference.model, reference.task, logit_diff).matrix
    grouped = graph.n_kv_heads < graph.n_heads
    compared = torch.tensor(
        [not (grouped and node.name.endswith((".k", ".v"))) for node in graph.destinations]
    )
    assert int((expected[:, compared] != 0).sum()) > compared.sum()  # not an empty comparison
    error = (found - expected)[:, compared].abs().max() / expected[:, compared].abs().max()
    assert error < FLOORS[folder]
