"""Options of long commands: where they keep what is done, and who does it."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from circuits.shell.names import choose
from circuits.shell.options import Parser
from circuits.shell.printing import complain

if TYPE_CHECKING:
    from circuits.scores import Scores
    from patching.work import Engine, Interrupted, Run

R = TypeVar("R")
ENGINES = ("in-process", "ranks", "ray")


def run_options() -> Parser:
    """Where the chunks of a long computation are kept, and who does them."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("long runs")
    group.add_argument(
        "--run",
        dest="kept_in",
        metavar="FOLDER",
        help="keep what is done there; the same command goes on where it was left",
    )
    group.add_argument(
        "--engine",
        metavar="NAME",
        help="who does it: in-process, ranks (under torchrun or Slurm) or ray (in-process)",
    )
    group.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster, or auto")
    return parser


def open_run(args: Namespace) -> "Run | None":
    """The run of `--run`, with the engine of `--engine`.

    Raises:
        ValueError: if there is no such engine, it has no folder, or nothing says which of several
            workers this is.
    """
    from patching.work import Run

    choose("engine", args.engine or "in-process", dict.fromkeys(ENGINES))
    if args.address is not None and args.engine != "ray":
        raise ValueError("--address is that of a Ray cluster; give --engine ray too")
    if args.kept_in is None:
        if args.engine not in (None, "in-process"):
            raise ValueError(
                f"--engine {args.engine} needs --run FOLDER, where workers leave what they do"
            )
        return None
    if Path(args.kept_in).is_file():
        raise ValueError(f"--run {args.kept_in} is a file; name a folder for what is done")
    return Run(args.kept_in, _open_engine(args))


def leads_here(run: "Run | None") -> bool:
    """Whether this process writes and prints results: of several workers, the first."""
    from patching.work import leads

    return run is None or leads(run.engine)


def keep_partial(stop: "Interrupted[Scores]", args: Namespace) -> int:
    """Write the scores of the examples so far beside where all would be, and say so: exit 130."""
    out = Path(args.out)
    path = out.with_name(f"{out.stem}.{part_of(stop)}{out.suffix}")
    if leads_here(open_run(args)):
        stop.partial.save(path)
        say_partial(stop, args, path)
    return 130


def part_of(stop: "Interrupted[R]") -> str:
    """For a file's name: of how many examples it is."""
    return f"partial-{stop.n_examples}-of-{stop.n_of}"


def say_partial(stop: "Interrupted[R]", args: Namespace, path: Path) -> None:
    """Say what has been kept of an interrupted command, and where."""
    complain(
        f"interrupted after {stop.n_examples} of {stop.n_of} prompts, whose scores are in "
        f"{path}{hint(args.kept_in is not None)}"
    )


def hint(kept: bool) -> str:
    """How to go on, for the end of a sentence."""
    return "; the same command goes on from there" if kept else ""


def _open_engine(args: Namespace) -> "Engine":
    from patching.work import in_process, ranks

    if args.engine == "ranks":
        return ranks()
    if args.engine == "ray":
        from patching.work.ray_engine import Ray

        return Ray(args.address)
    return in_process
