"""The command `features train`: dictionaries of a model, from its own text or a file."""

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from circuits.shell.features_check import SELF, loss_facts, print_fits
from circuits.shell.inputs import open_model
from circuits.shell.options import Parser
from circuits.shell.values import positive

if TYPE_CHECKING:
    from patching.lens.prompts import Prompts
    from patching.model import Model

_HELD_OUT = 32  # rows that dictionaries are judged on, and not trained on


def add_options(parser: Parser) -> None:
    """What is trained, on what, and where it goes."""
    parser.add_argument(
        "--out", dest="trained", required=True, metavar="DIR", help="folder, in SAELens' format"
    )
    parser.add_argument(
        "--sites",
        default="mlp",
        metavar="SITE,...",
        help="mlp, resid, attn of all layers, or places such as m3,r3.post (mlp)",
    )
    text = parser.add_argument_group("text")
    text.add_argument(
        "--text", default=SELF, metavar="FILE", help="a text file, or what the model says (self)"
    )
    text.add_argument("--n", type=positive, default=1024, help="rows of text (1024)")
    text.add_argument("--length", type=positive, default=128, help="tokens of a row (128)")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--kind", choices=("topk", "batchtopk"), default="topk", help="(topk)")
    recipe.add_argument("--features", type=positive, default=512, metavar="N", help="in all (512)")
    recipe.add_argument("--k", type=positive, default=12, help="active on a token (12)")
    recipe.add_argument("--steps", type=positive, default=2000, help="of training (2000)")
    recipe.add_argument("--batch-size", type=positive, default=512, metavar="N", help="(512)")
    recipe.add_argument("--rate", type=float, help="step size (mlp 0.01, others 0.005)")
    recipe.add_argument("--seed", type=int, default=0, help="seed of all random choices (0)")
    parser.add_argument(
        "--run", dest="kept_in", metavar="FOLDER", help="keep states there, and go on from them"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def train(args: Namespace) -> None:
    """Train dictionaries, write them, and print how well they do on text they have not seen.

    Raises:
        ValueError: if a number is out of range, or model or text cannot be read.
    """
    from patching.dictionaries import Recipe, quality, save_dictionaries, train_dictionaries
    from patching.dictionaries.sites import find_sites

    recipe = Recipe(
        kind=args.kind,
        features=args.features,
        k=args.k,
        steps=args.steps,
        batch_size=args.batch_size,
        rate=args.rate,
        seed=args.seed,
    )
    model, sites = open_model(args), args.sites.split(",")
    find_sites(model, sites)  # a misspelt one is told before text is made
    seen, held_out = _texts(args, model)
    made = train_dictionaries(model, seen, sites, recipe, folder=args.kept_in)
    found = quality(model, made, held_out)
    folders = save_dictionaries(found.dictionaries, args.trained)
    if args.json:
        rows = [asdict(fit) for fit in found.fits]
        said = {"model": model.name, "out": str(Path(args.trained)), "recipe": asdict(recipe)}
        said |= {"text": seen.name, "fits": rows, **loss_facts(found)}
        print(json.dumps(said, indent=1))
        return
    print(f"{made.name}, {recipe.steps} steps on {seen.name}; judged on {len(held_out)} others:\n")
    print_fits(found)
    others = sorted(file.parent.name for file in Path(args.trained).glob("*/cfg.json"))
    others = [name for name in others if name not in {folder.name for folder in folders}]
    beside = f", beside {', '.join(others)}, trained before" if others else ""
    print(f"written to {args.trained}{beside}")


def _texts(args: Namespace, model: "Model") -> "tuple[Prompts, Prompts]":
    """Rows to train on, and others to judge on.

    Raises:
        ValueError: if a file has too little text for both.
    """
    from patching.dictionaries import own_text, text_rows
    from patching.lens.prompts import Prompts

    length = min(args.length, int(model.bridge.cfg.n_ctx))
    if args.text == SELF:
        seen = own_text(model, n=args.n, length=length, seed=args.seed)
        return seen, own_text(model, n=_HELD_OUT, length=length, seed=args.seed + 1)
    read = text_rows(model, args.text, n=args.n + _HELD_OUT, length=length)
    if len(read) < 2:
        raise ValueError(f"{args.text} has too little text: two rows would be right")
    cut = max(1, len(read) - _HELD_OUT)
    return Prompts(read.rows[:cut], read.name), Prompts(read.rows[cut:], read.name)
