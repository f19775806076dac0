"""One memory budget for every large product: it bounds the tiles and changes no number."""

from collections.abc import Callable

import families
import pytest
import torch
from torch import Tensor

from circuits import eap
from circuits.scoring.flow import information_flow
from circuits.scoring.patterns import qk_fix
from patching import memory
from patching.activation import activation_patching
from patching.attention import ov_circuit
from patching.attribution import attribute
from patching.lens import logit_lens, semantic_flow
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import Task

Work = Callable[[Model, Task], Tensor]


def in_words(model: Model, task: Task) -> Tensor:
    """Probabilities and ranks of what the lens reads, and the numbers of a flow."""
    lens, prompt = logit_lens(model, [[5, 6, 7, 8]]), [5, 6, 7, 8]
    flow = torch.tensor(semantic_flow(model, prompt).table["contribution"].to_numpy())
    return torch.cat([lens.probability([7]).values.flatten(), flow])


LARGE: dict[str, Work] = {
    "eap": lambda m, t: eap(m, t, logit_diff).matrix,
    "information flow": lambda m, t: information_flow(m, t).matrix,
    "qk-fix": lambda m, t: qk_fix(m, t, logit_diff).matrix,
    "writers": lambda m, t: attribute(m, t, logit_diff).positions,
    "sweep": lambda m, t: activation_patching(m, t, logit_diff, "z", ("head", "pos")).values,
    "lens": lambda m, t: logit_lens(m, [[5, 6, 7, 8]]).rank([7]).values,
    "lens in facts": lambda m, t: logit_lens(m, [[5, 6, 7, 8]]).kl().values,
    "words": in_words,
    "vocabulary": lambda m, t: torch.tensor(ov_circuit(m, "a0.h1").top(9)["value"].to_numpy()),
}


@pytest.mark.parametrize("what", LARGE)
def test_the_budget_bounds_the_tiles_and_changes_no_number(gpt2, what):
    found: list[Tensor] = []
    tiles: list[int] = []
    for budget in (2**30, 200_000, 1):
        with memory.budget(budget) as ledger:
            found.append(LARGE[what](gpt2, families.task()))
        tiles.append(ledger.largest_tile)
    assert tiles[0] >= tiles[1] >= tiles[2] == 1 < tiles[0]
    for tiled in found[1:]:
        # some hundred additions of float64 numbers in another order
        torch.testing.assert_close(tiled, found[0], rtol=1e-10, atol=1e-12)


def test_a_flow_under_a_budget_says_how_large_its_tiles_were(gpt2):
    with memory.budget(200_000):
        said = information_flow(gpt2, families.task()).provenance["memory"]
    each = len(gpt2.graph.sources) * 32 * 8  # bytes of one token's expanded writes
    assert said["largest_tile"] == min(200_000 // each, 27) > 0
