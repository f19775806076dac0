"""Files of circuits, for people and for other tools: formats by suffix, and MIB's own forms."""

from circuits.export.formats import FORMATS, Format, format_of, load, save
from circuits.export.mib import (
    from_mib_json,
    from_mib_pt,
    to_mib_json,
    to_mib_pt,
    write_submission,
)
from circuits.export.neuronpedia import to_neuronpedia
from circuits.export.tikz import tikz, tikz_document

__all__ = [
    "FORMATS",
    "Format",
    "format_of",
    "from_mib_json",
    "from_mib_pt",
    "load",
    "save",
    "tikz",
    "tikz_document",
    "to_mib_json",
    "to_mib_pt",
    "to_neuronpedia",
    "write_submission",
]
