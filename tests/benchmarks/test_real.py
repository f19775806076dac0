"""The page of a real model: made in cells that are kept, from one file."""

from dataclasses import replace
from pathlib import Path

from benchmarks.real import from_csv, main, page

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_cells_are_measured_once_and_the_page_is_made_of_the_file(tmp_path):
    few = ["--tasks", "ioi", "--splits", "1", "--n", "8", "--out", str(tmp_path / "cells")]
    docs = ["--docs", str(tmp_path)]
    main(["toy", *few, *docs, "--methods", "eap"])
    cells = sorted((tmp_path / "cells").iterdir())
    assert len(cells) == 1
    table = from_csv((tmp_path / "real.csv").read_text())
    assert [cell.method for cell in table] == ["eap"] and not table[0].chosen
    assert all(cell.kept_1_low <= cell.kept_1 <= cell.kept_1_high for cell in table)
    before, times = (tmp_path / "real.md").read_text(), [cell.stat().st_mtime for cell in cells]
    main(["toy", *few, *docs, "--methods", "eap"])
    assert [cell.stat().st_mtime for cell in cells] == times
    main([*docs, "--redraw"])
    assert (tmp_path / "real.md").read_text() == before
    assert "4 prompts scored, as many judged" in before

    second = replace(table[0], method="auto", chosen="eap-ig", log_cmd=0.0)
    said = page([*table, second])
    assert "`auto` kept eap-ig." in said and said.index("| `auto`") < said.index("| `eap`")


def test_the_page_of_the_docs_is_that_of_its_file():
    """It fails where somebody edited docs/real.md: `make real` writes it."""
    assert page(from_csv((DOCS / "real.csv").read_text())) == (DOCS / "real.md").read_text()
