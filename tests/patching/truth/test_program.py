"""Programs as values: what they refuse, which edges they are made of, and what they mean."""

import pytest

from patching.models.truth import (
    Head,
    Lookup,
    Program,
    active_edges,
    first,
    marked,
    previous,
    same,
)
from patching.models.truth.meaning import Swap, run
from patching.tasks import Prompt, Task

WORDS = ("a", "b", "c")
BEFORE = Head(0, 0, attend=previous(), copy="token", into="before")
ECHO = Program(WORDS, (BEFORE,), ("before",))


def ids(program, text):
    return tuple(program.vocabulary.index(word) for word in text.split())


def state(program, text, swap=None):
    return run(program, text.split(), swap)


def test_the_previous_token_is_copied_and_the_first_position_keeps_its_own():
    assert state(ECHO, "<bos> a b").slots["before"] == ("<bos>", "<bos>", "a")


def test_attention_several_tokens_back_stops_at_the_first():
    far = Program(WORDS, (Head(0, 0, previous(2), "token", "old"),), ("old",))
    assert state(far, "<bos> a b c").slots["old"] == ("<bos>", "<bos>", "<bos>", "a")


def test_the_first_token_is_found_from_everywhere():
    start = Program(WORDS, (Head(0, 0, first(), "token", "start"),), ("start",))
    assert state(start, "<bos> a b").slots["start"] == ("<bos>",) * 3


def test_a_match_rests_at_bos_where_nothing_is_found_and_splits_between_two():
    find = Program(WORDS, (Head(0, 0, marked("b"), "token", "found"),), ("found",))
    assert state(find, "<bos> a b").slots["found"] == ("<bos>", "<bos>", "b")
    assert state(find, "<bos> b b").slots["found"] == ("<bos>", "b", "b|b")


def test_the_same_token_is_always_found_at_its_own_place():
    again = Program(WORDS, (BEFORE, Head(1, 0, same(), "before", "found")), ("found",))
    assert state(again, "<bos> a b").slots["found"] == ("<bos>", "<bos>", "a")
    assert state(again, "<bos> a b a").answer(again) == ("<bos>|b",)


def test_a_lookup_finds_its_rows_and_otherwise_says_so():
    pairs = Lookup(0, ("before", "token"), {("a", "b"): "c"}, otherwise="a", into="found")
    both = Program(WORDS, (BEFORE, pairs), ("found",))
    assert state(both, "<bos> a b").slots["found"] == ("a", "a", "c")


def test_a_swapped_edge_carries_the_other_runs_value_to_its_reader_alone():
    twice = Program(WORDS, (BEFORE, Head(1, 0, previous(), "before", "older")), ("before", "older"))
    other = state(twice, "<bos> b c c")
    swap = Swap("a0.h0->a1.h0.v", other)
    assert state(twice, "<bos> a a a").answer(twice) == ("a", "a")
    assert state(twice, "<bos> a a a", swap).answer(twice) == ("a", "b")
    swap = Swap("a0.h0->logits", other)
    assert state(twice, "<bos> a a a", swap).answer(twice) == ("c", "a")


def test_structural_edges_leave_out_what_nobody_reads():
    unread = Head(0, 1, attend=previous(), copy="token", into="unread")
    assert Program(WORDS, (BEFORE, unread), ("before",)).structural == ECHO.structural
    assert len(ECHO.structural) == 4


def test_structural_edges_of_a_match_are_its_slots_and_constants():
    find = Head(1, 2, attend=same("token", "before"), copy="token", into="found")
    assert Program(WORDS, (BEFORE, find), ("found",)).structural == {
        "embed->a0.h0.q",
        "embed->a0.h0.k",
        "embed->a0.h0.v",
        "embed->a1.h2.q",
        "a0.h0->a1.h2.k",
        "embed->a1.h2.k",
        "embed->a1.h2.v",
        "a1.h2->logits",
    }


def test_active_edges_are_those_that_can_change_an_answer():
    pair = Prompt(ids(ECHO, "<bos> a c"), ids(ECHO, "<bos> b c"), ids(ECHO, "a"), ids(ECHO, "b"))
    assert active_edges(ECHO, Task("echo", (pair,))) == {"embed->a0.h0.v", "a0.h0->logits"}
    pair = Prompt(ids(ECHO, "<bos> a c"), ids(ECHO, "<bos> a b"), ids(ECHO, "a"), ids(ECHO, "b"))
    assert active_edges(ECHO, Task("echo", (pair,))) == frozenset()


@pytest.mark.parametrize(
    ("steps", "answers", "message"),
    [
        ((BEFORE,), (), "at least one slot that holds the answer"),
        ((BEFORE, Head(0, 0, first(), "token", "x")), ("x",), "share the node 'a0.h0'"),
        ((BEFORE, Head(0, 1, first(), "token", "before")), ("before",), "the slot 'before'"),
        ((Head(0, 1, first(), "token", "token"),), ("token",), "share the slot 'token'"),
        ((Head(2, 0, first(), "token", "x"),), ("x",), "a2.h0 has no room in 2 layers of 4"),
        ((Head(0, 4, first(), "token", "x"),), ("x",), "a0.h4 has no room in 2 layers of 4"),
        ((Head(0, 0, previous(0), "token", "x"),), ("x",), "0 tokens back; from 1 to 23"),
        ((Head(0, 0, previous(24), "token", "x"),), ("x",), "24 tokens back; from 1 to 23"),
        ((BEFORE, Head(0, 1, first(), "before", "x")), ("x",), "a0.h1.v reads the slot 'before'"),
        ((BEFORE,), ("after",), "logits reads the slot 'after'.*there are token, before"),
        ((Head(0, 0, marked("d"), "token", "x"),), ("x",), "a0.h0 names 'd', which is no word"),
        ((Lookup(0, ("token",), {("a",): "d"}, "a", "x"),), ("x",), "m0 names 'd'"),
        ((Lookup(0, ("token",), {("a", "b"): "c"}, "a", "x"),), ("x",), "m0 reads 1 slots; each"),
    ],
)
def test_programs_that_make_no_sense_are_refused(steps, answers, message):
    with pytest.raises(ValueError, match=message):
        Program(WORDS, steps, answers)
