"""What is said while nothing can be counted yet: a line before libraries and a model are loaded."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from circuits.shell.printing import complain
from patching.progress import Progress, is_on


@contextmanager
def waiting(args: Namespace) -> Iterator[None]:
    """Inside, whoever waits is told at once what for, and later how many runs there were."""
    name = args.run.__name__
    if is_on() and "torch" not in sys.modules:
        model = getattr(args, "model", None)
        complain(f"circuits {name}: loading {'libraries' if model is None else model}")
    with Progress(f"circuits {name}", None):
        yield
