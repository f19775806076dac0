"""Circuits: sets of edges of a model's computational graph, scored, chosen, run, saved and drawn.

Names are imported when first used, so that the shell's help does not wait for torch; they stand in
`__init__.pyi`.
"""

import sys

import lazy_loader

from circuits.moved import MOVES
from patching.moved import Moved

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

sys.meta_path[:0] = [Moved(MOVES)]
