"""A program as matrices, whatever format they go into afterwards.

Why norms do no harm. Each word of each slot is a direction of its own; all of them are orthonormal
and orthogonal to the vector of ones. Every writer adds one of its directions at every position, so
the stream has mean zero, and its squared length is the number of slots written so far. A LayerNorm
or an RMSNorm then divides by the same constant everywhere, sqrt(slots / d_model), which its own
weight multiplies back. This holds in patched runs too, for a writer replaced by the same writer on
another prompt keeps its length. (Up to the tails of the softmax, e^-25; and noise adds to it.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patching.models.truth.program import TOKEN, Head, Lookup, Match, Previous, Program
from patching.models.word_level import BOS

CONSTANT = "one"  # the direction that all embeddings share
MATCH_SCORE = 50.0  # attention score of what is asked for; all else gets 0
REST_SCORE = 25.0  # attention score of <bos>: wins where nothing is found
ANSWER_LOGIT = 10.0
SHARPNESS = 80.0  # a neuron's input is half of this above zero where its row fits, or half below
UNUSED_NEURONS = 8  # in an MLP that no look-up uses

Directions = Mapping[str, Float[Tensor, "word d_model"]]
QueryKey = tuple[Float[Tensor, "d_head d_model"], Float[Tensor, "d_head d_model"]]
AttendBack = Callable[["Layout", Previous], QueryKey]


@dataclass(frozen=True)
class Layout:
    """Where things are: directions of the stream by slot, and a head's channels for words.

    `channels` are as many as the words, and one more for resting at `<bos>`.
    """

    program: Program
    directions: Directions
    channels: tuple[int, ...]
    d_head: int

    @property
    def d_model(self) -> int:
        """Dimensions of the stream."""
        return self.directions[TOKEN].shape[1]

    @property
    def one(self) -> Float[Tensor, " d_model"]:
        """What every embedding holds."""
        return self.directions[CONSTANT][0]

    def word(self, slot: str, word: str) -> Float[Tensor, " d_model"]:
        """The direction of a word in a slot."""
        return self.directions[slot][self.program.vocabulary.index(word)]

    def zeros(self) -> Float[Tensor, "d_head d_model"]:
        """Channels that read nothing."""
        return torch.zeros(self.d_head, self.d_model, dtype=torch.float64)

    def gain(self, score: float) -> float:
        """What two equal channels are multiplied by to make an attention score."""
        return (score * self.d_head**0.5) ** 0.5


@dataclass(frozen=True)
class Weights:
    """All matrices, in float64; biases are zero.

    `attention` is q, k, v and (transposed) o. `norms` are squared lengths of the stream, of slots
    and constants only, before each attention, before each MLP, and at the end.
    """

    layout: Layout
    embedding: Float[Tensor, "vocab d_model"]
    unembedding: Float[Tensor, "vocab d_model"]
    attention: Float[Tensor, "layer 4 head d_head d_model"]
    mlp_in: Float[Tensor, "layer d_mlp d_model"]
    mlp_out: Float[Tensor, "layer d_mlp d_model"]
    norms: tuple[int, ...]


def slot_sizes(program: Program) -> dict[str, int]:
    """How many directions each slot takes, and the constant."""
    slots = (TOKEN, *(step.into for step in program.in_order))
    return {CONSTANT: 1, **dict.fromkeys(slots, len(program.vocabulary))}


def draw_directions(sizes: Mapping[str, int], d_model: int) -> Directions:
    """Orthonormal directions: always the same random rotation, orthogonal to the vector of ones."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(d_model, d_model, generator=generator, dtype=torch.float64)
    columns[:, 0] = 1.0
    directions = torch.linalg.qr(columns).Q.T[1:]
    split = directions[: sum(sizes.values())].split(list(sizes.values()))
    return dict(zip(sizes, split, strict=True))


def make_weights(layout: Layout, attend_back: AttendBack, noise: float) -> Weights:
    """The matrices of a program; `noise` is the standard deviation of the unused heads' weights."""
    program, directions = layout.program, layout.directions
    shape = (program.n_layers, 4, program.n_heads, layout.d_head, layout.d_model)
    generator = torch.Generator().manual_seed(1)
    attention = noise * torch.randn(*shape, generator=generator, dtype=torch.float64)
    lookups = [step for step in program.in_order if isinstance(step, Lookup)]
    neurons = [_neurons(layout, step) for step in lookups]
    widest = max([UNUSED_NEURONS, *(len(read) for read, _ in neurons)])
    mlp_in = torch.zeros(program.n_layers, widest, layout.d_model, dtype=torch.float64)
    mlp_out = torch.zeros_like(mlp_in)
    for step, (read, write) in zip(lookups, neurons, strict=True):
        mlp_in[step.layer, : len(read)], mlp_out[step.layer, : len(write)] = read, write
    for step in program.in_order:
        if isinstance(step, Head):
            attention[step.layer, :, step.head] = _head(layout, step, attend_back)
    answers = torch.stack([directions[slot] for slot in program.answers]).sum(dim=0)
    return Weights(
        layout=layout,
        embedding=directions[TOKEN] + layout.one,
        unembedding=ANSWER_LOGIT / len(program.answers) * answers,
        attention=attention,
        mlp_in=mlp_in,
        mlp_out=mlp_out,
        norms=tuple(program.written_before(moment) for moment in range(2 * program.n_layers + 1)),
    )


def _head(layout: Layout, step: Head, attend_back: AttendBack) -> Float[Tensor, "4 d_head d_model"]:
    """The queries and keys of its attention, and a copy by one channel per word."""
    if isinstance(step.attend, Previous):
        q, k = attend_back(layout, step.attend)
    else:
        q, k = _match(layout, step.attend)
    v, o = layout.zeros(), layout.zeros()
    v[: len(layout.program.vocabulary)] = layout.directions[step.copy]
    o[: len(layout.program.vocabulary)] = layout.directions[step.into]
    return torch.stack([q, k, v, o])


def _match(layout: Layout, attend: Match) -> QueryKey:
    """Channel w is word w: what is asked for, what is there; the last is for resting at `<bos>`."""
    *places, rest = layout.channels
    q, k = layout.zeros(), layout.zeros()
    gain = layout.gain(MATCH_SCORE)
    k[places] = gain * layout.directions[attend.key]
    if attend.query is not None:
        q[places] = gain * layout.directions[attend.query]
    elif attend.word is not None:
        q[places[layout.program.vocabulary.index(attend.word)]] = gain * layout.one
    q[rest] = gain * REST_SCORE / MATCH_SCORE * layout.one
    k[rest] = gain * layout.word(TOKEN, BOS)
    return q, k


def _neurons(
    layout: Layout, step: Lookup
) -> tuple[Float[Tensor, "neuron d_model"], Float[Tensor, "neuron d_model"]]:
    """What neurons read and write: one that is always on and says `otherwise`, then one per row.

    A row's neuron is on where all its words are there, and turns `otherwise` into what it found.
    """
    on = SHARPNESS / 2
    otherwise = layout.word(step.into, step.otherwise)
    reads, writes = [on * layout.one], [otherwise / on]
    for row, found in step.table.items():
        there = [layout.word(slot, word) for slot, word in zip(step.slots, row, strict=True)]
        reads.append(SHARPNESS * (sum(there) - (len(row) - 0.5) * layout.one))
        writes.append((layout.word(step.into, found) - otherwise) / on)
    return torch.stack(reads), torch.stack(writes)
