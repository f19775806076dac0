"""Forms of files that graphs and circuits of features have in common: networks, text, pictures."""

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import networkx as nx

from circuits.drawing.canvas import Picture
from circuits.drawing.plots import paint, render
from circuits.drawing.tikz import tikz, tikz_document
from patching.files.whole import write_bytes, write_text

Thing = TypeVar("Thing")
Save = Callable[[Thing, Path], None]

PICTURES = (".svg", ".pdf", ".png", ".tex", ".tikz")

_NETWORKS = {".graphml": nx.write_graphml, ".gexf": nx.write_gexf, ".gml": nx.write_gml}


def forms_of(
    network: Callable[[Thing], nx.DiGraph], picture: Callable[[Thing], Picture]
) -> dict[str, Save[Thing]]:
    """What writes a thing, by suffix, from its network and its picture."""
    made: dict[str, Save[Thing]] = {
        suffix: partial(_write_network, write, network) for suffix, write in _NETWORKS.items()
    }
    made |= {".csv": partial(_write_csv, network), ".dot": partial(_write_dot, network)}
    return made | dict.fromkeys(PICTURES, partial(_draw, picture))


def save_picture(picture: Picture, path: Path) -> None:
    """Write a picture in the form that the suffix names."""
    suffix = path.suffix.lower()
    if suffix in (".tikz", ".tex"):
        write_text(path, tikz(picture) if suffix == ".tikz" else tikz_document(picture))
    else:
        write_bytes(path, render(paint(picture), suffix.removeprefix(".")))


def _draw(picture: Callable[[Thing], Picture], thing: Thing, path: Path) -> None:
    save_picture(picture(thing), path)


def _write_network(
    write: Callable[[nx.DiGraph, io.BytesIO], None],
    network: Callable[[Thing], nx.DiGraph],
    thing: Thing,
    path: Path,
) -> None:
    buffer = io.BytesIO()
    write(network(thing), buffer)
    write_bytes(path, buffer.getvalue())


def _write_csv(network: Callable[[Thing], nx.DiGraph], thing: Thing, path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "target", "weight"))
    edges = network(thing).edges(data="weight")
    writer.writerows((source, target, repr(weight)) for source, target, weight in edges)
    write_text(path, text.getvalue())


def _write_dot(network: Callable[[Thing], nx.DiGraph], thing: Thing, path: Path) -> None:
    made = network(thing)
    shapes = {"error": " [shape=box]", "embedding": " [shape=box]"}
    kinds = [(str(name), str(facts["kind"])) for name, facts in made.nodes(data=True)]
    nodes = [f'  "{name}"{shapes.get(kind, "")};' for name, kind in kinds]
    edges = [
        f'  "{source}" -> "{target}" [weight={abs(weight):.6g}, label="{weight:+.3g}"];'
        for source, target, weight in made.edges(data="weight")
    ]
    write_text(path, "\n".join(["digraph {", "  rankdir=BT;", *nodes, *edges, "}", ""]))
