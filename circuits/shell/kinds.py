"""What kind of result a file or folder holds, told from its first bytes, before any work."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from circuits.shell.outputs import values_of

SCORES, CIRCUIT = "scores", "a circuit"
CURVES, EVALUATIONS = "curves of faithfulness", "evaluations of circuits"
MEASUREMENTS, NEURONS = "measurements of a search", "neurons"

_NEEDED: dict[str, tuple[str, ...]] = {
    "select.file": (SCORES,),
    "rivals.file": (SCORES,),
    "clusters.file": (SCORES,),
    "curve.files": (SCORES,),
    "evaluate.files": (CIRCUIT,),
    "export.files": (CIRCUIT,),
    "compare.files": (SCORES, CIRCUIT),
    "view.file": (SCORES, CIRCUIT),
    "view.scores": (SCORES,),
    "view.curve": (CURVES,),
    "view.compare": (SCORES, CIRCUIT),
    "start": (SCORES,),
    "apply": (NEURONS,),
}
"""Options whose value is a result to read, by command where others mean something else by it."""

_MADE_BY = {
    SCORES: "circuits score",
    CIRCUIT: "circuits select",
    CURVES: "circuits curve --json",
    NEURONS: "circuits neurons",
}

_BY_KEYS: tuple[tuple[str, frozenset[str]], ...] = (
    (CIRCUIT, frozenset({"edges", "graph", "version"})),
    (MEASUREMENTS, frozenset({"circuits", "clean", "judged_on"})),
    (NEURONS, frozenset({"format", "neurons"})),
    (CURVES, frozenset({"points", "conditions"})),
    ("a map of effects", frozenset({"quantity", "axes", "mean"})),
    (EVALUATIONS, frozenset({"circuit", "faithfulness"})),
)
"""Kinds of JSON, by keys that every one of them has."""

_MOST = 4 * 2**20
"""Bytes of JSON that are read for this; what is larger, its reader tells."""


def check_inputs(args: Namespace) -> None:
    """Refuse results of a kind that the command cannot read. What is not known is left to it.

    Raises:
        ValueError: naming what was given and what is needed.
    """
    exchanged = getattr(args, "to", None) is not None  # whatever the other tool takes
    for option, kinds in () if exchanged else _NEEDED.items():
        for path in values_of(args, option):
            kind = kind_of(path) if path.is_file() else None
            if kind is not None and kind not in kinds:
                told = " or ".join(f"{one} (`{_MADE_BY[one]}` makes them)" for one in kinds)
                ours = "; `circuits features` reads it" if kind.startswith("feature ") else ""
                raise ValueError(f"{path} holds {kind}{ours}; it should hold {told}")


def kind_of(path: Path) -> str | None:
    """What a file holds, in words; None for what no command here writes."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and not start.startswith(b"{"):
        return _of_tensors(path)
    is_json = start.lstrip()[:1] in (b"{", b"[")
    return _of_json(path) if is_json and path.stat().st_size <= _MOST else None


def _of_tensors(path: Path) -> str | None:
    """By the texts in the header of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            said = file.metadata() or {}
    except (SafetensorError, OSError):  # damaged: said by who reads it
        return None
    if {"graph", "provenance"} <= said.keys():
        return SCORES
    return said["format"].rpartition(" ")[0] if "format" in said else None


def _of_json(path: Path) -> str | None:
    from patching.files.parsing import read_json

    try:
        content = read_json(path)
    except ValueError:  # damaged: said by who reads it
        return None
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, Mapping):
        return None
    return next((kind for kind, keys in _BY_KEYS if keys <= first.keys()), None)
