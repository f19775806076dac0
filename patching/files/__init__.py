"""Files: written whole or not at all, read with suspicion."""

from patching.files.whole import (
    MOST_BYTES,
    inside,
    read_bytes,
    read_text,
    require_file,
    write_bytes,
    write_text,
)

__all__ = [
    "MOST_BYTES",
    "inside",
    "read_bytes",
    "read_text",
    "require_file",
    "write_bytes",
    "write_text",
]
