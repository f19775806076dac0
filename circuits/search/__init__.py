"""Searches: circuits found by running candidates, each decision an exact one.

What is tried next hangs on what came out before, so a search returns circuits and no scores of all
edges. Knows nothing of gradients.
"""

from circuits.search.acdc import AcdcSweep, Walk, acdc, acdc_sweep
from circuits.search.budgeted import Budget, budgeted_search
from circuits.search.judge import Cost, Judge

__all__ = ["AcdcSweep", "Budget", "Cost", "Judge", "Walk", "acdc", "acdc_sweep", "budgeted_search"]
