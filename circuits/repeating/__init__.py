"""Repeating results: from the provenance to the command, its run, and what came out differently."""

from circuits.repeating.commands import Elsewhere
from circuits.repeating.comparison import Comparison, Fact, Numbers
from circuits.repeating.permitted import Permitted, downloads
from circuits.repeating.running import rerun
from circuits.repeating.telling import summary

__all__ = [
    "Comparison",
    "Elsewhere",
    "Fact",
    "Numbers",
    "Permitted",
    "downloads",
    "rerun",
    "summary",
]
