"""A slice of `make fuzz`: 300 damaged files, each refused in words or read and sound."""

import pytest
from file_readers import readers
from fuzz import run, table
from mutations import DAMAGES


def test_damaged_files_are_refused_in_words_or_still_sound(tmp_path):
    counts, wrong = run(300, seed=1, home=tmp_path)
    assert wrong == []
    assert sum(found.total() for found in counts.values()) == 300
    assert all(found.total() for found in counts.values()), "every reader has its turn"
    assert table(counts).endswith(f"{0:>14}{0:>14}")


def test_whole_files_that_hold_something_else_are_refused_in_words_or_sound(tmp_path):
    """With checksums that fit: of every reader some, 2,400 in `make soak`."""
    counts, wrong = run(120, seed=2, home=tmp_path, hostile=True)
    assert wrong == []
    assert sum(found.total() for found in counts.values()) == 120
    assert sum(found["refused"] for found in counts.values()) > 60
    assert all(counts[name].total() for name in HOSTILE), "states, logs, chunks have a turn"


HOSTILE = ("state of a training", "log of a search", "chunk of a run", "rerun of a circuit")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_kind_of_damage_changes_files(damage):
    import random

    content = b'{"a": "b", "c": [1, 2.5], "d": 3}\n{"e": 4}\n' * 3
    assert any(damage(content, random.Random(seed)) != content for seed in range(20))


def test_sealed_files_are_those_with_a_checksum(tmp_path):
    sealed = {reader.name for reader in readers(tmp_path) if reader.sealed}
    assert sealed == {
        *("circuit .json", "scores .safetensors", "tuned lens", "chunk of a run"),
        *("learned constants", "state of a training"),
    }
