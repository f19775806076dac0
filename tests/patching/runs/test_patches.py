"""Sweeps that take many places at once: the same numbers, and few operations on the device."""

import families
import pytest
import torch
import transformers as hf

from benchmarks.operations import Operations, count, tensors_of
from patching import memory
from patching.activation import activation_patching, neuron_patching, span_patching
from patching.grid import Grid
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import Prompt, Task
from patching.tracing import Noise, causal_tracing

SWEEPS = {
    "streams": lambda m, t: activation_patching(m, t, logit_diff, "resid_pre"),
    "streams after": lambda m, t: activation_patching(m, t, logit_diff, "resid_post"),
    "middle": lambda m, t: activation_patching(m, t, logit_diff, "resid_mid", direction="noising"),
    "heads": lambda m, t: activation_patching(m, t, logit_diff, "z", ("layer", "head")),
    "keys": lambda m, t: activation_patching(m, t, logit_diff, "k", ("head", "pos")),
    "patterns": lambda m, t: activation_patching(m, t, logit_diff, "pattern", ("head", "pos")),
    "spans": lambda m, t: span_patching(m, t, logit_diff, {"a": range(2, 4)}, "mlp_out"),
    "neurons": lambda m, t: neuron_patching(m, t, logit_diff, [1, 0]),
    "windows": lambda m, t: causal_tracing(
        m, t, logit_diff, range(1, 3), what="mlp_out", window=2, noise=Noise(samples=2)
    ),
}
FAMILIES = ("gpt2", "llama", "gemma2", "neox")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return families.load(request.param, torch.float64)


def many_and_few(sweep, model: Model, task: Task, budget: int | None = None) -> tuple[Grid, Grid]:
    with memory.grouping(as_many_as_fit=False):
        few = sweep(model, task)
    with memory.grouping(as_many_as_fit=True), memory.budget(budget):
        return sweep(model, task), few


@pytest.mark.parametrize("what", SWEEPS)
def test_many_places_at_once_give_what_each_gives(model, what):
    if model.graph.parallel and what == "middle":
        pytest.skip("nothing lies between attention and MLP")
    many, few = many_and_few(SWEEPS[what], model, families.ragged_task((6, 7)))
    # sums of some dozens of float64 numbers of size 1
    torch.testing.assert_close(many.values, few.values, rtol=0, atol=1e-12)
    assert few.values.abs().max() > 1e-3


def test_passes_that_begin_in_the_middle_of_a_layer_give_the_same():
    model = Model.load(families.module("gpt2", torch.float64))
    for budget in (200_000, 600_000):
        many, few = many_and_few(SWEEPS["heads"], model, families.task(), budget)
        torch.testing.assert_close(many.values, few.values, rtol=0, atol=1e-12)
        assert 1 < many.provenance["memory"]["largest_tile"] < few.values.numel()


@pytest.fixture(scope="module")
def twelve_layers():
    """GPT-2 small's shape, narrow: how many operations there are depends on no width."""
    torch.manual_seed(0)
    tokens = {"vocab_size": 50, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    config = hf.GPT2Config(n_layer=12, n_head=12, n_embd=24, **tokens)
    return Model.load(hf.GPT2LMHeadModel(config).eval())


@pytest.mark.parametrize(
    ("what", "over", "places"),
    [("z", ("layer", "head"), 12 * 12), ("resid_pre", ("layer", "pos"), 12 * 16)],
)
def test_a_sweep_asks_little_of_a_device(twelve_layers, what, over, places):
    """Counted as what another batch takes, since whose weights they are is asked once."""
    row = tuple(range(1, 17))
    other = (*row[:3], 40, *row[4:])
    task = Task("t", tuple(Prompt(row, other, (i,), (i + 1,)) for i in range(16)))
    grids: list[Grid] = []

    def operations(n: int) -> Operations:
        def sweep() -> None:
            options = {"what": what, "over": over, "batch_size": 8}
            grids.append(activation_patching(twelve_layers, task.take(n), logit_diff, **options))

        return count(sweep, tensors_of(twelve_layers.bridge))

    _ = twelve_layers.blocks_return_tuples  # found out once a model
    with memory.grouping(as_many_as_fit=True), memory.budget(2**30) as ledger:
        one, two = operations(8), operations(16)
    assert grids[0].values[0].numel() == places
    assert ledger.largest_tile > 8 * 16  # of more layers than one
    assert two.launches - one.launches <= 2000  # three forwards of 546, twelve layers' patches
    assert two.host_operations - one.host_operations <= 300
    # what can differ, the metric of both runs, and that under patches
    assert two.read_backs - one.read_backs <= 3
