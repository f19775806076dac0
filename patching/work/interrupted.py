"""An interrupt with what was done before it. Knows no model."""

from typing import Generic, TypeVar

R = TypeVar("R", covariant=True)


class Interrupted(KeyboardInterrupt, Generic[R]):
    """Somebody interrupted after some of the examples; `partial` is the result for these.

    Never returned as if it were the whole: who wants it catches this.
    """

    def __init__(self, partial: R, n_examples: int, n_of: int) -> None:
        super().__init__(
            f"interrupted after {n_examples} of {n_of} examples; what these came to is in the "
            "`partial` of this circuits.Interrupted"
        )
        self.partial, self.n_examples, self.n_of = partial, n_examples, n_of
