"""The battery: everything of ours passes, and each planted fault is caught by the law it breaks."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from tokenizers_for_tasks import word_level

from circuits.checks import (
    Laws,
    check_exporter,
    check_metric,
    check_scorer,
    check_selector,
    check_task,
)
from circuits.checks.specimens import specimens
from circuits.circuit import Circuit
from circuits.export import FORMATS, load, save
from circuits.scores import Scores
from circuits.scoring import METHODS, eap
from circuits.select import greedy, threshold, top_n
from patching.metrics import METRICS, WITHOUT_GRADIENT, logit_diff
from patching.models.toy_tokenizer import toy_tokenizer
from patching.tasks import FAMILIES, Prompt, Task, generate, ioi


@pytest.fixture(scope="module")
def small():
    """One model is enough for what is broken."""
    return [specimens()[0].model]


# Scorers; that all of ours pass is in test_contract.


def changed(change, **options):
    """EAP with a change to its scores."""

    def scorer(model, task, metric, **given):
        return change(eap(model, task, metric, **{**given, **options}))

    return scorer


def with_matrix(scores: Scores, matrix) -> Scores:
    return Scores(matrix, scores.graph, scores.provenance, scores.completeness)


def summed(model, task, metric, **given):
    found = eap(model, task, metric, **given)
    return with_matrix(found, found.matrix * len(task))


def sized(model, task, metric, *, batch_size=16, **given):
    found = eap(model, task, metric, batch_size=batch_size, **given)
    return with_matrix(found, found.matrix * batch_size)


def last_prompt_alone(model, task, metric, **given):
    found = eap(model, replace(task, prompts=task.prompts[-1:]), metric, **given)
    return replace(found, provenance=eap(model, task, metric, **given).provenance)


def leaves_a_hook(model, task, metric, **given):
    model.bridge.hook_dict[model.blocks[0].z].add_hook(lambda tensor, hook: None)
    return eap(model, task, metric, **given)


def changes_a_weight(model, task, metric, **given):
    next(model.bridge.parameters()).data.mul_(1.0001)
    return eap(model, task, metric, **given)


def noisy(model, task, metric, **given):
    found = eap(model, task, metric, **given)
    return with_matrix(found, found.matrix * (1 + 0.01 * torch.rand_like(found.matrix)))


def needs_no_contrast(model, task, metric, **given):
    if all(p.clean == p.corrupt for p in task.prompts):
        return Scores(model.graph.exists.double(), model.graph, {})
    return eap(model, task, metric, **given)


def takes_no_ablation(model, task, metric, *, batch_size=16):
    return eap(model, task, metric, batch_size=batch_size)


def takes_any_metric(model, task, metric, **given):
    return eap(model, task, logit_diff, **given)


BAD_SCORERS = {
    "of another type": (lambda *a, **k: torch.zeros(2), "a Tensor was returned"),
    "zeros": (changed(lambda s: with_matrix(s, 0 * s.matrix)), "all scores are 0"),
    "flipped sign": (changed(lambda s: with_matrix(s, -s.matrix)), "sum to its node score"),
    "a sum": (summed, "a mean over prompts and no sum"),
    "by batch": (sized, "do not hang on the batch size"),
    "one prompt": (last_prompt_alone, "mean of each prompt's alone"),
    "a hook left": (leaves_a_hook, "hooks are left at blocks.0.attn"),
    "a weight changed": (changes_a_weight, "was changed"),
    "noise": (noisy, "equal calls give equal scores"),
    "no contrast": (needs_no_contrast, "pairs that do not differ are refused or score 0"),
    "any metric": (takes_any_metric, "accuracy went through"),
    "no ablation": (takes_no_ablation, "it takes no ablation=, only model, task, metric, batch"),
    "no provenance": (
        changed(lambda s: replace(s, provenance={})),
        "it lacks weights, metric, method",
    ),
    "another task": (
        changed(lambda s: replace(s, provenance={**s.provenance, "n_examples": 9})),
        "n_examples is 9, 4 is right",
    ),
    "absolute values": (
        changed(lambda s: with_matrix(s, s.matrix.abs())),
        r"mean of each prompt's alone \(else declare",
    ),
}


@pytest.mark.parametrize("fault", BAD_SCORERS)
def test_a_scorer_that_breaks_a_law_is_caught_by_it(fault, small):
    scorer, said = BAD_SCORERS[fault]
    models = [specimens()[0].model] if fault in ("a hook left", "a weight changed") else small
    with pytest.raises(AssertionError, match=rf"the law .* is broken: .*|{said}") as caught:
        check_scorer(scorer, models=models)
    assert caught.match(said)


def test_every_law_that_is_broken_is_named_once_with_where(small):
    def several(model, task, metric, *, batch_size=16, **given):
        found = eap(model, task, metric, batch_size=batch_size, **given)
        said = {**found.provenance, "n_examples": 9}
        return replace(found, matrix=-found.matrix * batch_size, provenance=said)

    models = [small[0], specimens()[1].model]
    with pytest.raises(AssertionError) as caught:
        check_scorer(several, models=models)
    lines = str(caught.value).splitlines()
    both = f"(on {models[0].name}, {models[1].name})"
    for law in ("do not hang on the batch size", "a mean over", "how scores were made", "sum to"):
        (line,) = [line for line in lines if law in line]
        assert line.startswith("the law '") and line.endswith(both)
    assert lines[-1].endswith("(on a linear model)")


def test_what_a_scorer_raises_is_said_beside_the_laws_that_it_breaks(small):
    def fragile(model, task, metric, *, batch_size=16, ablation=None):
        if ablation is not None:
            raise RuntimeError("no such thing")
        found = eap(model, task, metric, batch_size=batch_size)
        return with_matrix(found, found.matrix * batch_size)

    with pytest.raises(AssertionError, match="which ended in RuntimeError: no such") as caught:
        check_scorer(fragile, models=small)
    assert caught.match("do not hang on the batch size") and caught.value.__cause__ is not None


def test_a_function_that_is_called_otherwise_is_no_scorer(small):
    with pytest.raises(AssertionError, match=r"batch_size=' is broken: .*'batch_size'"):
        check_scorer(lambda model, task, metric: None, models=small)


def test_a_flipped_sign_is_caught_on_the_linear_model_too(small):
    flipped = changed(lambda s: with_matrix(s, -s.matrix))
    with pytest.raises(AssertionError, match=r"embed->a0.h0.v scores -8, not 8"):
        check_scorer(flipped, Laws(additive=False), models=small)


def test_laws_that_are_not_declared_are_not_asked(small):
    doubled = changed(lambda s: with_matrix(s, 2 * s.matrix))
    with pytest.raises(AssertionError, match=r"declare Laws\(additive=False\)"):
        check_scorer(doubled, models=small)
    check_scorer(doubled, Laws(additive=False, exact_if_linear=False), models=small)


def test_a_path_that_does_not_approach_the_gap_is_caught(small):
    def coarse(model, task, metric, *, steps=5, **given):
        return METHODS["eap-ig"].function(model, task, metric, steps=3, **given)

    laws = Laws(takes_steps=True, complete=True)
    with pytest.raises(AssertionError, match="are missing of .* with 10 steps"):
        check_scorer(coarse, laws, models=small)


def test_a_scorer_that_needs_layers_must_refuse_models_without(small):
    with pytest.raises(AssertionError, match="fewer than 2 layers .* one layer went through"):
        check_scorer(eap, Laws(n_layers=2), models=small)


# Selectors.


@pytest.mark.parametrize("selector", [top_n, greedy])
def test_our_selectors_keep_the_contract(selector):
    check_selector(selector)


def test_a_threshold_keeps_the_contract():
    check_selector(threshold, sized=False)


def test_a_selector_that_breaks_a_law_is_caught_by_it():
    def one_less(scores, n, *, ranking):
        return top_n(scores, max(0, n - 1), ranking=ranking)

    def silent(scores, n, *, ranking):
        return Circuit(top_n(scores, n, ranking=ranking).mask, scores.graph)

    def lenient(scores, n, *, ranking):
        return top_n(scores, n, ranking="signed" if ranking == "best" else ranking)

    def vandal(scores, n, *, ranking):
        scores.matrix.mul_(2)
        return top_n(scores, n, ranking=ranking)

    for selector, said in {
        one_less: "0 edges instead of 1",
        silent: "the circuit has none",
        lenient: "'best' went by",
        vandal: "scores were changed",
    }.items():
        with pytest.raises(AssertionError, match=said):
            check_selector(selector)


# Exporters.


@pytest.mark.parametrize("suffix", [s for s in FORMATS if s not in (".pdf", ".png")])
def test_our_formats_keep_the_contract(suffix):
    entry = FORMATS[suffix]
    check_exporter(save, suffix, read=load if entry.read else None, loses=entry.loses)


def test_an_exporter_that_breaks_a_law_is_caught_by_it():
    drawn = iter(range(100))

    def littering(circuit, path):
        save(circuit, path)
        path.with_suffix(".bak").write_text("x")

    def dated(circuit, path):
        path.write_text(f"{next(drawn)}")

    def empty(circuit, path):
        path.write_text("")

    for write, said in {
        littering: "the folder holds circuit.bak, circuit.json",
        dated: "a second .json differs",
        empty: "the file is empty",
        (lambda circuit, path: None): "the folder holds nothing",
    }.items():
        with pytest.raises(AssertionError, match=said):
            check_exporter(write, ".json")
    with pytest.raises(AssertionError, match="lost edges"):
        check_exporter(save, ".json", read=lambda path, graph: Circuit.empty(graph))
    with pytest.raises(AssertionError, match="lost provenance"):
        check_exporter(save, ".csv", read=load)


# Metrics.


@pytest.mark.parametrize("name", METRICS)
def test_our_metrics_keep_the_contract(name):
    check_metric(METRICS[name], differentiable=METRICS[name] not in WITHOUT_GRADIENT)


def average(logits, batch):
    return logit_diff(logits, batch).mean()


def centred(logits, batch):
    return logit_diff(logits, batch) - logit_diff(logits, batch).mean()


def loss(logits, batch):
    return -logit_diff(logits, batch)


def first_answers(logits, batch):
    return logits.gather(1, batch.answers).sum(dim=1)


def in_place(logits, batch):
    return logit_diff(logits.mul_(2), batch)


def distance(logits, batch):
    return (logits - batch.clean_logits).pow(2).sum(dim=1)


def rounded(logits, batch):
    return logit_diff(logits, batch).detach()


def test_a_metric_that_breaks_a_law_is_caught_by_it():
    for metric, said in {
        average: r"the shape is \(\), \(5,\) is right",
        centred: "no other row and no padding of answers counts",
        loss: "are lost when answers gain 0.1 logits",
        first_answers: "no padding of answers counts",
        in_place: "logits were changed in place",
        distance: "compares with the clean run is largest there",
        rounded: "there is none: argmax",
    }.items():
        with pytest.raises(AssertionError, match=said):
            check_metric(metric)


# Tasks.


VARIANTS = [
    ":".join(filter(None, (name, corruption)))
    for name, family in FAMILIES.items()
    for corruption in family.corruptions or ("",)
]


@cache
def words_and_toy():
    return word_level(), toy_tokenizer()


def of_name(name):
    """The generator of a task by a corruption, as the shell finds it."""

    def generator(tokenizer, n, seed=0):
        return generate(name, tokenizer, n, seed)

    return generator


@pytest.mark.parametrize("name", VARIANTS)
def test_our_generators_keep_the_contract(name):
    """Under every corruption; a tokenizer that lacks the words is refused, and told so."""
    words, toy = words_and_toy()
    check_task(of_name(name), words)
    try:
        made = generate(name, toy, 1)
    except ValueError as error:
        assert str(error).startswith("too few "), error
    else:
        check_task(made, toy)


def test_a_task_or_generator_that_breaks_a_law_is_caught_by_it():
    tokenizer = toy_tokenizer()
    made = ioi(tokenizer, 4)
    headless = tuple(
        replace(p, clean=p.clean[1:], corrupt=p.corrupt[1:], spans=()) for p in made.prompts
    )
    same = tuple(replace(p, corrupt=p.clean) for p in made.prompts)
    unknown = (replace(made.prompts[0], answers=(tokenizer.unk_token_id,)),)
    for prompts, said in {
        headless: "exactly one BOS .*row 0, 1, 2, 3 breaks it",
        same: "clean and corrupt differ",
        unknown: "every word is known",
    }.items():
        with pytest.raises(AssertionError, match=said):
            check_task(Task("bad", prompts), tokenizer)
    for generator, said in {
        (lambda tokenizer, n, seed=0: ioi(tokenizer, n + 1, seed)): "25 instead of 24",
        (lambda tokenizer, n, seed=0: ioi(tokenizer, n, 7)): "seed 1 made the task of seed 0",
        (lambda tokenizer, n, seed=0: ioi(tokenizer, max(n, 1), seed)): "n = 0 went through",
    }.items():
        with pytest.raises(AssertionError, match=said):
            check_task(generator, tokenizer)
    with pytest.raises(ValueError, match="tried with a tokenizer; give one"):
        check_task(ioi)
    check_task(Task("ids", (Prompt((1, 2), (1, 3), (4,)),)))
