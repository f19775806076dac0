"""The commands `curve` and `compare`: how good circuits are, and what they share."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from circuits.shell.inputs import (
    open_metric,
    open_model,
    open_task,
    require_room,
    warn_of_other_weights,
)
from circuits.shell.printing import print_columns
from circuits.shell.recording import recorded
from circuits.shell.run_options import leads_here, open_run
from circuits.shell.scoring import open_ablation

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from circuits.judging.compare import CircuitComparison, ScoreComparison
    from circuits.judging.faithfulness import Sweep
    from circuits.judging.points import Curve, Point
    from patching.intervals import Estimate

FIGURES = (".svg", ".pdf", ".png")


@dataclass(frozen=True)
class Judged:
    """A file of scores: its curve, MIB's areas if the sizes are MIB's, and on which prompts."""

    path: str
    curve: "Curve"
    areas: "dict[str, Estimate]"
    in_sample: bool


def curve(args: Namespace) -> None:
    """Run the best edges of every file of scores at many sizes, beside random circuits.

    Raises:
        ValueError: if a file holds no scores, or of another graph than the model's, or the task
            leaves no gap to keep a share of.
    """
    _check_outputs(args)
    judged = _judge(args)
    if not leads_here(open_run(args)):
        return
    if args.json:
        print(json.dumps([_content(one) for one in judged], indent=1))
    else:
        _print_curves(judged, args.metric)
    if args.csv is not None:
        _write_csv(_long_table(judged), args.csv)
    if args.plot is not None:
        from circuits.judging.curves import plot_curves

        _write_figure(plot_curves(_labelled(judged)), args.plot)


def compare(args: Namespace) -> None:
    """Say what circuits share, or how far files of scores rank the edges alike.

    Raises:
        ValueError: if there are fewer than two files, or they are of both kinds or of different
            graphs.
    """
    _check_outputs(args)
    comparison = _compare_files(args)
    table = comparison.to_dataframe()
    if args.json:
        print(json.dumps(_records(table), indent=1))
    else:
        print_columns(list(table.columns), _cells(table))
    if args.csv is not None:
        _write_csv(table, args.csv)
    if args.plot is not None:
        from circuits.judging.curves import plot_comparison

        _write_figure(plot_comparison(comparison), args.plot)


def _judge(args: Namespace) -> list[Judged]:
    from circuits.judging.faithfulness import Sweep
    from circuits.judging.faithfulness import curve as run
    from circuits.scores import load_scores

    metric = open_metric(args)
    scores = {path: load_scores(path) for path in args.files}
    model = open_model(args)
    for path, one in scores.items():
        if one.graph == model.graph:  # else refused below
            warn_of_other_weights(path, one.provenance, model)
    task = open_task(args.task, model, args, seed=args.seed)
    sweep = Sweep(
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
    sweeps = [sweep] if args.sizes is not None else [sweep, _other(sweep)]
    judged, kept = [], open_run(args)
    for path, one in scores.items():
        curves = [
            _noted(run(model, task, one, metric, s, batch_size=args.batch_size, run=kept), args)
            for s in sweeps
        ]
        in_sample = one.provenance.get("tokens") == task.hash
        judged.append(Judged(path, curves[0], _areas(curves), in_sample))
    return judged


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
    return {"scores": judged.path, "in_sample": judged.in_sample, "areas": areas, **rest}


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
        print(f"{one.path}, by {ranking} score{', in-sample' if one.in_sample else ''}:")
        print_columns(head, [_row(point, metric_name) for point in one.curve.points])
        for name, area in one.areas.items():
            print(f"{name}: {area.value:.3f} ({area.low:.3f} to {area.high:.3f})")
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


def _compare_files(args: Namespace) -> "CircuitComparison | ScoreComparison":
    from circuits.circuit import load_circuit
    from circuits.judging.compare import compare_circuits, compare_scores
    from circuits.scores import load_scores

    hold_scores = {Path(path).suffix == ".safetensors" for path in args.files}
    if len(hold_scores) > 1:
        raise ValueError("circuits and scores cannot be compared; give files of one kind")
    if True not in hold_scores:
        found = compare_circuits({path: load_circuit(path) for path in args.files})
        if args.difference is not None:
            found.difference(*found.names[:2]).save(args.difference)
        return found
    if args.difference is not None:
        raise ValueError("--difference writes a circuit, and these are files of scores")
    return compare_scores({p: load_scores(p) for p in args.files}, ranking=args.ranking)


def _check_outputs(args: Namespace) -> None:
    """Refuse what could not be written, before anything is run.

    Raises:
        ValueError: if a file is given twice, an output is a folder or no kind of figure.
    """
    if len(set(args.files)) < len(args.files):
        raise ValueError(f"a file is given twice: {', '.join(args.files)}")
    for path in (args.csv, args.plot):
        if path is None:
            continue
        if Path(path).is_dir():
            raise ValueError(f"{path} is a folder; name the file to write")
        require_room(Path(path))
    if args.plot is not None and Path(args.plot).suffix.lower() not in FIGURES:
        raise ValueError(f"cannot draw {args.plot!r}: the name should end in {', '.join(FIGURES)}")


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


def _records(table: "pandas.DataFrame") -> list[object]:
    from circuits.judging.points import plain

    return [plain(row) for row in table.to_dict("records")]


def _cells(table: "pandas.DataFrame") -> list[list[str]]:
    rows = table.to_dict("records")
    return [[f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()] for row in rows]


def _write_csv(table: "pandas.DataFrame", path: str) -> None:
    from patching.files.whole import write_text

    write_text(path, table.to_csv(index=False))


def _write_figure(figure: "Figure", path: str) -> None:
    from circuits.drawing.plots import render
    from patching.files.whole import write_bytes

    write_bytes(path, render(figure, Path(path).suffix.lower()[1:]))
