"""The known circuits that ship: every model does its task, and its task is what it says."""

from typing import cast

import pytest
import torch
from torch.testing import assert_close

from patching.metrics import accuracy, logit_diff
from patching.model import Model
from patching.models import TRUTH_GENERATORS, embedded, induction, known
from patching.models.toy_tokenizer import toy_tokenizer
from patching.models.truth import library
from patching.models.truth.meaning import run
from patching.tasks.tokens import Tokenizer

PLAIN = tuple(library.examples())


def batch_of(task):
    (batch,) = task.batches(len(task))
    return batch


@pytest.mark.parametrize("name", (*library.names(), *library.relu_names()))
def test_every_model_is_always_right_on_clean_and_never_on_corrupt_prompts(name):
    model, batch = library.compiled(name).model, batch_of(known(name, n=30).task)
    with torch.no_grad():
        clean, corrupt = (model(ids).logits[:, -1] for ids in (batch.clean, batch.corrupt))
    assert accuracy(clean, batch).mean() == 1.0
    assert accuracy(corrupt, batch).mean() == 0.0
    # Ten logits by construction; the noise heads move it by a few tenths.
    ten = torch.full((len(batch),), 10.0)
    tolerance = 0.5 if "noise" in name else 1e-3
    assert_close(logit_diff(clean, batch), ten, atol=tolerance, rtol=0)
    assert_close(logit_diff(corrupt, batch), -ten, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", PLAIN)
def test_the_programs_meaning_gives_the_answers_that_the_task_names(name):
    example = library.examples()[name]
    vocabulary = example.program.vocabulary
    for prompt in known(name, n=30, seed=3).task.prompts:
        for tokens, answers in (
            (prompt.clean, prompt.answers),
            (prompt.corrupt, prompt.wrong_answers),
        ):
            found = run(example.program, [vocabulary[i] for i in tokens]).answer(example.program)
            assert set(found) == {vocabulary[i] for i in answers}


def test_a_known_prompt_is_answered_with_the_letter_after_the_first_mention():
    model = Model.load("truth/induction")
    tokens = model.run("b d a c d").logits[0, -1].argmax()
    assert model.tokenizer is not None
    assert model.tokenizer.decode([int(tokens)]) == "a"


@pytest.mark.parametrize("suffix", ["", "-llama"])
@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("copy", "b d : a c", "a"),
        ("comparison", "3 7", "less"),
        ("comparison", "7 7", "equal"),
        ("composition", "4 7 1 9 0 3 6", "0"),
        ("composition", "4 7 1 9 0 3 5", "?"),
    ],
)
def test_examples_that_can_be_checked_by_eye(name, suffix, prompt, answer):
    model = Model.load(f"truth/{name}{suffix}")
    assert model.tokenizer is not None
    best = model.run(prompt).logits[0, -1].argmax()
    assert model.tokenizer.decode([int(best)]) == answer


def test_the_two_heads_of_the_induction_circuit_attend_where_they_should():
    model, batch = Model.load("truth/induction"), batch_of(known("truth/induction", n=30).task)
    seen = model.run(batch.clean, cache=["a0.h1.pattern", "a1.h3.pattern"])
    previous, matching = seen["a0.h1.pattern"], seen["a1.h3.pattern"]
    n_pos = batch.clean.shape[1]
    assert torch.equal(previous.argmax(-1)[0], torch.tensor([0, *range(n_pos - 1)]))
    repeated = batch.clean[:, -1:]
    after_first_mention = (batch.clean[:, :-1] == repeated).int().argmax(dim=1) + 1
    assert torch.equal(matching[:, -1].argmax(-1), after_first_mention)
    assert matching[:, -1].amax(-1).min() > 0.999


def test_induction_is_known_by_five_active_and_eight_structural_edges():
    active = {
        "embed->a0.h1.v",
        "a0.h1->a1.h3.k",
        "embed->a1.h3.q",
        "embed->a1.h3.v",
        "a1.h3->logits",
    }
    wired = induction()
    assert wired.active_edges == active
    constant = {"embed->a0.h1.q", "embed->a0.h1.k", "embed->a1.h3.k"}
    assert wired.structural_edges == active | constant


def test_composition_is_known_by_edges_that_skip_steps():
    truth = known("truth/composition")
    assert truth.active == {
        "embed->a0.h1.v",
        "embed->m0",
        "m0->a1.h3.q",
        "embed->a1.h3.k",
        "a0.h1->a1.h3.v",
        "a1.h3->m1",
        "embed->m1",
        "m1->logits",
    }
    assert len(truth.structural) == 11


def test_an_active_edge_of_induction_is_so_at_one_span():
    truth = known("truth/induction", n=6, by_span=True)
    assert truth.task.apart == ("rest", "previous", "next", "end")
    assert truth.active == {
        "embed->a0.h1.v@previous",
        "a0.h1->a1.h3.k@next",
        "embed->a1.h3.q@end",
        "embed->a1.h3.v@next",
        "a1.h3->logits@end",
    }
    assert truth.active < truth.structural and len(truth.structural) == 8 * 4


@pytest.mark.parametrize("name", PLAIN)
def test_edges_are_active_at_spans_where_they_are_active_at_all(name):
    apart = known(name, n=6, by_span=True)
    assert apart.task.hash == known(name, n=6).task.hash
    assert {edge.partition("@")[0] for edge in apart.active} == known(name, n=6).active


def test_the_three_corruptions_replace_the_mention_the_answer_and_the_question():
    wired = induction(n=30)
    for i, prompt in enumerate(wired.task.prompts):
        (place,) = (
            p for p, (a, b) in enumerate(zip(prompt.clean, prompt.corrupt, strict=True)) if a != b
        )
        mention = prompt.clean.index(prompt.clean[-1])
        assert place == (mention, mention + 1, len(prompt.clean) - 1)[i % 3]
        assert prompt.answers == (prompt.clean[mention + 1],)
        if i % 3 == 0:
            assert prompt.wrong_answers == (wired.tokenizer.bos_token_id,)


def test_equal_seeds_give_equal_tasks():
    one, two = known("truth/copy", n=12, seed=1), known("truth/copy-llama", n=12, seed=1)
    assert one.task.hash == two.task.hash != known("truth/copy", n=12, seed=2).task.hash


@pytest.mark.parametrize("name", PLAIN)
def test_other_prompts_of_a_task_have_the_same_active_edges(name):
    assert known(name, n=30, seed=5).active == known(name, n=6).active


@pytest.mark.parametrize("name", PLAIN)
def test_every_task_is_listed_like_every_other(name):
    example = library.examples()[name]
    task = known(name, n=6).task
    generate = TRUTH_GENERATORS[task.name]
    assert generate is example.generate
    tokenizer = cast(Tokenizer, library.compiled(name).tokenizer)
    assert generate(tokenizer, 6, 0).hash == task.hash


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("repeated-letter", r"letters for the task 'repeated-letter'.*at least 10"),
        ("marked-letter", r"letters for the task 'marked-letter'.*at least 8"),
        ("digit-comparison", r"digits and relations for the task 'digit-comparison'.*at least 13"),
        ("digit-composition", r"digits for the task 'digit-composition'.*at least 11"),
    ],
)
def test_a_tokenizer_without_the_words_is_refused(task, message):
    with pytest.raises(ValueError, match=message):
        TRUTH_GENERATORS[task](cast(Tokenizer, toy_tokenizer()), 6, 0)


def test_models_are_embedded_under_their_names_in_the_precision_asked_for():
    found = embedded("truth/copy-llama", dtype=torch.float64)
    assert found is not None
    model, tokenizer = found
    assert model.config.vocab_size == len(tokenizer)
    assert model.dtype == torch.float64


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no known circuit 'truth/sums'; there are truth/induct"):
        known("truth/sums")
    with pytest.raises(ValueError, match="no known circuit 'truth/sums'; there are truth/induct"):
        Model.load("truth/sums")
    with pytest.raises(ValueError, match="no variant 'loud' of the induction model; there is cle"):
        induction("loud")


def test_a_task_of_no_prompts_is_refused():
    with pytest.raises(ValueError, match="at least one prompt, got n=0"):
        known("truth/copy", n=0)
