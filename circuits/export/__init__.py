"""Files of circuits, for people and for other tools: one writer per suffix, and MIB's own forms."""

from circuits.export.mib import (
    from_mib_json,
    from_mib_pt,
    to_mib_json,
    to_mib_pt,
    write_submission,
)
from circuits.export.writers import WRITERS, save

__all__ = [
    "WRITERS",
    "from_mib_json",
    "from_mib_pt",
    "save",
    "to_mib_json",
    "to_mib_pt",
    "write_submission",
]
