"""Options of the commands, in groups that commands share. Knows no model library."""

import argparse

from circuits.shell.names import METRIC_NAMES
from circuits.shell.parser import Parser
from circuits.shell.values import goal, memory, natural, positive

SELECTORS = (
    *("top-n", "greedy", "program"),
    *("lower-bound", "inclusion", "mean-size", "smoothed-size"),
)


def model_options(*, required: bool = True) -> Parser:
    """Which model, and how it is loaded."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        required=required,
        metavar="NAME",
        help="hub name, local folder, or an embedded model: toy, toy-llama, toy-context, truth/...",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64", "bfloat16"),
        default="float32",
        help="type of the weights (float32)",
    )
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (cpu)")
    group.add_argument(
        "--n-devices", type=positive, metavar="N", help="lay a model that does not fit over N GPUs"
    )
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help="lay it as accelerate's map says: auto, balanced, or a .json file of part: device",
    )
    group.add_argument(
        "--memory",
        type=memory,
        metavar="SIZE",
        help="for the tiles of large products: 500MB, 2GB, or 0.5 of what is free (32MB; GPU 1GB)",
    )
    group.add_argument(
        "--ungroup",
        action="store_true",
        help="give every query head keys and values of its own, as EAP-IG and MIB do",
    )
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    group.add_argument(
        "--trust-remote-code", action="store_true", help="run code that comes with a hub model"
    )
    return parser


def task_options(*, required: bool = True) -> Parser:
    """Which prompts, and what is measured on them."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("task")
    group.add_argument(
        "--task",
        required=required,
        metavar="TASK",
        help="a name (ioi, ioi:swap; `circuits tasks` lists them) or a .json, .jsonl, .csv, "
        ".parquet or .txt file",
    )
    group.add_argument(
        "--n", type=positive, default=128, help="number of prompts to generate (128)"
    )
    add_rows(group)
    group.add_argument(
        "--drop-rows",
        action="store_true",
        help="of a file, leave out rows that cannot be used, and say which",
    )
    add_metric(group)
    group.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="rows a run (16)"
    )
    return parser


def add_rows(group: argparse._ActionsContainer) -> None:
    """Which prompts of a task, and what is taken of long answers."""
    group.add_argument("--limit", type=positive, metavar="N", help="use only the first N prompts")
    group.add_argument("--seed", type=int, default=0, help="seed of all random choices (0)")
    group.add_argument(
        "--first-token",
        action="store_true",
        help="of a text answer with several tokens, score the first",
    )


def add_metric(group: argparse._ActionsContainer) -> None:
    """What is measured."""
    group.add_argument(
        "--metric",
        metavar="NAME",
        help=f"{', '.join(METRIC_NAMES)} (logit-diff; of forms such as facts:any logprob-diff, "
        "of a .txt logprob-per-token)",
    )


def method_options() -> Parser:
    """How edges are scored."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method", metavar="NAME", help="of `circuits methods`, auto, or module:function"
    )
    group.add_argument("--rule", metavar="NAME", help="backward rule, instead of a method (plain)")
    group.add_argument("--path", metavar="NAME", help="where gradients are taken (clean)")
    group.add_argument("--steps", type=positive, metavar="N", help="steps of a path method (5)")
    group.add_argument(
        "--quadrature",
        metavar="NAME",
        help="where a path method's steps lie: midpoint, left, ... (midpoint)",
    )
    group.add_argument(
        "--by-prompt",
        action="store_true",
        help="score prompts one by one and keep that, for intervals that contain the search",
    )
    return parser


def ablation_options() -> Parser:
    """What removed writers are replaced by."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("ablation")
    group.add_argument(
        "--ablation",
        default="resample",
        metavar="NAME",
        help="resample (from the corrupt prompt), zero, mean, positional-mean, optimal, random",
    )
    group.add_argument(
        "--ablation-task", metavar="TASK", help="prompts of means and constants (the task's own)"
    )
    group.add_argument(
        "--constants",
        metavar="FILE",
        help="optimal constants: read from there, or learned and written there if there are none",
    )
    return parser


def intervention_options() -> Parser:
    """Which edges are touched, and in which run."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("intervention")
    group.add_argument(
        "--ablated",
        choices=("outside", "inside"),
        default="outside",
        help="ablate what is outside the circuit, or the circuit itself (outside)",
    )
    group.add_argument(
        "--direction",
        choices=("noising", "denoising"),
        default="noising",
        help="corrupt the clean run, or restore the circuit in the corrupt run (noising)",
    )
    return parser


def ranking_options() -> Parser:
    """What makes an edge better than another."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("ranking")
    group.add_argument(
        "--ranking",
        choices=("absolute", "signed"),
        default="absolute",
        help="rank by absolute value, or helping edges first (absolute)",
    )
    return parser


class _Instead(argparse.Action):
    """Two options of which one is given: this one leaves the other without a value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Keep the value, and forget the other's default."""
        for name in ("size", "faithfulness"):
            setattr(namespace, name, values if name == self.dest else None)


def selector_options(*, size: int | None, faithfulness: float | None, prune: bool) -> Parser:
    """How edges become a circuit: of so many edges, or of as many as it takes; the defaults."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("selection")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--size",
        type=positive,
        default=size,
        action=_Instead,
        metavar="N",
        help=f"the best edges, so many{'' if size is None else f' ({size})'}",
    )
    either.add_argument(
        "--faithfulness",
        type=goal,
        default=faithfulness,
        action=_Instead,
        metavar="SHARE",
        help="or as many as keep this share of the clean-corrupt gap on the prompts of the search"
        f"{'' if faithfulness is None else f' ({faithfulness})'}",
    )
    group.add_argument(
        "--selector",
        choices=SELECTORS,
        help="the best edges; grown from the logits so that all lead there; or the best "
        "connected ones, by integer program; by scores kept by prompt: lower bound, how often "
        "they are among the best in resamples, the mean of their sizes, or that and what their "
        "ends let one expect (what auto kept, else top-n)",
    )
    _add_pruning(group.add_mutually_exclusive_group(), prune=prune)
    return parser


def _add_pruning(group: argparse._ActionsContainer, *, prune: bool) -> None:
    drop, keep = "then drop edges on no path from embed to logits", "keep edges on no path"
    group.add_argument("--prune", action="store_true", help=argparse.SUPPRESS if prune else drop)
    group.add_argument(
        "--no-prune",
        action="store_true",
        default=not prune,
        help=f"{keep} from embed to logits, which are dropped otherwise"
        if prune
        else argparse.SUPPRESS,
    )


def result_options() -> Parser:
    """Where the numbers go, beside the table that is printed."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("results")
    group.add_argument("--json", action="store_true", help="print JSON instead of a table")
    group.add_argument("--csv", metavar="FILE", help="write a tidy table")
    group.add_argument("--plot", metavar="FILE", help="draw a .svg, .pdf or .png")
    return parser


def add_out(parser: Parser, example: str) -> None:
    """The file to write."""
    parser.add_argument("--out", metavar="FILE", required=True, help=f"to write, say {example}")


def add_folder(parser: argparse._ActionsContainer, text: str) -> None:
    """The folder to write to, and whether results of other settings there may be replaced."""
    parser.add_argument("--out", metavar="DIR", required=True, help=text)
    add_overwrite(parser)


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Whether results of other settings may be replaced."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results of other settings, too"
    )


def add_top(parser: Parser, default: int) -> None:
    """How many of the strongest edges are printed."""
    parser.add_argument(
        "--top", type=natural, default=default, metavar="K", help=f"edges shown ({default})"
    )


def add_resamples(parser: argparse._ActionsContainer, text: str) -> None:
    """How many resamples of the search's prompts are searched too."""
    parser.add_argument("--resamples", type=natural, default=0, metavar="N", help=text)


def add_width_and_roles(group: argparse._ActionsContainer) -> None:
    """How wide a drawing is, and which nodes have names in it."""
    group.add_argument(
        "--width", metavar="WIDTH", help="column (3.25 in), page (6.75 in) or inches"
    )
    group.add_argument(
        "--roles", metavar="FILE", help='JSON of names and their nodes: {"movers": ["a9.h9"]}'
    )
