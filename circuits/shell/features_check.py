"""The command `features check`: do these dictionaries fit this model? Heavy imports when needed."""

import json
from argparse import Namespace
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from circuits.shell.inputs import open_model
from circuits.shell.options import Parser
from circuits.shell.printing import print_columns
from circuits.shell.values import positive

if TYPE_CHECKING:
    from patching.dictionaries import Attached, Fit, Recovery
    from patching.lens.prompts import Prompts
    from patching.model import Model

UNFIT = 3
SELF = "self"
"""In place of a text file: what the model itself says."""

_WHY = """They are of another place
(--reads, --writes), of another model, of one with folded norms, or of text that begins with
another token."""


def add_options(parser: Parser) -> None:
    """Which dictionaries, on which text."""
    parser.add_argument("dictionaries", metavar="FOLDER", help="a folder or a hub name")
    add_places(parser)
    text = parser.add_argument_group("text")
    source = text.add_mutually_exclusive_group()
    source.add_argument(
        "--text", default=SELF, metavar="FILE", help="a text file, or what the model says (self)"
    )
    source.add_argument("--prompt", metavar="TEXT", help="this text")
    text.add_argument("--n", type=positive, default=16, help="rows of text (16)")
    text.add_argument("--length", type=positive, default=64, help="tokens of a row (64)")
    text.add_argument("--seed", type=int, default=0, help="of what the model says (0)")
    text.add_argument("--batch-size", type=positive, default=8, metavar="N", help="rows a run (8)")
    parser.add_argument(
        "--loss", action="store_true", help="run the model on what is rebuilt: the loss recovered"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    why = "one is no better than the mean, or better beside its place"
    parser.epilog = f"exit code: 0 all fit, {UNFIT} {why}, 2 an error\n\n{parser.epilog}"


def add_places(parser: Parser) -> None:
    """Where dictionaries belong whose files do not say it."""
    group = parser.add_argument_group("places, where files do not say them")
    group.add_argument("--reads", metavar="PLACE", help="m3.in, m3.x_hat, r3.post; {} is the layer")
    group.add_argument("--writes", metavar="PLACE", help="what they rebuild (as --reads)")
    group.add_argument("--dictionaries-revision", metavar="REV", help="of a hub name")


def check(args: Namespace) -> int:
    """Print how well each dictionary does at its place, and return the exit code.

    Raises:
        ValueError: if dictionaries, model or text cannot be read, or do not fit each other.
    """
    from patching.dictionaries import attach, load_dictionaries, quality

    several = load_dictionaries(
        args.dictionaries,
        reads=args.reads,
        writes=args.writes,
        revision=args.dictionaries_revision,
    )
    model = open_model(args)
    text = _text(args, model)
    measure = quality if args.loss else partial(attach, worst=float("inf"), beside=0)
    found = measure(model, several, text, batch_size=args.batch_size)
    unfit = [fit.writes for fit in found.fits if not fit.fvu <= 1]
    misplaced = [fit for fit in found.fits if fit.fvu <= 1 and fit.is_misplaced()]
    if args.json:
        print(json.dumps(_facts(found, model), indent=1))
    else:
        _print(found, model)
        if unfit:
            print(f"\n{', '.join(unfit)}: no better than the mean. {_WHY}")
        for fit in misplaced:
            better = f"FVU {fit.beside_fvu:.3f} at {fit.beside}"
            print(f"\n{fit.writes}: {better}, where it seems to belong.")
    return UNFIT if unfit or misplaced else 0


def _text(args: Namespace, model: "Model") -> "Prompts":
    from patching.dictionaries import own_text, text_rows
    from patching.lens.prompts import read_prompts

    if args.prompt is not None:
        return read_prompts(model, args.prompt)
    if args.text != SELF:
        return text_rows(model, args.text, n=args.n, length=args.length)
    length = min(args.length, int(model.bridge.cfg.n_ctx))
    return own_text(model, n=args.n, length=length, seed=args.seed)


def _facts(found: "Attached", model: "Model") -> dict[str, object]:
    hashes = {one.writes: one.hash for one in found.dictionaries}
    rows = [{**asdict(fit), "hash": hashes[fit.writes], "doubt": fit.doubt} for fit in found.fits]
    return {
        "dictionaries": found.dictionaries.name,
        "facts": dict(found.dictionaries.members[0].facts),
        "model": model.name,
        "text": found.prompts.name,
        "tokens": found.prompts.hash,
        "fits": rows,
        **loss_facts(found),
    }


def loss_facts(found: "Attached") -> dict[str, object]:
    """What is recovered of the loss, in plain values, where it was asked for."""
    if not found.alone:
        return {}
    rows = {"alone": found.alone, "together": found.together}
    return {
        "loss": {
            name: [{**asdict(one), "recovered": one.recovered} for one in some]
            for name, some in rows.items()
        }
    }


def _print(found: "Attached", model: "Model") -> None:
    kind = found.dictionaries.members[0].facts.get("format", "dictionaries")
    print(f"{found.dictionaries.name} ({kind}) on {model.name}, {found.prompts.name}:\n")
    print_fits(found)
    for fit in found.fits:
        if fit.doubt:
            print(f"doubtful, {fit.writes}: {fit.doubt}")


def print_fits(found: "Attached") -> None:
    """A line for each dictionary, one for each kind of them at once, and what the columns mean."""
    columns = ("rebuilds", "from", "features", "FVU", "L0", "published", "silent")
    rows = [_row(fit) for fit in found.fits]
    if found.alone:
        columns = (*columns, "loss recovered")
        rows = [(*row, _share(one)) for row, one in zip(rows, found.alone, strict=True)]
    print_columns(columns, rows)
    print(
        "\nFVU: share of the variance that is not rebuilt. L0: features active on a token. Silent: "
        "never active on\nthis text. The first position of each row is left out."
    )
    if found.alone:
        print(
            "Loss recovered: of what zeros lose, where the model goes on from what is rebuilt; its "
            f"own is {found.alone[0].clean:.3f} nats."
        )
    for one in found.together:
        print(
            f"{one.places[0]} to {one.places[-1]} at once: {_share(one)}, loss {one.rebuilt:.3f} "
            f"({one.removed:.3f} with zeros)"
        )


def _row(fit: "Fit") -> tuple[str, ...]:
    return (
        fit.writes,
        "" if fit.reads == fit.writes else fit.reads,
        f"{fit.n_features:,}",
        f"{fit.fvu:.3f}",
        f"{fit.l0:.1f}",
        "" if fit.published_l0 is None else f"{fit.published_l0:g}",
        f"{fit.silent:,}",
    )


def _share(one: "Recovery") -> str:
    return "" if one.recovered is None else f"{one.recovered:.3f}"
