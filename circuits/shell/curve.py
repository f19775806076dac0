"""The command `curve`: how good scores are, by size of circuit. Heavy imports when needed."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_task, warn_of_other_weights
from circuits.shell.method_inputs import open_ablation
from circuits.shell.options import Parser, add_resamples
from circuits.shell.overlap import as_booleans, overlap
from circuits.shell.printing import print_columns
from circuits.shell.reading import read_scores
from circuits.shell.recording import recorded
from circuits.shell.resampling import check_resamples, print_resampled, resample, rows_of
from circuits.shell.results import refuse_twice, write_csv, write_figure
from circuits.shell.run_options import leads_here, open_run
from circuits.shell.values import natural, numbers

if TYPE_CHECKING:
    import pandas

    from circuits.judging.faithfulness import Sweep
    from circuits.judging.points import Curve, Point
    from circuits.running.trial import Trial
    from circuits.scores import Scores
    from patching.intervals import Estimate
    from patching.model import Model
    from patching.tasks import Task


@dataclass(frozen=True)
class Judged:
    """A file of scores: its curve, MIB's areas if the sizes are MIB's, and on which prompts."""

    path: str
    curve: "Curve"
    areas: "dict[str, Estimate]"
    in_sample: str
    resampled: Sequence[Mapping[str, object]] = ()


def add_options(parser: Parser) -> None:
    """Which scores, at which sizes."""
    parser.add_argument("files", metavar="SCORES", nargs="+", help="what `circuits score` wrote")
    parser.add_argument(
        "--sizes",
        type=numbers,
        metavar="N,N,...",
        help="numbers of edges before pruning (0.1 %% to 100 %% of all, as in MIB)",
    )
    parser.add_argument(
        "--granularity",
        choices=("edges", "nodes"),
        default="edges",
        help="circuits of the best edges, or of the best heads and MLPs (edges)",
    )
    parser.add_argument(
        "--random",
        type=natural,
        default=10,
        metavar="N",
        help="random circuits per size, uniform and matched by layer (10 each)",
    )
    parser.add_argument(
        "--bootstrap",
        type=natural,
        default=1000,
        metavar="N",
        help="draws of prompts for the intervals (1000)",
    )
    add_resamples(
        parser,
        "find circuits on N resamples of the search's prompts too, for scores kept by prompt: "
        "intervals that contain the search, paired differences from the first file (0)",
    )


def curve(args: Namespace) -> None:
    """Run the best edges of every file of scores at many sizes, beside random circuits.

    Raises:
        ValueError: if a file holds no scores, or of another graph than the model's, or the task
            leaves no gap to keep a share of.
    """
    refuse_twice(args.files)
    check_resamples(args)
    judged = _judge(args)
    if not leads_here(open_run(args)):
        return
    if args.json:
        print(json.dumps([_content(one) for one in judged], indent=1))
    else:
        _print_curves(judged, args.metric)
    if args.csv is not None:
        write_csv(_long_table(judged), args.csv)
    if args.plot is not None:
        from circuits.judging.curves import plot_curves

        write_figure(plot_curves(_labelled(judged)), args.plot)


def _judge(args: Namespace) -> list[Judged]:
    from circuits.grouping import join_scores
    from circuits.judging.faithfulness import curve as run
    from circuits.running.trial import prepare

    metric = open_metric(args)
    scores = {path: read_scores(path) for path in args.files}
    model = open_model(args)
    for path, one in scores.items():
        scores[path] = join_scores(one, model.graph, f"{path} holds scores")
        warn_of_other_weights(path, one.provenance, model)
    task = open_task(args.task, model, args, seed=args.seed)
    sweep = _sweep(args, model, task)
    sweeps = [sweep] if args.sizes is not None else [sweep, _other(sweep)]
    judged, kept = [], open_run(args)
    for path, one in scores.items():
        curves = [
            _noted(run(model, task, one, metric, s, batch_size=args.batch_size, run=kept), args)
            for s in sweeps
        ]
        judged.append(Judged(path, curves[0], _areas(curves), overlap(one.provenance, task)))
    if not args.resamples:
        return judged
    trial = prepare(
        model,
        task,
        metric,
        ablation=sweep.ablation,
        direction=args.direction,
        batch_size=args.batch_size,
        kept_in=kept,
    )
    return _with_resamples(args, trial, scores, judged)


def _sweep(args: Namespace, model: "Model", task: "Task") -> "Sweep":
    from circuits.judging.faithfulness import Sweep

    return Sweep(
        ranking=args.ranking,
        sizes=args.sizes,
        n_random=args.random,
        n_bootstrap=args.bootstrap if len(task) > 1 else 0,
        seed=args.seed,
        ablation=open_ablation(args, model, task),
        granularity=args.granularity,
        ablated=args.ablated,
        direction=args.direction,
    )


def _with_resamples(
    args: Namespace, trial: "Trial", scores: "Mapping[str, Scores]", judged: Sequence[Judged]
) -> list[Judged]:
    """With intervals that contain the search, and differences from the first file's circuits."""
    found = [resample(args, trial, scores[one.path], one.curve) for one in judged]
    rows = [rows_of(some, found[0], one.curve) for some, one in zip(found, judged, strict=True)]
    return [replace(one, resampled=row) for one, row in zip(judged, rows, strict=True)]


def _noted(curve: "Curve", args: Namespace) -> "Curve":
    """The curve with the command that made it."""
    return replace(curve, provenance={**curve.provenance, **recorded(args)})


def _other(sweep: "Sweep") -> "Sweep":
    """The same sizes by the other ranking, which the other of MIB's two areas needs."""
    other = "absolute" if sweep.ranking == "signed" else "signed"
    return replace(sweep, ranking=other, n_random=0)


def _areas(curves: "Sequence[Curve]") -> "dict[str, Estimate]":
    from circuits.judging.areas import cmd, cpr, logarithmic

    by_ranking = {curve.ranking: curve for curve in curves}
    if len(by_ranking) < 2:
        return {}
    signed, absolute = by_ranking["signed"], by_ranking["absolute"]
    return {
        "CPR": cpr(signed),
        "CMD": cmd(absolute),
        "CPR, log axis": cpr(signed, logarithmic),
        "CMD, log axis": cmd(absolute, logarithmic),
    }


def _content(judged: Judged) -> dict[str, object]:
    from circuits.judging.points import plain

    areas = {name: plain(asdict(area)) for name, area in judged.areas.items()}
    rest = json.loads(judged.curve.to_json())
    rows = {"resampled": plain([dict(row) for row in judged.resampled])} if judged.resampled else {}
    told = {"scores": judged.path, **as_booleans(judged.in_sample), "areas": areas}
    return {**told, **rows, **rest}


def _print_curves(judged: Sequence[Judged], metric_name: str) -> None:
    from circuits.reporting.report import explain_faithfulness, title

    by_node = judged[0].curve.conditions.granularity.startswith("nodes")
    head = (
        "nodes" if by_node else "edges",
        "edges run" if by_node else "pruned to",
        metric_name,
        "faithful",
        "95 % interval",
        "random",
        "accuracy",
    )
    for one in judged:
        ranking, n = one.curve.ranking, len(one.curve.clean)
        print(f"{one.path}, by {ranking} score{one.in_sample and f', {one.in_sample}'}:")
        print_columns(head, [_row(point, metric_name) for point in one.curve.points])
        for name, area in one.areas.items():
            print(f"{name}: {area.value:.3f} ({area.low:.3f} to {area.high:.3f})")
        if one.resampled:
            print_resampled(one.resampled, against=Path(judged[0].path).stem)
        print(f"{title(metric_name)}, mean over {n} prompts.\n")
    said = judged[0].curve.conditions
    print(fill(explain_faithfulness(said.ablation), 88))
    print(fill(f"{said.direction}; ablated: {said.ablated_set}.", 88))
    print(fill("random: median and 97.5 % point of random circuits matched by layer.", 88))


def _row(point: "Point", metric_name: str) -> tuple[str, ...]:
    from circuits.reporting.report import percent, readable

    return (
        f"{point.requested:,}",
        f"{point.edges:,}",
        readable(metric_name, point.metric),
        percent(point.faithfulness),
        _range(point.low, point.high, " to "),
        _range(point.layer_matched_median, point.layer_matched_high, ", "),
        f"{point.accuracy:.1%}",
    )


def _range(low: float, high: float, between: str) -> str:
    from circuits.reporting.report import percent

    return "-" if low != low else f"{percent(low)}{between}{percent(high)}"


def _labelled(judged: Sequence[Judged]) -> "dict[str, Curve]":
    """Curves by the name of their file, or by its whole path where names are not enough."""
    names = [Path(one.path).stem for one in judged]
    if len(set(names)) < len(names):
        names = [one.path for one in judged]
    return {name: one.curve for name, one in zip(names, judged, strict=True)}


def _long_table(judged: Sequence[Judged]) -> "pandas.DataFrame":
    """One row per file and size."""
    import pandas

    frames = [one.curve.to_dataframe() for one in judged]
    for frame, one in zip(frames, judged, strict=True):
        frame.insert(0, "scores", one.path)
        frame.insert(1, "ranking", one.curve.ranking)
    return pandas.concat(frames, ignore_index=True)
