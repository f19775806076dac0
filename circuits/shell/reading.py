"""Files of scores and circuits, ours or other tools', for commands. Heavy imports when needed."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.scores import Scores
    from patching.graph import Graph


def read_scores(path: str, graph: "Graph | None" = None) -> "Scores":
    """Scores of all edges, from a file of ours or of EAP-IG's, for a model with this graph.

    A warning says so where their sum is far from what it should be.

    Raises:
        ValueError: if the file holds none, or those of another graph.
    """
    from circuits.export import read_mib
    from circuits.grouping import join_scores
    from circuits.scores import load_scores

    theirs = read_mib(path, graph) if _may_be_theirs(path) else None
    if theirs is None:
        scores = load_scores(path)
        if scores.caution is not None:
            warnings.warn(f"{scores.caution} ({path})", stacklevel=1)
        return scores if graph is None else join_scores(scores, graph)
    if theirs.scores is None:
        raise ValueError(f"{path} holds a circuit without scores")
    return theirs.scores


def read_circuit(path: str, graph: "Graph | None" = None) -> "Circuit":
    """A circuit, from a file of any format that keeps its edges, for a model with this graph.

    Raises:
        ValueError: if the file holds none, or one of another graph.
    """
    from circuits.circuit import load_circuit
    from circuits.export import load, readable
    from circuits.grouping import join_circuit

    circuit = load(path) if readable(path) else load_circuit(path)
    return circuit if graph is None else join_circuit(circuit, graph, f"{path} is a circuit")


def read_result(path: str) -> "Scores | Circuit":
    """Whatever of the two a file holds; of one that holds both, the circuit.

    Raises:
        ValueError: if it holds neither.
    """
    from circuits.export import read_mib
    from circuits.scores import load_scores

    if _holds_tensors(Path(path)):
        return load_scores(path)
    theirs = read_mib(path) if _may_be_theirs(path) else None
    return read_circuit(path) if theirs is None else theirs.result


def _may_be_theirs(path: str) -> bool:
    return Path(path).suffix in (".pt", ".json")


def _holds_tensors(path: Path) -> bool:
    """Whether a file holds scores of ours (safetensors: a length, then a JSON header).

    Raises:
        ValueError: if it looks like nothing that is known.
    """
    from circuits.export import readable

    with path.open("rb") as file:
        start = file.read(9)
    is_scores, is_json = start[8:] == b"{", start.lstrip().startswith(b"{")
    known = path.suffix == ".safetensors" or readable(path)
    if not known and not is_scores and not is_json:
        raise ValueError(f"{path} is neither scores (safetensors) nor a circuit (JSON)")
    return path.suffix == ".safetensors" or (is_scores and not readable(path))
