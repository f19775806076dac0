"""Circuits judged: how faithful, complete, small and stable they are, and how sure that is.

Functions named like their modules (`completeness`, `minimality`, `recovery`, `uncertainty`) are
handed on by `circuits`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
