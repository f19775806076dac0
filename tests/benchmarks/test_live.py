"""The peak of living tensors, on toys of one hundred floats, 400 bytes, each."""

import torch

from benchmarks.live import peak_live_bytes

GIVEN = torch.zeros(100)


def test_what_was_there_before_and_its_views_are_not_counted():
    assert peak_live_bytes(lambda: GIVEN.view(10, 10).T.add_(1)) == 0


def test_each_new_tensor_is_counted_once_with_all_its_views():
    assert peak_live_bytes(lambda: (GIVEN + 1).view(10, 10).T) == 400
    assert peak_live_bytes(lambda: [GIVEN + 1, GIVEN + 2]) == 800
    assert peak_live_bytes(lambda: torch.tensor([1.0, 2.0])) == 8


def test_what_is_freed_makes_room():
    def one_after_another():
        for _ in range(5):
            held = GIVEN + 1
            del held

    assert peak_live_bytes(one_after_another) == 400


def test_the_peak_is_told_and_not_the_end():
    def many_then_few():
        held = [GIVEN + i for i in range(7)]
        del held[1:]
        return held

    assert peak_live_bytes(many_then_few) == 2800


def test_what_autograd_keeps_for_the_backward_pass_is_counted():
    def forward(keeping):
        given = GIVEN.clone().requires_grad_(keeping)
        return given.exp().exp().exp()

    assert peak_live_bytes(lambda: forward(keeping=True)) == 1600
    assert peak_live_bytes(lambda: forward(keeping=False)) == 1200


def test_a_tensor_that_grows_in_place_is_counted_at_its_new_size():
    assert peak_live_bytes(lambda: torch.empty(10).resize_(100)) == 400
