"""A transformer whose every score is a whole number that can be worked out on paper.

One layer, two heads, four dimensions, GPT-2 format. Its norms divide by an enormous constant that
their weights undo, so they only centre, and every write has mean zero; attention is uniform; the
MLP has no curve. The model is therefore linear, and first-order scores are exact.

Prompts are two tokens, `A .` (clean) and `B .` (corrupt). At the second token,

    head 0 writes (0, 0, 2, -2) if it sees A, else 0,
    head 1 writes (3, -3, 0, 0) if it sees B, else 0,
    the MLP writes (5x, -5x, 0, 0), where x is the third coordinate of the stream,
    and the metric (logit of A - logit of B) is the stream's first minus its third coordinate.

Clean: head 0 and, through it, the MLP: (10, -10, 2, -2), metric 8. Corrupt: head 1, metric 3.
"""

import torch
import transformers as hf
from torch import Tensor

from patching.model import Model
from patching.modes import without_gradients
from patching.tasks import Prompt, Task

A, B, STOP = 0, 1, 2
CLEAN, CORRUPT = 8, 3
SCORES: dict[tuple[str, str], int] = {
    ("embed", "a0.h0.v"): 8,  # head 0 and all that follows from it
    ("embed", "a0.h1.v"): -3,  # head 1 would help
    ("a0.h0", "m0"): 10,
    ("a0.h0", "logits"): -2,
    ("a0.h1", "logits"): -3,
    ("m0", "logits"): 10,
}


def linear_model() -> Model:
    """The model, in float64."""
    config = hf.GPT2Config(
        vocab_size=3,
        n_positions=2,
        n_embd=4,
        n_layer=1,
        n_head=2,
        n_inner=1,
        activation_function="linear",
        layer_norm_epsilon=1e30,
        tie_word_embeddings=False,
        bos_token_id=2,
        eos_token_id=2,
    )
    module = hf.GPT2LMHeadModel(config).double().eval()
    _wire(module)
    return Model.load(module)


@without_gradients
def _wire(module: hf.GPT2LMHeadModel) -> None:
    for parameter in module.parameters():
        parameter.zero_()
    weights = module.state_dict()  # shares the parameters' memory
    for norm in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        weights[f"transformer.{norm}.weight"].fill_(1e15)
    embedding = weights["transformer.wte.weight"]
    embedding[A], embedding[B] = row(1, -1, 0, 0), row(0, 0, 1, -1)
    values = weights["transformer.h.0.attn.c_attn.weight"][:, 8:]  # [d_model, head * d_head]
    values[0, 0], values[2, 2] = 2, 2  # the pattern is 1/2
    heads = weights["transformer.h.0.attn.c_proj.weight"]
    heads[0], heads[2] = row(0, 0, 2, -2), row(3, -3, 0, 0)
    weights["transformer.h.0.mlp.c_fc.weight"][2] = 1
    weights["transformer.h.0.mlp.c_proj.weight"][0] = row(5, -5, 0, 0)
    unembedding = weights["lm_head.weight"]
    unembedding[A], unembedding[B] = row(1, 0, 0, 0), row(0, 0, 1, 0)


def linear_task(n: int = 1) -> Task:
    """The pair of prompts, `n` times."""
    return Task("A or B", (Prompt((A, STOP), (B, STOP), (A,), (B,)),) * n)


def row(*values: int) -> Tensor:
    """A vector of the stream."""
    return torch.tensor(values, dtype=torch.float64)
