"""Long computations as numbered chunks: done by anybody, kept in a folder, added up in order.

Knows no model: work is a function from a chunk's number to named tensors.
"""

from patching.work.chunk import Done, Limited, Parts, Work, carry_out
from patching.work.doing import do
from patching.work.engines import Engine, Ranks, in_process, leads, ranks
from patching.work.interrupted import Interrupted
from patching.work.kinds import Lengths
from patching.work.run import Run
from patching.work.store import run_id

__all__ = [
    "Done",
    "Engine",
    "Interrupted",
    "Lengths",
    "Limited",
    "Parts",
    "Ranks",
    "Run",
    "Work",
    "carry_out",
    "do",
    "in_process",
    "leads",
    "ranks",
    "run_id",
]
