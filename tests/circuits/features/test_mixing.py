"""Attention that many targets pull back at once, and what that costs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from circuits.features import Neurons
from circuits.features.aims import find_targets
from circuits.features.linear import run_linear
from circuits.features.mixing import pull_back
from circuits.features.rows import Tracing, rows_of
from circuits.features.writers import choose_units, find_writers
from patching.model import Model


@pytest.fixture(scope="module")
def toy():
    return Model.load("toy-llama")


@pytest.mark.parametrize("looks_back", [True, False])
def test_only_what_is_reached_is_multiplied_and_nothing_is_missed(looks_back):
    random = torch.Generator().manual_seed(0)
    pattern = torch.rand(2, 5, 5, generator=random, dtype=torch.float64)
    pattern = pattern.tril() if looks_back else pattern
    g = torch.randn(3, 5, 2, 4, generator=random, dtype=torch.float64)
    g[:, 3:] = 0
    g[1:, :2] = 0
    expected = torch.einsum("hqk,tqhd->tkhd", pattern, g)
    found = pull_back(pattern, g, looks_back=looks_back)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=0)
    assert not bool(pull_back(pattern, 0 * g, looks_back=looks_back).any())


class Work(TorchDispatchMode):
    """The largest tensor that is made, and how many operations are done."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.operations = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        made = out if isinstance(out, tuple | list) else (out,)
        sizes = [x.numel() for x in made if isinstance(x, torch.Tensor) and not x._is_view()]
        self.largest = max([self.largest, *sizes])
        return out


def test_no_target_has_a_pattern_of_its_own(toy):
    """A backward of 32 targets makes gradients, of the stream or a head's, and no 32 patterns."""
    n_pos, n_targets = 96, 32
    run = run_linear(toy, torch.arange(n_pos) % 40 + 3)
    seeds = torch.zeros(n_targets, *run.final.shape)
    seeds[:, 0, -1] = torch.randn(n_targets, run.final.shape[-1])
    with Work() as work:
        run.pull_back(run.final, seeds)
    n_heads = toy.graph.n_heads
    assert work.largest <= max(2 * seeds.numel(), n_heads * n_pos**2)
    assert work.largest < n_targets * n_heads * n_pos**2 / 2


def test_rows_of_as_many_nodes_take_as_many_operations_in_a_longer_prompt(toy):
    def operations(n_pos: int) -> int:
        features, tokens = Neurons(toy), torch.arange(n_pos) % 40 + 3
        run = run_linear(toy, tokens, parts=features.parts(), points=features.points(toy))
        found = [features.active(run, layer) for layer in range(len(toy.blocks))]
        units = choose_units(found, [some.values for some in found], most=40)
        writers = find_writers(run, features, units, drop_first=False, whole=False)
        tracing = Tracing(run, features, writers, find_targets(run, [5], most=1, share=1.0))
        with Work() as work:
            for number in range(len(tracing.chunks)):
                rows_of(tracing, number, keep=0.99)
        return work.operations

    assert operations(96) <= 1.2 * operations(24)
