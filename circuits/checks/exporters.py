"""The laws of exporters: `(circuit, path) -> None`, one whole file."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from circuits.checks.graphs import GRAPHS, scored_circuit
from circuits.checks.law import require
from circuits.circuit import Circuit, to_json
from patching.graph import Graph

Exporter = Callable[[Circuit, Path], None]
Reader = Callable[[Path, Graph], Circuit]


def check_exporter(
    write: Exporter, suffix: str, *, read: Reader | None = None, loses: Sequence[str] = ()
) -> None:
    """Hold an exporter to its laws, on circuits of several graphs.

    One whole file and nothing beside it; equal bytes for equal circuits; circuits without scores or
    without edges are taken; the circuit is left as it was. What `read` gives back is the circuit
    but for what the format `loses`: of "edges", "scores" and "provenance".

    >>> from circuits.export import load, save
    >>> check_exporter(save, ".graphml", read=load)

    Raises:
        AssertionError: if a law is broken.
    """
    for graph in GRAPHS:
        circuit = scored_circuit(graph, min(12, graph.n_edges))
        plain = Circuit(circuit.mask, graph)
        for one in (circuit, plain, Circuit.empty(graph)):
            with tempfile.TemporaryDirectory() as folder:
                _try(write, one, Path(folder), suffix, read, loses)


def _try(
    write: Exporter,
    circuit: Circuit,
    folder: Path,
    suffix: str,
    read: Reader | None,
    loses: Sequence[str],
) -> None:
    before = to_json(circuit)
    path = folder / f"circuit{suffix}"
    write(circuit, path)
    law = "one whole file is left and nothing beside it"
    names = sorted(entry.name for entry in folder.iterdir())
    require(names == [path.name], law, f"the folder holds {', '.join(names) or 'nothing'}")
    content = path.read_bytes()
    require(bool(content), law, "the file is empty")
    write(circuit, path)
    law = "equal circuits make equal bytes, and are left as they were"
    require(path.read_bytes() == content, law, f"a second {suffix} differs: a date, an address?")
    require(to_json(circuit) == before, law, "the circuit was changed")
    if read is not None:
        _there_and_back(circuit, read(path, circuit.graph), set(loses))


def _there_and_back(circuit: Circuit, found: Circuit, loses: set[str]) -> None:
    kept = {
        "edges": found == circuit,
        "scores": found.scored_edges() == circuit.scored_edges(),
        "provenance": found.provenance == circuit.provenance,
    }
    lost = {part for part, survives in kept.items() if not survives}
    law = "reading gives back all but what the format is said to lose"
    require(lost <= loses, law, f"lost {', '.join(sorted(lost - loses))} of {circuit!r}")
