"""Explorers of circuits and of graphs of features: each one HTML file, with a slider and search.

Positions come from `circuits.drawing.layout`; the page's scripts choose, route and draw the edges.
"""

from circuits.explorer.exploring import explore
from circuits.explorer.featured import explore_features
from circuits.explorer.insides import Insides, look_inside
from circuits.explorer.levels import Level, load_levels

__all__ = ["Insides", "Level", "explore", "explore_features", "load_levels", "look_inside"]
