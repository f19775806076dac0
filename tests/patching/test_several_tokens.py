"""Answers of several tokens, and prompts that are asked at several positions."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from circuits.circuit import Circuit
from circuits.running.evaluation import evaluate
from circuits.scoring import METHODS, eap
from patching.ablations import mean, zero
from patching.activation import activation_patching
from patching.attribution import attribution_patching, qk_fix
from patching.lens import direct_logit_attribution
from patching.metrics import (
    METRICS,
    WITHOUT_GRADIENT,
    accuracy,
    choice,
    kl,
    logit_diff,
    logprob,
    logprob_diff,
    logprob_diff_per_token,
    logprob_per_token,
    prob_diff,
)
from patching.model import Model
from patching.tasks import Prompt, Task, from_csv, from_json, to_json
from patching.tasks.asked import ask
from patching.token_attribution import attribute_tokens, occlusion
from patching.tracing import Noise, causal_tracing
from tests import families

RIGHT = ((5, 6, 7), (7, 8), 5)
WRONG = ((5, 9, 2), (12, 13, 14), (17, 18))
PAIRS = families.ragged_task((9, 6, 7)).prompts


def answered(right, wrong=((),) * 3, padding="right"):
    rows = zip(PAIRS, right, wrong, strict=True)
    prompts = (replace(p, answers=(a,), wrong_answers=(w,) if w else ()) for p, a, w in rows)
    return Task("several", tuple(prompts), padding)


BOTH = answered(RIGHT, WRONG)


def logits_of(model, task, side="clean"):
    (batch,) = task.batches(len(task))
    with torch.no_grad():
        return model.answer_logits(getattr(batch, side), batch), batch


def plainly(module, prompt, side, answer):
    """Log-probabilities of an answer's tokens, from one run of the bare module."""
    tokens = answer if isinstance(answer, tuple) else (answer,)
    with torch.no_grad():
        logits = module(torch.tensor([[*getattr(prompt, side), *tokens]])).logits[0]
    at = range(len(prompt.clean) - 1, len(prompt.clean) - 1 + len(tokens))
    return logits.log_softmax(dim=-1)[list(at), list(tokens)]


# What is run.


def test_rows_are_as_few_as_contexts_that_do_not_begin_another():
    years = tuple((3, digit) for digit in range(5)) + tuple((4, digit) for digit in range(5))
    assert ask(Prompt((1, 2), (1, 3), years)).rows == ((3,), (4,))
    found = ask(Prompt((1, 2), (1, 3), ((5, 6),), (7, (5, 8, 9))))
    assert found.rows == ((5, 8),)
    assert found.asked == ((0, 1), (0, 2), (0, 3))  # each context once


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_log_probabilities_are_those_of_a_plain_loop(family):
    module = families.module(family, torch.float32)
    model = Model.load(module)
    prompts = (*BOTH.prompts, replace(PAIRS[0], answers=((5, 6), 8), wrong_answers=((5, 9), 11)))
    for side, padding in (("clean", "right"), ("corrupt", "left")):
        logits, batch = logits_of(model, Task("several", prompts, padding), side)
        found = [[plainly(module, p, side, a) for a in p.answers] for p in prompts]
        wrong = [[plainly(module, p, side, a) for a in p.wrong_answers] for p in prompts]
        sums, others = (
            torch.stack([torch.stack([a.sum() for a in some]).mean() for some in side_of])
            for side_of in (found, wrong)
        )
        means = torch.stack([torch.stack([a.mean() for a in some]).mean() for some in found])
        close = partial(assert_close, rtol=1e-6, atol=1e-6)
        close(logprob(logits, batch), sums)
        close(logprob_diff(logits, batch), sums - others)
        close(logprob_per_token(logits, batch), means)
        chances = [[sum(a.sum().exp() for a in some) for some in rows] for rows in (found, wrong)]
        right, left = map(torch.stack, chances)
        close(prob_diff(logits, batch), right - left)
        assert_close(choice(logits, batch), right / (right + left), rtol=1e-5, atol=0)


def test_only_what_is_asked_is_unembedded(gpt2):
    logits, batch = logits_of(gpt2, BOTH)
    assert len(logits) == sum(len(ask(p).asked) for p in BOTH.prompts) == 10
    assert batch.n_rows == sum(len(ask(p).rows) for p in BOTH.prompts) == 5


# One token, written as if there were several.


@pytest.mark.parametrize("name", METRICS)
def test_one_token_rows_beside_others_have_the_numbers_they_have_alone(gpt2, name):
    metric, task = METRICS[name], families.ragged_task()
    if metric is logit_diff:  # refuses what has several tokens, but not positions
        other = replace(PAIRS[0], answers=(3, 4), wrong_answers=(5, 6), answer_positions=(2, 4))
    else:
        other = BOTH.prompts[0]
    alone, batch = logits_of(gpt2, task)
    clean = torch.randn_like(alone)
    expected = metric(alone, replace(batch, clean_logits=clean))
    mixed, batch = logits_of(gpt2, replace(task, prompts=(*task.prompts, other)))
    others = torch.randn_like(mixed[len(alone) :])
    found = metric(mixed, replace(batch, clean_logits=torch.cat([clean, others])))
    assert_close(found[: len(expected)], expected, rtol=1e-12, atol=1e-12)


def test_log_probabilities_of_single_tokens_differ_as_their_logits_do(gpt2):
    logits, batch = logits_of(gpt2, families.ragged_task())
    close = partial(assert_close, rtol=1e-12, atol=1e-12)
    close(logprob_diff(logits, batch), logit_diff(logits, batch))
    close(logprob_diff_per_token(logits, batch), logit_diff(logits, batch))


def test_an_answer_of_several_tokens_is_a_prompt_asked_at_its_own_last_positions(gpt2):
    """Teacher forcing: the same tokens, asked at the same places."""
    prompts = []
    for p, answer in zip(PAIRS, ((5, 6, 7), (7, 8, 9), (5, 3, 2)), strict=True):
        last = len(p.clean) - 1
        prompts.append(
            Prompt(
                p.clean + answer[:-1],
                p.corrupt + answer[:-1],
                answer,
                answer_positions=(last, last + 1, last + 2),
            )
        )
    inside = Task("inside", tuple(prompts))
    behind = answered(((5, 6, 7), (7, 8, 9), (5, 3, 2)))
    for metric in (logprob, logprob_per_token):
        one, other = (eap(gpt2, task, metric).matrix for task in (inside, behind))
        assert_close(one, other, rtol=1e-12, atol=1e-12)


# All that takes a task: right and wrong answers together are one run of right less one of wrong.
# Each of the three runs has its own padding and batch size: were either to matter, they would not
# add up.

NOT_LINEAR = ("eap-gp", "grad-drop", "atp-star", "information-flow")
SOME_EDGES = [("embed", "a0.h1.q"), ("a0.h2", "a1.h0.v"), ("m0", "m1"), ("a1.h3", "logits")]


@pytest.mark.filterwarnings("ignore:the scores of all edges out of the embedding")
@pytest.mark.parametrize("name", METHODS)
def test_scorers_add_up_over_answers_and_mind_neither_padding_nor_batches(gpt2, name):
    method = METHODS[name]
    options = {"steps": 1} if method.takes_steps else {}
    if name == "exact":
        options = {"edges": SOME_EDGES}
    score = partial(method.function, gpt2, **options)
    found = score(BOTH, logprob_diff).matrix
    close = partial(assert_close, rtol=0, atol=1e-12 * float(found.abs().max()))
    if name in NOT_LINEAR:
        close(found, score(replace(BOTH, padding="left"), logprob_diff, batch_size=2).matrix)
        return
    right = score(answered(RIGHT, padding="left"), logprob).matrix
    close(found, right - score(answered(WRONG), logprob, batch_size=2).matrix)
    assert bool(found.any())


SWEEPS = {
    "stream": partial(activation_patching, what="resid_pre"),
    "noised z": partial(activation_patching, what="z", over=("head", "pos"), direction="noising"),
    "pattern": partial(activation_patching, what="pattern"),
    "attribution": lambda *args: attribution_patching(*args, kinds=["k"])["k"],
    "qk fix": lambda *args: qk_fix(*args, kinds=["k"])["k"],
    "tokens": attribute_tokens,
    "occlusion": partial(attribute_tokens, method=occlusion(9), batch_size=4),
    "tracing": lambda model, task, metric: causal_tracing(  # prompts never meet in a run
        model, task.take(1), metric, range(1, 3), noise=Noise(samples=1)
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_add_up_over_answers(gpt2, name):
    sweep = SWEEPS[name]
    found = sweep(gpt2, BOTH, logprob_diff).values
    close = partial(assert_close, rtol=0, atol=1e-12 * float(found.abs().max()))
    right = sweep(gpt2, answered(RIGHT, padding="left"), logprob).values
    close(found, right - sweep(gpt2, answered(WRONG), logprob).values)


@pytest.mark.parametrize("ablation", [None, zero, mean(BOTH)], ids=["resample", "zero", "mean"])
def test_circuits_run_on_answers_of_several_tokens(gpt2, ablation):
    graph, generator = gpt2.graph, torch.Generator().manual_seed(0)
    chance = torch.rand(graph.exists.shape, generator=generator) < 0.5
    masks = [chance & graph.exists, graph.exists, torch.zeros_like(graph.exists)]
    circuits = [Circuit(mask, graph) for mask in masks]
    options = {} if ablation is None else {"ablation": ablation}
    run = partial(evaluate, gpt2, circuits=circuits, **options)
    both = run(task=BOTH, metric=logprob_diff)
    close = partial(assert_close, rtol=0, atol=1e-12 * float(both.values.abs().max()))
    close(both.values[1], both.clean)
    close(both.values[2], both.corrupt)
    right, wrong = (run(task=answered(a), metric=logprob) for a in (RIGHT, WRONG))
    close(both.values, right.values - wrong.values)
    assert run(task=BOTH, metric=kl).values[1].abs().max() == 0


def test_means_count_what_rows_have_in_common_once(gpt2):
    """Right and wrong in rows of their own: the prompt is in two rows, and counts as one."""
    prompt = replace(PAIRS[0], answers=((5, 6),), wrong_answers=((7, 8),))
    seen = mean(Task("two rows", (prompt,)))(gpt2).writes.embed
    token = gpt2.bridge.original_model.transformer.wte.weight
    assert_close(seen[0], token[[*prompt.clean, 5, 7]].mean(dim=0).detach())


def test_a_text_needs_no_corrupt_prompt(gpt2):
    text = tuple(range(3, 11))
    task = Task("text", (Prompt(text, text, text[1:], answer_positions=tuple(range(7))),))
    full = Circuit.full(gpt2.graph)
    found = evaluate(gpt2, task, [full], logprob_per_token, ablation=zero)
    with torch.no_grad():
        module = gpt2.bridge.original_model
        loss = module(torch.tensor([text]), labels=torch.tensor([text])).loss
    assert_close(found.clean[0], -loss.double(), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"clean one .a text has none: take zero, .* in row 0"):
        evaluate(gpt2, task, [full], logprob_per_token)


def test_accuracy_asks_for_every_token_and_at_positions_for_their_share():
    task = Task("t", (Prompt((1,), (2,), ((3, 4),)), Prompt((1,), (2,), ((3, 5),))))
    (batch,) = task.batches(2)
    logits = torch.zeros(4, 9)
    logits[[0, 1, 2, 3], [3, 4, 3, 4]] = 1.0
    assert accuracy(logits, batch).tolist() == [1.0, 0.0]
    inside = Task("t", (Prompt((1, 3, 4), (2, 3, 4), (3, 5), answer_positions=(0, 1)),))
    (batch,) = inside.batches(1)
    assert accuracy(logits[:2], batch).tolist() == [0.5]


@pytest.mark.parametrize("name", [n for n in METRICS if METRICS[n] not in WITHOUT_GRADIENT])
def test_batches_of_chosen_examples_keep_their_values(gpt2, name):
    metric = METRICS[name]
    inside = replace(PAIRS[0], answers=(3, 4), wrong_answers=(5, 6), answer_positions=(2, 4))
    prompts = [inside, *families.ragged_task().prompts]
    prompts += [] if metric is logit_diff else BOTH.prompts
    logits, batch = logits_of(gpt2, Task("t", tuple(prompts)))
    batch = replace(batch, clean_logits=logits + torch.randn_like(logits))
    order = torch.tensor([3, 0, 3, 1, 2])
    chosen = batch.at(order)
    with torch.no_grad():
        again = gpt2.answer_logits(chosen.clean, chosen)
    assert_close(metric(again, chosen), metric(logits, batch)[order], rtol=1e-9, atol=1e-9)


# Files.


def test_files_keep_answers_of_several_tokens_and_positions(tmp_path):
    rows = (
        Prompt((1, 2), (1, 3), ((4, 5), 6), ((7, 8, 9),)),
        Prompt((1, 2, 4), (1, 3, 4), (2, 4), answer_positions=(0, 1)),
    )
    task = Task("kept", rows)
    to_json(task, tmp_path / "t.json")
    assert from_json(tmp_path / "t.json").prompts == rows
    assert from_json(tmp_path / "t.json").hash == task.hash


def test_what_follows_positions_is_asked_unless_answers_are_given(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(
        '{"prompts": [{"clean": [1, 2, 4], "corrupt": [1, 3, 4], "answer_positions": "all"}]}'
    )
    (prompt,) = from_json(path).prompts
    assert prompt.answers == (2, 4) and prompt.answer_positions == (0, 1)


def test_a_table_holds_answers_of_several_tokens_in_brackets_of_their_own(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('clean,corrupted,correct_idx,incorrect_idx\na,a,"[[3, 4], 5]",6\n')
    tokenizer = Model.load("truth/induction").tokenizer
    (prompt,) = from_csv(path, tokenizer).prompts
    assert prompt.answers == ((3, 4), 5) and prompt.wrong_answers == (6,)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": [[]]}, "an empty answer in row 1"),
        ({"answers": [3], "answer_positions": [9]}, "not in the prompt, or not in order in row 1"),
        ({"answers": [3, 4], "answer_positions": [1, 0]}, "or not in order in row 1"),
        ({"answers": [3], "answer_positions": [0, 1]}, "more or fewer answers .* in row 1"),
        ({"answers": [[3, 4]], "answer_positions": [0]}, "several tokens inside .* in row 1"),
        ({"answer_positions": [2]}, "row 1: nothing follows answer position 2 in a prompt of 3"),
        ({"answers": [3], "answer_positions": "some"}, 'row 1: answer_positions are .* "all"'),
        ({"answers": [[3, "x"]]}, "row 1: an answer is text, a token id or a list of them"),
        ({"answers": [[3, 4]], "wrong_answers": [[3, 4]]}, "also a wrong answer in row 1"),
    ],
)
def test_bad_answers_in_files_are_named(tmp_path, row, message):
    sound = {"clean": [1, 2, 4], "corrupt": [1, 3, 4], "answers": [5]}
    bad = {"clean": [1, 2, 4], "corrupt": [1, 3, 4], **row}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"prompts": [sound, bad]}))
    with pytest.raises(ValueError, match=message):
        from_json(path)


# What cannot take them says so.


def test_single_tokens_alone_are_compared_by_logits(gpt2):
    with pytest.raises(ValueError, match="several tokens .*; take logprob_diff, .* in row 0, 1, 2"):
        eap(gpt2, BOTH, logit_diff)
    with pytest.raises(ValueError, match="no wrong answers, which choice compares with, in row 0"):
        eap(gpt2, answered(RIGHT), choice)


def test_lenses_refuse_answers_of_several_tokens_in_words(gpt2):
    with pytest.raises(ValueError, match="direct logit attribution reads one token .* row 0, 1, 2"):
        direct_logit_attribution(gpt2, BOTH)


def test_models_that_see_what_follows_are_given_no_answer_beforehand():
    with pytest.raises(ValueError, match="its positions see what follows them in row 0, 1, 2"):
        replace(BOTH, two_way=True)
