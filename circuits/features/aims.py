"""What a graph explains: logits of the last position, as directions that read the final norm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.features.graph import LOGIT, FeatureGraph
from circuits.features.linear import LinearRun
from patching.anatomy.norms import widen
from patching.lens.direct import Aim
from patching.lens.text import single_token
from patching.lens.vocabulary import Vocabulary, find_vocabulary
from patching.model import Model

Wanted = Aim | int | str | Sequence[int | str] | None
"""Tokens, each a target of its own; one logit difference; None for the most likely tokens."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The logit nodes: token ids (-1 for a difference), directions, weights and logits.

    `weights` are probabilities (1 for a difference). Logits are before any softcap, less their mean
    over the vocabulary; `biases` is the part of them that is the unembedding's own bias.
    """

    ids: Int[Tensor, " target"]
    directions: Float[Tensor, "target d_model"]
    weights: Float[Tensor, " target"]
    logits: Float[Tensor, " target"]
    biases: Float[Tensor, " target"]


def find_targets(run: LinearRun, aim: Wanted, *, most: int, share: float) -> Targets:
    """The targets of a run: those asked for, or at most `most` tokens of a `share` in all.

    Raises:
        ValueError: if a token is unknown, or the aim is not one difference.
    """
    vocabulary = find_vocabulary(run.model)
    probabilities = widen(run.logits).double().softmax(dim=-1)
    if isinstance(aim, Aim):
        if len(aim.ids) != 1:
            raise ValueError(f"an aim is of one prompt here, got one of {len(aim.ids)} examples")
        ids = torch.tensor([-1], device=run.logits.device)
        return _targets(vocabulary, run, aim, ids, probabilities.new_ones(1))
    ids = _most_likely(probabilities, most, share) if aim is None else _named(run.model, aim)
    ids = ids.to(probabilities.device)
    ones = torch.ones(len(ids), 1, dtype=torch.float64, device=ids.device)
    return _targets(vocabulary, run, Aim(ids[:, None], ones, True), ids, probabilities[ids])


def told(aim: Wanted) -> object:
    """What is aimed at, in values that fit into JSON: what `aim_of` reads."""
    if isinstance(aim, Aim):
        ids, coefficients = aim.ids[0].tolist(), aim.coefficients[0].tolist()
        return {"ids": ids, "coefficients": coefficients, "centred": aim.centred}
    return "most likely tokens" if aim is None else str(aim)


def aim_of(graph: FeatureGraph) -> Aim | list[int]:
    """What a graph explains: its tokens, or one difference of logits.

    Raises:
        ValueError: if the graph does not say which difference.
    """
    ids = graph.nodes.indices[graph.nodes.kinds == LOGIT].tolist()
    if min(ids) >= 0:
        return ids
    said = graph.facts.get("aim")
    if not isinstance(said, Mapping):
        raise ValueError("the graph does not say which difference of logits it explains")
    coefficients = torch.tensor([said["coefficients"]], dtype=torch.float64)
    return Aim(torch.tensor([said["ids"]]), coefficients, bool(said["centred"]))


def _most_likely(
    probabilities: Float[Tensor, " vocab"], most: int, share: float
) -> Int[Tensor, " target"]:
    """The fewest tokens that hold a share of the probability, at most so many."""
    found = probabilities.topk(min(most, len(probabilities)))
    enough = int((found.values.cumsum(0) < share).sum()) + 1
    return found.indices[:enough]


def _named(model: Model, tokens: int | str | Sequence[int | str]) -> Int[Tensor, " target"]:
    listed = [tokens] if isinstance(tokens, int | str) else list(tokens)
    if not listed:
        raise ValueError("got no tokens to aim at; name at least one, by id or by text")
    n_tokens = int(model.bridge.cfg.d_vocab)
    return torch.tensor([single_token(model.tokenizer, token, n_tokens) for token in listed])


def _targets(
    vocabulary: Vocabulary,
    run: LinearRun,
    aim: Aim,
    ids: Int[Tensor, " target"],
    weights: Float[Tensor, " target"],
) -> Targets:
    directions = aim.direction(vocabulary.weight) * vocabulary.slope
    bias, n = vocabulary.bias, len(aim.ids)
    biases = directions.new_zeros(n, dtype=torch.float64)
    if bias is not None:
        biases = aim.difference(bias.to(aim.ids.device).expand(n, -1)) * vocabulary.slope
    final = widen(run.final[0, -1].detach()).to(directions)
    return Targets(ids, directions, weights, directions.double() @ final.double() + biases, biases)
