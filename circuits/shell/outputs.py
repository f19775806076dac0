"""Where the results of a command go, looked at before any work: that none is lost at its end.

An output has a suffix of its kind, a place that can be written to, and is never a file that the
same command reads or another of its outputs.
"""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryFile

from circuits.shell.exchange import SUFFIXES

FIGURES = (".svg", ".pdf", ".png")
_OF_FEATURES = (
    *(".safetensors", ".json", ".graphml", ".gexf", ".gml", ".csv", ".dot", *FIGURES),
    *(".tex", ".tikz"),
)

_FILES: dict[str, tuple[str, ...]] = {
    "csv": (".csv",),
    "plot": FIGURES,
    "difference": (".json",),
    "score.out": (".safetensors",),
    "search.out": (".json",),
    "search.scores": (".safetensors",),
    "search.log": (),
    "view.out": (".html",),
    "page": (".html",),
    "features.out": _OF_FEATURES,
    "forms": _OF_FEATURES,
    "effects_out": (".safetensors", ".csv"),
    "few_out": (".json",),
    "circuit_out": _OF_FEATURES,
    "constants": (".safetensors",),
}
"""Options whose value is a file to write, by command where others mean something else by it, and
its suffixes; none: any."""

_FOLDERS: dict[str, tuple[str, ...]] = {
    "discover.out": ("scores", "circuit", "report", "measurements"),
    "learn.out": ("circuit", "scores", "loss"),
    "lens.out": ("lens",),
    "neurons.out": ("report", "neurons", "ranked", "rates", "layers", "sweep", "betas"),
    "neurons.export": ("config", "model", "generation_config"),
    "report.out": ("circuit", "curve", "edges", "faithfulness", "methods", "paper", "references"),
    "patch.out": (),
    "trained": ("cfg", "sae_weights"),
    "rivals.out": ("circuit", "rivals"),
    "kept_in": (),
}
"""Options whose value is a folder to write to, and how the names of files there begin."""

_SPELLED = {
    "kept_in": "--run",
    **dict.fromkeys(("trained", "effects_out", "circuit_out", "few_out", "page", "forms"), "--out"),
}
"""Options that are spelled otherwise than they are named here."""

_READ = (
    *("file", "files", "run_dir", "model", "task", "eval_task", "ablation_task", "device_map"),
    *(
        "guess",
        "start",
        "apply",
        "tuned",
        "against",
        "roles",
        "view.scores",
        "export.scores",
        "view.curve",
        "labels",
        "dictionaries",
    ),
    *("view.compare", "result", "constants"),
)
"""Options that may name a file or folder to read."""


@dataclass(frozen=True)
class Output:
    """A file or folder that an option names, and what goes there."""

    option: str
    path: Path
    suffixes: tuple[str, ...] | None = None  # None: a folder
    begins: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether it holds several files."""
        return self.suffixes is None

    def replaces(self, read: Path) -> bool:
        """Whether writing it would write over a file or folder that is read."""
        if not self.is_folder or read.is_dir():
            return _same(self.path, read)
        return _same(self.path, read.parent) and read.name.partition(".")[0] in self.begins


def check_outputs(args: Namespace) -> None:
    """Refuse outputs that could not be written, or would be written over something that matters.

    Raises:
        ValueError: naming the option, what is wrong with it and what would be right.
    """
    outputs = list(written(args))
    for output in outputs:
        _check_kind(output)
        _check_inputs(output, args)
    for first, second in combinations(outputs, 2):
        if not first.is_folder and not second.is_folder and _same(first.path, second.path):
            raise ValueError(
                f"{_named(first)} and {_named(second)} are one file; name a file for each"
            )
    for output in outputs:
        _try(output)


def written(args: Namespace) -> Iterator[Output]:
    """All outputs that the command was given."""
    for option, suffixes in _FILES.items():
        for path in values_of(args, option):
            if option != "constants" or not path.exists():  # read where they are there
                yield Output(option, path, suffixes)
    for option, begins in _FOLDERS.items():
        yield from (Output(option, path, None, begins) for path in values_of(args, option))
    if args.run.__name__ == "patch":
        name = f"{args.what}-{args.method}"
        yield Output("patch.out", Path(args.out), None, (name,))
    for option in ("select.out", "export.out"):
        yield from (Output(option, path, *_exported(args)) for path in values_of(args, option))


def _exported(args: Namespace) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Suffixes of files that circuits are written to; of a submission, how names in it begin."""
    to = getattr(args, "to", None)
    if to == "mib":
        return None, ("importances",)
    if to is not None:
        return SUFFIXES, ()
    from circuits.export import FORMATS

    return tuple(FORMATS), ()


def values_of(args: Namespace, option: str) -> Iterator[Path]:
    """What was given for an option; nothing for another command's."""
    command, dot, name = option.rpartition(".")
    if dot and args.run.__name__ != command:
        return
    given = getattr(args, name, None)
    for value in given if isinstance(given, list) else [given]:
        if isinstance(value, str) and value:
            yield Path(value)


def _check_kind(output: Output) -> None:
    """Refuse what is there and cannot be replaced, and a name of another kind.

    Raises:
        ValueError: saying what would be right.
    """
    path, there = output.path, output.path.exists()
    if output.is_folder:
        if there and not path.is_dir():
            raise ValueError(f"{_named(output)} is a file; name a folder")
        return
    if path.is_dir():
        raise ValueError(f"{_named(output)} is a folder; name the file to write")
    if there and not path.is_file():
        raise ValueError(f"{_named(output)} is a device or a pipe; name a file")
    if output.suffixes and not path.name.lower().endswith(output.suffixes):
        raise ValueError(
            f"cannot write '{path}': a file that ends in {', '.join(output.suffixes)} would be "
            f"right for {_option(output)}"
        )


def _check_inputs(output: Output, args: Namespace) -> None:
    """Refuse to write over what the command reads.

    Raises:
        ValueError: naming the two.
    """
    for option in _READ:
        for read in values_of(args, option):
            if read.exists() and output.replaces(read):
                raise ValueError(
                    f"{_named(output)} would be written over {read}, which the command reads; "
                    "name another"
                )


def _try(output: Output) -> None:
    """Write a little where the output goes: a folder that says yes may still be on a full disk.

    Raises:
        ValueError: naming what is in the way.
    """
    path = output.path.absolute()
    places = (path, *path.parents) if output.is_folder else path.parents
    folder = next(place for place in places if place.exists())
    if not folder.is_dir():
        raise ValueError(f"cannot write '{output.path}': {folder} is no folder to write to")
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise ValueError(
            f"cannot write '{output.path}': {folder} is no folder to write to ({error.strerror})"
        ) from None


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _option(output: Output) -> str:
    name = output.option.rpartition(".")[2]
    return _SPELLED.get(name, f"--{name}")


def _named(output: Output) -> str:
    return f"{_option(output)} {output.path}"
