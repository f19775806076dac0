"""Where a long computation keeps its chunks, and who does them."""

from dataclasses import dataclass
from pathlib import Path

from patching.work.engines import Engine, in_process


@dataclass(frozen=True)
class Run:
    """A folder in which chunks that are done are kept, and the engine that does the others.

    The same computation in the same folder goes on where it was left, whatever stopped it, and is
    read back at once when it is finished. Another one, or the same with other settings, gets a
    folder of its own inside it: a folder can be used for everything.
    """

    folder: Path | str
    engine: Engine = in_process
