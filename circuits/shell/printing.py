"""Plain tables on stdout. Heavy imports when needed."""

from collections.abc import Mapping, Sequence


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


def print_provenance(provenance: Mapping[str, object]) -> None:
    """One field a line."""
    from circuits.reporting.report import plain

    width = max(map(len, provenance), default=0)
    for field, value in provenance.items():
        print(f"  {field:<{width}}  {plain(value)}")
