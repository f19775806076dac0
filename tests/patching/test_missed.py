"""Bounds from random subsets: by hand on a linear model, statistics, refusals."""

import families
import numpy as np
import pytest
import torch
import toys
from scipy import stats

from patching.attribution import attribution_patching, bound_missed, qk_fix
from patching.attribution.missed import Missed, Sampling
from patching.metrics import logit_diff
from patching.paths import at_both
from patching.tasks import Task

PAIRS = Sampling(n=64, share=0.5, seed=1)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_on_a_linear_model_every_subset_has_the_sum_of_its_effects(direction):
    """Heads by hand: 8 and -3; what a subset moves is what its members move."""
    model, task = toys.linear_model(), toys.task(3)
    scores = attribution_patching(model, task, logit_diff, direction=direction)
    heads = scores.pick("z", over=["layer", "head"])
    found = bound_missed(model, task, logit_diff, heads, sampling=PAIRS, batch_size=2)
    expected = found.subsets.double() @ torch.tensor([8.0, -3.0], dtype=torch.float64)
    torch.testing.assert_close(found.effects, expected, atol=1e-9, rtol=0)
    table = found.to_dataframe().set_index("head")["effect"]
    # the other head is in half of either side's subsets, but for chance: 64 of them
    assert table["h0"] == pytest.approx(8, abs=1.5)
    assert table["h1"] == pytest.approx(-3, abs=3)
    assert found.bound() > 8
    assert found.bound(0.99) > found.bound(0.9)


@pytest.mark.parametrize(
    ("kind", "over"),
    [
        ("z", ["layer", "head"]),
        ("mlp_out", ["layer", "pos"]),
        ("k", ["layer", "pos", "head"]),
        ("neurons", ["layer", "neuron"]),
        ("pattern", ["layer", "pos", "head"]),
    ],
)
def test_a_subset_of_one_place_is_one_exact_patch(gpt2, kind, over):
    """By the library's own hook points, for prompts padded on the right and cells by place."""
    task = families.task(2)
    (batch,) = task.batches(2)
    scores = attribution_patching(gpt2, task, logit_diff, kinds=[kind]).pick(kind, over=over)
    found = bound_missed(gpt2, task, logit_diff, scores, sampling=Sampling(n=150, share=0.02))
    singles = (found.subsets.sum(dim=1) == 1).nonzero().flatten().tolist()
    assert len(singles) > 1
    for row in singles[:3]:
        labels = found.places[int(found.subsets[row].nonzero())]
        at = dict(zip(over, labels, strict=True))
        assert float(found.effects[row]) == pytest.approx(one_patch(gpt2, batch, kind, at))


def one_patch(model, batch, kind, at):
    names = {"z": "attn.o.hook_in", "mlp_out": "hook_mlp_out", "k": "attn.k.hook_out"}
    names |= {"neurons": "mlp.out.hook_in", "pattern": "attn.hook_pattern"}
    name = f"blocks.{at['layer']}.{names[kind]}"
    pos = int(at["pos"]) if "pos" in at else slice(None)
    unit = int((at.get("head") or at.get("neuron") or "0").lstrip("hg"))
    kept = {}
    model.answer_logits(batch.clean, batch, [(name, lambda x: kept.update(x=x.clone()))])

    def put(x):
        x = x.clone()
        cell = {"pattern": (slice(None), unit, pos), "mlp_out": (slice(None), pos)}
        where = cell.get(kind, (slice(None), pos, unit))
        x[where] = kept["x"][where]
        return x

    moved = model.answer_logits(batch.corrupt, batch, [(name, put)])
    still = model.answer_logits(batch.corrupt, batch)
    return float((logit_diff(moved, batch) - logit_diff(still, batch)).mean())


def test_the_bound_is_welchs_interval_for_all_places_together():
    generator = torch.Generator().manual_seed(0)
    subsets = torch.rand(40, 3, generator=generator) < 0.5
    effects = subsets.double() @ torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    effects += 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    places = (("0", "h0"), ("0", "h1"), ("1", "h0"))
    found = Missed(("layer", "head"), places, subsets, effects).to_dataframe(0.9)
    for i, (layer, head) in enumerate(places):
        inside, outside = effects[subsets[:, i]].numpy(), effects[~subsets[:, i]].numpy()
        test = stats.ttest_ind(inside, outside, equal_var=False)
        ends = test.confidence_interval(1 - 0.1 / 3)
        row = found[(found["layer"] == layer) & (found["head"] == head)]
        assert row["effect"].item() == pytest.approx(inside.mean() - outside.mean())
        assert row["bound"].item() == pytest.approx(max(abs(ends.low), abs(ends.high)))
    assert list(found["bound"]) == sorted(found["bound"], reverse=True)


def test_the_bound_holds_what_it_promises_where_effects_add_up():
    """90 % for all 20 places together: of 60 draws, at least 48 (binomial, p < 0.001 below)."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(60):
        effects = rng.normal(size=20)
        subsets = torch.rand(120, 20, generator=torch.Generator().manual_seed(seed)) < 0.3
        values = subsets.double() @ torch.from_numpy(effects)
        places = tuple((str(i),) for i in range(20))
        table = Missed(("neuron",), places, subsets, values).to_dataframe(0.9)
        sizes = np.abs(effects[table["neuron"].astype(int)])
        held += bool((table["bound"].to_numpy() >= sizes).all())
    assert held >= 48


def test_places_in_too_few_subsets_have_no_bound():
    subsets = torch.tensor([[True, True], [False, True], [True, True], [False, True]])
    effects = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    found = Missed(("head",), (("h0",), ("h1",)), subsets, effects)
    assert found.bound() == np.inf
    assert found.to_dataframe().set_index("head")["bound"]["h0"] == pytest.approx(1)


def test_verified_places_are_left_out_of_all_subsets(gpt2):
    scores = qk_fix(gpt2, families.task(), logit_diff).pick("q", over=["layer", "head"])
    found = bound_missed(
        gpt2, families.task(), logit_diff, scores, verified=3, sampling=Sampling(n=8)
    )
    best = {labels for labels, _ in scores.top(3)}
    assert len(found.places) == 5
    assert not best & set(found.places)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verified": 8}, "of 8 places, 8 verified leave none to bound"),
        ({"verified": -1}, "verified leave none to bound"),
        ({"kind": "resid_pre"}, "effects of resid_pre at several layers do not add up"),
        ({"direction": at_both}, "these are on the path 'clean-corrupt'"),
        ({"task": Task("one", families.task().prompts[:1])}, "on the same task"),
        ({"over": ["head", "pos"]}, "go over layers first.* these have the axes head, pos"),
    ],
)
def test_wrong_input_is_explained(gpt2, changes, said):
    kind = changes.get("kind", "z")
    direction = changes.get("direction", "denoising")
    scores = attribution_patching(gpt2, families.task(), logit_diff, direction=direction)
    over = changes.get("over", ["layer", "head"] if kind == "z" else ["layer", "pos"])
    task = changes.get("task", families.task())
    with pytest.raises(ValueError, match=said):
        bound_missed(
            gpt2, task, logit_diff, scores.pick(kind, over), verified=changes.get("verified", 0)
        )


@pytest.mark.parametrize("options", [{"n": 3}, {"share": 0.0}, {"share": 1.0}])
def test_too_few_or_trivial_subsets_are_refused(options):
    with pytest.raises(ValueError, match="random subsets are at least 4"):
        Sampling(**options)


def test_a_confidence_is_a_share():
    found = Missed(("head",), (("h0",),), torch.ones(4, 1).bool(), torch.zeros(4).double())
    with pytest.raises(ValueError, match="a confidence lies between 0 and 1, got 9.5"):
        found.bound(9.5)
