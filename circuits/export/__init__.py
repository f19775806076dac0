"""Files of circuits, for people and for other tools: one writer per suffix."""

from circuits.export.writers import WRITERS, save

__all__ = ["WRITERS", "save"]
