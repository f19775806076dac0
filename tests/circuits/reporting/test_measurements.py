"""Measurements: numbers by hand, the file there and back, and what is refused."""

import json
import math
from collections.abc import Callable

import pytest
import torch

from circuits.reporting.measurements import Measurements, Row, load_measurements


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def measured(n: int = 2) -> Measurements:
    values = torch.stack([rows(1, 3), rows(4, 4), rows(0, 0)])
    return Measurements(
        metric="logit-diff",
        ranking="absolute",
        n_edges=10,
        prompts="2 prompts",
        verdict="It can.",
        judged_on="task, tokens 123",
        kinds=("circuit", "size", "random"),
        edges=(5, 10, 5),
        values=values[:, :n],
        clean=rows(4, 4)[:n],
        corrupt=rows(0, 0)[:n],
    )


def test_rows_by_hand():
    found, full, chance = measured().rows()
    # draws of two prompts from 1 and 3 give means 1, 2 or 3: 0.25 and 0.75 are the ends
    assert found == Row("circuit", 5, 0.5, 2.0, 0.5, 0.25, 0.75)
    assert full == Row("size", 10, 1.0, 4.0, 1.0, 1.0, 1.0)
    assert chance == Row("random", 5, 0.5, 0.0, 0.0, 0.0, 0.0)


def test_one_prompt_or_no_draws_have_no_interval():
    for found in (*measured(1).rows(), *measured().rows(n_bootstrap=0)):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert not math.isnan(found.faithfulness)


def test_without_a_gap_faithfulness_is_undefined():
    flat = measured()
    object.__setattr__(flat, "corrupt", flat.clean)
    assert all(math.isnan(row.faithfulness) for row in flat.rows(n_bootstrap=0))


def test_there_and_back_every_number_is_the_same(tmp_path):
    first = measured()
    object.__setattr__(first, "values", first.values / 3)
    first.save(tmp_path / "m.json")
    found = load_measurements(tmp_path / "m.json")
    assert found.rows(n_bootstrap=0) != []
    assert torch.equal(found.values, first.values)
    for name in ("metric", "ranking", "n_edges", "prompts", "verdict", "judged_on", "kinds"):
        assert getattr(found, name) == getattr(first, name)
    assert (found.edges, found.clean.tolist(), found.corrupt.tolist()) == (
        first.edges,
        first.clean.tolist(),
        first.corrupt.tolist(),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=2), "has version 2 of the format; this program reads 1"),
        (lambda c: c.pop("clean"), "holds no measurements: it lacks clean"),
        (lambda c: c["circuits"][0].update(values=["x"]), "holds no measurements"),
        (lambda c: c["clean"].append(1.0), "every circuit needs a value for each of 3 prompts"),
        (lambda c: c["circuits"][0].update(kind="odd"), "the kinds of circuits are circuit, size"),
    ],
)
def test_damaged_files_are_refused(change: Callable[[dict], object], message, tmp_path):
    measured().save(tmp_path / "m.json")
    content = json.loads((tmp_path / "m.json").read_text())
    change(content)
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"m\.json:? .*({message})"):
        load_measurements(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not a whole JSON file"), ("[]", "has version None")]
)
def test_other_files_are_refused(text, message, tmp_path):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=rf"m\.json {message}"):
        load_measurements(tmp_path / "m.json")
