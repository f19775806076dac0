"""Progress on stderr, for work that lasts longer than a second; it is `patching.progress`."""

from patching.progress import track as track
