"""From options to a way of scoring: a named method, or a rule on a path, under an ablation."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from circuits.shell.inputs import find_selector, open_task
from circuits.shell.names import choose
from circuits.shell.own_methods import find_method
from circuits.shell.recording import recorded
from circuits.shell.run_options import open_run

if TYPE_CHECKING:
    from circuits.scores import Scores
    from circuits.scoring import Method, Path
    from patching.ablations import Ablation
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task

ABLATIONS = ("resample", "zero", "mean", "positional-mean", "optimal", "random")
AUTO = "auto"
"""In the place of a method's name: the one that evidence is for."""

BY_PROMPT = ("lower-bound", "inclusion", "mean-size", "smoothed-size")
"""Selectors that need to know what each prompt alone scores."""

_OVER_PROMPTS = ("mean", "positional-mean", "optimal")


def open_method(args: Namespace) -> "Callable[[Model, Task, Metric], Scores]":
    """The method of `--method`, or the combination of `--rule` and `--path`.

    Its scores say by which command they were made.

    Raises:
        ValueError: if there is no such method, rule, path or quadrature, or options do not fit.
    """
    from patching.memory import budget

    free = args.rule is not None or args.path is not None
    if free and args.method is not None:
        raise ValueError("--method names a rule and a path already; give it, or --rule and --path")
    choose("ablation", args.ablation, dict.fromkeys(ABLATIONS))
    if free:
        make = _open_recipe(args)
    elif args.method == AUTO:
        make = _open_auto(args)
    else:
        name = args.method or "eap-ig"
        make = _open_named(name, args, find_method(name))

    def run(model: "Model", task: "Task", metric: "Metric") -> "Scores":
        with budget(args.memory):
            scores = make(model, task, metric)
        made = {"seed": args.seed, **recorded(args)}
        return replace(scores, provenance={**scores.provenance, **made})

    return run


def open_ablation(args: Namespace, model: "Model", task: "Task") -> "Ablation":
    """The ablation of `--ablation`; constants are of `--ablation-task`, or of `task` itself.

    Raises:
        ValueError: if there is none of this name, constants cannot be had, or options do not fit.
    """
    from patching.ablations import mean, positional_mean, resample, zero

    choose("ablation", args.ablation, dict.fromkeys(ABLATIONS))
    if args.constants is not None and args.ablation != "optimal":
        raise ValueError("--constants are those of --ablation optimal; give both, or neither")
    if args.ablation in _OVER_PROMPTS:
        other = args.ablation_task
        over = task if other is None else open_task(other, model, args, seed=args.seed)
        if args.ablation == "optimal":
            return _open_optimal(args.constants, model, over, args)
        make = mean if args.ablation == "mean" else positional_mean
        return make(over, batch_size=args.batch_size)
    return zero if args.ablation == "zero" else resample


def _open_optimal(path: str | None, model: "Model", task: "Task", args: Namespace) -> "Ablation":
    """The constants of a file; learned, and written there, where there is none.

    Raises:
        ValueError: if the file is of another model or of other prompts.
    """
    from patching.constants import load_optimal
    from patching.optimal import SCHEDULE, optimal

    if path is None or not FilePath(path).exists():
        schedule = replace(SCHEDULE, batch_size=args.batch_size, seed=args.seed)
        learned = optimal(model, task, schedule=schedule)
        if path is not None:
            learned.save(path)
        return learned
    found = load_optimal(path, model)
    if found.provenance.get("tokens") != task.hash:
        raise ValueError(
            f"the constants of {path} were learned on other prompts "
            f"({found.provenance.get('task')}) than {task.name}; name another file for these"
        )
    return found


def _open_named(
    name: str, args: Namespace, method: "Method"
) -> "Callable[[Model, Task, Metric], Scores]":
    options = _path_options(name, args, method)
    if args.ablation not in ("resample", "random") and not method.takes_ablation:
        raise ValueError(f"{name} does not work under --ablation {args.ablation}")
    if keeps_prompts(args) and not method.by_prompt:
        raise ValueError(f"{name} is no mean over prompts: it cannot be kept by prompt")

    def make(model: "Model", task: "Task", metric: "Metric") -> "Scores":
        if method.takes_ablation:
            options["ablation"] = open_ablation(args, model, task)
        function = partial(method.function, batch_size=args.batch_size, **options)
        return _all_or_each(args, model, task, metric, function)

    return make


def _path_options(name: str, args: Namespace, method: "Method") -> dict[str, object]:
    """What was given of `--steps` and `--quadrature`.

    Raises:
        ValueError: if the method takes no such thing, or there is no such quadrature.
    """
    from circuits.scoring import QUADRATURES

    options: dict[str, object] = {}
    if args.steps is not None:
        options["steps"] = args.steps
    if args.quadrature is not None:
        options["quadrature"] = choose("quadrature", args.quadrature, QUADRATURES)
    if options and not method.takes_steps:
        given = " and ".join(f"--{option}" for option in options)
        raise ValueError(f"{name} has no path to take steps on; leave out {given}")
    if args.quadrature is not None and not method.takes_quadrature:
        raise ValueError(f"{name} lays its steps by itself; leave out --quadrature")
    return options


def _open_auto(args: Namespace) -> "Callable[[Model, Task, Metric], Scores]":
    """The method chosen by evidence, for the size or the faithfulness that is asked for.

    Raises:
        ValueError: if there are options of a path method.
    """
    from circuits.choosing import SELECT_BY, auto
    from circuits.judging.smallest import ENOUGH, Goal

    if args.steps is not None or args.quadrature is not None:
        raise ValueError("auto lays its steps by itself; leave out --steps and --quadrature")

    def make(model: "Model", task: "Task", metric: "Metric") -> "Scores":
        asked = getattr(args, "faithfulness", None) or ENOUGH
        ablation = open_ablation(args, model, task)
        name = getattr(args, "selector", None)
        goal = Goal(args.ranking, asked, ablation=ablation, wrong_sign=True)
        return auto(
            model,
            task,
            metric,
            goal,
            size=getattr(args, "size", None),
            selectors={name: find_selector(name)} if name else SELECT_BY,
            batch_size=args.batch_size,
            run=open_run(args),
        ).scores

    return make


def keeps_prompts(args: Namespace) -> bool:
    """Whether what each prompt alone scores is kept."""
    chosen = getattr(args, "selector", None) in BY_PROMPT
    return args.by_prompt or chosen or bool(getattr(args, "resamples", 0))


def _all_or_each(
    args: Namespace,
    model: "Model",
    task: "Task",
    metric: "Metric",
    function: "Callable[..., Scores]",
) -> "Scores":
    """Scores of all prompts, in batches, or of each by itself where that is kept."""
    from circuits.judging.prompts import by_prompt

    run = open_run(args)
    if not keeps_prompts(args):
        return function(model, task, metric, run=run)
    return by_prompt(task, lambda part: function(model, part, metric), run=run)


def _open_recipe(args: Namespace) -> "Callable[[Model, Task, Metric], Scores]":
    from circuits.scoring import Recipe, score, score_each
    from patching.rules import RULES

    rule, path = choose("rule", args.rule or "plain", RULES), _open_path(args)

    def make(model: "Model", task: "Task", metric: "Metric") -> "Scores":
        recipe = Recipe(path, rule, open_ablation(args, model, task))
        by, run = score_each if keeps_prompts(args) else score, open_run(args)
        return by(model, task, metric, recipe, batch_size=args.batch_size, run=run)

    return make


def _open_path(args: Namespace) -> "Path":
    from circuits.scoring import (
        PATHS,
        PATHS_WITH_STEPS,
        PATHS_WITHOUT_QUADRATURE,
        QUADRATURES,
    )

    name = args.path or "clean"
    make = choose("path", name, PATHS)
    if name in PATHS_WITHOUT_QUADRATURE:
        if args.quadrature is not None:
            raise ValueError(f"the path {name!r} lays its steps by itself; leave out --quadrature")
        return make(args.steps or 5)
    if name in PATHS_WITH_STEPS:
        quadrature = choose("quadrature", args.quadrature or "midpoint", QUADRATURES)
        return make(args.steps or 5, quadrature)
    if args.steps is not None or args.quadrature is not None:
        raise ValueError(f"the path {name!r} has no steps; leave out --steps and --quadrature")
    return make()
