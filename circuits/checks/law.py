"""A law, and what is said when it is broken."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


class Broken(AssertionError):
    """A law does not hold: which, and by what it was found out."""

    def __init__(self, law: str, found: str) -> None:
        super().__init__(f"the law {law!r} is broken: {found}")
        self.law, self.found = law, found


class Verdicts:
    """Broken laws of something that is tried on several models: each once, with where it broke."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._where: dict[str, list[str]] = {}
        self._failed: Exception | None = None

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Note the law that is broken inside, on the model of this name, or that it fails."""
        try:
            yield
        except Broken as broken:
            self._found.setdefault(broken.law, []).append(broken.found)
            self._where.setdefault(broken.law, []).append(name)
        except Exception as error:  # whatever the code of somebody else raises
            self._failed = self._failed or error

    def require_none(self) -> None:
        """Refuse whatever broke a law.

        Raises:
            AssertionError: with all of them, and how the first model broke each; from what was
                raised where a law could not be tried.
        """
        said = [
            f"the law {law!r} is broken: {found[0]} (on {', '.join(self._where[law])})"
            for law, found in self._found.items()
        ]
        if self._failed is not None:
            kind = type(self._failed).__name__
            said.append(f"not every law could be tried, which ended in {kind}: {self._failed}")
        if said:
            raise AssertionError("\n".join(said)) from self._failed


def require(holds: bool, law: str, found: str) -> None:
    """Say which law was broken, and by what.

    Raises:
        Broken: if the law does not hold; an AssertionError.
    """
    if not holds:
        raise Broken(law, found)


def require_equal(
    found: Float[Tensor, "*shape"], expected: Float[Tensor, "*shape"], law: str, tolerance: float
) -> None:
    """Hold two tensors to a relative tolerance, of the largest expected value.

    Raises:
        AssertionError: if they differ by more, with the numbers of the worst entry.
    """
    size = max(float(expected.abs().max()), torch.finfo(torch.float64).tiny)
    error = (found - expected).abs()
    worst = int(error.argmax())
    relative = float(error.flatten()[worst]) / size
    require(
        relative <= tolerance,
        law,
        f"{float(found.flatten()[worst]):.6g} where {float(expected.flatten()[worst]):.6g} is "
        f"right, {relative:.1e} of the largest value apart ({tolerance:.0e} allowed)",
    )
