"""The command `neurons`: find context-aware neurons and judge them, or answer with them reweighted.

Heavy imports when needed.
"""

import argparse
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_model, open_task
from circuits.shell.names import choose
from circuits.shell.options import Parser, add_overwrite
from circuits.shell.printing import print_columns
from circuits.shell.recording import recorded
from circuits.shell.reweighting import apply
from circuits.shell.run_options import leads_here, open_run
from circuits.shell.values import numbers, positive, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patching.model import Model
    from patching.neurons import ConflictTask, Neurons, Trial, TrialPlan
    from patching.tasks import Task

BETAS = (0.0, 0.5, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
FILES = "report.md, neurons.json, ranked.json, rates.csv, layers, sweep and betas (.png, .svg)"
FIGURES = ("layers", "sweep", "betas")
TOY_TASKS = "ioi,facts,subject-verb-agreement,induction"
ELSEWHERE = {"conflict": TOY_TASKS, "indirect-conflict": "facts"}


def add_options(parser: Parser) -> None:
    """What is searched for, how it is judged, and what is answered."""
    add_overwrite(parser)
    _add_finding(parser.add_argument_group("find"))
    _add_judging(parser.add_argument_group("judge"))
    _add_applying(parser.add_argument_group("answer with reweighted neurons"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _add_finding(find: argparse._ArgumentGroup) -> None:
    find.add_argument(
        "--task",
        metavar="TASK",
        help="conflict, indirect-conflict (generated) or a file (.json, .jsonl, .csv)",
    )
    find.add_argument("--out", metavar="DIR", help="folder for all results")
    find.add_argument("--method", default="ircan", metavar="NAME", help="ircan, relp, ... (ircan)")
    find.add_argument("--top", type=positive, default=16, metavar="H", help="neurons (16)")
    find.add_argument(
        "--layers", type=numbers, metavar="N,N,...", help="choose in these layers only (all)"
    )
    find.add_argument("--steps", type=positive, metavar="N", help="steps of a path method (20)")
    find.add_argument("--n", type=positive, default=400, help="conflicts to generate (400)")
    find.add_argument("--limit", type=positive, metavar="N", help="use only the first N conflicts")
    find.add_argument("--seed", type=int, default=0, help="seed of all random choices (0)")
    find.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="rows a run (16)"
    )


def _add_judging(judge: argparse._ArgumentGroup) -> None:
    judge.add_argument(
        "--holdout",
        type=share,
        default=0.5,
        metavar="SHARE",
        help="share of the questions kept from the search to judge on (0.5)",
    )
    judge.add_argument(
        "--betas", type=betas, default=BETAS, metavar="B,B,...", help="factors that are tried"
    )
    judge.add_argument(
        "--random", type=positive, default=5, metavar="N", help="sets of random neurons (5)"
    )
    judge.add_argument("--alpha", type=float, default=0.5, help="of context-aware decoding (0.5)")
    judge.add_argument(
        "--elsewhere",
        metavar="TASK,...",
        help=f"tasks that must not suffer ({TOY_TASKS}, where the task is conflict)",
    )
    judge.add_argument("--first-token", action="store_true", help=argparse.SUPPRESS)


def _add_applying(apply: argparse._ArgumentGroup) -> None:
    apply.add_argument("--apply", metavar="FILE", help="neurons.json of an earlier search")
    apply.add_argument("--beta", type=float, metavar="B", help="factor (the one found best)")
    apply.add_argument("--prompt", metavar="TEXT", help="to be continued with and without the edit")
    apply.add_argument("--tokens", type=positive, default=10, metavar="N", help="tokens (10)")
    apply.add_argument("--export", metavar="DIR", help="write the edited model as a folder")


def neurons(args: Namespace) -> None:
    """Find neurons that make a model follow its context, or answer with some reweighted.

    Raises:
        ValueError: if options are missing or do not fit, or model and task do not.
    """
    if args.apply is not None:
        apply(args)
        return
    for option in ("model", "task", "out"):
        if getattr(args, option) is None:
            raise ValueError(
                f"--{option} is missing; neurons needs --model, --task and --out to find neurons, "
                "or --apply FILE and --prompt TEXT to answer with them"
            )
    if Path(args.out).is_file():
        raise ValueError(f"--out {args.out} is a file; name a folder for the results")
    _find(args)


def betas(text: str) -> tuple[float, ...]:
    """Factors from 0, with commas between.

    Raises:
        ArgumentTypeError: for anything else.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= beta < float("inf") for beta in found):
        raise argparse.ArgumentTypeError(f"factors from 0 such as 0,2,4 are needed, got {text!r}")
    return found


def _find(args: Namespace) -> None:
    from circuits.reporting.neuron_report import render, tidy, verdict
    from patching.files.whole import write_text
    from patching.neurons import run_trial, split_by_question

    method = _open_method(args)
    model = open_model(args)
    elsewhere = _open_elsewhere(args, model)
    task = _open_conflicts(args, model)
    tasks = split_by_question(task, 1 - args.holdout, seed=args.seed)
    ranked = method(model, tasks[0])
    run = open_run(args)
    trial = run_trial(model, ranked, tasks, _plan(args), elsewhere=elsewhere, run=run)
    if not leads_here(run):
        return
    found = replace(trial.neurons, provenance=_provenance(args, ranked, trial))
    folder = Path(args.out)
    found.save(folder / "neurons.json")
    ranked.save(folder / "ranked.json")
    write_text(folder / "rates.csv", tidy(trial).to_csv(index=False))
    figures = _draw(model, ranked, trial, folder)
    settings = {"model": model.name, **_settings(args), **_flat(found.provenance)}
    write_text(folder / "report.md", render(trial, settings, figures, _tokens(model, found)))
    if args.json:
        print(tidy(trial).to_json(orient="records", indent=1))
        return
    print(verdict(trial))
    _print_decodings(trial)
    print(f"written to {args.out}: {FILES}")


def _open_method(args: Namespace) -> "Callable[[Model, ConflictTask], Neurons]":
    from patching.neurons import NEURON_METHODS, Choice, most_frequent

    method = choose("method", args.method, NEURON_METHODS)
    if method.needs_neurons:
        raise ValueError(f"{args.method} works on a shortlist, which only Python can give it")
    if args.steps is not None and not method.takes_steps:
        raise ValueError(f"{args.method} has no path to take steps on; leave out --steps")
    function, run = method.function, open_run(args)
    options = {} if args.steps is None else {"steps": args.steps}

    def find(model: "Model", task: "ConflictTask") -> "Neurons":
        scores = function(model, task, batch_size=args.batch_size, run=run, **options)
        return most_frequent(scores, args.top, Choice(layers=args.layers))

    return find


def _open_conflicts(args: Namespace, model: "Model") -> "ConflictTask":
    from patching.neurons import indirect_conflicts, read_conflicts, toy_conflicts

    generated = {"conflict": toy_conflicts, "indirect-conflict": indirect_conflicts}
    if args.task not in generated:
        if not Path(args.task).suffix:
            raise ValueError(
                f"no conflicts named {args.task!r}; there is conflict (capitals, generated), "
                "indirect-conflict (for toy-context), or give a .json, .jsonl or .csv file"
            )
        task = read_conflicts(args.task, model.tokenizer)
    elif model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer to write conflicts with; give a file")
    else:
        task = generated[args.task](model.tokenizer, args.n, args.seed)
    return task if args.limit is None else task.take(args.limit)


def _open_elsewhere(args: Namespace, model: "Model") -> "dict[str, Task]":
    names = args.elsewhere or ELSEWHERE.get(args.task, "")
    return {name: open_task(name, model, args, seed=args.seed) for name in names.split(",") if name}


def _plan(args: Namespace) -> "TrialPlan":
    from patching.neurons import TrialPlan

    sizes = {2**i for i in range(args.top.bit_length())} | {args.top}
    return TrialPlan(
        sizes=tuple(sorted(sizes)),
        betas=args.betas,
        n_controls=args.random,
        alpha=args.alpha,
        seed=args.seed,
    )


def _provenance(args: Namespace, ranked: "Neurons", trial: "Trial") -> dict[str, object]:
    """How the neurons were found and chosen; `source` is how the model was named."""
    development, held_out = trial.tasks
    return {
        **ranked.provenance,
        **recorded(args),
        "source": args.model,
        "h": len(trial.neurons),
        "beta": trial.beta,
        "development": f"{len(development)} conflicts, {development.hash}",
        "held_out": f"{len(held_out)} conflicts, {held_out.hash}",
    }


def _settings(args: Namespace) -> dict[str, object]:
    names = ("method", "top", "layers", "seed", "holdout", "betas", "random", "alpha")
    return {name: getattr(args, name) for name in names}


def _flat(provenance: Mapping[str, object]) -> dict[str, object]:
    """What the scores say of themselves beside what was said of them."""
    scores = provenance.get("scores", {})
    assert isinstance(scores, Mapping), "scores say where they come from"
    return {**scores, **{key: value for key, value in provenance.items() if key != "scores"}}


def _draw(model: "Model", ranked: "Neurons", trial: "Trial", folder: Path) -> dict[str, str]:
    from patching.neurons.pictures import plot_betas, plot_layers, plot_sweep

    about = f"{model.name}: {trial.tasks[0].name}"
    drawn = {
        "layers": plot_layers(ranked, len(model.blocks), title=about),
        "sweep": plot_sweep(trial.dev, title=f"{about}, development conflicts"),
        "betas": plot_betas(trial, title=f"{about}, held-out conflicts"),
    }
    for name, figure in drawn.items():
        _save(figure, folder / name)
    return {name: f"{name}.svg" for name in drawn}


def _tokens(model: "Model", chosen: "Neurons") -> dict[str, str]:
    """The tokens that each neuron's output weights promote, best first."""
    from patching.neurons import vocabulary_effects

    if model.tokenizer is None:
        return {}
    effects = vocabulary_effects(model, chosen, k=5)
    promoted = effects[effects["sign"] == "promotes"].groupby("neuron", sort=False)["text"]
    return {str(name): ", ".join(map(repr, texts)) for name, texts in promoted}


def _save(figure: "Figure", path: Path) -> None:
    from circuits.drawing.plots import render
    from patching.files.whole import write_bytes

    for suffix in ("png", "svg"):
        write_bytes(path.with_suffix(f".{suffix}"), render(figure, suffix))


def _print_decodings(trial: "Trial") -> None:
    from circuits.reporting.neuron_report import count
    from patching.neurons.measures import MEASURES

    rates = trial.decodings
    rows = [
        (way, *(f"{rates.at(decoding=way, measure=measure):.1%}" for measure in MEASURES))
        for way in rates.axes["decoding"]
    ]
    h, n = count(len(trial.neurons)), len(trial.tasks[1])
    print(f"\non {n} held-out conflicts, {h} at beta {trial.beta:g}:")
    print_columns(("", *MEASURES), rows)
