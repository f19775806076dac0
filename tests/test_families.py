"""One contract for every supported family: scores, interventions and the model agree."""

import families
import feature_laws
import oracles
import pytest
import torch

from circuits import Circuit
from circuits.features import Neurons, Transcoders
from circuits.running.evaluation import evaluate
from circuits.running.many import run_circuits
from circuits.running.pair import run_pair
from circuits.scoring import eap
from patching.ablations import resample
from patching.metrics import logit_diff
from patching.model import Model


@pytest.fixture(scope="module", params=families.names())
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return families.load(family)


@pytest.fixture(scope="module")
def task():
    return families.task()


def floor(family: str) -> float:
    """Relative rounding floor: float64 throughout, Hugging Face's float32 norms, or float32."""
    if family in families.TRUE_FLOAT64:
        return 1e-12
    return 1e-5 if family in families.FLOAT32_ONLY else 2e-6


def test_logits_are_those_of_the_plain_model(family, model, task):
    plain = families.module(family, model.dtype)
    (batch,) = task.batches(len(task))
    expected = plain(batch.clean).logits[:, -1]
    error = (model.answer_logits(batch.clean, batch) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5  # the library's own distance from Hugging Face, in float32 parts


def test_no_edge_removed_is_the_clean_run_and_every_edge_the_corrupt_run(family, model, task):
    full, empty = Circuit.full(model.graph), Circuit.empty(model.graph)
    result = evaluate(model, task, [full, empty], logit_diff)
    size = result.clean.abs().max()
    torch.testing.assert_close(result.values[0] / size, result.clean / size, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.values[1] / size, result.corrupt / size, atol=1e-6, rtol=0)


def test_eap_is_the_brute_force_of_per_head_inputs(family, model, task):
    if family in families.WITHOUT_SPLIT_INPUTS:
        pytest.skip("the library has no per-head inputs here; see the finite differences")
    (batch,) = task.batches(len(task))
    expected, known = oracles.brute_force_eap(model, batch, logit_diff)
    found = eap(model, task, logit_diff).matrix
    assert known.sum() >= len(known) - model.graph.n_layers
    error = (found - expected)[:, known].abs().max() / expected.abs().max()
    assert error < floor(family)


def test_eap_is_the_slope_of_exact_edge_interventions(family, model, task):
    if family in families.FLOAT32_ONLY:
        pytest.skip("experts are chosen by a jump, and float32 needs long steps; see brute force")
    scores = eap(model, task, logit_diff).matrix
    (batch,) = task.batches(len(task))
    step = 1e-4
    edges = sample_edges(model)
    removed = torch.zeros(2 * len(edges), *model.graph.exists.shape, dtype=model.dtype)
    for i, (source, dest) in enumerate(edges):
        removed[2 * i, source, dest], removed[2 * i + 1, source, dest] = step, -step
    pair = run_pair(model, batch, resample(model))
    values = torch.empty(len(removed), dtype=torch.float64)
    for chunk, some in run_circuits(model, batch, pair, removed):
        for i, logits in zip(chunk, some, strict=True):
            values[i] = logit_diff(logits, batch).mean()
    slopes = values[1::2] - values[0::2]
    expected = torch.stack([scores[edge] for edge in edges])
    error = (slopes.double() / (2 * step) - expected).abs().max() / scores.abs().max()
    assert error < 3e-3  # rounding of the parts that run in float32, divided by the step


@pytest.mark.parametrize("kind", ["transcoders", "neurons"])
def test_an_attribution_graph_obeys_its_laws(family, model, kind):
    """Sums and nothing changed to what norms in float32 leave; interventions to rounding."""
    narrow = family in families.FLOAT32_ONLY
    if kind == "neurons" and narrow:
        with pytest.raises(ValueError, match="shows no neurons in m0"):
            Neurons(model)
        return
    made = feature_laws.synthetic(model) if kind == "transcoders" else None
    features = Neurons(model) if made is None else Transcoders(model, made, first=True)
    subject = feature_laws.subject(model, features)
    for law, missed in feature_laws.misses(subject, feature_laws.some_units(subject)):
        exact = family in families.TRUE_FLOAT64 or law[0] in "34"
        assert missed < (1e-5 if narrow else 1e-11 if exact else 1e-6), law


def sample_edges(model: Model, n: int = 14) -> list[tuple[int, int]]:
    """Random edges, the last layer's MLP and the logits among their readers for sure."""
    graph = model.graph
    edges = graph.exists.nonzero()[torch.randperm(graph.n_edges, generator=seeded())[:n]].tolist()
    edges += [(0, graph.mlp_reader(layer)) for layer in range(graph.n_layers)]
    edges.append((len(graph.sources) - 1, len(graph.destinations) - 1))
    return [tuple(edge) for edge in edges]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)
