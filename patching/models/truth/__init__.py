"""Models whose circuit is known: a compiler for small programs, and a library of them.

A program (`program`) has a meaning (`meaning`) and a model (`compiled`); the library (`library`)
holds programs with their tasks under the names that `Model.load` knows.
"""

from patching.models.truth.compiled import Compiled, compile_gpt2, compile_llama
from patching.models.truth.meaning import active_edges
from patching.models.truth.program import (
    Head,
    Lookup,
    Program,
    first,
    marked,
    previous,
    same,
)

__all__ = [
    "Compiled",
    "Head",
    "Lookup",
    "Program",
    "active_edges",
    "compile_gpt2",
    "compile_llama",
    "first",
    "marked",
    "previous",
    "same",
]
