"""The command `features view`: a page to explore a graph of features with. Heavy imports inside."""

import webbrowser
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.features_read import NEURONS, read_dictionaries
from circuits.shell.inputs import open_model
from circuits.shell.options import Parser
from circuits.shell.values import natural

if TYPE_CHECKING:
    from circuits.features import FeatureGraph
    from circuits.features.told import FeatureInsides
    from patching.lens.prompts import Prompts
    from patching.model import Model

_STEERED, _ROWS, _LENGTH = 20, 64, 128


def add_options(parser: Parser) -> None:
    """Which graph, and what beside it."""
    parser.add_argument("file", metavar="GRAPH", help="a .safetensors or .json file")
    parser.add_argument(
        "--out", dest="page", metavar="FILE", help="page to write (GRAPH with .html)"
    )
    parser.add_argument("--labels", metavar="FILE", help="labels of features, .json or .csv")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--open", action="store_true", help="open it in the default browser")
    beside = parser.add_argument_group("with --model: examples of features, and changes of them")
    beside.add_argument(
        "--dictionaries", metavar="FOLDER", help="those of the graph (neurons, if it is of them)"
    )
    beside.add_argument("--text", metavar="FILE", help="where they are largest (in the prompt)")
    beside.add_argument(
        "--steer",
        type=natural,
        default=_STEERED,
        metavar="N",
        help=f"units removed and doubled in the real model ({_STEERED})",
    )


def view(args: Namespace) -> None:
    """Write a page to explore a graph with, and open it if asked to.

    Raises:
        ValueError: if a file holds something else, or graph, model and features do not belong
            together.
        OSError: if no browser could be started.
    """
    from circuits.explorer import explore_features
    from circuits.features import load_graph
    from patching.dictionaries import load_labels

    out = Path(args.page) if args.page is not None else Path(args.file).with_suffix(".html")
    graph = load_graph(args.file)
    page = explore_features(
        graph,
        insides=_look_at(graph, args),
        labels=None if args.labels is None else load_labels(args.labels),
        title=args.title,
    )
    page.save(out)
    print(f"{page.title}: written to {out}, a page for any browser, {out.stat().st_size:,} bytes")
    if args.open and not webbrowser.open(out.absolute().as_uri()):
        raise OSError(f"no browser could be started; open {out} by hand")


def _look_at(graph: "FeatureGraph", args: Namespace) -> "FeatureInsides | None":
    """What a model shows of the graph's features, if one is given.

    Raises:
        ValueError: if what needs a model comes without one, or does not fit.
    """
    if args.model is None:
        for name in ("dictionaries", "text"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} needs --model: features are looked at in the model")
        return None
    from circuits.features import look_at_features
    from patching.memory import budget

    given = args.dictionaries
    if given is None and graph.facts.get("letter") == "n":
        given = NEURONS
    if given is None and graph.facts.get("features") != f"transcoders of {args.model}":
        raise ValueError("--dictionaries is needed: the graph is not of neurons")
    features = read_dictionaries(given, args.model)
    model = open_model(args)
    with budget(args.memory):
        return look_at_features(
            model, graph, features, text=_text(model, args.text), steered=args.steer
        )


def _text(model: "Model", path: str | None) -> "Prompts | None":
    if path is None:
        return None
    from patching.dictionaries import text_rows

    length = min(_LENGTH, int(model.bridge.cfg.n_ctx))
    return text_rows(model, path, n=_ROWS, length=length)
