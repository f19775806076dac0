"""Progress on stderr, for work that lasts longer than a second. Knows nothing of the work."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(iterable: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """The same items, with a progress bar named `what` on stderr once a second has passed.

    The bar is cleared at the end. `TQDM_DISABLE=1` in the environment turns it off.
    """
    return tqdm(iterable, desc=what, total=total, delay=1, leave=False, file=sys.stderr)
