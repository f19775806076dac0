"""Proof that a model reads its stream and tokens at the graph's readers and nowhere else.

With every reader held at what it read in a run of its own, the layers get noise for a stream and
the model other tokens. Whatever moves has read them past its readers, as a gate on the attention's
output does (AFMoE, Laguna) and a router that looks at the tokens. One run of one short row,
whatever the depth.

Before it, that row alone and cut short shows whether other rows or later tokens have a part in what
a row gives; batches and padding rely on it that they have none. That run is also the answer by
which the model is known again (`standing`).
"""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.blocks import FINAL_STREAM, Block
from patching.anatomy.claims import Claim, Seen

ATTENTION_READS = (
    "reads the stream or the tokens beside its queries, keys and values, as a gate does: it moves "
    "when those are held"
)
MLP_READS = "reads the stream or the tokens beside its own input: it moves when that is held"
LOGITS_READ = "read more than the last stream: they move when that is held"
ROWS_COUPLED = "is not what it is beside other rows and before other tokens"


@torch.no_grad()
def held_claims(
    bridge: TransformerBridge, blocks: tuple[Block, ...], logits: Tensor, seen: Seen, tokens: Tensor
) -> Iterator[Claim]:
    """What must not move when the readers are held, given a run (`seen`, `logits`) of `tokens`.

    The row that is run alone is enough, where no other row or later token has a part in it.
    """
    moved: Seen = {}
    home, tokens = logits.device, row_alone(bridge, tokens)
    seen = {name: _beside(x, tokens) for name, x in seen.items()}
    logits = _beside(logits, tokens)
    hooks = [(FINAL_STREAM, partial(_hold, seen[FINAL_STREAM]))]
    for block in blocks:
        stream = seen[block.stream_in]
        hooks.append((block.stream_in, partial(_hold, _noise(stream, block.index))))
        hooks += [(name, partial(_hold, seen[name])) for name in (*block.projections, block.mlp_in)]
        watched = (block.z, block.attention_out, block.mlp_out)
        hooks += [(name, partial(see, moved, name, home)) for name in watched]
    others = (tokens.to(home) + 1) % int(bridge.cfg.d_vocab)
    with bridge.hooks(fwd_hooks=hooks):
        found = bridge(others).to(home)
    for block in blocks:
        i = block.index
        for name, what, fault in (
            (block.z, f"layer {i}'s attention", ATTENTION_READS),
            (block.attention_out, f"layer {i}'s attention", ATTENTION_READS),
            (block.mlp_out, f"layer {i}'s MLP", MLP_READS),
        ):
            yield Claim(what, seen[name], moved[name], i, fault)
    yield Claim("the logits", logits, found, fault=LOGITS_READ)


def row_alone(
    bridge: TransformerBridge, tokens: Int[Tensor, "batch pos"]
) -> Int[Tensor, "1 pos_alone"]:
    """The last row alone, cut to about half where positions see only what came before them."""
    two_way = bridge.cfg.attention_dir == "bidirectional"
    return tokens[-1:, : tokens.shape[1] if two_way else (tokens.shape[1] + 1) // 2]


def row_claim(logits: Float[Tensor, "batch pos vocab"], alone: Tensor) -> Claim:
    """What `row_alone` gives, beside what the row gave among the others."""
    return Claim("what a row gives alone", _beside(logits, alone), alone, fault=ROWS_COUPLED)


def see(seen: Seen, name: str, home: torch.device, tensor: Tensor, hook: object) -> None:
    """A hook that keeps what it sees."""
    seen[name] = tensor.detach().to(home)


def _beside(x: Tensor, alone: Tensor) -> Tensor:
    """What of a run of all rows is of that row and its tokens."""
    return x[-1:, : alone.shape[1]]


def _hold(held: Tensor, tensor: Tensor, hook: object) -> Tensor:
    return held.to(tensor)


def _noise(stream: Tensor, seed: int) -> Tensor:
    """As large as the stream it stands for."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(stream.shape, generator=generator).to(stream) * stream.std()
