"""The formats of files of circuits, by suffix: what writes and reads them, and what they lose."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from circuits.circuit import Circuit, load_circuit, to_json
from circuits.drawing.canvas import Picture
from circuits.drawing.pictures import picture
from circuits.drawing.plots import paint, render
from circuits.drawing.tikz import tikz, tikz_document
from circuits.explorer import explore
from circuits.export.graphs import (
    from_gexf,
    from_gml,
    from_graphml,
    from_node_link,
    to_gexf,
    to_gml,
    to_graphml,
    to_node_link,
)
from circuits.export.mib_reading import GraphFile, read_mib
from circuits.export.neuronpedia import to_neuronpedia
from circuits.export.text import from_csv, to_csv, to_dot
from patching.files.whole import write_bytes
from patching.graph import Graph

Paint = Callable[[Picture], bytes]


@dataclass(frozen=True)
class Format:
    """What a suffix means.

    `write` makes the whole file, equal for equal circuits. `read`, where there is one, takes the
    graph that the file does not name. `loses` are those of edges, scores, graph and provenance that
    the file does not hold. `paint` is there where a picture can be saved too.
    """

    what: str
    write: Callable[[Circuit], bytes]
    read: Callable[[Path, Graph | None], Circuit] | None = None
    loses: tuple[str, ...] = ()
    paint: Paint | None = None


def _json(circuit: Circuit) -> bytes:
    return to_json(circuit).encode()


def _from_json(path: Path, graph: Graph | None) -> Circuit:
    """Of our own form, or of EAP-IG's."""
    theirs = read_mib(path, graph)
    circuit = load_circuit(path) if theirs is None else _circuit_in(theirs)
    if graph is not None:
        graph.require_same(circuit.graph, "the file is")
    return circuit


def _circuit_in(file: GraphFile | None) -> Circuit:
    """What EAP-IG calls a graph with edges in it.

    Raises:
        ValueError: if there is none.
    """
    if file is None or file.circuit is None:
        raise ValueError("it holds scores of all edges and no circuit; choose one from them")
    return file.circuit


def _from_pt(path: Path, graph: Graph | None) -> Circuit:
    return _circuit_in(read_mib(path, graph))


def _html(circuit: Circuit) -> bytes:
    return explore(circuit).content.encode()


def _drawn(what: str, paint: Paint) -> Format:
    """A format of pictures: of a circuit, its picture in the usual look."""
    loses = ("graph", "provenance")
    return Format(what, lambda circuit: paint(picture(circuit)), loses=loses, paint=paint)


def _svg(picture: Picture) -> bytes:
    return render(paint(picture), "svg")


def _pdf(picture: Picture) -> bytes:
    return render(paint(picture), "pdf")


def _png(picture: Picture) -> bytes:
    return render(paint(picture), "png")


FORMATS: Mapping[str, Format] = {
    ".json": Format("our own; circuit.schema.json describes it", _json, _from_json),
    ".svg": _drawn("picture; text stays text", _svg),
    ".pdf": _drawn("picture", _pdf),
    ".png": _drawn("picture of 300 dots an inch", _png),
    ".tex": _drawn("picture as a LaTeX document", lambda p: tikz_document(p).encode()),
    ".tikz": _drawn("picture to input into a LaTeX paper", lambda p: tikz(p).encode()),
    ".html": Format("page to explore the circuit with, for any browser", _html),
    ".graphml": Format("yEd, Cytoscape, networkx", to_graphml, from_graphml),
    ".gexf": Format("Gephi", to_gexf, from_gexf),
    ".gml": Format("igraph, networkx", to_gml, from_gml),
    ".nodelink.json": Format("D3, networkx", to_node_link, from_node_link),
    ".neuronpedia.json": Format(
        "attribution graph for Neuronpedia's viewer: query, key and value edges merged",
        to_neuronpedia,
        loses=("edges", "scores"),
    ),
    ".dot": Format("Graphviz", to_dot, loses=("graph", "provenance")),
    ".csv": Format("table of edges", to_csv, from_csv, loses=("graph", "provenance")),
}
"""Every suffix that `save` knows, and those that `load` reads: the ones with `read`."""


def save(thing: Circuit | Picture, path: str | Path) -> None:
    """Write a circuit, or a picture, to a file whose suffix says the format.

    A whole file or none is left. `load` reads the formats that are no pictures. Pictures made from
    a circuit show the strongest edges of a large one, and say so; for another look, make the
    picture first: `save(picture(circuit, width="column"), "circuit.pdf")`.

    Raises:
        ValueError: if no format has this suffix, or it is none of pictures.
    """
    chosen = format_of(path)
    if isinstance(thing, Circuit):
        content = chosen.write(thing)
    elif chosen.paint is not None:
        content = chosen.paint(thing)
    else:
        known = ", ".join(suffix for suffix, entry in FORMATS.items() if entry.paint)
        raise ValueError(f"a picture cannot be written to {str(path)!r}; {known} would do")
    write_bytes(path, content)


def load(path: str | Path, graph: Graph | None = None) -> Circuit:
    """Read a circuit from a file of any format that keeps its edges, EAP-IG's graph files too.

    `graph` is needed for files that do not name theirs (.csv), and checked against all others.

    Raises:
        ValueError: if no such format has this suffix, or the file is damaged, holds no circuit, or
            is of another graph.
    """
    known = {suffix: entry for suffix, entry in FORMATS.items() if entry.read}
    theirs = Path(path).suffix == ".pt"
    read = _from_pt if theirs else _format(path, "read a circuit from", known).read
    assert read is not None, "only readable formats were asked"
    try:
        return read(Path(path), graph)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None


def readable(path: str | Path) -> bool:
    """Whether a file's suffix is one that `load` reads."""
    name = Path(path).name.lower()
    known = (suffix for suffix, entry in FORMATS.items() if entry.read)
    return name.endswith((".pt", *known))


def format_of(path: str | Path) -> Format:
    """What a file's suffix means.

    Raises:
        ValueError: if no format has it.
    """
    return _format(path, "write a circuit to", FORMATS)


def _format(path: str | Path, doing: str, formats: Mapping[str, Format]) -> Format:
    """The format with the longest fitting suffix, so that .nodelink.json is not .json.

    Raises:
        ValueError: if none of these formats has it.
    """
    name = Path(path).name.lower()
    fitting = [suffix for suffix in FORMATS if name.endswith(suffix) and name != suffix]
    best = max(fitting, key=len, default="")
    if best not in formats:
        raise ValueError(
            f"cannot {doing} {str(path)!r}: the name should end in {', '.join(formats)}"
        )
    return formats[best]
