"""The residual stream as the sum that it is: everything that writes to it, biases included."""

from collections.abc import Iterator

from torch import Tensor

from patching.anatomy.blocks import POSITIONS, Block
from patching.anatomy.places import find
from patching.lens.nodes import Node, Seen, head_node, place_node
from patching.model import Model


def find_writers(model: Model) -> tuple[Node, ...]:
    """Nodes whose vectors add up to the last stream, in the order in which they are added.

    The token embedding (`embed`), learned positions (`positions`), every head, what a layer's
    attention adds whatever its heads do (`a0.bias`: its output bias), every MLP.

    >>> [node.name for node in find_writers(Model.load("toy"))][:3]
    ['embed', 'positions', 'a0.h0']
    """
    return tuple(_find(model))


def _find(model: Model) -> Iterator[Node]:
    yield place_node(find(model, "embed"))
    if model.learns_positions:
        yield Node("positions", "positions", -1, (POSITIONS,), lambda seen: seen[POSITIONS])
    for block in model.blocks:
        yield from (head_node(block, head) for head in range(model.graph.n_heads))
        if getattr(block.bridge.attn, "b_O", None) is not None:
            yield _attention_bias(block)
        yield place_node(find(model, f"m{block.index}"))


def _attention_bias(block: Block) -> Node:
    """What the attention writes beyond its heads; the proof of a loaded model holds it constant."""
    heads = head_node(block, 0)

    def vector(seen: Seen) -> Tensor:
        total = seen.get(block.attention_sum)
        writes = block.head_writes(block.head_input(seen[block.z], total))
        return seen[block.attention_out] - writes.sum(dim=0)

    name = f"a{block.index}.bias"
    return Node(name, "bias", block.index, (*heads.hooks, block.attention_out), vector)
