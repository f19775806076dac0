"""The command `circuits`: parsing, and errors as one line. What commands do is in `shell`."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from circuits.shell import (
    commands,
    discovery,
    doctor,
    drawing,
    judging,
    learning,
    lens,
    neurons,
    options,
    patch,
    rerun,
    run_options,
    searching,
    tasks,
    view,
)

EPILOG = """examples:
  circuits doctor --model toy --task ioi
  circuits discover --model toy --task ioi --out runs/ioi
  circuits score --model gpt2 --task ioi --method eap-ig --steps 5 --out scores.safetensors
  circuits select scores.safetensors --size 200 --out circuit.json
  circuits search --model toy --task ioi --method acdc --threshold 0.01 --out circuit.json
  circuits learn --model toy --task ioi --size 100 --out runs/learned
  circuits evaluate --model gpt2 --task ioi circuit.json --json
  circuits curve --model gpt2 --task ioi scores.safetensors --plot curve.pdf
  circuits compare a.json b.json
  circuits export circuit.json --out circuit.svg --out circuit.pdf
  circuits lens --model toy --prompt "The capital of France is"
  circuits neurons --model toy --task conflict --method ircan --top 16 --out runs/neurons
  circuits neurons --apply runs/neurons/neurons.json --beta 4 --prompt "The capital of France is"
  circuits patch --model gpt2 --task ioi --what head --method relp --out runs/heads
  circuits report runs/ioi
  circuits rerun runs/ioi
  circuits view circuit.json --scores scores.safetensors --open
"""

Command = Callable[[argparse.Namespace], int | None]
DISCOVER = "go the whole way: scores, circuit, figure, report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for an error, 130 when interrupted.

    `doctor` has one more: 3 for what is unusable; and `rerun`: 1 for a result that differs.

    Raises:
        RuntimeError: if something broke that is no fault of the caller's.
    """
    try:
        with _quiet():
            args = make_parser().parse_args(arguments)
            code = args.run(args)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from patching.memory import is_lack_of_memory  # torch is loaded by now

        if not is_lack_of_memory(error):
            raise
        print(f"error: {_one_line(error)}; try a smaller --batch-size", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        given = sys.argv if arguments is None else arguments
        kept = any(word.partition("=")[0] == "--run" for word in given)
        print(f"interrupted{run_options.hint(kept)}", file=sys.stderr)
        return 130
    return code or 0


def make_parser() -> options.Parser:
    """The parser of all commands; `run` in what it parses is the command's function."""
    parser = options.Parser(
        prog="circuits",
        description="Find, judge and draw circuits in transformer language models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands_of = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(run: Command, text: str, *parents: options.Parser) -> options.Parser:
        command = commands_of.add_parser(
            run.__name__, help=text, description=f"{text.capitalize()}.", parents=parents
        )
        command.set_defaults(run=run)
        return command

    _add_circuit_commands(add)
    _add_model_commands(add)
    return parser


def _add_circuit_commands(add: Callable[..., options.Parser]) -> None:
    """From scores to a circuit, its judgement and its pictures."""
    model, task, method = options.model_options(), options.task_options(), options.method_options()
    ablation, ranking = options.ablation_options(), options.ranking_options()
    selection = options.selector_options()
    result = options.result_options()
    run = run_options.run_options()
    scoring = (model, task, method, ablation, ranking, run)
    _add_discover(add(discovery.discover, DISCOVER, *scoring, selection))
    _add_score(add(commands.score, "score all edges", *scoring))
    _add_select(add(commands.select, "choose a circuit from scores", ranking, selection))
    runs = (model, task, ablation, options.intervention_options(), run)
    own = options.task_options()  # theirs alone: parsers share options, and here the metric is kl
    learn = add(learning.learn, "learn a circuit by gradient descent", model, own, ablation)
    learning.add_options(learn)
    searching.add_options(add(searching.search, "search for a circuit", model, own, ablation))
    _add_evaluate(add(commands.evaluate, "run circuits on a task", *runs))
    _add_curve(add(judging.curve, "judge scores at all sizes", *runs, ranking, result))
    _add_compare(add(judging.compare, "say what circuits or scores share", ranking, result))
    _add_export(add(drawing.export, "write a circuit in other forms, by suffix"))
    options.add_report(add(drawing.report, "write figures, tables and text for a paper"))
    _add_view(add(view.view, "write a page to explore a circuit with, and open it"))
    _add_show(add(commands.show, "print what a file holds", ranking))
    rerun.add_options(add(rerun.rerun, "make a result again, and compare"))
    add(commands.methods, "list the scoring methods")


def _add_model_commands(add: Callable[..., options.Parser]) -> None:
    """Looks into a model, its activations and its tasks."""
    model, task = options.model_options(), options.task_options()
    maybe = options.model_options(required=False)
    run = run_options.run_options()
    patched = add(patch.patch, "patch activations: what each is worth", model, task, run)
    patch.add_options(patched)
    lens.add_options(add(lens.lens, "read layers as predictions of the next token", model))
    use = "find neurons that use context, reweight them"
    neurons.add_options(add(neurons.neurons, use, maybe, run_options.run_options()))
    check = "say whether a model, and a task for it, are fit for finding circuits"
    doctor.add_options(add(doctor.doctor, check, model))
    add(tasks.tasks, "list the tasks; for a model, what is left of their words", maybe)


def _add_discover(parser: options.Parser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for all results")
    judging = parser.add_argument_group("judging").add_mutually_exclusive_group()
    judging.add_argument(
        "--holdout",
        type=options.share,
        default=0.3,
        metavar="SHARE",
        help="share of the prompts kept from the search to judge on; 0: in-sample (0.3)",
    )
    judging.add_argument("--eval-task", metavar="TASK", help="judge on these prompts instead")


def _add_score(parser: options.Parser) -> None:
    _add_out(parser, "scores.safetensors")
    _add_top(parser, 10)


def _add_select(parser: options.Parser) -> None:
    parser.add_argument("file", metavar="SCORES", help="what `circuits score` wrote")
    _add_out(parser, "circuit.json")


def _add_evaluate(parser: options.Parser) -> None:
    parser.add_argument("files", metavar="CIRCUIT", nargs="+", help="circuit files")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument("--csv", metavar="FILE", help="write one row per circuit and prompt")


def _add_curve(parser: options.Parser) -> None:
    parser.add_argument("files", metavar="SCORES", nargs="+", help="what `circuits score` wrote")
    parser.add_argument(
        "--sizes",
        type=options.numbers,
        metavar="N,N,...",
        help="numbers of edges before pruning (0.1 %% to 100 %% of all, as in MIB)",
    )
    parser.add_argument(
        "--granularity",
        choices=("edges", "nodes"),
        default="edges",
        help="circuits of the best edges, or of the best heads and MLPs (edges)",
    )
    parser.add_argument(
        "--random",
        type=options.natural,
        default=10,
        metavar="N",
        help="random circuits per size, uniform and matched by layer (10 each)",
    )
    parser.add_argument(
        "--bootstrap",
        type=options.natural,
        default=1000,
        metavar="N",
        help="draws of prompts for the intervals (1000)",
    )


def _add_compare(parser: options.Parser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="circuits, or .safetensors scores")
    parser.add_argument(
        "--difference", metavar="FILE", help="write the first circuit without the second's edges"
    )


def _add_export(parser: options.Parser) -> None:
    parser.add_argument("file", metavar="CIRCUIT", help="a circuit file")
    parser.add_argument(
        "--out",
        metavar="FILE",
        action="append",
        required=True,
        help="to write, say circuit.svg; may be given several times",
    )
    options.add_looks(parser)


def _add_view(parser: options.Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a circuit, or .safetensors scores")
    parser.add_argument("--scores", metavar="FILE", help="all edges, to go beyond the circuit")
    parser.add_argument(
        "--curve", metavar="FILE", help="what `circuits curve --json` printed for these scores"
    )
    parser.add_argument("--compare", metavar="FILE", help="a second circuit, shown in colours")
    parser.add_argument("--size", type=options.positive, metavar="N", help="edges at first")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--out", metavar="FILE", help="page to write (FILE with .html)")
    parser.add_argument("--open", action="store_true", help="open it in the default browser")


def _add_show(parser: options.Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="scores or a circuit")
    _add_top(parser, 20)


def _add_out(parser: options.Parser, example: str) -> None:
    parser.add_argument("--out", metavar="FILE", required=True, help=f"to write, say {example}")


def _add_top(parser: options.Parser, default: int) -> None:
    parser.add_argument(
        "--top", type=options.natural, default=default, metavar="K", help=f"edges shown ({default})"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Only our own warnings are shown, each as one line; no other package logs below errors."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module=r"(circuits|patching)\.")
            warnings.showwarning = _show_warning
            yield
    finally:
        logging.disable(level)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line on stderr; the signature is that of `warnings.showwarning`."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    """What went wrong, in one line; system errors without their number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
