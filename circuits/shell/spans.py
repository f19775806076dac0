"""`--spans`: which parts of prompts are kept apart. Heavy imports when needed."""

from typing import TYPE_CHECKING

from circuits.shell.parser import Parser

if TYPE_CHECKING:
    from patching.tasks import Task

ALL, POSITIONS, FROM_END = "all", "positions", "end:"


def span_options() -> Parser:
    """Whether edges at different spans are different edges, and what the spans are."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("spans")
    group.add_argument(
        "--spans",
        metavar="WHICH",
        help="keep spans of prompts apart: all, some by name (IO,S2), or by rule: positions, end:N",
    )
    return parser


def keep_apart(task: "Task", which: str | None) -> "Task":
    """The task with the spans of `--spans` kept apart; as it is without.

    Raises:
        ValueError: if it has none, or none of a name, or a rule does not fit it.
    """
    from patching.tasks import each_position, from_end

    if which is None:
        return task
    if which == POSITIONS:
        return each_position(task).by_span()
    if which.startswith(FROM_END):
        n = which.removeprefix(FROM_END)
        if not n.isdecimal():
            raise ValueError(f"--spans end:N takes a number of tokens, got {which!r}")
        return from_end(task, int(n)).by_span()
    names = [name.strip() for name in which.split(",")]
    return task.by_span(None if which == ALL else names)
