"""Submissions to MIB's circuit-localisation track: folders of EAP-IG's graph files."""

from collections.abc import Sequence
from pathlib import Path

from circuits.circuit import Circuit
from circuits.export.mib import table_of, to_mib_pt
from circuits.scores import Scores

PERCENTAGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Of all edges of the ungrouped graph: the sizes of circuits in a submission."""

CELLS = (
    *("ioi_gpt2", "ioi_qwen2.5", "ioi_gemma2", "ioi_llama3"),
    *("mcqa_qwen2.5", "mcqa_gemma2", "mcqa_llama3"),
    *("arithmetic-addition_llama3", "arithmetic-subtraction_llama3"),
    *("arc-easy_gemma2", "arc-easy_llama3", "arc-challenge_llama3"),
)
"""Task and model of every cell of the leaderboard (mttk/MIB-circuit-track-autoeval, utils.py)."""


def write_submission(
    result: Scores | Sequence[Circuit], folder: str | Path, cell: str, *, d_model: int
) -> list[Path]:
    """Write one task and model of a submission to MIB's circuit-localisation track.

    `folder/cell` then holds either one file with the scores of all edges, or nine circuits with at
    most 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of the ungrouped graph's edges, smallest first. A
    submission needs two tasks and two models, and is uploaded to the Hugging Face hub. README of
    the track, as stored in yanivnik/MIB-shared-task.

    Raises:
        ValueError: if there is no such cell, there are not nine circuits or one is too large, or
            the cell's folder holds other graph files.
    """
    if cell not in CELLS:
        raise ValueError(f"no task and model named {cell!r}; the track has {', '.join(CELLS)}")
    home = Path(folder) / cell
    if isinstance(result, Scores):
        files: dict[Path, Scores | Circuit] = {home / "importances.pt": result}
    else:
        _check_sizes(result)
        names = [home / f"circuit_{percent:g}.pt" for percent in PERCENTAGES]
        files = dict(zip(names, result, strict=True))
    others = sorted({*home.glob("*.pt"), *home.glob("*.json")} - set(files))
    if others:
        raise ValueError(f"{others[0]} is in the way: the track would take it for a circuit")
    for path, part in files.items():
        to_mib_pt(part, path, d_model=d_model)
    return list(files)


def _check_sizes(circuits: Sequence[Circuit]) -> None:
    if len(circuits) != len(PERCENTAGES):
        raise ValueError(f"got {len(circuits)} circuits; a submission has {len(PERCENTAGES)}")
    for percent, circuit in zip(PERCENTAGES, circuits, strict=True):
        table = table_of(circuit)
        size, most = int(table.mask.sum()), int(percent / 100 * table.graph.n_edges)
        if size > most:
            raise ValueError(
                f"the circuit for {percent:g} % has {size} ungrouped edges; {most} is the most"
            )
