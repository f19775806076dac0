"""Dictionaries by folder or hub name: the format is told by the files, never by the name."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.reading import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    saelens,
    sparsify,
)
from patching.dictionaries.reading.folding import Places
from patching.dictionaries.reading.hub import download
from patching.dictionaries.several import Dictionaries
from patching.files.parsing import naming
from patching.models import transcoders_folder

_DEEPEST = 4
_MOST_FOLDERS = 2000


@dataclass(frozen=True)
class Format:
    """A way in which dictionaries are published."""

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Places | None], list[Dictionary]]


FORMATS: tuple[Format, ...] = (
    Format("SAELens", saelens.recognises, saelens.read),
    Format("Llama Scope", llama_scope.recognises, llama_scope.read),
    Format("sparsify", sparsify.recognises, sparsify.read),
    Format("dictionary_learning", dictionary_learning.recognises, dictionary_learning.read),
    Format("Gemma Scope", gemma_scope.recognises, gemma_scope.read),
    Format("Gemma Scope 2", gemma_scope_2.recognises, gemma_scope_2.read),
    Format("circuit-tracer", circuit_tracer.recognises, circuit_tracer.read),
)
"""In the order in which a folder is held against them."""


def load_dictionaries(
    source: str | Path,
    *,
    reads: str | None = None,
    writes: str | None = None,
    revision: str | None = None,
) -> Dictionaries:
    """Dictionaries in any published format, from a folder or the hub, or an embedded model's own.

    Tensors of safetensors files stay there, mapped into memory. Nothing in a file is executed.

    Args:
        source: a folder that holds dictionaries, or folders of them; or a hub name, `owner/name`
            with a folder of it behind, if one is meant: `owner/name/layer_3`; or `toy`,
            `toy-llama`, which transcoders ship with.
        reads: the place they read, where their files name none or another; `{}` stands for the
            layer, of formats that hold several.
        writes: the place they rebuild (the same, if only `reads` is given).
        revision: of a hub name.

    Raises:
        ValueError: if there is none, or one is damaged, of a kind that is not of the one form (by
            name), holds NaN, or says nothing of a place that is known.
    """
    places = None if reads is None else Places(reads, writes or reads)
    if places is None and writes is not None:
        raise ValueError(f"writes={writes!r} needs reads= too")
    own = transcoders_folder(source) if isinstance(source, str) else None
    folder = own or Path(source)
    if not folder.exists():
        folder = download(str(source), revision)
    elif folder.is_file():
        folder = folder.parent
    found = [one for at in _folders(folder) for one in _read(at, places)]
    if not found:
        known = ", ".join(one.name for one in FORMATS)
        raise ValueError(f"{source} holds no dictionaries of a format that can be read: {known}")
    order = sorted(range(len(found)), key=lambda i: (_layer(found[i]), i))
    name = folder.name if folder != own else f"transcoders of {source}"
    facts = {"source": str(source), **({} if revision is None else {"revision": revision})}
    with naming(source):
        return Dictionaries(name, tuple(found[i] for i in order), facts)


def _folders(folder: Path) -> list[Path]:
    """The folder, if it holds dictionaries itself, otherwise those within that do.

    Raises:
        ValueError: if there are too many to look through.
    """
    level, found, seen = [folder], [], 0
    for _ in range(_DEEPEST):
        found += [one for one in level if _format(one) is not None]
        if found:
            return found
        level = [sub for one in level for sub in sorted(one.iterdir()) if sub.is_dir()]
        seen += len(level)
        if seen > _MOST_FOLDERS:
            raise ValueError(f"{folder} holds more than {_MOST_FOLDERS} folders; name one of them")
    return found


def _format(folder: Path) -> Format | None:
    return next((one for one in FORMATS if one.recognises(folder)), None)


def _read(folder: Path, places: Places | None) -> list[Dictionary]:
    with naming(folder):
        found = _format(folder)
        assert found is not None, "only folders that hold some are read"
        return found.read(folder, places)


def _layer(one: Dictionary) -> int:
    found = re.search(r"\d+", one.writes)
    return -1 if found is None else int(found[0])
