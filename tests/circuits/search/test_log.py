"""The log of searches: begun anew where it is empty, shared, and sound or refused."""

import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from circuits.search.log import Log, _check

FACTS = {
    "config": "c",
    "weights": "w",
    "tokens": "t",
    "metric": "kl",
    "ablation": "zero",
    "dtype": "float32",
}
ROWS = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def opened(path, **facts):
    return Log.open(path, {**FACTS, "n_examples": 2, **facts})


def test_an_empty_file_becomes_a_log(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"")
    opened(path).add(["a", "b"], ROWS)
    again = opened(path)
    assert torch.equal(again["a"], ROWS[0]) and torch.equal(again["b"], ROWS[1])


def test_what_is_no_log_is_refused_and_stays_as_it_is(tmp_path):
    for text in ("notes", "notes\nand the last line", '{"weights": 3}\nx'):
        (tmp_path / "notes").write_text(text)
        with pytest.raises(ValueError, match="notes is no log of a search"):
            opened(tmp_path / "notes")
        assert (tmp_path / "notes").read_text() == text


def test_two_searches_share_a_log(tmp_path):
    first, second = opened(tmp_path / "runs"), opened(tmp_path / "runs")
    first.add(["a"], ROWS[:1])
    second.add(["b"], ROWS[1:])
    both = opened(tmp_path / "runs")
    assert "a" in both and "b" in both


def test_searches_that_begin_a_log_at_one_instant_lose_no_line(tmp_path):
    keys = [str(i) for i in range(8)]
    for turn in range(10):
        path, start = tmp_path / "new" / f"runs-{turn}", Barrier(len(keys))

        def search(key: str, path=path, start=start) -> None:
            start.wait(30)
            opened(path).add([key], ROWS[:1])

        with ThreadPoolExecutor(len(keys)) as pool:
            list(pool.map(search, keys))
        log = opened(path)
        assert all(key in log for key in keys)


def line(values: bytes | str, key: object = "a") -> str:
    content = base64.b64encode(values).decode() if isinstance(values, bytes) else values
    check = _check(str(key), str(content))
    return json.dumps({"circuit": key, "values": content, "check": check}) + "\n"


@pytest.mark.parametrize(
    ("hostile", "says"),
    [
        (line(b"1234567"), "holds no value for each example at the circuit 'a'"),
        (line(b""), "holds no value for each example"),
        (line("@@@@"), "holds no value for each example"),
        (line(np.ones(3).tobytes()), "holds no value for each example"),
        (line(np.full(2, np.nan).tobytes()), "holds no value for each example"),
        (line(np.ones(2).tobytes(), 3), "is no log of a search"),
        (line(np.ones(2).tobytes()).replace("check", "cheque"), "was altered, at the circuit 'a'"),
        ("[]\n", "is no log of a search"),
        ("\n", "is no log of a search"),
    ],
)
def test_lines_of_valid_checksum_that_hold_something_else_are_refused(tmp_path, hostile, says):
    path = tmp_path / "runs.jsonl"
    opened(path)
    with path.open("a") as file:
        file.write(hostile)
    with pytest.raises(ValueError, match=f"runs.jsonl {says}"):
        opened(path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a device or a pipe"),
        ("", "is a folder"),
    ):
        with pytest.raises(ValueError, match=says):
            opened(path)
