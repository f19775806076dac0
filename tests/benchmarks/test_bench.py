"""What `make bench` measures, on tiny shapes: only the paths through the code are tested."""

import re
from dataclasses import replace

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import passes
from benchmarks.answers import with_answers
from benchmarks.card import LLAMA_8B, layers_that_fit, measure_on
from benchmarks.machine import device_name, versions
from benchmarks.memory import peaks
from benchmarks.operations import Operations
from benchmarks.roofline import Card, estimate
from benchmarks.subject import SHAPES, TINY, make, open_named
from patching.memory import takes_many


def test_the_roofline_is_the_largest_of_three_times():
    card = Card("a card", bandwidth=100.0, flops=1000.0, launch=0.5, read_back=2.0)
    found = Operations(bytes_moved=300, flops=2000)
    assert (estimate(found, card).seconds, estimate(found, card).bound) == (3.0, "bytes")
    found.launched["mm"], found.read_back["item"] = 4, 1
    assert (estimate(found, card).seconds, estimate(found, card).bound) == (4.0, "launches")
    found = replace(found, flops=5000)
    assert (estimate(found, card).seconds, estimate(found, card).bound) == (5.0, "flops")


def test_circuits_side_by_side_are_counted_as_one_pass():
    names = ("plain model, 1 forward", "1 circuit of 50%", "8 circuits of 50%")
    found = passes.count_passes(make(TINY, "cpu"), names)
    plain, one, eight = (found[name].launches for name in names)
    assert plain < one
    assert eight <= 1.05 * one
    assert found["plain model, 1 forward"].host_operations <= 2
    assert not takes_many(torch.device("cpu"))


@pytest.mark.parametrize(("dtype", "groups"), [(torch.float32, (1, 2)), (torch.bfloat16, (2,))])
def test_a_card_is_measured_in_units_of_the_plain_model(dtype, groups):
    found = measure_on(make(TINY, "cpu", dtype), "cpu", 1, groups=groups)
    names = ["EAP", "EAP-IG, 5 steps", *(f"{n} circuits of 50%" for n in groups)]
    assert list(found)[: len(names)] == names
    assert all(time > 0 and peak > 0 for time, peak in found.values())


def test_as_many_layers_of_a_wide_model_are_taken_as_fit_twice_into_half_of_the_memory():
    assert layers_that_fit(LLAMA_8B, 2**50) == 32
    assert layers_that_fit(LLAMA_8B, 2**30) == 0
    assert layers_that_fit(LLAMA_8B, 20 * 2**30) == 7
    # (20 GiB / 2 / 2 / 2 bytes - 1.05 billion of the ends) / 218 million a layer


def test_memory_is_told_twice(monkeypatch):
    monkeypatch.setitem(SHAPES, "gpt2", TINY)
    process, living = peaks("EAP", "cpu", "gpt2")
    assert process >= 0
    assert living > 0


def test_a_real_model_reads_sentences_and_the_plain_one_beside_it_the_same_tokens(tmp_path):
    model = make(TINY, "cpu").plain
    model.save_pretrained(tmp_path)
    subject = open_named(str(tmp_path), "cpu")
    (batch,) = subject.task.batches(len(subject.task), subject.model.device)
    assert torch.equal(subject.clean, batch.clean)
    subject.unit()


def test_answers_of_three_tokens_are_rows_of_the_same_length():
    """Given: all but the last token of an answer; asked: as many positions as it has tokens."""
    task = make(TINY, "cpu").task
    one, three = (with_answers(task, n).batch(0, len(task)) for n in (1, 3))
    (plain,) = task.batches(len(task))
    assert torch.equal(one.clean, plain.clean) and torch.equal(three.clean, plain.clean)
    assert len(three.asked[0]) == 3 * len(one.asked[0]) == 3 * len(task)


def test_a_table_says_what_it_was_measured_on():
    assert "thread" in device_name("cpu")
    assert f"torch {torch.__version__}" in versions() and "commit " in versions()


def test_the_tables_are_printed(monkeypatch, capsys):
    for name in ("gpt2", "small"):
        monkeypatch.setitem(SHAPES, name, TINY)
    for name in ("GPT2_SMALL", "SMALL"):
        monkeypatch.setattr(f"benchmarks.subject.{name}", TINY)
    monkeypatch.setattr(passes, "PASSES", {k: passes.PASSES[k] for k in list(passes.PASSES)[:3]})
    arguments = ["bench", "--rounds", "1", "--tables", "operations", "speed", "--card", "a100"]
    monkeypatch.setattr("sys.argv", arguments)
    bench.main()
    said = capsys.readouterr().out
    assert "ESTIMATE for NVIDIA A100" in said
    assert re.search(r"answers of 3 tokens, EAP +\d", said)
    assert re.search(r"by span, EAP +\d", said) and "by span, 8 random circuits of 10%" in said
    assert "EAP-IG, 5 steps" in said and "forwards a circuit" in said
