"""Transcoders that write before a norm that follows the MLP (`m0.out`): through it, held."""

import families
import feature_laws
import pytest
import torch

from circuits.features import Convention, Transcoders, trace
from circuits.features.validity import total_effects

TOKENS = [1, 5, 6, 7]


@pytest.fixture(scope="module", params=["gemma2", "gemma3", "olmo2"])
def model(request):
    return families.load(request.param, torch.float64)


@pytest.fixture(scope="module")
def features(model):
    """Across layers and with a skip; at the first position too."""
    return Transcoders(model, feature_laws.synthetic(model, end=".out"), first=True)


def test_what_is_written_before_a_norm_obeys_the_laws(model, features):
    subject = feature_laws.subject(model, features)
    for law, missed in feature_laws.misses(subject, feature_laws.some_units(subject)):
        # 1 and 2 to what norms in float32 leave, interventions to rounding
        assert missed < (1e-11 if law[0] in "34" else 1e-6), law


def test_few_features_are_those_of_largest_total_effect(model, features):
    def traced(**convention):
        chosen = Convention(keep=1.0, **convention)
        return trace(model, TOKENS, features, logits=1, convention=chosen, prune=False, validity=0)

    whole, few = traced(), traced(most=8)
    n = int((whole.nodes.kinds == 0).sum())
    best = total_effects(whole)[0, :n].abs().topk(8).indices.tolist()
    assert {name for name in few.names if ".f" in name} == {whole.names[i] for i in best}
