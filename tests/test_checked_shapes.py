import jaxtyping
import pytest
import torch

from circuits.circuit import Circuit
from patching.graph import Graph


@pytest.mark.parametrize("case", range(3))
def test_what_is_no_mask_is_refused_where_shapes_are_checked_as_in_first_cases(case):
    graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1)
    if case == 0 or not jaxtyping.config.jaxtyping_disable:
        with pytest.raises(jaxtyping.TypeCheckError):
            Circuit(torch.zeros(3, dtype=torch.bool), graph)
