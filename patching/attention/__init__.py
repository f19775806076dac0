"""Attention heads: their patterns, scores, circuits over the vocabulary, and subspaces."""

from patching.attention.pattern_grid import patterns
from patching.attention.scores import (
    HEAD_SCORES,
    HeadScore,
    duplicate_token,
    entropy,
    first_token,
    head_scores,
    induction,
    previous_token,
    repeated_tokens,
)
from patching.attention.spans import SpanAttention, attention_between_spans
from patching.attention.subspaces import Subspace, compress, draw_ranks, find_subspace
from patching.attention.vocabulary import (
    VocabularyCircuit,
    copying_scores,
    ov_circuit,
    qk_circuit,
    token_embeddings,
)

__all__ = [
    "HEAD_SCORES",
    "HeadScore",
    "SpanAttention",
    "Subspace",
    "VocabularyCircuit",
    "attention_between_spans",
    "compress",
    "copying_scores",
    "draw_ranks",
    "duplicate_token",
    "entropy",
    "find_subspace",
    "first_token",
    "head_scores",
    "induction",
    "ov_circuit",
    "patterns",
    "previous_token",
    "qk_circuit",
    "repeated_tokens",
    "token_embeddings",
]
