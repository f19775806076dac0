"""One model and its activations: nodes, tasks, metrics, hooks, gradients.

Names are imported when first used: most modules here need no model library, and it is slow to load.
They stand in `__init__.pyi`.
"""

import sys

import lazy_loader

from patching.moved import MOVES, Moved

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

sys.meta_path[:0] = [Moved(MOVES)]
