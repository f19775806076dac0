"""Nodes of a graph, and where they stand in it by their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Node:
    """One writer or reader.

    `order` is the moment in the forward pass: the embedding is 0, attention `2 * layer + 1`, the
    MLP `2 * layer + 2` (or that of the attention, where a block runs both side by side).
    `layer` is -1 for the embedding and the number of layers for the logits.
    """

    name: str
    order: int
    layer: int


def look_up(positions: Mapping[str, int], name: str, kind: str, likely: str | None = None) -> int:
    """Where a writer or reader stands; `likely` is the name that was probably meant, if any.

    Raises:
        ValueError: if there is none of this name, with one that was probably meant.
    """
    if name not in positions:
        names = list(positions)
        known = ", ".join([*names[:3], "...", names[-1]])
        near = [likely] if likely in positions else get_close_matches(name[:40], names, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no {kind} named {name[:100]!r}; this graph has {known}{meant}")
    return positions[name]
