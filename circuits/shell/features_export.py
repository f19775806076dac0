"""The command `features export`: a graph, a circuit or effects in other forms. Lazy imports."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.options import Parser
from circuits.shell.values import width

if TYPE_CHECKING:
    from circuits.features import FeatureCircuit, FeatureGraph
    from patching.attribution.features import FeatureEffects


def add_options(parser: Parser) -> None:
    """Which file, and in which forms."""
    parser.add_argument("file", metavar="FILE", help="a .safetensors file, or .json of a graph")
    parser.add_argument(
        "--out",
        dest="forms",
        metavar="FILE",
        action="append",
        required=True,
        help="to write, say circuit.graphml; may be given several times",
    )
    group = parser.add_argument_group("pictures (.svg, .pdf, .png, .tex, .tikz)")
    group.add_argument("--title", metavar="TEXT", help="above the drawing")
    group.add_argument(
        "--width", metavar="WIDTH", help="column (3.25 in), page (6.75 in) or inches"
    )


def export(args: Namespace) -> None:
    """Write what a file holds in other forms.

    Raises:
        ValueError: if it holds nothing of features, a form is unknown, or looks are for no picture.
    """
    from circuits.features.forms import PICTURES

    looks = args.title is not None or args.width is not None
    if looks and not any(out.lower().endswith(PICTURES) for out in args.forms):
        known = ", ".join(PICTURES)
        raise ValueError(f"looks are for pictures ({known}); {args.forms[0]} is none")
    thing = _read(args.file)
    for out in args.forms:
        _write(thing, Path(out), args)
        print(f"written to {out}")


def _read(path: str) -> "FeatureGraph | FeatureCircuit | FeatureEffects":
    from circuits.features import load_feature_circuit, load_graph
    from patching.attribution.features import load_effects
    from patching.files.tensors import read_tensor_file

    if path.lower().endswith(".safetensors"):
        kind = read_tensor_file(path)[1].get("format", "")
        if kind.startswith("feature circuit"):
            return load_feature_circuit(path)
        if kind.startswith("feature effects"):
            return load_effects(path)
    return load_graph(path)


def _write(
    thing: "FeatureGraph | FeatureCircuit | FeatureEffects", out: Path, args: Namespace
) -> None:
    """One form.

    Raises:
        ValueError: if effects are to be more than a table.
    """
    from circuits.features import FeatureCircuit, FeatureGraph, save_feature_circuit, save_graph
    from circuits.features.circuit_picture import picture_features, picture_graph
    from circuits.features.forms import PICTURES, save_picture
    from circuits.shell.features_told import write_effects

    drawn = out.suffix.lower() in PICTURES
    looks = {"title": args.title, "width": width(args.width)}
    if isinstance(thing, FeatureGraph):
        save_picture(picture_graph(thing, **looks), out) if drawn else save_graph(thing, out)
    elif isinstance(thing, FeatureCircuit):
        picture = picture_features
        save_picture(picture(thing, **looks), out) if drawn else save_feature_circuit(thing, out)
    elif out.suffix.lower() in (".csv", ".safetensors"):
        write_effects(thing, Namespace(effects_out=str(out)))
    else:
        raise ValueError(f"cannot write '{out}': effects are written as .safetensors or .csv")
