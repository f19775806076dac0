"""The generators the toy model is trained on, over three kinds of tokenizer; drawing rows."""

import random
import re
from pathlib import Path
from typing import cast

import pytest
from tokenizers import pre_tokenizers
from tokenizers_for_tasks import WHOLE_YEAR, trained_bpe
from transformers import AutoTokenizer

from patching.models.toy_tasks import TOY_GENERATORS
from patching.models.toy_tokenizer import toy_tokenizer
from patching.models.word_level import word_level_tokenizer
from patching.tasks import greater_than, ioi, numbers, people, subject_verb_agreement, tokens, words
from patching.tasks.sampling import draw
from patching.tasks.task import Prompt

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
FAMILIES = TOY_GENERATORS


@pytest.fixture(scope="module")
def toy():
    return toy_tokenizer()


@pytest.fixture(scope="module")
def bpe():
    return trained_bpe()


@pytest.fixture(params=["toy", "bpe"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def stories():
    if not STORIES.is_dir():
        pytest.skip("stories260K is not here")
    return AutoTokenizer.from_pretrained(STORIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_pair_differs_at_equal_length_and_has_answers_on_both_sides(tokenizer, name):
    task = FAMILIES[name](tokenizer, 40, 3)
    assert task.name == name
    assert len(task) == 40
    task.require_contrast()
    for prompt in task.prompts:
        assert len(prompt.clean) == len(prompt.corrupt)
        assert prompt.answers and prompt.wrong_answers
        assert tokenizer.unk_token_id not in prompt.clean + prompt.answers + prompt.wrong_answers


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_seeds_give_equal_tasks_and_other_seeds_others(toy, name):
    generate = FAMILIES[name]
    assert generate(toy, 20, 5).hash == generate(toy, 20, 5).hash
    assert generate(toy, 20, 5).hash != generate(toy, 20, 6).hash
    assert generate(toy, 20).hash == generate(toy, 20, 0).hash


@pytest.mark.parametrize("name", FAMILIES)
def test_a_longer_task_starts_with_the_shorter_one(toy, name):
    generate = FAMILIES[name]
    assert generate(toy, 9, 1).take(4).hash == generate(toy, 4, 1).hash


@pytest.mark.parametrize("name", FAMILIES)
def test_a_task_of_no_prompts_is_refused(toy, name):
    with pytest.raises(ValueError, match="at least one prompt, got n=0"):
        FAMILIES[name](toy, 0, 0)


def _texts(prompt):
    return str(prompt.extra["clean_text"]), str(prompt.extra["corrupt_text"])


def _spoken(tokenizer, ids):
    return {tokenizer.decode([token]).strip() for token in ids}


def test_ioi_answers_with_the_name_that_is_said_once(tokenizer):
    orders = set()
    for prompt in ioi(tokenizer, 60, 0).prompts:
        clean, corrupt = _texts(prompt)
        said = [word for word in re.findall(r"\w+", clean) if word in words.NAMES]
        (indirect,), (subject,) = (
            _spoken(tokenizer, ids) for ids in (prompt.answers, prompt.wrong_answers)
        )
        assert sorted(said) == sorted([indirect, subject, subject])
        assert said[2] == subject
        names = [word for word in re.findall(r"\w+", corrupt) if word in words.NAMES]
        assert names[:2] == said[:2]
        assert names[2] not in said
        orders.add(said.index(indirect))
    assert orders == {0, 1}, "both ABBA and BABA"


def test_greater_than_answers_with_all_later_years_of_the_century(tokenizer):
    for prompt in greater_than(tokenizer, 40, 0).prompts:
        text, corrupt = _texts(prompt)
        century, start, again = re.findall(r"\d\d", text)
        assert century == again
        assert 2 <= int(start) <= 98
        assert corrupt == text.replace(century + start, f"{century}01")
        later = {f"{year:02d}" for year in range(int(start) + 1, 100)}
        assert _spoken(tokenizer, prompt.answers) == later
        assert _spoken(tokenizer, prompt.wrong_answers) == set(words.TWO_DIGITS) - later


def test_a_year_that_is_one_token_is_never_a_start_year(bpe):
    assert len(bpe.encode(f"in {WHOLE_YEAR}")) == len(bpe.encode("in")) + 1
    texts = [_texts(prompt)[0] for prompt in greater_than(bpe, 1500, 0).prompts]
    assert not any(WHOLE_YEAR in text for text in texts)
    assert any("1775" in text for text in texts)


def test_agreement_answers_with_the_forms_of_the_subject_whatever_stands_between(tokenizer):
    singular, plural = (set(forms) for forms in zip(*words.VERBS, strict=True))
    crossed = 0
    for prompt in subject_verb_agreement(tokenizer, 60, 0).prompts:
        clean, corrupt = _texts(prompt)
        subject, other = re.findall(r"[Tt]he (\w+)", clean)
        right, wrong = (plural, singular) if subject.endswith("s") else (singular, plural)
        assert _spoken(tokenizer, prompt.answers) == right
        assert _spoken(tokenizer, prompt.wrong_answers) == wrong
        opposite = subject[:-1] if subject.endswith("s") else subject + "s"
        assert f"The {opposite} " in corrupt
        crossed += subject.endswith("s") != other.endswith("s")
    assert crossed > 10


def test_a_drawn_text_is_known_word_for_word():
    names = ("Mary", "John", "Tom")
    pair = people.ioi_text(random.Random(0), names)
    second = pair.wrong_answers[0].strip()
    third = (set(names) - {pair.answers[0].strip(), second}).pop()
    assert pair.clean.count(second) == 2
    assert pair.clean[::-1].replace(second[::-1], third[::-1], 1)[::-1] == pair.corrupt
    years = numbers.greater_than_text(random.Random(0), [("17", "32")])
    assert re.fullmatch(r"The \w+ lasted from the year 1732 to the year 17", years.clean)
    assert re.fullmatch(r"The \w+ lasted from the year 1701 to the year 17", years.corrupt)
    assert (years.answers[0], years.answers[-1], len(years.answers)) == ("33", "99", 67)
    assert (years.wrong_answers[0], years.wrong_answers[-1]) == ("00", "32")


def test_sentencepiece_keeps_three_names_and_that_is_enough_for_ioi(stories):
    task = ioi(stories, 30, 0)
    answered = set().union(*(_spoken(stories, prompt.answers) for prompt in task.prompts))
    assert answered == {"Lily", "Tim", "Timmy"}


def test_sentencepiece_that_cuts_the_words_is_refused_with_the_numbers(stories):
    with pytest.raises(ValueError, match=r"greater-than'.*offers 0 of 873.*at least 1"):
        greater_than(stories, 5, 0)
    with pytest.raises(ValueError, match="offers 0 of 16, and at least 1"):
        subject_verb_agreement(stories, 5, 0)
    with pytest.raises(ValueError, match=r"argument names for the task 'docstring'.* 6 must"):
        TOY_GENERATORS["docstring"](stories, 5, 0)


def _knowing(*vocabulary):
    cutter = pre_tokenizers.Whitespace()
    return cast(tokens.Tokenizer, word_level_tokenizer(vocabulary, cutter, max_length=64))


def test_too_few_known_words_are_refused_with_the_numbers():
    with pytest.raises(
        ValueError, match=r"names for the task 'ioi'.*offers 2 of 40.* least 3 must"
    ):
        ioi(_knowing("When", "Mary", "John"), 5, 0)
    with pytest.raises(ValueError, match="noun pairs for the task 'subject-verb-agreement'"):
        subject_verb_agreement(_knowing("The", "keys"), 5, 0)
    with pytest.raises(ValueError, match="verb pairs for the task 'subject-verb-agreement'"):
        subject_verb_agreement(_knowing("The", "key", "keys", "is"), 5, 0)
    with pytest.raises(ValueError, match=r"words for the task 'induction'.*offers 1 of 167"):
        TOY_GENERATORS["induction"](_knowing("List", ":", "apple"), 5, 0)
    for name in ("facts", "conflict"):
        with pytest.raises(ValueError, match=f"capitals for the task '{name}'.*offers 1 of 40"):
            TOY_GENERATORS[name](_knowing("The", "capital", "of", "France", "is", "Paris"), 5, 0)


def test_a_family_that_never_gives_equal_lengths_is_refused_after_a_bounded_number_of_tries():
    tries = []

    def uneven(rng):
        tries.append(rng.random())
        return Prompt(clean=(1, 2), corrupt=(1, 2, 3), answers=(4,))

    with pytest.raises(ValueError, match="'uneven': 100 pairs in a row.*unequal token length"):
        draw("uneven", 3, 0, uneven)
    assert len(tries) == 100


def test_a_pair_of_unequal_length_is_drawn_again():
    def now_and_then(rng):
        longer = (3,) * rng.randrange(2)
        return Prompt(clean=(1, 2), corrupt=(1, 5, *longer), answers=(4,))

    assert draw("now and then", 20, 0, now_and_then).max_length == 2
