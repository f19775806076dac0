"""Names of positions in heat maps, and sweeps over the spans of each prompt."""

import families
import pytest
import spanned
import torch

from patching.activation import activation_patching, span_patching
from patching.attribution import attribution_patching
from patching.metrics import logit_diff, logprob
from patching.runs.ticks import position_ticks
from patching.tasks import Prompt, Span, Task, each_position


def test_positions_are_called_by_their_span_or_the_first_prompts_token(gpt2):
    """Both names where prompts have two; tokens of longer prompts where the first has ended."""
    rows = [
        ((3, 4, 5), {"IO": 0, "S1": 1}),
        ((6, 7, 8, 9), {"S1": 0, "IO": 1, "end": 3}),
    ]
    prompts = [
        Prompt(ids, ids, ((9, 8),), spans=tuple(Span(name, i, i + 1) for name, i in at.items()))
        for ids, at in rows
    ]
    ticks = position_ticks(gpt2, Task("t", tuple(prompts)))
    assert ticks == {"pos": ("0 IO/S1", "1 IO/S1", "2 5", "3 end", "4 ")}
    (plain,) = position_ticks(gpt2, families.task(1)).values()
    assert plain[0] == f"0 {families.task(1).prompts[0].clean[0]}"


def test_maps_show_names_and_tables_keep_numbers(gpt2):
    task = each_position(families.task())
    exact = activation_patching(gpt2, task, logit_diff)
    estimates = attribution_patching(gpt2, task, logit_diff, kinds=["resid_pre", "z"])
    for grid in (exact, estimates.pick("resid_pre"), estimates.pick("z", ("head", "pos"))):
        assert grid.axes["pos"] == tuple(map(str, range(9)))
        (axes, *_) = grid.plot().axes
        assert axes.get_xticklabels()[2].get_text() == "2 2"
    assert exact.select(layer="0").shown == exact.shown


def test_a_sweep_over_spans_is_of_each_prompts_own(gpt2):
    """Of one prompt, spans given as ranges are the same."""
    whole = span_patching(gpt2, spanned.task(), logit_diff)
    assert whole.axes["span"] == spanned.SPANS
    for i, prompt in enumerate(spanned.task().prompts):
        one = spanned.task()._rows([i], "one")
        for span in prompt.spans:
            if sum(other.name == span.name for other in prompt.spans) > 1:
                continue
            given = {span.name: range(span.start, span.stop)}
            alone = span_patching(gpt2, one, logit_diff, given)
            at = spanned.SPANS.index(span.name)
            torch.testing.assert_close(whole.values[i, :, at], alone.values[0, :, 0])
    with pytest.raises(ValueError, match="no prompt of task 'ragged' has a span"):
        span_patching(gpt2, families.ragged_task(), logit_diff)
    found = span_patching(gpt2, spanned.several(), logprob)
    assert found.values.shape == (3, 2, 4)
