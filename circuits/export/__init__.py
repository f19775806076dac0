"""Files of circuits, for people and for other tools: formats by suffix, and MIB's own forms."""

from circuits.drawing.tikz import tikz, tikz_document
from circuits.export.formats import FORMATS, Format, format_of, load, readable, save
from circuits.export.mib import to_mib_json, to_mib_pt
from circuits.export.mib_reading import GraphFile, from_mib_json, from_mib_pt, read_mib
from circuits.export.neuronpedia import to_neuronpedia
from circuits.export.submission import write_submission

__all__ = [
    "FORMATS",
    "Format",
    "GraphFile",
    "format_of",
    "from_mib_json",
    "from_mib_pt",
    "load",
    "read_mib",
    "readable",
    "save",
    "tikz",
    "tikz_document",
    "to_mib_json",
    "to_mib_pt",
    "to_neuronpedia",
    "write_submission",
]
