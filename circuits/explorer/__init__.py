"""Explorers of circuits and of graphs of features: each one HTML file, with a slider and search.

Positions come from `circuits.drawing.layout`; the page's scripts choose, route and draw the edges.
Only `look_inside` and `explore_features` know models: names are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
