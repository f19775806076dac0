"""What a lens reads: residual states and writes to the stream, as vectors at chosen positions.

Names are those of `patching.anatomy.places`. A head or a neuron is read as what it adds to
the stream.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM, UNEMBED_IN, Block, widen
from patching.anatomy.places import Place, find, of_kind, units
from patching.lens.neurons import find_output
from patching.lens.prompts import Prompts
from patching.lens.vocabulary import Vocabulary, prove_vocabulary
from patching.model import Hook, Model
from patching.modes import without_gradients

Seen = Mapping[str, Tensor]
"""Hook point to what passed there at the chosen tokens, `[token ...]`."""

STREAMS = ("resid_pre", "resid_mid", "resid_post")
KINDS = (*STREAMS, "attn_out", "mlp_out", "heads")
"""Kinds of nodes that can be asked for by one word, and give one node a layer or a head."""

_VECTORS = (*STREAMS, "attn_out", "mlp_out", "embed")


@dataclass(frozen=True)
class Node:
    """A vector of the residual stream: its hook points, and how their tensors make it."""

    name: str
    kind: str
    layer: int
    hooks: tuple[str, ...]
    vector: Callable[[Seen], Float[Tensor, "token d_model"]]


@dataclass(frozen=True, eq=False)
class States:
    """Nodes' vectors and the last stream of each prompt, at the same positions."""

    vectors: Float[Tensor, "node example place d_model"]
    final: Float[Tensor, "example place d_model"]


def find_nodes(model: Model, nodes: str | Sequence[str]) -> tuple[Node, ...]:
    """Nodes by kind (one of `KINDS`) or by name, in the order given; a name is kept once.

    >>> [node.name for node in find_nodes(Model.load("truth/induction"), ["embed", "mlp_out"])]
    ['embed', 'm0', 'm1']

    Raises:
        ValueError: if there is no such kind or place, or it is no vector of the stream.
    """
    asked = (nodes,) if isinstance(nodes, str) else tuple(nodes)
    if not asked:
        raise ValueError(
            f"got no nodes; name places such as 'r0.post', or one of {', '.join(KINDS)}"
        )
    found = [node for name in asked for node in _find(model, name)]
    return tuple({node.name: node for node in found}.values())


@without_gradients
def read_states(
    model: Model,
    vocabulary: Vocabulary,
    prompts: Prompts,
    at: Int[Tensor, "example place"],
    nodes: Sequence[Node],
    *,
    batch_size: int = 16,
) -> States:
    """Run the prompts and keep the nodes at the positions `at`.

    Raises:
        ValueError: if the model's logits are not its final norm and unembedding of the stream.
    """
    vectors, final = [], []
    rows = iter(at.split(batch_size))
    hooks = {FINAL_STREAM, *(name for node in nodes for name in node.hooks)}
    for tokens in prompts.batches(batch_size, model.device):
        chosen = next(rows).to(model.device)
        seen, logits = run_at(model, tokens, chosen, hooks)
        prove_vocabulary(model, vocabulary, _last(seen[FINAL_STREAM], chosen), logits)
        made = [node.vector(seen).unflatten(0, chosen.shape) for node in nodes]
        vectors.append(torch.stack([widen(vector) for vector in made]))
        final.append(widen(seen[FINAL_STREAM]).unflatten(0, chosen.shape))
    return States(torch.cat(vectors, dim=1), torch.cat(final))


@without_gradients
def run_at(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    at: Int[Tensor, "batch place"],
    hooks: Collection[str],
) -> tuple[Seen, Float[Tensor, "batch vocab"]]:
    """What passes the hook points at the chosen tokens, and logits at each row's last of them."""
    seen: dict[str, Tensor] = {}
    rows = torch.arange(len(tokens), device=tokens.device)[:, None]

    def keep(name: str) -> Hook:
        def hook(x: Tensor) -> None:
            x = x.detach().expand(len(tokens), *x.shape[1:])  # learned positions have one row
            seen[name] = x[rows.to(x.device), at.to(x.device)].flatten(0, 1)

        return hook

    def shorten(normed: Tensor) -> Tensor:
        return normed[rows.to(normed.device), at[:, -1:].to(normed.device)]

    plain = [(name, keep(name)) for name in hooks] + [(UNEMBED_IN, shorten)]
    with model.hooked(plain):
        logits = model.bridge(tokens).to(model.device)
    return seen, logits[:, 0]


def _last(stream: Float[Tensor, "token d_model"], at: Int[Tensor, "batch place"]) -> Tensor:
    return stream.unflatten(0, at.shape)[:, -1]


def _find(model: Model, name: str) -> Iterator[Node]:
    if name == "heads":
        for block in model.blocks:
            yield from (head_node(block, h) for h in range(model.graph.n_heads))
    elif name in KINDS:
        yield from map(place_node, of_kind(model, name))
    elif not any(letter.isdigit() for letter in name) and name != "embed":
        near = get_close_matches(name, KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"there are no nodes {name!r}: one of {', '.join(KINDS)}, or names of places such as "
            f"'r0.post', 'a0.h1', 'm0.n7'{hint}"
        )
    else:
        yield from _named(model, find(model, name))


def _named(model: Model, place: Place) -> Iterator[Node]:
    block = model.blocks[place.layer]
    n = len(units(model, place.kind))
    chosen = range(n) if place.index is None else (place.index,)
    if place.kind in _VECTORS:
        yield place_node(place)
    elif place.kind == "z":
        yield from (head_node(block, unit) for unit in chosen)
    elif place.kind == "neurons":
        yield from (neuron_node(model, block, unit) for unit in chosen)
    else:
        raise ValueError(
            f"{place.name} is no vector of the residual stream, so it has no reading in the "
            f"vocabulary; take a residual state, a{place.layer}, m{place.layer}, a head or a neuron"
        )


def place_node(place: Place) -> Node:
    """A place that is a vector of the stream as it stands."""

    def vector(seen: Seen) -> Tensor:
        offset = None if place.offset is None else seen[place.offset[0]]
        return place.value(seen[place.hook], offset)

    return Node(place.name, place.kind, place.layer, place.hooks, vector)


def head_node(block: Block, head: int) -> Node:
    """What one head adds to the stream."""
    post = block.post_attention_norm is not None

    def vector(seen: Seen) -> Tensor:
        z = block.head_input(seen[block.z], seen[block.attention_sum] if post else None)
        chosen = torch.tensor([head], device=z.device)
        return block.head_writes(z[:, [head]], heads=chosen)[0]

    hooks = (block.z, block.attention_sum) if post else (block.z,)
    return Node(f"a{block.index}.h{head}", "head", block.index, hooks, vector)


def neuron_node(model: Model, block: Block, neuron: int) -> Node:
    """What one MLP neuron adds to the stream."""
    output = find_output(model, block)

    def vector(seen: Seen) -> Tensor:
        sigma = output.sigma(None if output.total is None else seen[output.total])
        chosen = torch.tensor([neuron], device=output.weight.device)
        return widen(seen[output.points][:, [neuron]]) / sigma * output.rows(chosen)

    return Node(f"m{block.index}.n{neuron}", "neuron", block.index, output.hooks, vector)
