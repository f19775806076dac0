"""Laws of everything that runs on the walk: all removed, none removed, the slow twin, float32."""

import families
import pytest
import torch
from slow_twin import slow_logits

from circuits import Circuit, random_circuit
from circuits.running.inside import active
from circuits.running.masked import run_ends, run_masked
from circuits.running.missing import Missing
from patching.ablations import resample
from patching.anatomy.blocks import FINAL_STREAM
from patching.metrics import logit_diff

TASK = families.task()
(BATCH,) = TASK.batches(8)
ABLATIONS = families.ablations()
# Learned positions, grouped heads, post-norms, parallel blocks, biases of attentions
USUAL = ("gpt2", "llama", "gemma2", "neox")
FAMILIES = families.slow_but(USUAL)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return families.load(family)


def close(found, expected, tolerance):
    size = expected.abs().max().clamp(min=1.0)
    torch.testing.assert_close(found / size, expected / size, atol=tolerance, rtol=0)


def inside(model, circuit, ablation):
    """Logits at the answer positions of a run inside a circuit."""
    with torch.no_grad(), active(circuit, model, ablation):
        return model.answer_logits(BATCH.clean, BATCH)


def masked(model, removed, ablation):
    prepared = ablation(model)
    with torch.no_grad():
        return run_masked(model, BATCH, run_ends(model, BATCH, prepared), removed)


def mixes(model, circuit, ablation):
    """What every way to run one circuit gives, by its name."""
    removed = (model.graph.exists & ~circuit.mask).to(model.dtype)
    found = {"masked": masked(model, removed, ablation)}
    if ablation is not resample:
        found["active"] = inside(model, circuit, ablation)
    return found


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=ABLATIONS)
def test_circuits_run_as_their_slow_twin_does(model, family, ablation):
    """In true float64 sums differ by their order alone; elsewhere parts run in float32."""
    tolerance = 1e-12 if family in families.TRUE_FLOAT64 else 3e-6
    graph = model.graph
    for n in (graph.n_edges // 10, graph.n_edges // 2, graph.n_edges - 3):
        circuit = random_circuit(graph, n, seed=n)
        removed = (graph.exists & ~circuit.mask).to(model.dtype)
        expected = slow_logits(model, BATCH, ablation(model), removed)
        for found in mixes(model, circuit, ablation).values():
            close(found, expected, tolerance)


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=ABLATIONS)
def test_with_nothing_removed_the_run_is_the_clean_one(model, ablation):
    clean = model.answer_logits(BATCH.clean, BATCH)
    for found in mixes(model, Circuit.full(model.graph), ablation).values():
        # the sums start at the live stream, and have no terms; logits are of size 1
        close(found, clean, 1e-12 if model.dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=ABLATIONS)
def test_with_everything_removed_the_last_stream_is_what_replaces_all_writers(
    model, family, ablation
):
    """What no writer owns is added: learned positions and biases of attentions."""
    prepared = ablation(model)
    ends = run_ends(model, BATCH, prepared)
    at, writes = ends.tokens, ends.replaced.writes
    total = ends.clean.positions[at] + writes.embed
    for block, heads, mlp in zip(model.blocks, writes.heads, writes.mlps, strict=True):
        total = total + block.head_writes(heads).sum(dim=0) + mlp
        bias = getattr(block.bridge.attn, "b_O", None)
        total = total if bias is None else total + bias.detach() * block.scale

    def put(live):
        out = live.clone()
        out[at] = total.to(out)
        return out

    expected = model.answer_logits(BATCH.clean, BATCH, [(FINAL_STREAM, put)])
    for found in mixes(model, Circuit.empty(model.graph), ablation).values():
        close(found, expected, 1e-12 if family in families.TRUE_FLOAT64 else 3e-6)


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=ABLATIONS)
def test_float32_is_float64_to_a_thousandth_of_the_gap(family, ablation):
    """Or as near as float32 is to logits: Gemma 2's gap is a thousandth of its capped ones."""
    if family in families.FLOAT32_ONLY:
        pytest.skip("there is no float64 to compare with")
    narrow, wide = (families.loud(family, dtype) for dtype in (torch.float32, torch.float64))
    ends = [wide.answer_logits(tokens, BATCH) for tokens in (BATCH.clean, BATCH.corrupt)]
    clean, corrupt = (logit_diff(logits, BATCH) for logits in ends)
    most = max(1e-3 * float((clean - corrupt).abs().mean()), 3e-6 * float(ends[0].abs().max()))
    graph = wide.graph
    for n in (4, graph.n_edges // 5, graph.n_edges // 2, graph.n_edges - 4):
        circuit = random_circuit(graph, n, seed=n)
        found, expected = (mixes(model, circuit, ablation) for model in (narrow, wide))
        for name in expected:
            one, other = (logit_diff(mix[name], BATCH).double() for mix in (found, expected))
            assert float((one - other).abs().max()) < most, f"{name}, {n} edges"


def test_sums_of_rows_that_grow_are_differentiated_as_if_they_had_been_there():
    noise = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=noise, requires_grad=True)

    def value(first, second, early, late):
        rows = Missing(5)
        rows.add(first * 2)
        found = rows.weighed(early).sin().sum()
        rows.add(second)
        return found + rows.weighed(late).cos().sum()

    parts = draw(2, 6, 3), draw(3, 6, 3)
    assert torch.autograd.gradcheck(value, (*parts, draw(2, 4), draw(5, 1)))
    assert torch.autograd.gradcheck(value, (*parts, draw(3, 2, 4), draw(3, 5, 1)))
