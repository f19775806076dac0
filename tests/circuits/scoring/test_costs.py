"""What scoring costs: operations that an accelerator would see, values read back, bytes alive.

Counts depend on the number of layers and not on widths; bytes are exact, and so is their ratio to
what one forward and one backward of the plain model hold.
"""

import sys
from collections.abc import Iterator
from functools import partial
from types import FrameType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.live import peak_live_bytes
from benchmarks.operations import Operations, count, tensors_of
from benchmarks.subject import Shape, Subject, make
from circuits.scoring import eap, eap_ig
from circuits.scoring.contract import edge_scores
from patching.memory import budget
from patching.metrics import logit_diff

NARROW = Shape("GPT-2 small, narrow", 12, 12, 48, 500, batch=8, pos=16)
GPT2_WIDE = Shape("2 layers of 256, as GPT-2", 2, 4, 256, 4000, batch=4, pos=32)
LLAMA_WIDE = Shape(
    "2 layers of 256, as Llama", 2, 4, 256, 4000, batch=4, pos=32, n_kv_heads=1, d_mlp=896
)


@pytest.fixture(scope="module")
def narrow() -> Subject:
    return make(NARROW, "cpu")


def score(subject: Subject, steps: int) -> object:
    model, task = subject.model, subject.task
    return eap_ig(model, task, logit_diff, steps=steps) if steps else eap(model, task, logit_diff)


def counted(subject: Subject, steps: int) -> Operations:
    return count(lambda: score(subject, steps), tensors_of(subject.model.bridge))


def test_eap_takes_little_more_than_its_three_passes(narrow):
    found = counted(narrow, 0)
    assert found.in_all <= 2650
    assert found.read_backs <= 4  # what the model is, tokens' indices, scores, completeness


def test_integrated_gradients_take_little_more_than_their_twelve_passes(narrow):
    found = counted(narrow, 5)
    assert found.in_all <= 9250
    assert found.read_backs <= 4


def test_a_model_that_was_changed_in_memory_is_run_once_for_what_it_is(narrow):
    with torch.no_grad():
        narrow.model.bridge.blocks[0].mlp.out.bias.add_(1e-3)
    assert counted(narrow, 0).in_all > counted(narrow, 0).in_all <= 2650


def test_a_further_step_reads_nothing_back(narrow):
    assert counted(narrow, 2).read_backs == counted(narrow, 1).read_backs


@pytest.mark.parametrize("shape", [GPT2_WIDE, LLAMA_WIDE], ids=lambda shape: shape.name)
def test_scoring_holds_no_more_than_the_plain_model_going_forward_and_back(shape):
    """With tiles in proportion: the default of 32 MiB is more than all of such a small model."""
    subject = make(shape, "cpu")
    plain = peak_live_bytes(subject.forward_backward)
    with budget(plain // 8):
        for steps in (0, 5):
            assert peak_live_bytes(partial(score, subject, steps)) <= plain, f"{steps} steps"


def test_few_calls_lie_between_a_scorer_and_its_matrix_product():
    frames = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names = [frame.f_code.co_qualname for frame in _frames_of_ours()]
            if func.overloadpacket is torch.ops.aten.mm and edge_scores.__name__ in names:
                frames.append(names)
            return func(*args, **(kwargs or {}))

    subject = make(GPT2_WIDE, "cpu")
    with Watching():
        score(subject, 0)
    assert frames and frames[0][-1] == eap.__name__
    assert len(frames[0]) - 2 <= 12, frames[0]


def _frames_of_ours() -> Iterator[FrameType]:
    """The calls that are under way in the packages, the innermost first."""
    frame, folders = sys._getframe(), ("circuits", "patching")
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in folders:
            yield frame
        frame = frame.f_back
