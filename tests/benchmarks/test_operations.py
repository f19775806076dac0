"""Operations that an accelerator would see, on toys whose counts are counted by hand."""

import pytest
import torch
from torch import nn

from benchmarks.operations import count, tensors_of

HERE = torch.device("cpu")
WEIGHT = torch.arange(12.0).view(3, 4)


def counted(work):
    return count(work, [WEIGHT])


def test_a_product_is_one_launch_and_views_and_empty_allocations_are_none():
    found = counted(lambda: (WEIGHT[1:] @ WEIGHT.T.contiguous(), torch.empty_like(WEIGHT)))
    assert found.launched == {"aten.clone": 1, "aten.mm": 1}
    assert found.launches == found.in_all == 2
    assert found.read_backs == found.host_operations == 0


def test_products_are_counted_in_multiplications_and_additions():
    found = counted(lambda: WEIGHT @ WEIGHT.T)
    assert found.flops == 2 * 3 * 4 * 3
    assert found.bytes_moved == 4 * (12 + 12 + 9)


def test_what_is_made_of_nothing_of_the_device_is_the_hosts():
    def plan():
        rows = torch.arange(2) + 1
        return rows.nonzero(), rows.tolist(), rows.sum().item()

    found = counted(plan)
    assert found.launches == found.read_backs == 0
    assert found.on_host["aten.nonzero"] == found.on_host["aten._local_scalar_dense"] == 1
    assert found.host_operations == 5


def test_what_is_put_on_the_device_in_words_is_a_copy_to_it_and_the_devices_from_then_on():
    def send():
        return torch.arange(2).to(HERE) + 1, torch.tensor([1, 2], device=HERE) + 1

    found = counted(send)
    assert found.launched == {"to the device": 2, "aten.add": 2}
    assert found.on_host == {"aten.arange": 1}


def test_what_is_sent_shares_nothing_with_what_stays():
    kept = torch.arange(2)
    found = counted(lambda: (kept.to(HERE), kept + 1))
    assert found.on_host == {"aten.add": 1}


def test_what_is_made_on_the_device_is_a_launch_and_no_copy():
    assert counted(lambda: torch.zeros(2, device=HERE)).launched == {"aten.zeros": 1}
    assert counted(lambda: torch.zeros(2, device="cpu")).on_host == {"aten.zeros": 1}


@pytest.mark.parametrize(
    "look",
    [
        lambda: WEIGHT.sum().item(),
        lambda: bool(WEIGHT.any()),
        lambda: WEIGHT.nonzero(),
        lambda: WEIGHT.unique(),
        lambda: WEIGHT.masked_select(WEIGHT > 1),
        lambda: WEIGHT[WEIGHT > 1],
        lambda: torch.where(WEIGHT > 1),
        lambda: WEIGHT.cpu(),
        lambda: WEIGHT.tolist(),
        lambda: WEIGHT.numpy(),
        lambda: torch.equal(WEIGHT, WEIGHT),
    ],
)
def test_whatever_waits_for_a_value_of_the_device_is_one_read_back(look):
    assert counted(look).read_backs == 1


def test_to_fill_in_one_number_where_a_mask_is_true_reads_nothing_back():
    def fill():
        copy = WEIGHT.clone()
        copy[copy > 1] = 0.0

    assert counted(fill).read_backs == 0


def test_a_mask_of_the_host_is_looked_through_there():
    assert counted(lambda: WEIGHT[torch.tensor([True, False, True])]).read_backs == 0


def test_what_was_fetched_is_the_hosts():
    found = counted(lambda: WEIGHT.cpu() + 1)
    assert (found.launches, found.read_backs, found.on_host) == (0, 1, {"aten.add": 1})


def test_backward_passes_are_counted_too():
    def train():
        weight = WEIGHT.clone().requires_grad_()
        (weight @ weight.T).sum().backward()

    found = counted(train)
    assert found.launched["aten.mm"] == 3
    assert found.flops == 3 * 2 * 3 * 4 * 3


def test_the_tensors_of_a_module_are_its_parameters_and_its_buffers():
    module = nn.BatchNorm1d(2)
    assert len(tensors_of(module)) == 5
    found = count(lambda: nn.Linear(2, 2)(torch.ones(1, 2)), tensors_of(module))
    assert found.launches == 0
