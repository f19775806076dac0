"""The explorer of circuits: one HTML file with a slider over size, search, paths and comparison.

Positions come from `circuits.drawing.layout`; the page's scripts choose, route and draw the edges.
"""

from circuits.explorer.exploring import explore
from circuits.explorer.insides import Insides, look_inside
from circuits.explorer.levels import Level, load_levels

__all__ = ["Insides", "Level", "explore", "load_levels", "look_inside"]
