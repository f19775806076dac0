"""Transcoders of the embedded models, which ship beside them; and how they were made.

Half a megabyte a model: 256 features for each MLP, stored in float16. They are trained on what is
asked of these models, prompts of every task they have learned with their answers, and on what the
models say themselves.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from patching.dictionaries.quality import quality
from patching.dictionaries.samples import own_text
from patching.dictionaries.sites import train_dictionaries
from patching.dictionaries.training import Recipe
from patching.dictionaries.writing import save_dictionaries
from patching.lens.prompts import Prompts
from patching.model import Model
from patching.models import TOY_GENERATORS, WITH_TRANSCODERS, transcoders_folder

log = logging.getLogger(__name__)

RECIPE = Recipe(features=256, k=12, steps=2000)
_TRAINED_ON, _JUDGED_ON = 1_000, 1_001  # seeds that no example uses
_LENGTH = 24  # tokens of the models' own rows, about as long as prompts


def toy_text(model: Model, *, n: int, seed: int) -> Prompts:
    """Rows to train or judge on: `n` prompts a task with their answers, as many of its own text."""
    tokenizer = model.tokenizer
    assert tokenizer is not None, "embedded models have one"
    rows: list[tuple[int, ...]] = []
    for generate in TOY_GENERATORS.values():
        for prompt in generate(tokenizer, n, seed).prompts:
            answer = prompt.answers[0]
            told = answer if isinstance(answer, tuple) else (answer,)
            rows += [(*prompt.clean, *told), prompt.corrupt]
    rows += own_text(model, n=n * len(TOY_GENERATORS), length=_LENGTH, seed=seed).rows
    return Prompts(tuple(rows), f"prompts of {len(TOY_GENERATORS)} tasks and its own text")


def make(name: str, folder: Path, recipe: Recipe = RECIPE, *, n: int = 300) -> None:
    """Train the transcoders of one model and write them, with how good they are, to a folder."""
    model = Model.load(name)
    made = train_dictionaries(model, toy_text(model, n=n, seed=_TRAINED_ON), ("mlp",), recipe)
    found = quality(model, made, toy_text(model, n=max(1, n // 16), seed=_JUDGED_ON), batch_size=64)
    save_dictionaries(found.dictionaries, folder, dtype=torch.float16)
    for fit, loss in zip(found.fits, found.alone, strict=True):
        log.info("%s: FVU %.3f, %d silent, %s", fit.writes, fit.fvu, fit.silent, loss)
    log.info("%s, saved to %s", found.together, folder)


def run(arguments: Sequence[str] | None = None) -> None:
    """Train and save as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m patching.dictionaries",
        description="Train the transcoders of the embedded models anew, in place.",
    )
    parser.add_argument("--model", choices=WITH_TRANSCODERS, help="the only one; default: all")
    parser.add_argument("--out", type=Path, help="write to folders in this one instead")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    for name in WITH_TRANSCODERS if options.model is None else (options.model,):
        folder = transcoders_folder(name)
        assert folder is not None, "all of these have one"
        make(name, folder if options.out is None else options.out / name)
