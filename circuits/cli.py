"""The command `circuits`: parsing, and errors as one line. What commands do is in `shell`."""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TextIO

from circuits.shell import (
    compare,
    curve,
    discover,
    doctor,
    evaluate,
    export,
    features,
    learn,
    lens,
    methods,
    neurons,
    options,
    patch,
    report,
    rerun,
    rivals,
    run_options,
    score,
    search,
    select,
    show,
    spans,
    tasks,
    view,
)
from circuits.shell.examples import EXAMPLES, examples_of
from circuits.shell.kinds import check_inputs
from circuits.shell.names import check_names
from circuits.shell.outputs import check_outputs
from circuits.shell.overwriting import check_replaced
from circuits.shell.parser import Help
from circuits.shell.printing import complain, open_closed_streams, say
from circuits.shell.waiting import waiting

Command = Callable[[argparse.Namespace], int | None]
DISCOVER = "go the whole way: scores, circuit, figure, report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for an error, 130 when interrupted.

    `doctor` has one more: 3 for what is unusable; and `rerun`: 1 for a result that differs. What a
    command prints is said when it is done and its files are written.

    Raises:
        RuntimeError: if something broke that is no fault of the caller's.
        SystemExit: after --help.
    """
    open_closed_streams()
    printed = StringIO()
    try:
        with _quiet(), redirect_stdout(printed):
            args = make_parser().parse_args(arguments)
            with waiting(args):
                check_outputs(args)
                check_inputs(args)
                check_names(args)
                check_replaced(args)
                code = args.run(args) or 0
    except (
        ValueError,
        OSError,
        ImportError,
        MemoryError,
        RuntimeError,
        KeyboardInterrupt,
    ) as error:
        say(printed.getvalue())
        return _excuse(error, sys.argv if arguments is None else arguments)
    except SystemExit:
        say(printed.getvalue())
        raise
    return say(printed.getvalue()) or code


def _excuse(error: BaseException, given: Sequence[str]) -> int:
    """Say what went wrong, and return the exit code.

    Raises:
        RuntimeError: if something broke that is no fault of the caller's.
    """
    if isinstance(error, KeyboardInterrupt):
        kept = any(word.partition("=")[0] == "--run" for word in given)
        complain(f"interrupted{run_options.hint(kept)}")
        return 130
    assert isinstance(error, Exception), "the other kinds"
    hint = ""
    if isinstance(error, RuntimeError):
        from patching.memory import is_lack_of_memory  # torch is loaded by now

        if not is_lack_of_memory(error):
            raise error
        hint = "; try a smaller --batch-size"
    complain(f"error: {_one_line(error)}{hint}")
    return 2


def make_parser() -> options.Parser:
    """The parser of all commands; `run` in what it parses is the command's function."""
    parser = options.Parser(
        prog="circuits",
        description="Find, judge and draw circuits in transformer language models.",
        epilog="\n".join(
            ("examples:", *(f"  {lines[0]}" for one, lines in EXAMPLES.items() if " " not in one))
        ),
        formatter_class=Help,
    )
    commands_of = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(run: Command, text: str, *parents: options.Parser) -> options.Parser:
        command = commands_of.add_parser(
            run.__name__,
            help=text,
            description=f"{text.capitalize()}.",
            epilog=examples_of(run.__name__),
            formatter_class=Help,
            parents=parents,
        )
        command.set_defaults(run=run)
        return command

    _add_circuit_commands(add)
    _add_other_circuits(add)
    _add_model_commands(add)
    return parser


def _add_circuit_commands(add: Callable[..., options.Parser]) -> None:
    """From scores to a circuit, its judgement and its pictures."""
    model, task, method = options.model_options(), options.task_options(), options.method_options()
    ablation, ranking = options.ablation_options(), options.ranking_options()
    result = options.result_options()
    by_goal = options.selector_options(size=None, faithfulness=0.8, prune=True)
    by_size = options.selector_options(size=100, faithfulness=None, prune=False)
    run, apart = run_options.run_options(), spans.span_options()
    scoring = (model, task, apart, method, ablation, ranking, run)
    discover.add_options(add(discover.discover, DISCOVER, *scoring, by_goal))
    score.add_options(add(score.score, "score all edges", *scoring))
    given = (options.model_options(required=False), options.task_options(required=False), ablation)
    choosing = "choose a circuit from scores"
    select.add_options(add(select.select, choosing, ranking, by_size, *given))
    runs = (model, task, apart, ablation, options.intervention_options(), run)
    own = options.task_options()  # theirs alone: parsers share options, and here the metric is kl
    descent = "learn a circuit by gradient descent"
    learn.add_options(add(learn.learn, descent, model, own, apart, ablation))
    tried = (model, own, apart, ablation)
    search.add_options(add(search.search, "search for a circuit", *tried))
    evaluate.add_options(add(evaluate.evaluate, "run circuits on a task", *runs))
    curve.add_options(add(curve.curve, "judge scores at all sizes", *runs, ranking, result))
    sharing = "say what circuits or scores share"
    compare.add_options(add(compare.compare, sharing, ranking, result))
    export.add_options(add(export.export, "write a circuit in other forms, by suffix"))
    report.add_options(add(report.report, "write figures, tables and text for a paper"))
    page = "write a page to explore a circuit with, and open it"
    view.add_options(add(view.view, page, *given[:2]))
    show.add_options(add(show.show, "print what a file holds", ranking))
    rerun.add_options(add(rerun.rerun, "make a result again, and compare"))
    add(methods.methods, "list the scoring methods")


def _add_other_circuits(add: Callable[..., options.Parser]) -> None:
    """What else could have been found."""
    judged = (options.model_options(), options.task_options(), options.ablation_options())
    ranking = options.ranking_options()
    of_size = options.selector_options(size=100, faithfulness=None, prune=True)
    scoring = (*judged, options.method_options(), ranking, run_options.run_options())
    others = "find circuits that keep as much and share hardly an edge"
    rivals.add_rivals_options(add(rivals.rivals, others, *judged, ranking))
    groups = "group prompts by their own scores, and judge a circuit of each on all"
    rivals.add_clusters_options(add(rivals.clusters, groups, *judged, ranking, of_size))
    carried = "find a circuit on each of several tasks, and judge it on all"
    rivals.add_transfer_options(add(rivals.transfer, carried, *scoring, of_size))


def _add_model_commands(add: Callable[..., options.Parser]) -> None:
    """Looks into a model, its activations and its tasks."""
    model, task = options.model_options(), options.task_options()
    maybe = options.model_options(required=False)
    run = run_options.run_options()
    effects = "patch activations: what each is worth"
    patch.add_options(add(patch.patch, effects, model, task, run))
    lens.add_options(add(lens.lens, "read layers as predictions of the next token", model))
    use = "find neurons that use context, reweight them"
    neurons.add_options(add(neurons.neurons, use, maybe, run_options.run_options()))
    through = "trace a prompt through features or neurons"
    features.add_actions(add(features.features, through), model, maybe)
    check = "say whether a model, and a task for it, are fit for finding circuits"
    doctor.add_options(add(doctor.doctor, check, model))
    add(tasks.tasks, "list the tasks; for a model, what is left of their words", maybe)


@contextmanager
def _quiet() -> Iterator[None]:
    """Only our own warnings are shown, once, in one line; no other package logs below errors."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"(circuits|patching)\.")
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
    complain(f"warning: {' '.join(str(message).split())}")


def _one_line(error: Exception) -> str:
    """What went wrong, in one line; system errors without their number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
