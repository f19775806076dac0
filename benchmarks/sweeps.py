"""Sweeps of activation patching, beside TransformerLens' own functions on the same prompts."""

from collections.abc import Callable

from torch import Tensor
from transformer_lens import patching as library

from benchmarks.subject import RIGHT, WRONG, Subject
from patching.activation import activation_patching
from patching.attribution import attribution_patching
from patching.metrics import logit_diff
from patching.neurons import Conflict, ConflictTask, ircan

Job = Callable[[Subject], object]


def residual_by_position(subject: Subject) -> object:
    """The stream before every layer at every position."""
    return activation_patching(subject.model, subject.task, logit_diff, "resid_pre")


def heads_by_layer(subject: Subject) -> object:
    """Every head at all positions."""
    return activation_patching(subject.model, subject.task, logit_diff, "z", ("layer", "head"))


def attribute_everything(subject: Subject) -> object:
    """Attribution patching of every granularity together."""
    return attribution_patching(subject.model, subject.task, logit_diff)


def library_residual_by_position(subject: Subject) -> object:
    """The same by TransformerLens: one forward of the batch for each layer and position."""
    return _by_library(subject, library.get_act_patch_resid_pre)


def library_heads_by_layer(subject: Subject) -> object:
    """The same by TransformerLens: one forward of the batch for each head."""
    return _by_library(subject, library.get_act_patch_attn_head_out_all_pos)


def _by_library(subject: Subject, sweep: Callable[..., Tensor]) -> object:
    bridge = subject.model.bridge
    _, cache = bridge.run_with_cache(subject.clean)
    return sweep(bridge, subject.corrupt, cache, _difference)


def _difference(logits: Tensor) -> Tensor:
    return (logits[:, -1, RIGHT] - logits[:, -1, WRONG]).mean()


def context_aware_neurons(subject: Subject) -> object:
    """IRCAN: all layers and steps."""
    return ircan(subject.model, _conflicts(subject), steps=IRCAN_STEPS)


def ircan_passes(subject: Subject) -> float:
    """Forwards and backwards that IRCAN's formula needs: from each layer on, for every step."""
    return IRCAN_STEPS * (subject.model.graph.n_layers + 1) / 2


def _conflicts(subject: Subject) -> ConflictTask:
    """The subject's prompts as contexts with questions: the second half alone asks."""
    rows = [
        Conflict(tuple(row[len(row) // 2 :]), tuple(row), (RIGHT,), (WRONG,))
        for row in subject.clean.tolist()
    ]
    return ConflictTask("random", tuple(rows))


IRCAN_STEPS = 4
ATTRIBUTION = "attribution patching, every granularity"
SWEEPS: dict[str, tuple[Job, Job]] = {
    "residual stream, layer x position": (residual_by_position, library_residual_by_position),
    "heads, layer x head": (heads_by_layer, library_heads_by_layer),
}
