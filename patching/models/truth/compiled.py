"""Programs as Hugging Face models, in the formats of GPT-2 and Llama. Deterministic, in memory.

How each format attends to the token before. GPT-2 has learned positions: a direction for each, so
that the query asks for one of them. Llama has rotary embeddings: two constants, of which one is
turned back by one token, agree best where the key lies one token back. Rotations slow down by a
factor of 8 from one pair of channels to the next; the first three pairs tell positions apart, and
words use the pairs from the ninth on, which over a prompt turn by less than 1e-5 and so do nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from patching.models.truth.program import Previous, Program
from patching.models.truth.weights import (
    Layout,
    QueryKey,
    Weights,
    draw_directions,
    make_weights,
    slot_sizes,
)
from patching.models.word_level import BOS, PAD, SPECIAL, word_level_tokenizer

BOS_ID, PAD_ID = SPECIAL.index(BOS), SPECIAL.index(PAD)
POSITION = "position"
POSITION_SCORE = 40.0  # GPT-2: attention score of the position asked for
TURN_SCORE = 100.0  # Llama: attention score of two constants that agree, for each pair
SLOWER, TELLING_PAIRS, FIRST_WORD_PAIR = 8, 3, 8
MOST_PAIRS = 42  # the base of the rotations, 8 ** pairs, has to fit in float32
LEAST_MARGIN = 20.0  # attention scores: e^-20 is what of other positions comes through
EPSILON = 1e-12  # of the norms: far below rounding


@dataclass(frozen=True)
class Compiled:
    """A model that runs a program, its tokenizer, and the edges that the computation reads."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    structural: frozenset[str]


def compile_gpt2(
    program: Program,
    *,
    noise: float = 0.0,
    dtype: torch.dtype = torch.float32,
    activation: str = "gelu_new",
) -> Compiled:
    """A program as a GPT-2.

    `noise` is the standard deviation of the weights of heads that the program does not use,
    `activation` the function of its neurons, by transformers' name.

    >>> from patching.models.truth import Head, Program, previous
    >>> echo = Program(("a",), (Head(0, 0, previous(), "token", "old"),), ("old",), n_layers=1)
    >>> compile_gpt2(echo).tokenizer.encode("a a")
    [1, 3, 3]
    """
    sizes = {**slot_sizes(program), POSITION: program.n_positions}
    n_channels = max(len(program.vocabulary) + 1, program.n_positions)
    d_head = _round_up(max(n_channels, math.ceil((sum(sizes.values()) + 1) / program.n_heads)))
    directions = draw_directions(sizes, program.n_heads * d_head)
    channels = tuple(range(len(program.vocabulary) + 1))
    layout = Layout(program, directions, channels, d_head)
    weights = make_weights(layout, _ask_for_position, noise)
    config = GPT2Config(
        vocab_size=len(program.vocabulary),
        n_positions=program.n_positions,
        n_embd=layout.d_model,
        n_layer=program.n_layers,
        n_head=program.n_heads,
        n_inner=weights.mlp_in.shape[1],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        layer_norm_epsilon=EPSILON,
        activation_function=activation,
        tie_word_embeddings=False,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
    )
    return Compiled(_filled(config, _gpt2_parameters(weights), dtype), *_known(program))


def compile_llama(
    program: Program, *, noise: float = 0.0, dtype: torch.dtype = torch.float32
) -> Compiled:
    """A program as a Llama (RMSNorm, rotary embeddings, gated MLP); otherwise as `compile_gpt2`.

    Hugging Face's Llama norms, turns and takes its softmax in float32 whatever the weights are.

    Raises:
        ValueError: if there are too many words for the channels that do not turn, or the rotations
            cannot tell the positions apart that a head asks for.
    """
    n_words = len(program.vocabulary) + 1
    pairs = FIRST_WORD_PAIR + math.ceil(n_words / 2)
    if pairs > MOST_PAIRS:
        most = 2 * (MOST_PAIRS - FIRST_WORD_PAIR) - len(SPECIAL) - 1
        raise ValueError(
            f"a program of {len(program.words)} words does not fit the rotary embeddings of the "
            f"Llama format; at most {most} would, or compile_gpt2"
        )
    channels = (*range(FIRST_WORD_PAIR, pairs), *range(pairs + FIRST_WORD_PAIR, 2 * pairs))
    sizes = slot_sizes(program)
    directions = draw_directions(sizes, _round_up(sum(sizes.values()) + 1))
    layout = Layout(program, directions, channels[:n_words], 2 * pairs)
    weights = make_weights(layout, _turn_back, noise)
    config = LlamaConfig(
        vocab_size=len(program.vocabulary),
        max_position_embeddings=program.n_positions,
        hidden_size=layout.d_model,
        head_dim=layout.d_head,
        intermediate_size=weights.mlp_in.shape[1],
        num_hidden_layers=program.n_layers,
        num_attention_heads=program.n_heads,
        num_key_value_heads=program.n_heads,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": float(SLOWER**pairs)},
        tie_word_embeddings=False,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
    )
    return Compiled(_filled(config, _llama_parameters(weights), dtype), *_known(program))


Parameters = Mapping[str, Tensor]


@torch.no_grad()
def _filled(config: PreTrainedConfig, given: Parameters, dtype: torch.dtype) -> PreTrainedModel:
    """A model with these parameters; those not given are zero."""
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten below, all of it
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    nn.Module.to(model, dtype=dtype)
    for name, parameter in model.named_parameters():
        parameter.copy_(given[name]) if name in given else parameter.zero_()
    return model.eval()


def _known(program: Program) -> tuple[PreTrainedTokenizerFast, frozenset[str]]:
    cutter = pre_tokenizers.WhitespaceSplit()
    tokenizer = word_level_tokenizer(program.words, cutter, max_length=program.n_positions)
    return tokenizer, program.structural


def _ask_for_position(layout: Layout, attend: Previous) -> QueryKey:
    """Key channel p is position p; queries ask for the position `back` before, or the first."""
    positions = layout.directions[POSITION]
    gain = layout.gain(POSITION_SCORE)
    q, k = layout.zeros(), layout.zeros()
    k[: len(positions)] = gain * positions
    for here, direction in enumerate(positions):
        q[max(here - attend.back, 0)] += gain * direction
    return q, k


def _turn_back(layout: Layout, attend: Previous) -> QueryKey:
    """In a few pairs of channels the key is (1, 0), and the query that turned by `-back` tokens."""
    _require_told_apart(layout.program, attend)
    gain, half = layout.gain(TURN_SCORE), layout.d_head // 2
    q, k = layout.zeros(), layout.zeros()
    for pair in range(TELLING_PAIRS):
        angle = attend.back / SLOWER**pair
        k[pair] = gain * layout.one
        q[pair] = gain * math.cos(angle) * layout.one
        q[pair + half] = -gain * math.sin(angle) * layout.one
    return q, k


def _require_told_apart(program: Program, attend: Previous) -> None:
    places = torch.arange(program.n_positions, dtype=torch.float64)
    apart = places[:, None] - places[None] - attend.back
    scores = sum(TURN_SCORE * torch.cos(apart / SLOWER**pair) for pair in range(TELLING_PAIRS))
    scores = torch.as_tensor(scores).masked_fill(places[:, None] < places[None], -math.inf)
    asked = (places - attend.back).clamp(min=0).long()[:, None]
    best = scores.gather(1, asked)[:, 0]
    margin = (best - scores.scatter(1, asked, -math.inf).amax(dim=1)).min()
    if margin < LEAST_MARGIN:
        raise ValueError(
            f"rotations cannot tell the token {attend.back} back from all others in "
            f"{program.n_positions} positions (a margin of {float(margin):.0f} in attention "
            f"scores, {LEAST_MARGIN:.0f} is needed); take fewer, or compile_gpt2"
        )


def _gpt2_parameters(weights: Weights) -> Parameters:
    layout = weights.layout
    named = {
        "transformer.wte.weight": weights.embedding,
        "transformer.wpe.weight": layout.directions[POSITION],
        "lm_head.weight": weights.unembedding,
        "transformer.ln_f.weight": _norm(weights, -1, n_more=1),
    }
    for i, attention in enumerate(weights.attention):
        block = f"transformer.h.{i}"
        *qkv, o = rearrange(attention, "part head d_head d_model -> part (head d_head) d_model")
        named |= {
            f"{block}.ln_1.weight": _norm(weights, 2 * i, n_more=1),
            f"{block}.ln_2.weight": _norm(weights, 2 * i + 1, n_more=1),
            f"{block}.attn.c_attn.weight": torch.cat(qkv).T,
            f"{block}.attn.c_proj.weight": o,
            f"{block}.mlp.c_fc.weight": weights.mlp_in[i].T,
            f"{block}.mlp.c_proj.weight": weights.mlp_out[i],
        }
    return named


def _llama_parameters(weights: Weights) -> Parameters:
    """A gate does what GPT-2's neuron does; it lets through a constant of one."""
    named = {
        "model.embed_tokens.weight": weights.embedding,
        "lm_head.weight": weights.unembedding,
        "model.norm.weight": _norm(weights, -1, n_more=0),
    }
    for i, attention in enumerate(weights.attention):
        block = f"model.layers.{i}"
        q, k, v, o = rearrange(attention, "part head d_head d_model -> part (head d_head) d_model")
        named |= {
            f"{block}.input_layernorm.weight": _norm(weights, 2 * i, n_more=0),
            f"{block}.post_attention_layernorm.weight": _norm(weights, 2 * i + 1, n_more=0),
            f"{block}.self_attn.q_proj.weight": q,
            f"{block}.self_attn.k_proj.weight": k,
            f"{block}.self_attn.v_proj.weight": v,
            f"{block}.self_attn.o_proj.weight": o.T,
            f"{block}.mlp.gate_proj.weight": weights.mlp_in[i],
            f"{block}.mlp.up_proj.weight": weights.layout.one.expand_as(weights.mlp_in[i]),
            f"{block}.mlp.down_proj.weight": weights.mlp_out[i].T,
        }
    return named


def _norm(weights: Weights, moment: int, *, n_more: int) -> Tensor:
    """What undoes the division of a norm; GPT-2's stream holds the position as well."""
    d_model = weights.layout.d_model
    length = ((weights.norms[moment] + n_more) / d_model) ** 0.5
    return torch.full((d_model,), length, dtype=torch.float64)


def _round_up(n: int) -> int:
    """To a multiple of eight."""
    return -(-n // 8) * 8
