"""What `--resamples` adds: intervals that contain the search, and paired differences.

Heavy imports when needed.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric
from circuits.shell.method_inputs import open_ablation
from circuits.shell.printing import print_columns
from circuits.shell.reading import read_scores

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.judging.points import Curve
    from circuits.judging.resampling import Resampled
    from circuits.running.trial import Trial
    from circuits.scores import Scores
    from patching.model import Model
    from patching.tasks import Task
    from patching.work import Run


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
    rows: list[dict[str, object]] = []
    for n, one, other in zip(curve.requested, found, first, strict=True):
        rows.append({"requested": n, **_row(one, None if found is first else other)})
    return rows


def _row(one: "Resampled", other: "Resampled | None") -> dict[str, object]:
    from circuits.judging.resampling import CORE, difference

    whole, stability = one.found_and_judged, one.stability
    row: dict[str, object] = {
        "faithfulness": whole.value,
        "low": whole.low,
        "high": whole.high,
        "jaccard": stability.mean,
        "core": stability.core(CORE).size,
    }
    if other is not None:
        more = difference(one, other)
        row |= {"more": more.value, "more_low": more.low, "more_high": more.high, "p": more.p}
    return row


def check_scores(args: Namespace) -> None:
    """Refuse resamples of circuits without their scores, before a model is loaded.

    Raises:
        ValueError: naming what is missing.
    """
    if bool(args.resamples) != bool(args.scores):
        raise ValueError("--resamples N and --scores SCORES go together")
    if args.scores and len(args.scores) not in (1, len(args.files)):
        raise ValueError(
            f"--scores takes one file for all circuits, or one for each of {len(args.files)}; got "
            f"{len(args.scores)}"
        )
    if args.resamples and args.ablated != "outside":
        raise ValueError("--resamples ablates what is outside of the circuits")


def resample_circuits(
    args: Namespace, model: "Model", task: "Task", circuits: "Sequence[Circuit]", kept: "Run | None"
) -> list[dict[str, object]]:
    """One row a circuit: found on resamples of the prompts of its scores, and judged on the task.

    Raises:
        ValueError: if scores were not kept by prompt, or give another circuit.
    """
    from circuits.grouping import join_scores
    from circuits.judging.resampling import chooser, resampled
    from circuits.running.trial import prepare

    ablation = open_ablation(args, model, task)
    trial = prepare(
        model,
        task,
        open_metric(args),
        ablation=ablation,
        direction=args.direction,
        batch_size=args.batch_size,
        kept_in=kept,
    )
    paths = args.scores if len(args.scores) > 1 else [*args.scores] * len(circuits)
    found = []
    for path, circuit in zip(paths, circuits, strict=True):
        scores = join_scores(read_scores(path), model.graph, f"{path} holds scores")
        choose = chooser(circuit, scores)
        found.append(resampled(trial, scores, choose, n=args.resamples, seed=args.seed))
    rows = [_row(one, found[0] if i else None) for i, one in enumerate(found)]
    return [{"requested": c.size, **row} for c, row in zip(circuits, rows, strict=True)]


def print_resampled(rows: Sequence[Mapping[str, object]], *, against: str) -> None:
    """A table; differences are from the first file's circuits of the same size."""
    paired = any("more" in row for row in rows)
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
    if paired and "more" not in row:
        cells += ["", "", ""]
    elif paired:
        between = f"{row['more_low']:+.1%} to {row['more_high']:+.1%}"
        cells += [f"{row['more']:+.1%}", between, f"{row['p']:.3f}"]
    return cells
