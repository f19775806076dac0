"""What `curve --resamples` adds: intervals that contain the search, and paired differences.

Heavy imports when needed.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from circuits.shell.printing import print_columns

if TYPE_CHECKING:
    from circuits.judging.points import Curve
    from circuits.judging.resampling import Resampled
    from circuits.running.trial import Trial
    from circuits.scores import Scores


def check_resamples(args: Namespace) -> None:
    """Refuse what resamples are not made for.

    Raises:
        ValueError: if circuits are of nodes, or taken out.
    """
    if args.resamples and (args.granularity != "edges" or args.ablated != "outside"):
        raise ValueError("--resamples finds circuits of edges, and ablates what is outside of them")


def resample(
    args: Namespace, trial: "Trial", scores: "Scores", curve: "Curve"
) -> "list[Resampled]":
    """Circuits of every size of a curve, found on resamples of the prompts behind the scores.

    Raises:
        ValueError: if the scores were not kept by prompt.
    """
    from circuits.judging.resampling import resampled
    from circuits.select import top_n

    choose = [
        partial(top_n, n=n, ranking=args.ranking, prune=curve.pruned) for n in curve.requested
    ]
    return [resampled(trial, scores, one, n=args.resamples, seed=args.seed) for one in choose]


def rows_of(
    found: "Sequence[Resampled]", first: "Sequence[Resampled]", curve: "Curve"
) -> list[dict[str, object]]:
    """One row a size: the interval, how stable circuits are, and how much more than the first's."""
    from circuits.judging.resampling import CORE, difference

    rows: list[dict[str, object]] = []
    for n, one, other in zip(curve.requested, found, first, strict=True):
        whole, stability = one.found_and_judged, one.stability
        row: dict[str, object] = {
            "requested": n,
            "faithfulness": whole.value,
            "low": whole.low,
            "high": whole.high,
            "jaccard": stability.mean,
            "core": stability.core(CORE).size,
        }
        if found is not first:
            more = difference(one, other)
            row |= {"more": more.value, "more_low": more.low, "more_high": more.high, "p": more.p}
        rows.append(row)
    return rows


def print_resampled(rows: Sequence[Mapping[str, object]], *, against: str) -> None:
    """A table; differences are from the first file's circuits of the same size."""
    paired = bool(rows) and "more" in rows[0]
    head = ["edges", "faithful", "finding and judging", "jaccard", "in 90 %"]
    head += [f"more than {against}", "95 % interval", "p"] if paired else []
    print_columns(head, [_shown(row, paired=paired) for row in rows])


def _shown(row: Mapping[str, object], *, paired: bool) -> list[str]:
    cells = [
        f"{row['requested']:,}",
        f"{row['faithfulness']:.1%}",
        f"{row['low']:.1%} to {row['high']:.1%}",
        f"{row['jaccard']:.2f}",
        f"{row['core']:,}",
    ]
    if paired:
        between = f"{row['more_low']:+.1%} to {row['more_high']:+.1%}"
        cells += [f"{row['more']:+.1%}", between, f"{row['p']:.3f}"]
    return cells
