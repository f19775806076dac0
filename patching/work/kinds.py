"""What the chunks of one computation look like: names, types and shapes of their parts.

Kept beside the chunks, so that one that was cut or put there by somebody else is told from the
others, though its checksum fits.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from patching.files.parsing import read_json, shown
from patching.files.whole import write_text
from patching.work.chunk import Parts

KIND = "kind.json"

Lengths = Callable[[int, str], Mapping[int, int | None]]
"""From a chunk's number and a part's name to the lengths of axes that each chunk has its own.

None is a length that nobody knows before the chunk is done.
"""

Kind = dict[str, list[object]]
"""Of each part, its type and its shape, with a dash for axes whose length is each chunk's own."""


def all_alike(number: int, name: str) -> Mapping[int, int | None]:
    """`Lengths` of chunks that are all of the same shapes."""
    return {}


@dataclass
class Kinds:
    """The kind of the chunks in a folder: `known` from its file or a chunk, `own` from work here.

    What was done here is never doubted; what a file says is, once something else is done here.
    """

    folder: Path
    lengths: Lengths
    known: object = None
    own: Kind | None = None

    @staticmethod
    def of(folder: Path, lengths: Lengths) -> "Kinds":
        """As the folder says, if it does."""
        try:
            return Kinds(folder, lengths, read_json(folder / KIND))
        except (OSError, ValueError):  # none is there yet, or it is damaged and written anew
            return Kinds(folder, lengths)

    def learn(self, number: int, parts: Parts) -> None:
        """Take over what a chunk that was done here is like.

        Raises:
            ValueError: if it is not like others that were done here.
        """
        kind = self._of(number, parts)
        if self.own is not None and kind != self.own:
            raise ValueError(
                f"chunk {number} came out as {_in_words(kind)}, and others as "
                f"{_in_words(self.own)}; say which lengths each chunk has its own (lengths=)"
            )
        if self.own is None:
            write_text(self.folder / KIND, json.dumps(kind) + "\n")
        self.known = self.own = kind

    def check(self, number: int, parts: Parts) -> None:
        """Hold a chunk that was found against what is known of it and of others.

        Raises:
            ValueError: saying what it holds, and what would be right.
        """
        for name, part in parts.items():
            for axis, length in self.lengths(number, name).items():
                if axis >= part.ndim or length not in (None, part.shape[axis]):
                    raise ValueError(
                        f"its {name} is of shape {list(part.shape)}; {length} along axis {axis} "
                        "would be right"
                    )
        kind = self._of(number, parts)
        if self.known is None:
            self.known = kind
        if kind != self.known:
            raise ValueError(
                f"it holds {_in_words(kind)}, and other chunks {_in_words(self.known)}"
            )

    def _of(self, number: int, parts: Parts) -> Kind:
        kind: Kind = {}
        for name, part in parts.items():
            axes = self.lengths(number, name)
            shape = ["-" if axis in axes else length for axis, length in enumerate(part.shape)]
            kind[name] = [str(part.dtype), *shape]
        return kind


def _in_words(kind: object) -> str:
    return shown(kind)
