"""Places beside a dictionary's own, where it may do better: then it is hung half a layer off.

What a layer adds to the stream is small beside the stream, so that a dictionary of one stream
rebuilds most of the next one too, and no bound on what is left unexplained tells them apart. The
places around do: what was added on the way is no part of what it was trained on.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.several import Dictionaries
from patching.model import Model

Fvus = Callable[[Dictionaries], dict[str, float]]
"""The unexplained share of every dictionary, by the place that it rebuilds."""

_STEPS = (-2, -1, 1, 2)
_INSIDE = re.compile(r"([am])(\d+)(.*)")


def closest(model: Model, several: Dictionaries, fvus: Fvus) -> dict[str, tuple[str, float]]:
    """For each dictionary, by the place it rebuilds, the place beside it where it does best.

    Streams half a layer and a layer away, of others the same place of the layers around, with what
    is left unexplained there. Dictionaries across layers belong together and are not looked at.
    """
    found: dict[str, tuple[str, float]] = {}
    for step in _STEPS:
        moved = {one.writes: _moved(model, one, step) for one in several}
        there: dict[str, Dictionary] = {}
        for own, one in moved.items():
            if one is not None and one.writes not in {other.writes for other in there.values()}:
                there[own] = one
        if not there:
            continue
        measured = fvus(replace(several, members=tuple(there.values())))
        for own, one in there.items():
            best = found.get(own)
            if best is None or measured[one.writes] < best[1]:
                found[own] = one.writes, measured[one.writes]
    return found


def _moved(model: Model, one: Dictionary, step: int) -> Dictionary | None:
    """The dictionary so many places on; None where there is none such."""
    if one.later:
        return None
    streams = _streams(model)
    if one.reads == one.writes and _usual(one.reads) in streams:
        i = streams.index(_usual(one.reads)) + step
        return replace(one, reads=streams[i], writes=streams[i]) if 0 <= i < len(streams) else None
    ends = [_INSIDE.fullmatch(place) for place in (one.reads, one.writes)]
    if abs(step) > 1 or None in ends:
        return None
    reads, writes = (f"{end[1]}{int(end[2]) + step}{end[3]}" for end in ends if end is not None)
    there = all(0 <= int(end[2]) + step < len(model.blocks) for end in ends if end is not None)
    return replace(one, reads=reads, writes=writes) if there else None


def _streams(model: Model) -> list[str]:
    """Streams in the order of the model, each by one name."""
    names = ["r0.pre"]
    for block in model.blocks:
        names += [] if block.parallel else [f"r{block.index}.mid"]
        names.append(f"r{block.index}.post")
    return names


def _usual(place: str) -> str:
    """A stream before a layer as that after the layer below."""
    found = re.fullmatch(r"r([1-9]\d*)\.pre", place)
    return f"r{int(found[1]) - 1}.post" if found else place
