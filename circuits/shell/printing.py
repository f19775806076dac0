"""What is said on a terminal: plain tables, and how it gets there. Heavy imports when needed.

Commands print; it is said when they are done, so that a reader that goes away or a full disk takes
no result from them.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from patching.files.visible import visible

if TYPE_CHECKING:
    from circuits.circuit import Circuit


_NEAREST = 5
"""Ways of `auto` that are printed, of 27."""


@runtime_checkable
class _Stream(Protocol):
    """What is needed of stdout and stderr, or of what stands for them."""

    @property
    def encoding(self) -> str | None: ...

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...

    def fileno(self) -> int: ...


def say(text: str) -> int:
    """Print on stdout: 0, and also if nobody listens (any more); 2 if it cannot be written."""
    if sys.stdout is None:  # closed
        return 0
    try:
        _write(text, sys.stdout)
    except BrokenPipeError:  # the reader has seen enough
        _lead_nowhere(sys.stdout)
    except OSError as error:
        _lead_nowhere(sys.stdout)
        complain(f"error: what was to be printed could not be: {error.strerror}")
        return 2
    return 0


def complain(text: str) -> None:
    """Print a line on stderr, if there is anybody to read it."""
    if sys.stderr is None:
        return
    try:
        _write(f"{text}\n", sys.stderr)
    except OSError:  # nobody can be told
        _lead_nowhere(sys.stderr)


def open_closed_streams() -> None:
    """Streams that were closed lead nowhere: no file that is opened later takes their number."""
    handle = os.open(os.devnull, os.O_RDWR)
    while handle <= 2:
        handle = os.open(os.devnull, os.O_RDWR)
    os.close(handle)


def _write(text: str, stream: _Stream) -> None:
    """Text without signs that act on a terminal or that it does not know."""
    code = stream.encoding or "utf-8"
    stream.write(visible(text).encode(code, "backslashreplace").decode(code))
    stream.flush()


def _lead_nowhere(stream: _Stream) -> None:
    """What is left in a stream is lost, and no error when Python ends."""
    handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, stream.fileno())
    os.close(handle)


def print_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns of equal width; columns after the first are aligned right if all are short."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    right = [i > 0 and width <= 16 for i, width in enumerate(widths)]
    for row in table:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def print_edges(edges: Sequence[tuple[str, str, float | None]]) -> None:
    """One edge a line with its score."""
    from circuits.reporting.report import of_edge

    width = max((len(f"{source}->{dest}") for source, dest, _ in edges), default=0)
    for source, dest, score in edges:
        print(f"  {f'{source}->{dest}':<{width}}  {of_edge(score)}".rstrip())


def say_choice(circuit: "Circuit") -> None:
    """Print what a circuit was asked to keep, and what pruning dropped or would drop."""
    said = circuit.provenance.get("selection")
    chosen = said if isinstance(said, Mapping) else {}
    if "goal" in chosen:
        print(
            f"the smallest found that keeps {chosen['goal']:.0%} on the prompts of the search "
            f"({chosen['reached']:.1%} there; {chosen['tried']} circuits tried)"
        )
    asked = chosen.get("requested")
    if chosen.get("pruned") and isinstance(asked, int) and asked > circuit.size:
        print(f"pruned: {asked - circuit.size:,} of the {asked:,} best edges lead nowhere")
    say_idle(circuit)


def selector_of(circuit: "Circuit") -> str:
    """The name in the shell of what chose a circuit's edges."""
    said = circuit.provenance.get("selection")
    name = str(said.get("selector")) if isinstance(said, Mapping) else "unknown"
    return name.removeprefix("by_").replace("_", "-")


def say_compared(provenance: Mapping[str, object]) -> None:
    """Print what `auto` held against each other, if these scores are its own."""
    compared, options = provenance.get("compared"), provenance.get("options")
    if not isinstance(compared, list) or not isinstance(options, Mapping):
        return
    print(
        f"auto keeps {options['kept']}, {options['selector']}, by circuits of about "
        f"{provenance['compared_at']:,} edges on prompts that their scores have not seen, for "
        f"{provenance['units']:.1f} forward and backward passes; the nearest and what is kept:"
    )
    kept = [
        one
        for i, one in enumerate(compared)
        if i < _NEAREST or (one["name"], one["selector"]) == (options["kept"], options["selector"])
    ]
    rows = [
        (
            str(one["name"]),
            str(one["selector"]),
            f"{one['distance']:.3f}",
            f"{one['farther']:+.3f}",
            f"{one['low']:+.3f} to {one['high']:+.3f}",
        )
        for one in kept
    ]
    print_columns(("scores", "selector", "|1 - f|", "farther", "95 % interval"), rows)
    left_out = provenance.get("left_out")
    for name, why in left_out.items() if isinstance(left_out, Mapping) else ():
        print(f"left out: {name}: {why}")


def say_idle(circuit: "Circuit") -> None:
    """Print how many edges of a circuit are on no path, if any: they carry nothing."""
    from circuits.select import prune

    idle = circuit.size - prune(circuit).size
    if idle:
        print(
            f"{idle:,} of these edges lie on no path from embed to logits; pruning drops such edges"
        )


def print_provenance(provenance: Mapping[str, object]) -> None:
    """One field a line; empty ones are left out."""
    from circuits.reporting.report import stated

    width = max(map(len, provenance), default=0)
    for field, value in stated(provenance).items():
        print(f"  {field:<{width}}  {value}")
