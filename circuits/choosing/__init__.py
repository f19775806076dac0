"""Choosing how to look for a circuit: by evidence from the prompts of the search alone."""

from circuits.choosing.automatic import SELECT_BY, Auto, auto
from circuits.choosing.comparing import Compared

__all__ = ["SELECT_BY", "Auto", "Compared", "auto"]
