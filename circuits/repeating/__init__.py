"""Repeating results: from the provenance to the command, its run, and what came out differently.

Names are imported when first used: what a file records is read without a model library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
