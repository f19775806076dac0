"""What a model says to a few tokens: the same bits as long as it is the same, in one process."""

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.claims import Probe
from patching.anatomy.turns import turn
from patching.modes import as_typed

_ROWS = 4096


@torch.no_grad()
def answer_of(bridge: TransformerBridge, tokens: Int[Tensor, "1 pos"]) -> Probe:
    """What a model says to a few tokens, without anything in place."""
    home = next(bridge.parameters()).device
    with turn(bridge), as_typed(), torch.inference_mode(False):
        logits = bridge(tokens.to(home))
    return Probe(tokens, logits.to(home))


def hashed_answer(bridge: TransformerBridge, tokens: Int[Tensor, "1 pos"]) -> str:
    """The hash of what a model says to a few tokens now."""
    return hash_answer(bridge, answer_of(bridge, tokens))


def hash_answer(bridge: TransformerBridge, answered: Probe) -> str:
    """A hash of an answer's bits, and of sums over those of embeddings, of which it sees little."""
    assert answered.logits is not None, "it has answered"
    digest = hashlib.sha256(_bytes(answered.logits))
    for table in ("embed", "pos_embed"):
        weight = getattr(getattr(bridge, table, None), "weight", None)
        if isinstance(weight, Tensor):
            digest.update(_bytes(_column_sums(weight.detach())))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _column_sums(matrix: Tensor) -> Int[Tensor, " column"]:
    """Sums of a matrix's bits, taken as integers, over its rows, some rows at a time."""
    kind = next(
        kind
        for kind in (torch.int64, torch.int32, torch.int16, torch.uint8)
        if matrix.shape[1] * matrix.element_size() % kind.itemsize == 0
    )
    parts = [rows.contiguous().view(kind).sum(dim=0) for rows in matrix.split(_ROWS)]
    return torch.stack(parts).sum(dim=0)
