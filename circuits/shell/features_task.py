"""The commands `features effects` and `features circuit`: of a task. Heavy imports when needed."""

from argparse import Namespace
from typing import TYPE_CHECKING

from circuits.shell.features_read import read_dictionaries
from circuits.shell.features_told import say_circuit, say_effects, write_effects
from circuits.shell.inputs import open_metric, open_model, open_task
from circuits.shell.names import choose
from circuits.shell.options import Parser
from circuits.shell.results import write_figure
from circuits.shell.run_options import leads_here, open_run
from circuits.shell.values import amount, natural, positive

if TYPE_CHECKING:
    from circuits.features import Choice, FeatureCircuit
    from patching.attribution.features import FeatureEffects, Setting
    from patching.attribution.features.ablations import FeatureAblation
    from patching.attribution.features.sites import Coders
    from patching.metrics import Metric
    from patching.model import Model
    from patching.paths import Path
    from patching.rules import Rule
    from patching.tasks import Task

ABLATIONS = ("resample", "zero", "mean", "positional-mean")
_TO_CORRUPT = ("inputs", "corrupt", "clean-corrupt")
PATHS = ("clean", "places", *_TO_CORRUPT)


def add_effects_options(parser: Parser) -> None:
    """How effects are estimated, and where they go."""
    _add_estimates(parser)
    parser.add_argument(
        "--exact",
        type=natural,
        default=0,
        metavar="K",
        help="patch the K strongest exactly too (0)",
    )
    parser.add_argument(
        "--out", dest="effects_out", metavar="FILE", help="effects.safetensors, or .csv"
    )


def add_circuit_options(parser: Parser) -> None:
    """Which nodes and edges, how the circuit is judged, and where it goes."""
    _add_estimates(parser)
    group = parser.add_argument_group("circuit")
    group.add_argument(
        "--nodes", type=amount, default=100, metavar="N", help="so many, or from this effect (100)"
    )
    group.add_argument(
        "--edges", type=amount, default=300, metavar="N", help="so many, or from this weight (300)"
    )
    group.add_argument(
        "--errors",
        choices=("nodes", "kept", "removed"),
        default="nodes",
        help="errors are nodes, or all kept, or all removed (nodes)",
    )
    group.add_argument("--curve", action="store_true", help="judge circuits of all sizes too")
    group.add_argument("--plot", metavar="FILE", help="draw the curve: .svg, .pdf or .png")
    group.add_argument(
        "--out",
        dest="circuit_out",
        metavar="FILE",
        help="circuit.safetensors; .json, .graphml, .csv, .dot, ...; .svg, .pdf, .png, .tex",
    )


def _add_estimates(parser: Parser) -> None:
    group = parser.add_argument_group("effects")
    group.add_argument(
        "--dictionaries",
        metavar="FOLDER",
        help="or neurons (of toy and toy-llama what ships with them; neurons)",
    )
    group.add_argument("--rule", default="plain", metavar="NAME", help="backward rule (plain)")
    group.add_argument(
        "--path",
        choices=PATHS,
        default="clean",
        help="where gradients are taken; places: integrated at one place at a time (clean)",
    )
    group.add_argument("--steps", type=positive, metavar="N", help="of places (10) or inputs (5)")
    group.add_argument(
        "--ablation",
        choices=ABLATIONS,
        default="resample",
        help="what features become: those of the corrupt prompt, zero, a mean (resample)",
    )
    group.add_argument(
        "--sum-positions", action="store_true", help="of all positions together, for any prompts"
    )
    parser.add_argument("--top", type=positive, default=20, metavar="K", help="nodes shown (20)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def effects(args: Namespace) -> None:
    """Estimate effects, check some by exact patching, print the strongest.

    Raises:
        ValueError: if dictionaries, model, task and options do not fit together.
    """
    from patching.attribution.features import exact_feature_effects, feature_effects
    from patching.comparing import compare
    from patching.memory import budget

    path, rule = _open_path(args), _open_rule(args)
    model, task, metric, coders, setting = _open(args)
    with budget(args.memory):
        found = feature_effects(model, task, metric, coders, rule=rule, path=path, setting=setting)
        exact = pearson = None
        if args.exact:
            chosen = found.strongest(args.exact)
            exact = exact_feature_effects(
                model, task, metric, coders, chosen.nodes, setting=setting
            )
            pearson = compare(exact.grid(), chosen.grid()).pearson
    if not leads_here(setting.run):
        return
    write_effects(found, args)
    say_effects(found, exact, pearson, args)


def circuit(args: Namespace) -> None:
    """Find a feature circuit, run it, and print what it holds and keeps.

    Raises:
        ValueError: if dictionaries, model, task and options do not fit together.
    """
    from circuits.features import Choice, Handling, save_feature_circuit
    from circuits.features.edges import direct_edges
    from circuits.features.finding import chosen_edges
    from circuits.judging.feature_curves import FeatureSweep
    from circuits.judging.features import feature_curve, judge_features
    from patching.attribution.features import feature_effects
    from patching.memory import budget

    path, rule = _open_path(args), _open_rule(args)
    choice = Choice(args.nodes, args.edges, args.errors)
    model, task, metric, coders, setting = _open(args)
    given = (model, task, metric, coders)
    with budget(args.memory):
        known = feature_effects(*given, rule=rule, path=path, setting=setting)
        found = _chosen(known, choice)
        if choice.edges and len(found):
            edges = direct_edges(*given, found.nodes, rule=rule, path=path, setting=setting)
            found = chosen_edges(found, edges, choice)
        handling = Handling(setting, choice.errors)
        runs = judge_features(*given, [found], handling)
        curve = None
        if args.curve or args.plot:
            sweep = FeatureSweep(handling=handling, n_bootstrap=1000 if len(task) > 1 else 0)
            curve = feature_curve(*given, known, sweep)
    if not leads_here(setting.run):
        return
    if args.circuit_out is not None:
        save_feature_circuit(found, args.circuit_out)
    if curve is not None and args.plot is not None:
        write_figure(curve.plot(), args.plot)
    say_circuit(found, float(runs.faithfulness[0]), curve, args)


def _chosen(known: "FeatureEffects", choice: "Choice") -> "FeatureCircuit":
    """The nodes of a circuit.

    Raises:
        ValueError: if no node's effect is as large as is asked for.
    """
    from circuits.features.finding import chosen_nodes

    found = chosen_nodes(known, choice)
    if isinstance(choice.nodes, float) and len(known) and not len(found):
        most = float(known.mean.abs().max())
        raise ValueError(
            f"no node has an effect of {choice.nodes:g} or more: the largest is {most:.3g}; a "
            "whole number takes so many"
        )
    return found


def _open(
    args: Namespace,
) -> "tuple[Model, Task, Metric, Coders, Setting]":
    """All that effects are of.

    Raises:
        ValueError: if any of it cannot be opened, or positions do not mean the same in all prompts.
    """
    from patching.attribution.features import Setting

    metric = open_metric(args)
    coders, run = read_dictionaries(args.dictionaries, args.model), open_run(args)
    model = open_model(args)
    task = open_task(args.task, model, args, seed=args.seed)
    lengths = sorted({prompt.n_tokens for prompt in task.prompts})
    if len(lengths) > 1 and not args.sum_positions:
        raise ValueError(
            f"{args.task} has prompts of {', '.join(map(str, lengths))} tokens, so a position does "
            "not mean the same in all; give --sum-positions, or prompts of one length"
        )
    setting = Setting(_open_ablation(args, task), not args.sum_positions, args.batch_size, run)
    return model, task, metric, coders, setting


def _open_ablation(args: Namespace, task: "Task") -> "FeatureAblation":
    from patching.attribution.features import mean, resample, zero

    if args.ablation in ("resample", "zero"):
        return zero if args.ablation == "zero" else resample
    by_position = args.ablation == "positional-mean"
    return mean(task, by_position=by_position, batch_size=args.batch_size)


def _open_rule(args: Namespace) -> "Rule":
    from patching.rules import RULES

    return choose("rule", args.rule, RULES)


def _open_path(args: Namespace) -> "Path":
    """The path of `--path` with `--steps`.

    Raises:
        ValueError: if it has no steps and some are given, or goes where the ablation does not.
    """
    from patching.attribution.features import along_places
    from patching.paths import PATHS as KNOWN
    from patching.paths import along_inputs

    if args.path in _TO_CORRUPT and args.ablation != "resample":
        raise ValueError(
            f"--path {args.path} goes to the corrupt run, which --ablation {args.ablation} does "
            "not use; take --path clean, or places"
        )
    if args.path == "places":
        return along_places(args.steps or 10)
    if args.path == "inputs":
        return along_inputs(args.steps or 5)
    if args.steps is not None:
        raise ValueError(f"the path {args.path!r} has no steps; leave out --steps")
    return KNOWN[args.path]()
