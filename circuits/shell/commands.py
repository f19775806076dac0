"""The commands: from parsed options to files and printed lines. Heavy imports when needed."""

import json
import math
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from circuits.shell.inputs import (
    check_out,
    open_metric,
    open_model,
    open_selector,
    open_task,
    require_room,
    warn_of_other_weights,
)
from circuits.shell.printing import print_columns, print_edges, print_provenance
from circuits.shell.recording import recorded
from circuits.shell.run_options import keep_partial, leads_here, open_run
from circuits.shell.scoring import ABLATIONS, open_ablation, open_method

if TYPE_CHECKING:
    from circuits.reporting.report import Measured
    from circuits.running.evaluation import Evaluation
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task


def score(args: Namespace) -> int | None:
    """Score all edges and write them to a file; interrupted, those of some prompts.

    Raises:
        ValueError: if a name is unknown, or model, task, metric and method do not fit together.
    """
    from circuits.scoring import Interrupted

    metric, method, run = open_metric(args), open_method(args), open_run(args)
    check_out(args.out, ".safetensors")
    model = open_model(args)
    task = open_task(args.task, model, args, seed=args.seed)
    try:
        scores = method(model, task, metric)
    except Interrupted as stop:
        return keep_partial(stop, args)
    if not leads_here(run):
        return None
    scores.save(args.out)
    method_name = scores.provenance["method"]
    print(
        f"{scores.graph.n_edges:,} edges of {model.name} scored by {method_name} on "
        f"{len(task)} prompts of {task.name}; strongest by {args.ranking} score:"
    )
    print_edges(scores.top(args.top, ranking=args.ranking))
    print(f"written to {args.out}")
    return None


def select(args: Namespace) -> None:
    """Choose edges from a file of scores.

    Raises:
        ValueError: if the file is no file of scores, or the graph has too few edges.
    """
    from circuits.export import save
    from circuits.scores import load_scores

    circuit = open_selector(args)(load_scores(args.file), args.size)
    save(circuit, args.out)
    print(
        f"{circuit.size:,} of {circuit.graph.n_edges:,} edges, chosen by {args.ranking} score "
        f"({args.selector}{', pruned' if args.prune else ''}), written to {args.out}"
    )


def evaluate(args: Namespace) -> None:
    """Run circuits on a task and say how much of the model's behaviour each keeps.

    Raises:
        ValueError: if a file is no circuit, or of another graph than the model's.
    """
    from circuits.circuit import load_circuit
    from circuits.discover import measure
    from circuits.running.evaluation import evaluate as run

    metric, kept = open_metric(args), open_run(args)
    if args.csv is not None:
        require_room(Path(args.csv))
    circuits = [load_circuit(path) for path in args.files]
    model = open_model(args)
    for path, circuit in zip(args.files, circuits, strict=True):
        if circuit.graph != model.graph:
            raise ValueError(
                f"{path} is a circuit of another graph ({circuit.graph.describe()}) than that of "
                f"{model.name} ({model.graph.describe()})"
            )
        warn_of_other_weights(path, circuit.provenance, model)
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
    if args.csv is not None:
        _write_values(args, evaluation)
    if args.json:
        said = _provenance(args, model, task, metric)
        rows = [{**row, "provenance": said} for row in _rows(args, evaluation, measured)]
        print(json.dumps(rows, indent=2))
    else:
        _print_evaluation(args, evaluation, measured)


def show(args: Namespace) -> None:
    """Print what a file of scores or a circuit holds.

    Raises:
        ValueError: if the file is neither.
    """
    from circuits.circuit import load_circuit
    from circuits.reporting.report import strongest
    from circuits.scores import load_scores

    if _holds_scores(Path(args.file)):
        scores = load_scores(args.file)
        graph, provenance = scores.graph, scores.provenance
        edges = scores.top(args.top, ranking=args.ranking)
        print(f"scores of {graph.n_edges:,} edges: {graph.describe()}")
    else:
        circuit = load_circuit(args.file)
        graph, provenance = circuit.graph, circuit.provenance
        edges = strongest(circuit, args.top, args.ranking)
        print(f"circuit of {circuit.size:,} of {graph.n_edges:,} edges: {graph.describe()}")
    print_provenance(provenance)
    print(f"strongest edges by {args.ranking} score (positive: helps the metric in the clean run):")
    print_edges(edges)


def methods(args: Namespace) -> None:
    """Print the scoring methods."""
    from circuits.scoring import METHODS, PATHS, QUADRATURES
    from patching.rules import RULES

    rows = [(name, method.cost, method.source) for name, method in METHODS.items()]
    print_columns(("method", "cost", "source"), rows)
    print(f"\nrules (--rule):             {', '.join(RULES)}")
    print(f"paths (--path):             {', '.join(PATHS)}")
    print(f"quadratures (--quadrature): {', '.join(QUADRATURES)}")
    print(f"ablations (--ablation):     {', '.join(ABLATIONS)}")


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
    args: Namespace, evaluation: "Evaluation", measured: "Sequence[Measured]"
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
    print(fill(explain_faithfulness(args.ablation), 88))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _holds_scores(path: Path) -> bool:
    """Whether a file holds scores (safetensors: a length, then a JSON header) or a circuit.

    Raises:
        ValueError: if it looks like neither.
    """
    with path.open("rb") as file:
        start = file.read(9)
    is_scores, is_json = start[8:] == b"{", start.lstrip().startswith(b"{")
    if path.suffix not in (".json", ".safetensors") and not is_scores and not is_json:
        raise ValueError(f"{path} is neither scores (safetensors) nor a circuit (JSON)")
    return path.suffix == ".safetensors" or (is_scores and path.suffix != ".json")
