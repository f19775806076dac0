"""The command `evaluate`: circuits on a task. Heavy imports when needed."""

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from circuits.shell.inputs import (
    open_metric,
    open_model,
    open_task,
    warn_of_other_weights,
)
from circuits.shell.method_inputs import open_ablation
from circuits.shell.options import Parser, add_resamples
from circuits.shell.overlap import SAID, as_booleans, overlap
from circuits.shell.printing import print_columns
from circuits.shell.reading import read_circuit
from circuits.shell.recording import recorded
from circuits.shell.resampling import check_scores, print_resampled, resample_circuits
from circuits.shell.run_options import leads_here, open_run

if TYPE_CHECKING:
    from circuits.circuit import Circuit
    from circuits.reporting.report import Measured
    from circuits.running.evaluation import Evaluation
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task


def add_options(parser: Parser) -> None:
    """Which circuits, and where the numbers go."""
    parser.add_argument("files", metavar="CIRCUIT", nargs="+", help="circuit files")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument("--csv", metavar="FILE", help="write one row per circuit and prompt")
    add_resamples(
        parser,
        "find the circuits on N resamples of the search's prompts too: intervals that contain "
        "the search, paired differences from the first circuit (0)",
    )
    parser.add_argument(
        "--scores",
        type=_paths,
        metavar="FILE,...",
        help="for --resamples: the scores, kept by prompt, of all circuits or of each in turn",
    )


def _paths(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def evaluate(args: Namespace) -> None:
    """Run circuits on a task and say how much of the model's behaviour each keeps.

    Raises:
        ValueError: if a file is no circuit, or of another graph than the model's.
    """
    from circuits.discover import measure
    from circuits.running.evaluation import evaluate as run

    check_scores(args)
    metric, kept = open_metric(args), open_run(args)
    model, circuits = _open_circuits(args)
    task = open_task(args.task, model, args, seed=args.seed)
    evaluation = run(
        model,
        task,
        [~circuit for circuit in circuits] if args.ablated == "inside" else circuits,
        metric,
        ablation=open_ablation(args, model, task),
        direction=args.direction,
        batch_size=args.batch_size,
        run=kept,
    )
    if not leads_here(kept):
        return
    measured = measure(evaluation, circuits)
    in_sample = {
        path: overlap(circuit.provenance, task)
        for path, circuit in zip(args.files, circuits, strict=True)
    }
    again = resample_circuits(args, model, task, circuits, kept) if args.resamples else []
    if args.csv is not None:
        _write_values(args, evaluation)
    if args.json:
        said = _provenance(args, model, task, metric)
        rows = _rows(args, evaluation, measured)
        print(json.dumps(_beside(rows, in_sample, said, again), indent=2))
        return
    _print_evaluation(args, evaluation, measured, in_sample)
    if again:
        print_resampled(again, against=args.files[0])


def _open_circuits(args: Namespace) -> "tuple[Model, list[Circuit]]":
    """The model, and the circuits of the files in its graph; files are read first."""
    from circuits.grouping import join_circuit

    circuits = [read_circuit(path) for path in args.files]
    model = open_model(args)
    for i, (path, circuit) in enumerate(zip(args.files, circuits, strict=True)):
        circuits[i] = join_circuit(circuit, model.graph, f"{path} is a circuit")
        warn_of_other_weights(path, circuit.provenance, model)
    return model, circuits


def _beside(
    rows: Sequence[Mapping[str, object]],
    in_sample: Mapping[str, str],
    said: Mapping[str, object],
    again: Sequence[Mapping[str, object]],
) -> list[dict[str, object]]:
    """What is said of each circuit, with where it was found and what resamples say of it."""
    seen = [{**row, **as_booleans(in_sample[str(row["circuit"])])} for row in rows]
    found = [{"resampled": dict(one)} for one in again] or [{} for _ in rows]
    return [{**row, **one, "provenance": dict(said)} for row, one in zip(seen, found, strict=True)]


def _write_values(args: Namespace, evaluation: "Evaluation") -> None:
    """One row per circuit and prompt: a tidy table."""
    import pandas

    from patching.files.whole import write_text

    frames = [
        pandas.DataFrame(
            {
                "circuit": path,
                "prompt": range(len(values)),
                args.metric: values,
                "clean": evaluation.clean,
                "corrupt": evaluation.corrupt,
            }
        )
        for path, values in zip(args.files, evaluation.values, strict=True)
    ]
    write_text(args.csv, pandas.concat(frames).to_csv(index=False))


def _rows(
    args: Namespace, evaluation: "Evaluation", measured: "Sequence[Measured]"
) -> list[dict[str, object]]:
    """One object per circuit; numbers that JSON cannot hold become null."""
    clean, corrupt = float(evaluation.clean.mean()), float(evaluation.corrupt.mean())
    return [
        {
            "circuit": str(path),
            "edges": m.edges,
            "clean": _finite(clean),
            "corrupt": _finite(corrupt),
            "metric": _finite(m.metric),
            "faithfulness": _finite(m.faithfulness),
            "metric_name": args.metric,
            "ablated": args.ablated,
            "direction": args.direction,
            "n_examples": len(evaluation.clean),
        }
        for path, m in zip(args.files, measured, strict=True)
    ]


def _provenance(
    args: Namespace, model: "Model", task: "Task", metric: "Metric"
) -> dict[str, object]:
    from circuits.provenance import describe

    ablation = open_ablation(args, model, task)(model).name
    said = describe(model, task, metric, "evaluation", {}, ablation=ablation)
    return {**said, **recorded(args)}


def _print_evaluation(
    args: Namespace,
    evaluation: "Evaluation",
    measured: "Sequence[Measured]",
    in_sample: Mapping[str, str],
) -> None:
    from circuits.reporting.report import explain_faithfulness, percent, readable, title

    clean, corrupt = float(evaluation.clean.mean()), float(evaluation.corrupt.mean())
    rows = [
        (str(path), f"{m.edges:,}", readable(args.metric, m.metric), percent(m.faithfulness))
        for path, m in zip(args.files, measured, strict=True)
    ]
    first = ("clean run", "", readable(args.metric, clean), "")
    last = ("no edge", "", readable(args.metric, corrupt), "")
    print_columns(("circuit", "edges", args.metric, "faithfulness"), [first, *rows, last])
    print(f"\n{title(args.metric)}, mean over {len(evaluation.clean)} prompts.")
    for kind, told in SAID.items():
        if found := ", ".join(path for path, seen in in_sample.items() if seen == kind):
            print(f"{kind.capitalize()}, {told}: {found}.")
    print(fill(explain_faithfulness(args.ablation), 88))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
