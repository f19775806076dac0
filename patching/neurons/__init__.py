"""MLP neurons that make a model use its context: finding, choosing and reweighting them.

Names are imported when first used, as in `patching`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
