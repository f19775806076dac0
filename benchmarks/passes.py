"""Operations a pass: what each job asks of an accelerator, beside the plain model's own passes.

Exact counts, the same on every machine, of passes that take as many circuits or places at once as
fit (`patching.memory.grouping`), as they do on accelerators.
"""

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.jobs import N_EXACT, Job, evaluate_share, score_eap, score_eap_ig, score_exact
from benchmarks.operations import Operations, count, tensors_of
from benchmarks.subject import Subject
from benchmarks.sweeps import heads_by_layer, residual_by_position
from patching.memory import budget, grouping

BUDGET = 2**33  # groups take half of what is free: as on a card of 16 GiB

PASSES: dict[str, Job] = {
    "plain model, 1 forward": Subject.forward,
    "plain model, 2 forwards + 1 backward": Subject.unit,
    "EAP": score_eap,
    "EAP-IG, 5 steps": score_eap_ig,
    **{
        f"{n} circuit{'s' if n > 1 else ''} of {share:.0%}": evaluate_share(share, n)
        for share in (0.5, 0.01)
        for n in (1, 8, 32)
    },
    f"exact, {N_EXACT} edges": score_exact,
    "heads, layer x head": heads_by_layer,
    "residual stream, layer x position": residual_by_position,
}


def count_passes(subject: Subject, names: Sequence[str] | None = None) -> dict[str, Operations]:
    """The operations of each job, by name; what is kept between passes is made before."""
    device = [
        *tensors_of(subject.plain),
        *tensors_of(subject.model.bridge),
        subject.clean,
        subject.corrupt,
    ]
    found = {}
    with grouping(as_many_as_fit=True), budget(BUDGET):
        score_eap(subject)
        for share in (0.5, 0.01):
            evaluate_share(share, 32)(subject)
        for name in PASSES if names is None else names:
            work: Callable[[], object] = partial(PASSES[name], subject)
            found[name] = count(work, device)
    return found
