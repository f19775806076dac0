"""The command `view`: a page to explore a circuit with, in any browser. Heavy imports inside."""

import webbrowser
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_model, open_task
from circuits.shell.options import Parser
from circuits.shell.reading import read_result, read_scores
from circuits.shell.values import natural, positive

if TYPE_CHECKING:
    from circuits.explorer import Insides


def add_options(parser: Parser) -> None:
    """Which circuit or scores, and what beside them."""
    parser.add_argument("file", metavar="FILE", help="a circuit, scores, or a folder of results")
    parser.add_argument("--scores", metavar="FILE", help="all edges, to go beyond the circuit")
    parser.add_argument(
        "--curve", metavar="FILE", help="what `circuits curve --json` printed for these scores"
    )
    parser.add_argument("--compare", metavar="FILE", help="a second circuit, shown in colours")
    parser.add_argument("--size", type=positive, metavar="N", help="edges at first")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--out", metavar="FILE", help="page to write (FILE with .html)")
    parser.add_argument(
        "--prompt",
        type=natural,
        metavar="N",
        help="with --model and --task: show what goes on inside on this prompt of it (0)",
    )
    parser.add_argument("--open", action="store_true", help="open it in the default browser")


def view(args: Namespace) -> None:
    """Write a page to explore a circuit or scores with, and open it if asked to.

    Raises:
        ValueError: if a file holds something else, or the files do not belong together.
        OSError: if no browser could be started.
    """
    from circuits.explorer import explore, load_levels
    from circuits.scores import Scores

    file, beside = _open_folder(Path(args.file))
    out = Path(args.out) if args.out is not None else file.with_suffix(".html")
    if out.suffix.lower() != ".html":
        raise ValueError(f"cannot write a page to {str(out)!r}: the name should end in .html")
    result, given = read_result(str(file)), args.scores or beside
    scores = None if given is None else read_scores(str(given))
    if isinstance(result, Scores) and scores is not None:
        raise ValueError(f"{args.file} holds scores already; leave out --scores")
    behind = result if isinstance(result, Scores) else scores
    page = explore(
        result,
        scores=scores,
        curve=None if args.curve is None else load_levels(args.curve, behind),
        other=None if args.compare is None else read_result(args.compare),
        insides=_look_inside(args),
        size=args.size,
        title=args.title or _title(args),
    )
    page.save(out)
    print(f"{page.title}: written to {out}, a page for any browser, {out.stat().st_size:,} bytes")
    if args.open and not webbrowser.open(out.absolute().as_uri()):
        raise OSError(f"no browser could be started; open {out} by hand")


def _open_folder(path: Path) -> tuple[Path, Path | None]:
    """The circuit of a folder of results and the scores beside it; a file stays itself.

    Raises:
        ValueError: if the folder holds no circuit.
    """
    if not path.is_dir():
        return path, None
    circuit, scores = path / "circuit.json", path / "scores.safetensors"
    if not circuit.is_file():
        raise ValueError(f"{path} holds no circuit.json; name a circuit, scores or their folder")
    return circuit, scores if scores.is_file() else None


def _look_inside(args: Namespace) -> "Insides | None":
    """What goes on inside the model on one prompt, if a model is given.

    Raises:
        ValueError: if a model is given without a task, or the other way round.
    """
    if args.model is None and args.task is None:
        if args.prompt is not None:
            raise ValueError("--prompt needs --model and --task: it is read again")
        return None
    if args.model is None or args.task is None:
        raise ValueError("--model and --task go together: one prompt of the task is read")
    from circuits.explorer import look_inside

    model = open_model(args)
    return look_inside(
        model, open_task(args.task, model, args, seed=args.seed), prompt=args.prompt or 0
    )


def _title(args: Namespace) -> str | None:
    """For two files, which is which."""
    if args.compare is None:
        return None
    return f"{Path(args.file).name} (A) and {Path(args.compare).name} (B)"
