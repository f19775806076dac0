"""Dictionaries for many places of a model at once: activations gathered, each trained in turn."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from patching.anatomy.places import find
from patching.dictionaries.fitting import after_first, flat
from patching.dictionaries.several import Dictionaries
from patching.dictionaries.training import Recipe, train_dictionary
from patching.lens.prompts import Prompts, Source, read_prompts
from patching.model import Model
from patching.modes import without_gradients
from patching.progress import track

SITES = {"mlp": ("m{}.in", "m{}"), "resid": ("r{}.post", "r{}.post"), "attn": ("a{}", "a{}")}
"""What every layer has one of, and what a dictionary there reads and rebuilds."""

_AT_ONCE = 2**30  # bytes of activations


def train_dictionaries(
    model: Model,
    prompts: Source | Prompts,
    sites: Sequence[str] = ("mlp",),
    recipe: Recipe | None = None,
    *,
    folder: str | Path | None = None,
    batch_size: int = 16,
) -> Dictionaries:
    """Train a dictionary for each site, on all positions of the prompts but the first.

    Args:
        model: is not changed.
        prompts: such as `own_text(model, n=1024, length=128)`.
        sites: `mlp` (transcoders), `resid` and `attn` (autoencoders), of every layer, or places of
            single layers: m3, r3.post, a3.
        recipe: the kind and its numbers.
        folder: where states are kept, one folder a site; what is done there is not done again.
        batch_size: prompts a run.

    Raises:
        ValueError: if a site is unknown, prompts do not fit the model, or as `train_dictionary`.
    """
    recipe = Recipe() if recipe is None else recipe
    read = read_prompts(model, prompts)
    pairs = find_sites(model, sites)
    facts = {"model": model.name, "text": f"{read.name}, {read.hash}", **model.identity.facts}
    made = []
    for group in _groups(read, pairs, model.blocks[0].w_o.shape[2]):
        places = sorted({place for pair in group for place in pair})
        seen = gather(model, read, places, batch_size=batch_size)
        for reads, writes in group:
            one, _ = train_dictionary(
                seen[reads],
                seen[writes],
                recipe,
                reads=reads,
                writes=writes,
                folder=None if folder is None else Path(folder) / writes,
                facts=facts,
            )
            made.append(one)
    said = {"model_name": model.name, "text": read.name, "recipe": json.dumps(vars(recipe))}
    return Dictionaries(f"{recipe.kind} of {model.name}", tuple(made), said)


def find_sites(model: Model, sites: Sequence[str]) -> list[tuple[str, str]]:
    """What a dictionary of each site reads and rebuilds.

    Raises:
        ValueError: if a site is unknown, named twice, or none is named.
    """
    layers = range(len(model.blocks))
    found: list[tuple[str, str]] = []
    for site in sites:
        if site in SITES:
            reads, writes = SITES[site]
            found += [(reads.format(layer), writes.format(layer)) for layer in layers]
            continue
        place = find(model, site)
        if place.kind not in ("mlp_out", "attn_out", "resid_pre", "resid_mid", "resid_post"):
            raise ValueError(
                f"dictionaries are trained for {', '.join(SITES)}, or places such as m3, r3.post "
                f"and a3; got {site!r}"
            )
        found.append((f"{site}.in" if place.kind == "mlp_out" else site, site))
    twice = next((pair for pair in found if found.count(pair) > 1), None)
    if twice is not None or not found:
        raise ValueError(f"{twice[1]} is named twice" if twice else "no site is named")
    return found


@without_gradients
def gather(
    model: Model, prompts: Prompts, places: Sequence[str], *, batch_size: int = 16
) -> dict[str, Tensor]:
    """Activations at all positions but each prompt's first, `[token width]`, on the CPU."""
    lengths, found, filled = [len(row) for row in prompts.rows], {}, 0
    n_batches = -(-len(prompts) // batch_size)
    batches = prompts.batches(batch_size, model.device)
    for i, tokens in enumerate(track(batches, "activations", n_batches)):
        seen = model.run(tokens, cache=places)
        chosen = after_first(tokens, lengths[i * batch_size :])
        until = filled + int(chosen.sum())
        for place in places:
            values = flat(seen[place])[chosen]
            if place not in found:  # filled as it comes: what is gathered is there only once
                found[place] = torch.empty(sum(lengths) - len(lengths), values.shape[1])
            found[place][filled:until] = values
        filled = until
    return found


def _groups(
    prompts: Prompts, pairs: Sequence[tuple[str, str]], width: int
) -> Iterator[list[tuple[str, str]]]:
    """Sites whose activations fit into memory together, so that prompts are run for all at once."""
    size = 4 * width * sum(len(row) - 1 for row in prompts.rows)
    group: list[tuple[str, str]] = []
    for pair in pairs:
        places = {place for one in (*group, pair) for place in one}
        if group and len(places) * size > _AT_ONCE:
            yield group
            group = []
        group.append(pair)
    yield group
