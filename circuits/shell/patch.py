"""The command `patch`: what each activation is worth, exactly or to first order, as a map."""

import argparse
import json
import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_metric, open_model, open_task
from circuits.shell.names import choose
from circuits.shell.options import add_folder
from circuits.shell.printing import print_columns
from circuits.shell.recording import recorded
from circuits.shell.run_options import leads_here, open_run, part_of, say_partial
from circuits.shell.values import positive

if TYPE_CHECKING:
    from patching.attribution import Attributions
    from patching.grid import Grid
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task
    from patching.work import Interrupted, Run

HEAD, SPAN = "head", "span"
_OF_HEADS = ("z", "q", "k", "v", "pattern")


INPUTS = "inputs"  # attribution patching along them


@dataclass(frozen=True)
class Wish:
    """What is to be patched, over which axes, and by which method."""

    what: str
    over: tuple[str, ...]
    method: str
    direction: str
    batch_size: int
    run: "Run | None"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    group = parser.add_argument_group("patching")
    group.add_argument(
        "--what",
        default="resid_pre",
        metavar="KIND",
        help="head, or resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pattern, "
        "neurons (resid_pre)",
    )
    group.add_argument(
        "--over",
        metavar="AXES",
        help="layer,pos or layer,head or head,pos or layer,span or layer (by kind)",
    )
    group.add_argument(
        "--method",
        default="exact",
        metavar="NAME",
        help="exact, attribution, inputs (attribution along five steps of the inputs), atp-star, "
        "or a backward rule such as relp or gim (exact)",
    )
    group.add_argument(
        "--direction",
        choices=("denoising", "noising"),
        default="denoising",
        help="clean activations into the corrupt run, or the reverse (denoising)",
    )
    add_folder(group, "folder for map and tables")
    group.add_argument("--top", type=positive, default=10, metavar="K", help="places shown (10)")


def patch(args: Namespace) -> int | None:
    """Patch all activations of one kind; write a map, a table and the numbers.

    Interrupted, those of some prompts, under names that say so.

    Raises:
        ValueError: if a name is unknown, or model, task, metric and method do not fit together.
    """
    from patching.work import Interrupted

    metric, wish = open_metric(args), _open_wish(args)
    if Path(args.out).is_file():
        raise ValueError(f"--out {args.out} is a file; name a folder for the results")
    model = open_model(args)
    task = open_task(args.task, model, args, seed=args.seed)
    name = f"{args.what}-{args.method}"
    try:
        grid = _run(model, task, metric, wish, args)
    except Interrupted as stop:
        return _keep_partial(stop, args, wish)
    if not leads_here(wish.run):
        return None
    _note_lengths(task, wish)
    written = _write(_noted(grid, args), Path(args.out), name, _title(grid))
    _print(grid, args, wish)
    print(f"written to {args.out}: {', '.join(written)}")
    return None


def _keep_partial(stop: "Interrupted[Grid | Attributions]", args: Namespace, wish: Wish) -> int:
    """Write what the prompts so far came to, and say so: exit 130."""
    from patching.grid import Grid

    part, name = stop.partial, f"{args.what}-{args.method}.{part_of(stop)}"
    grid = part if isinstance(part, Grid) else part.pick(wish.what, wish.over)
    if leads_here(open_run(args)):
        _write(_noted(grid, args), Path(args.out), name, _title(grid))
        say_partial(stop, args, Path(args.out) / name)
    return 130


def _noted(grid: "Grid", args: Namespace) -> "Grid":
    return replace(grid, provenance={**grid.provenance, **recorded(args)})


def _open_wish(args: Namespace) -> Wish:
    from patching.anatomy.places import KINDS
    from patching.rules import RULES

    spelled = args.what.replace("-", "_")
    kind = choose("kind of activation", spelled, {HEAD: "z", **{kind: kind for kind in KINDS}})
    methods = ("exact", "attribution", INPUTS, "atp-star", *(r for r in RULES if r != "plain"))
    choose("method", args.method, dict.fromkeys(methods))
    if args.over is not None:
        over = tuple(part.strip() for part in args.over.split(","))
    elif kind == "neurons":
        over = ("layer", "neuron")
    else:
        over = ("layer", "head" if kind in _OF_HEADS else "pos")
    _check_axes(kind, over, args.method)
    return Wish(kind, over, args.method, args.direction, args.batch_size, open_run(args))


def _check_axes(kind: str, over: tuple[str, ...], method: str) -> None:
    """Refuse axes that the kind has not, before any model is loaded.

    Raises:
        ValueError: if the axes are none of the kind's, or the method cannot score it.
    """
    axes = [("layer", "pos"), ("layer",)]
    if kind == "neurons":
        axes = [("layer", "neuron"), ("layer",)]
    elif kind in _OF_HEADS:
        axes = [("layer", "head"), ("head", "pos"), *axes]
    if method == "atp-star" and kind in _OF_HEADS:
        axes = axes[:2]  # sizes without a sign do not add up over heads
    elif method == "exact":
        axes += [("layer", "pos"), ("layer", SPAN)] if kind == "neurons" else [("layer", SPAN)]
    if over not in axes:
        known = "; ".join(",".join(one) for one in axes)
        raise ValueError(
            f"--over for {kind} by {method} is one of {known}; got {','.join(over) or 'nothing'}"
        )
    if method == "atp-star" and kind.startswith("resid"):
        raise ValueError(f"atp-star scores what layers write, and {kind} is the whole stream")


def _note_lengths(task: "Task", wish: Wish) -> None:
    lengths = {len(prompt.clean) for prompt in task.prompts}
    if "pos" in wish.over and len(lengths) > 1:
        print(
            f"Prompts have {min(lengths)} to {max(lengths)} tokens: positions count from the first "
            "and need not mean the same in all."
        )


def _run(model: "Model", task: "Task", metric: "Metric", wish: Wish, args: Namespace) -> "Grid":
    from patching.memory import budget

    how = {"exact": _exact, "atp-star": _atp_star}.get(wish.method, _attribution)
    with budget(args.memory):
        return how(model, task, metric, wish)


def _exact(model: "Model", task: "Task", metric: "Metric", wish: Wish) -> "Grid":
    from patching.activation import activation_patching, neuron_patching, span_patching

    options = {"direction": wish.direction, "batch_size": wish.batch_size, "run": wish.run}
    if wish.over == ("layer", "neuron") and wish.what == "neurons":
        return neuron_patching(model, task, metric, range(len(model.blocks)), **options)
    if SPAN in wish.over:
        return span_patching(model, task, metric, None, wish.what, **options)
    return activation_patching(model, task, metric, wish.what, wish.over, **options)


def _attribution(model: "Model", task: "Task", metric: "Metric", wish: Wish) -> "Grid":
    from patching.attribution import attribution_patching
    from patching.paths import along_inputs
    from patching.rules import RULES

    plain = wish.method in ("attribution", INPUTS)
    found = attribution_patching(
        model,
        task,
        metric,
        direction=along_inputs() if wish.method == INPUTS else wish.direction,
        rule=RULES["plain" if plain else wish.method],
        kinds=[wish.what],
        batch_size=wish.batch_size,
        run=wish.run,
    )
    return found.pick(wish.what, wish.over)


def _atp_star(model: "Model", task: "Task", metric: "Metric", wish: Wish) -> "Grid":
    from patching.attribution import atp_star

    found = atp_star(
        model,
        task,
        metric,
        direction=wish.direction,
        kinds=[wish.what],
        by_position="pos" in wish.over,
        batch_size=wish.batch_size,
        run=wish.run,
    )
    return found.pick(wish.what, wish.over)


def _write(grid: "Grid", folder: Path, name: str, title: str) -> list[str]:
    from circuits.drawing.plots import render
    from patching.files.whole import write_bytes, write_text

    figure = grid.plot(title=title)
    contents = {
        f"{name}.png": render(figure, "png"),
        f"{name}.svg": render(figure, "svg"),
        f"{name}.csv": grid.to_dataframe().to_csv(index=False).encode(),
    }
    for file, content in contents.items():
        write_bytes(folder / file, content)
    write_text(folder / f"{name}.json", json.dumps(_content(grid), indent=1) + "\n")
    return [*contents, f"{name}.json"]


def _content(grid: "Grid") -> dict[str, object]:
    """The grid for a JSON file; numbers that JSON cannot hold become null."""
    assert grid.clean is not None and grid.corrupt is not None, "patching knows both runs"
    return {
        "quantity": grid.quantity,
        "axes": {name: list(labels) for name, labels in grid.axes.items()},
        "mean": _finite(grid.mean.tolist()),
        "clean": _finite(grid.clean.mean().item()),
        "corrupt": _finite(grid.corrupt.mean().item()),
        "provenance": dict(grid.provenance),
    }


def _finite(value: object) -> object:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _title(grid: "Grid") -> str:
    facts = grid.provenance
    return f"{facts['what']} of {facts['model']} on {facts['task']}: {facts['method']}"


def _print(grid: "Grid", args: Namespace, wish: Wish) -> None:
    from circuits.reporting.report import readable, title

    assert grid.clean is not None and grid.corrupt is not None, "patching knows both runs"
    n = grid.provenance["n_examples"]
    clean, corrupt = (readable(args.metric, float(x.mean())) for x in (grid.clean, grid.corrupt))
    print(f"{title(args.metric)}, mean over {n} prompts: clean {clean}, corrupt {corrupt}.")
    unsigned = wish.method == "atp-star"
    rows = [(*labels, _number(value, signed=not unsigned)) for labels, value in grid.top(args.top)]
    print_columns((*grid.axes, grid.quantity), rows)
    print(_explain(wish, unsigned))
    for part in _listed(grid.provenance.get("unruled")):
        print(f"  plain gradient instead of {part}")


def _number(value: float, *, signed: bool) -> str:
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def _explain(wish: Wish, unsigned: bool) -> str:
    if wish.method == "exact":
        return f"Exact, {wish.direction}; positive: the clean activation helps the metric."
    first = f"First-order estimates of {wish.direction}, not effects that were measured"
    if unsigned:
        return f"{first}; sizes without a sign. --method exact measures them."
    return f"{first}; positive: helps the metric in the clean run. --method exact measures them."


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
