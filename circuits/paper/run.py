"""A finished search as its folder holds it: the circuit, and what circuits reached."""

from dataclasses import dataclass
from pathlib import Path

from circuits.circuit import Circuit, load_circuit
from circuits.reporting.measurements import Measurements, Row, load_measurements

NEEDED = ("circuit.json", "measurements.json")


@dataclass(frozen=True, eq=False)
class Run:
    """The circuit of a search, with the measurements that judge it."""

    circuit: Circuit
    measurements: Measurements

    def stated(self, key: str) -> object:
        """What the provenance says under a key; None if nothing."""
        return self.circuit.provenance.get(key)

    def found(self) -> Row:
        """How good the circuit itself is."""
        rows = self.measurements.rows()
        return next(row for row in rows if row.kind == "circuit")


def open_run(folder: str | Path) -> Run:
    """Read the folder that `circuits discover` wrote.

    Raises:
        ValueError: if there is no such folder, a file is missing or damaged, or the two files do
            not belong together.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name what `circuits discover --out` wrote")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} holds no {' and no '.join(missing)}; `circuits discover --out {folder}` "
            "writes what a report needs"
        )
    circuit = load_circuit(folder / "circuit.json")
    measurements = load_measurements(folder / "measurements.json")
    sizes = [
        edges
        for kind, edges in zip(measurements.kinds, measurements.edges, strict=True)
        if kind == "circuit"
    ]
    if sizes != [circuit.size] or measurements.n_edges != circuit.graph.n_edges:
        raise ValueError(
            f"circuit.json of {folder} has {circuit.size} of {circuit.graph.n_edges} edges, but "
            f"measurements.json is about {sizes[0] if sizes else 'no circuit'} of "
            f"{measurements.n_edges}: they are not of one search"
        )
    return Run(circuit, measurements)
