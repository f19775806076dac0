"""Pages to explore results with: self-contained HTML files that need no network and no server.

`page` puts a page together out of style, markup, scripts and data; `attention` and `lens` are two
such pages, the explorer of circuits (`circuits.explorer`) is another.
"""

from patching.views.attention import attention_view
from patching.views.lens import lens_view
from patching.views.page import Page, Parts, assemble

__all__ = ["Page", "Parts", "assemble", "attention_view", "lens_view"]
