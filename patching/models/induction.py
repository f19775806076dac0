"""An induction circuit wired by hand: a GPT-2 whose true edges are known exactly.

The task: a list of different letters, then one of them again; the answer is the letter after its
first mention (`b d a c d` -> `a`). Two heads do it, the other six and the MLPs are silent:

* `a0.h1`, the previous-token head: position p attends to p - 1 by position alone and writes, in a
  slot of its own, which token is there.
* `a1.h3`, the induction head: the query is the current token, keys are the slots of `a0.h1`, so it
  attends to the position after the first mention; the value is the token there, written in the
  slot the unembedding reads. Where nothing matches it attends to `<bos>`, which is then answered.

Why LayerNorm does no harm. All slots (token, position, previous, output) are orthonormal directions
that are also orthogonal to the vector of ones. The stream therefore has mean zero, and its squared
length is the number of slots in use, the same at every position: 2 before layer 0, 3 before layer 1
and 4 at the end. So each norm divides by the constant sqrt(slots / d_model), which its own weight
multiplies back. (Up to the tails of the softmax: an attention not quite one-hot writes a little
less than unit length. In the variant "noise" the other heads write small random vectors too.)
"""

import itertools
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from patching.models.word_level import BOS, PAD, SPECIAL, word_level_tokenizer
from patching.tasks import words
from patching.tasks.generators import Generator, draw
from patching.tasks.task import Task
from patching.tasks.tokens import TextPrompt, Tokenizer, to_prompt

LETTERS = string.ascii_lowercase[:24]
BOS_ID = SPECIAL.index(BOS)
N_VOCAB, N_POSITIONS = len(SPECIAL) + len(LETTERS), 24
N_LAYERS, N_HEADS, D_MODEL = 2, 4, 128
D_HEAD = D_MODEL // N_HEADS
LIST_LENGTH = 9

MATCH_SCORE = 40.0  # attention score of the right position; all others get 0
SINK_SCORE = 20.0  # attention score of <bos> in the induction head: wins if nothing matches
ANSWER_LOGIT = 10.0
NOISE = {"clean": 0.0, "noise": 0.02}  # standard deviation of the other heads' weights

ACTIVE_EDGES = frozenset(
    {
        "embed->a0.h1.v",
        "a0.h1->a1.h3.k",
        "embed->a1.h3.q",
        "embed->a1.h3.v",
        "a1.h3->logits",
    }
)
STRUCTURAL_EDGES = ACTIVE_EDGES | {"embed->a0.h1.q", "embed->a0.h1.k", "embed->a1.h3.k"}


@dataclass(frozen=True)
class HandWired:
    """A model, and the truth about it.

    `structural_edges` are all that the computation reads. `active_edges` are those among them whose
    value depends on which letters the prompt has: only these can have an effect under the task's
    corrupt prompts. The rest carry constants: positions into `a0.h1.q` and `a0.h1.k`, and the
    key of `<bos>` into `a1.h3.k`. Scores are to be judged against the active set.
    """

    model: GPT2LMHeadModel
    tokenizer: PreTrainedTokenizerFast
    task: Task
    structural_edges: frozenset[str]
    active_edges: frozenset[str]


def induction(variant: str = "clean", *, n: int = 96, seed: int = 0) -> HandWired:
    """The wired model with a task of `n` pairs drawn by `seed`.

    In the variant "clean" the other heads are zero, in "noise" their weights are N(0, 0.02).

    >>> sorted(induction().active_edges)[0]
    'a0.h1->a1.h3.k'

    Raises:
        ValueError: if there is no such variant, or `n` is less than 1.
    """
    if variant not in NOISE:
        raise ValueError(f"no variant {variant!r} of the induction model; there is clean, noise")
    tokenizer = letter_tokenizer()
    task = repeated_letter(cast(Tokenizer, tokenizer), n, seed)
    model = _model(noise=NOISE[variant])
    return HandWired(model, tokenizer, task, STRUCTURAL_EDGES, ACTIVE_EDGES)


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter; letters are separated by spaces, a text gets one `<bos>`."""
    cutter = pre_tokenizers.WhitespaceSplit()
    return word_level_tokenizer(LETTERS, cutter, max_length=N_POSITIONS)


def repeated_letter(tokenizer: Tokenizer, n: int, seed: int = 0) -> Task:
    """A list of nine letters, then one of them again; which letter followed it?

    Corrupt prompts replace in turn the letter's first mention (nothing matches: wrong is `<bos>`),
    the letter after it, and the repeated letter; together they make every active edge matter.

    Raises:
        ValueError: if fewer than ten letters are single tokens, or `n` is less than 1.
    """
    what = "single-token letters for the task 'repeated-letter'"
    letters = words.single_words(tokenizer, LETTERS, "a", need=LIST_LENGTH + 1, what=what)
    corruptions = itertools.cycle(range(3))
    return draw(
        "repeated-letter",
        n,
        seed,
        lambda rng: to_prompt(tokenizer, _text(rng, letters, next(corruptions))),
    )


TRUTH_GENERATORS: dict[str, Generator] = {"repeated-letter": repeated_letter}


def _text(rng: random.Random, letters: Sequence[str], corruption: int) -> TextPrompt:
    *listed, new = rng.sample(letters, LIST_LENGTH + 1)
    asked, other = rng.sample(range(LIST_LENGTH - 1), 2)
    clean = [*listed, listed[asked]]
    place, letter, wrong = (
        (asked, new, BOS),
        (asked + 1, new, new),
        (LIST_LENGTH, listed[other], listed[other + 1]),
    )[corruption]
    corrupt = [*clean[:place], letter, *clean[place + 1 :]]
    return TextPrompt(
        " ".join(clean), " ".join(corrupt), (f" {listed[asked + 1]}",), (f" {wrong}",)
    )


@dataclass(frozen=True)
class _Wiring:
    """Channel i of a head reads the directions q[i], k[i], v[i] and writes o[i]."""

    q: Float[Tensor, "channel_qk d_model"]
    k: Float[Tensor, "channel_qk d_model"]
    v: Float[Tensor, "channel_v d_model"]
    o: Float[Tensor, "channel_v d_model"]


def _slots() -> dict[str, Float[Tensor, "_ d_model"]]:
    """Orthonormal directions by use; a fixed random rotation, orthogonal to the vector of ones."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    columns[:, 0] = 1.0
    directions = torch.linalg.qr(columns).Q.T[1:]
    counts = {"token": N_VOCAB, "position": N_POSITIONS, "previous": N_VOCAB, "output": N_VOCAB}
    split = directions[: sum(counts.values())].split(list(counts.values()))
    return dict(zip(counts, split, strict=True))


@torch.no_grad()
def _model(noise: float) -> GPT2LMHeadModel:
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten below, all of it
        model = AutoModelForCausalLM.from_config(_config(), attn_implementation="eager")
    assert isinstance(model, GPT2LMHeadModel), "the configuration is GPT-2's"
    weights, slots = dict(model.named_parameters()), _slots()
    for weight in weights.values():
        weight.zero_()
    _add_noise_(weights, noise)
    weights["transformer.wte.weight"].copy_(slots["token"])
    weights["transformer.wpe.weight"].copy_(slots["position"])
    weights["lm_head.weight"].copy_(ANSWER_LOGIT * slots["output"])
    norms = ("h.0.ln_1", "h.1.ln_1", "ln_f")
    for norm, slots_in_use in zip(norms, (2, 3, 4), strict=True):
        weights[f"transformer.{norm}.weight"].fill_((slots_in_use / D_MODEL) ** 0.5)
    _wire_(weights, 0, 1, _previous_token_wiring(slots))
    _wire_(weights, 1, 3, _induction_wiring(slots))
    _add_sink_(weights, 1, 3, slots["token"][BOS_ID])
    return model.eval()


def _config() -> GPT2Config:
    return GPT2Config(
        vocab_size=N_VOCAB,
        n_positions=N_POSITIONS,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_inner=8,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        layer_norm_epsilon=1e-12,
        tie_word_embeddings=False,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
        pad_token_id=SPECIAL.index(PAD),
    )


def _add_noise_(weights: Mapping[str, Tensor], std: float) -> None:
    """Random weights in all heads; the wired heads are overwritten afterwards."""
    generator = torch.Generator().manual_seed(1)
    for layer in range(N_LAYERS):
        for projection in ("c_attn", "c_proj"):
            weight = weights[f"transformer.h.{layer}.attn.{projection}.weight"]
            weight.copy_(std * torch.randn(weight.shape, generator=generator))


def _previous_token_wiring(slots: Mapping[str, Float[Tensor, "_ d_model"]]) -> _Wiring:
    """Key channel p is position p; the query of p + 1 asks for it, and `<bos>` for itself."""
    here = slots["position"]
    asks_for = torch.zeros_like(here)
    asks_for[:-1] = here[1:]
    asks_for[0] += here[0]
    return _Wiring(q=asks_for, k=here, v=slots["token"], o=slots["previous"])


def _induction_wiring(slots: Mapping[str, Float[Tensor, "_ d_model"]]) -> _Wiring:
    """Query and key channel t is token t: that of the query, and that before the key."""
    token = slots["token"]
    return _Wiring(q=token, k=slots["previous"], v=token, o=slots["output"])


def _gain() -> float:
    """Weight of query and key channels: two of them, over sqrt(d_head), make the match score."""
    return (MATCH_SCORE * D_HEAD**0.5) ** 0.5


def _wire_(weights: Mapping[str, Tensor], layer: int, head: int, wiring: _Wiring) -> None:
    """Overwrite one head's weights."""
    attention = f"transformer.h.{layer}.attn"
    start, stop = head * D_HEAD, (head + 1) * D_HEAD
    read = weights[f"{attention}.c_attn.weight"].view(D_MODEL, 3, D_MODEL)  # in, (q, k, v), channel
    write = weights[f"{attention}.c_proj.weight"]
    read[:, :, start:stop] = 0.0
    write[start:stop] = 0.0
    parts = ((wiring.q, _gain()), (wiring.k, _gain()), (wiring.v, 1.0))
    for part, (directions, gain) in enumerate(parts):
        read[:, part, start : start + len(directions)] = (gain * directions.T).to(read.dtype)
    write[start : start + len(wiring.o)] = wiring.o.to(write.dtype)


def _add_sink_(
    weights: Mapping[str, Tensor], layer: int, head: int, bos: Float[Tensor, " d_model"]
) -> None:
    """Let every query ask for `<bos>` a little, in the head's last channel."""
    attention = f"transformer.h.{layer}.attn"
    sink = (head + 1) * D_HEAD - 1
    weights[f"{attention}.c_attn.bias"][sink] = _gain() * SINK_SCORE / MATCH_SCORE
    weights[f"{attention}.c_attn.weight"][:, D_MODEL + sink] = _gain() * bos.float()
