"""The command `score`: scores of all edges. Heavy imports when needed."""

from argparse import Namespace

from circuits.shell.inputs import open_metric, open_model, open_task
from circuits.shell.method_inputs import open_method
from circuits.shell.options import Parser, add_out, add_overwrite, add_top
from circuits.shell.printing import print_edges, say_compared
from circuits.shell.run_options import keep_partial, leads_here, open_run


def add_options(parser: Parser) -> None:
    """Where the scores go."""
    add_overwrite(parser)
    add_out(parser, "scores.safetensors")
    add_top(parser, 10)


def score(args: Namespace) -> int | None:
    """Score all edges and write them to a file; interrupted, those of some prompts.

    Raises:
        ValueError: if a name is unknown, or model, task, metric and method do not fit together.
    """
    from circuits.scoring import Interrupted

    metric, method, run = open_metric(args), open_method(args), open_run(args)
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
    say_compared(scores.provenance)
    print_edges(scores.top(args.top, ranking=args.ranking))
    print(f"written to {args.out}")
    return None
