"""Logit lens and tuned lens: any state of the residual stream read as a prediction.

`logits = W_U norm(h) + b_U`, by the model's own final norm, unembedding and what follows
(nostalgebraist 2020, "interpreting GPT: the logit lens"). The last stream gives the model's own
logits.
"""

from collections.abc import Sequence

import torch

from patching.anatomy.blocks import widen
from patching.lens.nodes import Node, States, find_nodes, read_states
from patching.lens.prompts import Source, read_prompts, resolve_positions
from patching.lens.reading import Lens, Scale
from patching.lens.tuned import TunedLens, stream_layer
from patching.lens.vocabulary import find_vocabulary
from patching.model import Model
from patching.modes import without_gradients


def logit_lens(
    model: Model,
    prompts: Source,
    nodes: str | Sequence[str] = "resid_post",
    *,
    positions: int | Sequence[int] | None = None,
    scale: Scale = "recompute",
    softcap: bool = True,
    tuned: TunedLens | None = None,
) -> Lens:
    """Read nodes of a model as predictions of the next token. Costs one forward.

    Args:
        model: whose norm and unembedding read.
        prompts: a text, several, token ids, or a task (its clean prompts).
        nodes: a kind (`resid_pre`, `resid_mid`, `resid_post`, `attn_out`, `mlp_out`, `heads`),
            names of places (`embed`, `r0.post`, `a0.h1`, `m0.n7`), or several of both.
        positions: from a prompt's first token, or from its last (-1). None: all of them, and for
            a task the last.
        scale: `recompute` the final norm's denominator from each vector, or `frozen`: that of
            the last stream at the same position, so that readings of writes add up.
        softcap: apply the cap that some families (Gemma 2) put on their logits.
        tuned: a tuned lens to read the streams between layers with.

    >>> lens = logit_lens(Model.load("toy"), "The capital of France is")
    >>> lens.nodes[-1], len(lens.positions)
    ('r3.post', 6)
    >>> lens.to_dataframe().text.iloc[-1]
    'Paris'

    Raises:
        ValueError: if prompts, nodes or positions do not fit the model, or the tuned lens was
            trained for another one.
    """
    if scale not in ("recompute", "frozen"):
        raise ValueError(f"scale is 'recompute' or 'frozen', got {scale!r}")
    read, found = read_prompts(model, prompts), find_nodes(model, nodes)
    if tuned is not None:
        tuned.check(model)
        _require_streams(model, found)
    if positions is None and read.task is not None:
        positions = -1
    asked, places = resolve_positions(read, positions)
    vocabulary = find_vocabulary(model)
    states = read_states(model, vocabulary, read, places, found)
    states = states if tuned is None else _translate(model, states, found, tuned)
    names = tuple(node.name for node in found)
    return Lens(
        model, vocabulary, read, names, asked, places, states, scale, softcap, tuned is not None
    )


def _require_streams(model: Model, nodes: Sequence[Node]) -> None:
    for node in nodes:
        stream_layer(node.kind, node.layer, len(model.blocks))


@without_gradients
def _translate(model: Model, states: States, nodes: Sequence[Node], tuned: TunedLens) -> States:
    """The same states, each moved on to what its stream is on its way to."""
    n_layers = len(model.blocks)
    moved = []
    for node, vectors in zip(nodes, states.vectors, strict=True):
        layer = stream_layer(node.kind, node.layer, n_layers)
        moved.append(vectors if layer is None else widen(tuned(vectors, layer)))
    return States(torch.stack(moved), states.final)
