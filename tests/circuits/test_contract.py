"""One contract over every backward rule on every path, on GPT-2-, Llama- and Gemma-like models."""

from dataclasses import replace

import families
import pytest
import torch
import toys

from circuits.checks import check_scorer, scorers
from circuits.checks.specimens import specimens
from circuits.scoring import METHODS, PATHS, Recipe, score
from patching.ablations import mean, positional_mean, resample, zero
from patching.capture import capture
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.rules import RULES
from patching.tasks import Task

FAMILIES = ["gpt2", "llama", "gemma2"]
ROUNDING = 2e-6  # relative: Llama-like families norm in float32
CONSTANT_ABLATIONS = {
    "zero": lambda task: zero,
    "mean": mean,
    "positional-mean": positional_mean,
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return families.load(request.param, torch.float64)


@pytest.fixture(scope="module")
def task():
    return families.task()


def recipe(rule: str, path: str, ablation=resample) -> Recipe:
    steps = (1,) if path in ("inputs", "activations", "activations-own") else ()
    return Recipe(PATHS[path](*steps), RULES[rule], ablation)


def every_rule_on_every_path() -> list[tuple[str, str, str]]:
    """Each on one family; in turns, so that each rule and each path meets every family."""
    pairs = [(i, j) for i in range(len(RULES)) for j in range(len(PATHS))]
    rules, paths = list(RULES), list(PATHS)
    return [(FAMILIES[(i + j) % len(FAMILIES)], rules[i], paths[j]) for i, j in pairs]


@pytest.mark.parametrize(("model", "rule", "path"), every_rule_on_every_path(), indirect=["model"])
def test_every_rule_on_every_path_keeps_the_contract(model, rule, path, monkeypatch):
    """Independent of batch size, zero without contrast, and nothing left behind."""
    task, made = families.task(2, 6), recipe(rule, path)
    before = {name: p.clone() for name, p in model.bridge.named_parameters()}
    together = score(model, task, logit_diff, made).matrix
    alone = score(model, task, logit_diff, made, batch_size=1).matrix
    assert float(together.abs().max()) > 0
    assert (together - alone).abs().max() < ROUNDING * together.abs().max()
    monkeypatch.setattr(Task, "require_contrast", lambda task: None)
    same = Task("same", tuple(replace(p, corrupt=p.clean) for p in task.prompts))
    assert float(score(model, same, logit_diff, made).matrix.abs().max()) == 0
    assert not any(p.fwd_hooks or p.bwd_hooks for p in model.bridge.hook_dict.values())
    for name, parameter in model.bridge.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def exact_on_linear_models() -> list[tuple[str, str]]:
    """All but the released form of IG over activations, which averages over runs in which a
    group's own inputs get no gradient; and the identity rule where an activation is zero, as the
    toy's is in the corrupt run: it has no slope there.
    """
    plain = [(rule, path) for rule in ("plain", "ln", "relp-no-identity") for path in PATHS]
    identity = [(rule, path) for rule in ("relp", "relp-ah") for path in ("clean", "inputs")]
    return [pair for pair in plain + identity if pair[1] != "activations"]


@pytest.mark.parametrize(("rule", "path"), exact_on_linear_models())
def test_on_a_linear_model_combinations_give_the_whole_numbers(rule, path):
    """Attention there is uniform, so nothing is lost where patterns are held fixed."""
    scores = score(toys.linear_model(), toys.task(2), logit_diff, recipe(rule, path))
    for (source, dest), expected in toys.SCORES.items():
        assert scores.of(source, dest) == pytest.approx(expected, abs=1e-9), (source, dest)
    assert int((scores.matrix.abs() > 1e-9).sum()) == len(toys.SCORES)


@pytest.mark.parametrize("ablation", CONSTANT_ABLATIONS)
@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].takes_ablation])
def test_every_method_works_under_constant_ablations(model, task, method, ablation):
    scores = METHODS[method].function(
        model, task, logit_diff, ablation=CONSTANT_ABLATIONS[ablation](task)
    )
    assert float(scores.matrix.abs().max()) > 0
    assert ablation.replace("-", " ") in str(scores.provenance["ablation"])


@pytest.fixture(scope="module")
def small_models():
    return specimens()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_contract_it_declares(method, small_models, monkeypatch):
    """On models that are loaded once: that each is left as it was is part of the contract."""
    monkeypatch.setattr(scorers, "specimens", lambda: small_models)
    check_scorer(METHODS[method])


def test_integration_over_inputs_completes_under_mean_ablation(model, task):
    """The embedding's scores add up to clean minus the run from the replaced embedding."""
    coarse, fine = (
        score(model, task, logit_diff, Recipe(PATHS["inputs"](n), RULES["plain"], mean(task)))
        for n in (20, 80)
    )
    assert fine.completeness.abs().max() < coarse.completeness.abs().max() / 8  # second order: 16


def test_scores_of_mean_ablation_are_those_of_the_mean_by_hand(model, task):
    """The embedding's row: (clean - mean over real tokens) times the gradient at the clean run."""
    (batch,) = task.batches(len(task))
    run = capture(model, batch.clean, batch, at=batch.is_token)
    expected = run.writes.embed.mean(dim=0)
    constants = mean(task)(model).writes.embed
    torch.testing.assert_close(constants[0], expected.double(), atol=1e-12, rtol=0)


def test_positional_means_refuse_prompts_of_several_lengths():
    ragged = Task("ragged", families.task(1, 9).prompts + families.task(1, 6).prompts)
    with pytest.raises(ValueError, match="several lengths .1 of 6 tokens, 1 of 9 tokens"):
        positional_mean(ragged)


def test_positional_means_refuse_longer_prompts_than_they_know(model):
    ablation = positional_mean(families.task(3, 6))
    with pytest.raises(ValueError, match="a prompt has 9 tokens, .* know only 6"):
        score(model, families.task(3, 9), logit_diff, Recipe(ablation=ablation))


def test_a_path_over_corrupt_prompts_refuses_an_ablation_without_them(model, task):
    with pytest.raises(ValueError, match="'corrupt' runs the corrupt prompts, .* 'zero' does not"):
        score(model, task, logit_diff, recipe("plain", "corrupt", zero))


def test_kl_is_refused_wherever_the_clean_run_counts(model, task):
    for path in ("clean", "clean-corrupt"):
        with pytest.raises(ValueError, match="kl has no slope at the clean run"):
            score(model, task, kl, recipe("plain", path))


def test_relevance_of_mixtures_of_experts_says_what_was_not_ruled():
    mixture = Model.load(families.module("mixtral", torch.float32))
    scores = score(mixture, families.task(), logit_diff, recipe("relp", "clean"))
    assert len(scores.provenance["unruled"]) > 0


def test_random_corrupt_prompts_are_other_prompts_clean_ones():
    task = families.task(6).with_random_corrupt(seed=1)
    cleans = {p.clean for p in task.prompts}
    assert all(p.corrupt in cleans and p.corrupt != p.clean for p in task.prompts)
    lonely = Task("lonely", families.task(2, 9).prompts + families.task(1, 6).prompts)
    with pytest.raises(ValueError, match="no other prompt of its length in row 2"):
        lonely.with_random_corrupt()
