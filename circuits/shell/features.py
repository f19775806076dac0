"""The command `features`: graphs of a prompt over features, and dictionaries. Lazy imports."""

import argparse
import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from circuits.shell import (
    features_check,
    features_export,
    features_few,
    features_task,
    features_told,
    features_train,
    features_view,
)
from circuits.shell.examples import examples_of
from circuits.shell.features_read import read_dictionaries
from circuits.shell.inputs import open_model, open_task
from circuits.shell.options import Parser, task_options
from circuits.shell.parser import Help
from circuits.shell.printing import print_columns
from circuits.shell.run_options import leads_here, open_run, run_options
from circuits.shell.values import natural, numbers, positive

if TYPE_CHECKING:
    from circuits.features import FeatureGraph
    from patching.dictionaries import Labels
    from patching.model import Model


def add_actions(parser: Parser, model: Parser, maybe: Parser) -> None:
    """The actions with their options; `model`: which one, how loaded; `maybe`: one or none."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = partial(_add_action, actions)
    text = "find the attribution graph of one prompt"
    tracing = add("trace", text, model, run_options())
    _add_tracing(tracing)
    text = "print what a file holds: a graph, effects, or a circuit"
    showing = add("show", text)
    showing.add_argument("file", metavar="GRAPH", help="a .safetensors or .json file")
    for one, act in ((tracing, trace), (showing, show)):
        one.add_argument("--top", type=positive, default=20, metavar="K", help="nodes shown (20)")
        one.add_argument("--labels", metavar="FILE", help="names of features (.json or .csv)")
        one.add_argument("--json", action="store_true", help="print JSON instead of text")
        one.set_defaults(act=act)
    text = "write a page to explore a graph with"
    viewing = add("view", text, maybe)
    features_view.add_options(viewing)
    viewing.set_defaults(act=features_view.view)
    text = "write a graph or a circuit in other forms, by suffix"
    exporting = add("export", text)
    features_export.add_options(exporting)
    exporting.set_defaults(act=features_export.export)
    text = "say how well dictionaries fit a model"
    checking = add("check", text, model)
    features_check.add_options(checking)
    checking.set_defaults(act=features_check.check)
    text = "train transcoders and autoencoders of a model"
    training = add("train", text, model)
    features_train.add_options(training)
    training.set_defaults(act=features_train.train)
    _add_of_tasks(add, model)


def _add_action(
    actions: argparse._SubParsersAction, name: str, text: str, *parents: Parser
) -> Parser:
    return actions.add_parser(
        name,
        help=text,
        description=f"{text.capitalize()}.",
        epilog=examples_of(f"features {name}"),
        formatter_class=Help,
        parents=parents,
    )


def _add_of_tasks(add: Callable[..., Parser], model: Parser) -> None:
    """`effects`, `circuit` and `few`."""
    task, kept = task_options(), run_options()
    text = "estimate what features and errors are worth on a task"
    known = add("effects", text, model, task, kept)
    features_task.add_effects_options(known)
    known.set_defaults(act=features_task.effects)
    text = "find and judge a circuit of features of a task"
    found = add("circuit", text, model, task, kept)
    features_task.add_circuit_options(found)
    found.set_defaults(act=features_task.circuit)
    text = "look for a few heads and neurons that do a task, all others ablated"
    fewest = add("few", text, model, task)
    features_few.add_options(fewest)
    fewest.set_defaults(act=features_few.few)


def _add_tracing(parser: Parser) -> None:
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="trace this text")
    prompt.add_argument("--tokens", type=numbers, metavar="N,N,...", help="trace these token ids")
    prompt.add_argument("--task", metavar="TASK", help="trace a clean prompt of this task or file")
    parser.add_argument("--row", type=natural, default=0, metavar="N", help="its prompt N (0)")
    parser.set_defaults(limit=None, seed=0, first_token=False)
    parser.add_argument(
        "--dictionaries",
        metavar="FOLDER",
        help="transcoders, or neurons: every MLP's own (of toy and toy-llama what ships with them)",
    )
    parser.add_argument(
        "--logits", type=positive, default=10, metavar="N", help="likeliest tokens explained (10)"
    )
    parser.add_argument(
        "--aim", action="append", metavar="TOKEN", help="or this token, by text or id; repeatable"
    )
    parser.add_argument(
        "--convention",
        choices=("own", "circuit-tracer"),
        default="own",
        help="make the graph as we do, or as circuit-tracer does (own)",
    )
    parser.add_argument(
        "--most", type=positive, metavar="N", help="features or neurons that become nodes (4096)"
    )
    parser.add_argument("--no-prune", action="store_true", help="keep all nodes and edges")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="to write, say graph.safetensors, .json for Neuronpedia's viewer, .graphml, .svg",
    )


def features(args: Namespace) -> int | None:
    """Trace a prompt through features, show what came of it, or look at dictionaries.

    Raises:
        ValueError: if model, prompt, features and options do not fit, or a file is damaged.
    """
    return args.act(args)


def trace(args: Namespace) -> None:
    """Find the graph, write it, and print its strongest nodes.

    Raises:
        ValueError: if model, prompt, features and options do not fit together.
    """
    from dataclasses import replace

    from circuits.features import CONVENTIONS, labelled, save_graph
    from circuits.features import trace as find
    from patching.memory import budget

    chosen = CONVENTIONS[args.convention]
    chosen = chosen if args.most is None else replace(chosen, most=args.most)
    dictionaries = read_dictionaries(args.dictionaries, args.model)
    run, labels, model = open_run(args), _labels(args), open_model(args)
    prompt = _prompt(args, model)
    with budget(args.memory):
        graph = find(
            model,
            prompt,
            dictionaries,
            aim=_aim(args.aim),
            logits=args.logits,
            convention=chosen,
            prune=not args.no_prune,
            run=run,
        )
    if not leads_here(run):
        return
    graph = labelled(graph, labels)
    if args.out is not None:
        save_graph(graph, args.out)
    _say(graph, args)
    if args.out is not None and not args.json:
        print(f"written to {args.out}")


def show(args: Namespace) -> None:
    """Print what a file holds: a graph, effects, or a circuit of features.

    Raises:
        ValueError: if the file is damaged or holds none of these.
    """
    from circuits.features import labelled, load_graph

    labels = _labels(args)
    if not features_told.say_saved(args):
        _say(labelled(load_graph(args.file), labels), args)


def _labels(args: Namespace) -> "Labels":
    """The labels of a file, or none.

    Raises:
        ValueError: if it is no file of labels.
    """
    from patching.dictionaries import Labels, load_labels

    return Labels({}) if args.labels is None else load_labels(args.labels)


def _prompt(args: Namespace, model: "Model") -> list[int] | str:
    """The one prompt that is traced.

    Raises:
        ValueError: if the task cannot be made or read, or has no such prompt.
    """
    if args.task is None:
        return list(args.tokens) if args.prompt is None else args.prompt
    args.n = args.row + 1
    prompts = open_task(args.task, model, args, seed=args.seed).prompts
    if args.row >= len(prompts):
        raise ValueError(f"{args.task} has {len(prompts)} prompts, 0 to {len(prompts) - 1}")
    return list(prompts[args.row].clean)


def _aim(tokens: Sequence[str] | None) -> list[int | str] | None:
    """Tokens by id where they are numbers."""
    if tokens is None:
        return None
    return [int(token) if token.isdecimal() else token for token in tokens]


def _say(graph: "FeatureGraph", args: Namespace) -> None:
    top, facts = graph.top(args.top), graph.facts
    logits = [
        (name, float(weight), float(value))
        for name, weight, value in zip(
            graph.names, graph.nodes.weights, graph.nodes.values, strict=True
        )
        if weight
    ]
    if args.json:
        print(json.dumps(_content(graph, top, logits), indent=1))
        return
    print(f"graph of {len(graph):,} nodes and {graph.n_edges:,} edges: {graph.prompt!r}")
    print(f"features: {facts.get('features', 'unknown')}")
    print(f"replacement {graph.replacement:.3f}, completeness {graph.completeness:.3f}")
    _say_validity(facts.get("validity"))
    print("\nexplained:")
    known = facts.get("logits")
    words = known if isinstance(known, Mapping) else {}
    rows = [
        (name, repr(words.get(name.partition("@")[0][6:], "")), f"{p:.3f}", f"{logit:+.2f}")
        for name, p, logit in logits
    ]
    print_columns(("logit", "token", "probability", "above the mean"), rows)
    print("\nfeatures and errors of most influence:")
    _say_top(graph, top)


def _say_top(graph: "FeatureGraph", top: Sequence[tuple[str, float]]) -> None:
    """Nodes, and what they are called where any is."""
    from circuits.features import labels_of
    from patching.files.visible import visible

    values, labels = graph.nodes.values, labels_of(graph)
    rows = []
    for name, x in top:
        i = graph.index(name)
        key = f"m{int(graph.nodes.layers[i])}", int(graph.nodes.indices[i])
        rows.append((name, f"{x:.4f}", f"{float(values[i]):.3g}", visible(labels.get(key, ""))))
    columns = ("node", "influence", "value", "label")
    shown = columns if labels else columns[:3]
    print_columns(shown, [row[: len(shown)] for row in rows])


def _say_validity(told: object) -> None:
    if not isinstance(told, Mapping):
        return
    known = ((name, told[name]) for name in told if name != "n" and told[name] is not None)
    rows = ", ".join(f"{name} {value:.2f}" for name, value in known)
    print(
        f"validity: {told['n']} units removed from the real model; correlation of what the graph "
        f"foresees with its logits, holding {rows or 'anything: unknown'}"
    )


def _content(
    graph: "FeatureGraph",
    top: Sequence[tuple[str, float]],
    logits: Sequence[tuple[str, float, float]],
) -> dict[str, object]:
    return {
        "nodes": len(graph),
        "edges": graph.n_edges,
        "replacement": graph.replacement,
        "completeness": graph.completeness,
        "logits": [{"node": n, "probability": p, "logit": logit} for n, p, logit in logits],
        "top": [{"node": name, "influence": influence} for name, influence in top],
        "facts": dict(graph.facts),
    }
