"""Direct logit attribution: what every write adds to a logit difference, without detours.

At the last position of each prompt, with the final norm's denominator frozen at that of the full
stream, everything after the stream is linear: `write . r`, where r is the difference of the
unembedding's rows taken back through the norm. All rows together, biases included, are the logit
difference before any softcap. Effects by way of later layers are left out: see `attribution`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM, widen
from patching.files.brief import briefly
from patching.grid import Grid
from patching.lens.neurons import NeuronOutput, find_output
from patching.lens.nodes import Node, Seen, run_at
from patching.lens.prompts import Prompts, Source, read_prompts, resolve_positions
from patching.lens.text import single_token
from patching.lens.vocabulary import Vocabulary, find_vocabulary, prove_vocabulary
from patching.lens.writers import find_writers
from patching.model import Model
from patching.modes import without_gradients

Tokens = int | str | Sequence[int | str]
Part = Node | tuple[int, NeuronOutput]
"""A writer, or a layer with the neurons of its MLP."""

QUANTITY = "contribution to the logit difference before any softcap (positive: helps the answers)"


@briefly
@dataclass(frozen=True, eq=False)
class Aim:
    """A logit difference for each example, as tokens with coefficients (0 fills up).

    `centred`: the mean over the whole vocabulary is taken off.
    """

    ids: Int[Tensor, "example n"]
    coefficients: Float[Tensor, "example n"]
    centred: bool = False

    def __getitem__(self, rows: slice) -> "Aim":
        return Aim(self.ids[rows], self.coefficients[rows], self.centred)

    def direction(self, weight: Float[Tensor, "vocab d_model"]) -> Float[Tensor, "example d_model"]:
        """The difference of the unembedding's rows."""
        home = self.ids.device
        rows = widen(weight[self.ids.to(weight.device)]).to(home)
        weights = self.coefficients.to(rows)
        made = einsum(rows, weights, "example n d_model, example n -> example d_model")
        return made - widen(weight).mean(dim=0).to(home) if self.centred else made

    def difference(self, logits: Float[Tensor, "example vocab"]) -> Float[Tensor, " example"]:
        """The difference itself."""
        made = (logits.gather(1, self.ids).double() * self.coefficients).sum(dim=1)
        return made - logits.double().mean(dim=1) if self.centred else made


@without_gradients
def direct_logit_attribution(
    model: Model,
    prompts: Source,
    answers: Tokens | None = None,
    wrong_answers: Tokens | None = None,
    *,
    neurons: bool = False,
    batch_size: int = 16,
) -> Grid:
    """What every head, MLP and bias adds to mean answer logit - mean wrong logit, in logits.

    One axis, `node`, whose rows sum to `clean`: the difference itself (the mean logit of the
    answers, where there are no wrong ones). `prompts` are a task, which has answers of its own,
    or prompts to be given `answers`. With `neurons`, every MLP is split into its neurons and its
    bias. Costs one forward.

    >>> from patching.models import TOY_GENERATORS
    >>> model = Model.load("toy")
    >>> grid = direct_logit_attribution(model, TOY_GENERATORS["facts"](model.tokenizer, 4, 0))
    >>> bool((grid.values.sum(dim=1) - grid.clean).abs().max() < 1e-4)
    True

    Raises:
        ValueError: if prompts and answers do not fit the model or each other, or neurons are
            asked of a mixture of experts.
    """
    read, vocabulary = read_prompts(model, prompts), find_vocabulary(model)
    aim = _find_aim(model, read, vocabulary, answers, wrong_answers)
    parts = find_parts(model, neurons=neurons)
    _, at = resolve_positions(read, -1)
    values, totals = [], []
    for start in range(0, len(read), batch_size):
        rows = slice(start, start + batch_size)
        (tokens,) = Prompts(read.rows[rows], read.name).batches(batch_size, model.device)
        seen, logits = run_at(model, tokens, at[rows].to(model.device), hooks_of(parts))
        final = seen[FINAL_STREAM]
        prove_vocabulary(model, vocabulary, final, logits)
        values.append(contributions(vocabulary, parts, seen, aim[rows]))
        totals.append(aim[rows].difference(vocabulary.logits(final, softcap=False)))
    facts = {
        "model": model.name,
        **model.identity.facts,
        "prompts": read.name,
        "tokens": read.hash,
        "method": "direct logit attribution, scale frozen, before any softcap",
    }
    axes = {"node": names_of(vocabulary, parts)}
    return Grid(QUANTITY, torch.cat(values), axes, clean=torch.cat(totals), provenance=facts)


def find_parts(model: Model, *, neurons: bool = False) -> tuple[Part, ...]:
    """Everything that writes to the stream; with `neurons`, each MLP by its neurons.

    Raises:
        ValueError: if neurons are asked of a mixture of experts.
    """
    parts: list[Part] = []
    for node in find_writers(model):
        split = neurons and node.kind == "mlp_out"
        parts.append((node.layer, find_output(model, model.blocks[node.layer])) if split else node)
    return tuple(parts)


def hooks_of(parts: Sequence[Part]) -> set[str]:
    """All that a run has to keep."""
    hooks = [part.hooks if isinstance(part, Node) else part[1].hooks for part in parts]
    return {FINAL_STREAM, *(name for some in hooks for name in some)}


def names_of(vocabulary: Vocabulary, parts: Sequence[Part]) -> tuple[str, ...]:
    """The names of what `contributions` returns."""
    names: list[str] = []
    for part in parts:
        if isinstance(part, Node):
            names.append(part.name)
            continue
        layer, output = part
        names += [f"m{layer}.n{i}" for i in range(len(output.weight))]
        names += [] if output.bias is None else [f"m{layer}.bias"]
    norm = vocabulary.norm
    names += [] if norm is None or norm.beta is None else ["norm bias"]
    return (*names, *([] if vocabulary.bias is None else ["unembedding bias"]))


def contributions(
    vocabulary: Vocabulary, parts: Sequence[Part], seen: Seen, aim: Aim
) -> Float[Tensor, "token node"]:
    """What each part adds to the difference, then the biases behind the stream, in logits."""
    direction, norm = aim.direction(vocabulary.weight), vocabulary.norm
    reader = vocabulary.pull_back(direction, vocabulary.sigma(seen[FINAL_STREAM]))
    found: list[Tensor] = []
    for part in parts:
        if isinstance(part, Node):
            found.append((widen(part.vector(seen)) * reader).sum(dim=-1, keepdim=True))
        else:
            found += _of_neurons(part[1], seen, reader)
    if norm is not None and norm.beta is not None:
        found.append(
            (direction * widen(norm.beta).to(direction.device)).sum(dim=-1, keepdim=True)
            * vocabulary.slope
        )
    if vocabulary.bias is not None:
        biases = widen(vocabulary.bias).to(direction.device).expand(len(direction), -1)
        found.append(aim.difference(biases)[:, None] * vocabulary.slope)
    return torch.cat([part.double() for part in found], dim=1)


def _of_neurons(
    output: NeuronOutput, seen: Seen, reader: Float[Tensor, "token d_model"]
) -> list[Float[Tensor, "token n"]]:
    sigma = output.sigma(None if output.total is None else seen[output.total])
    found = [widen(seen[output.points]) / sigma * (reader @ output.rows().T)]
    if output.bias is not None:
        found.append((reader / sigma) @ output.bias[:, None])
    return found


def _find_aim(
    model: Model,
    prompts: Prompts,
    vocabulary: Vocabulary,
    answers: Tokens | None,
    wrong_answers: Tokens | None,
) -> Aim:
    if prompts.task is not None and answers is None and wrong_answers is None:
        prompts.task.require_plain("direct logit attribution")
        (batch,) = prompts.task.batches(len(prompts), model.device)
        ids = torch.cat([batch.answers, batch.wrong_answers], dim=1)
        right, wrong = batch.is_answer.double(), batch.is_wrong_answer.double()
        shares = right / right.sum(1, keepdim=True), wrong / wrong.sum(1, keepdim=True).clamp(min=1)
        return Aim(ids, torch.cat([shares[0], -shares[1]], dim=1))
    if answers is None:
        raise ValueError("say what to attribute: answers='Paris', or a task, which has answers")
    right, wrong = (_read_tokens(model, vocabulary, t) for t in (answers, wrong_answers))
    if not right:
        raise ValueError("got no answers; name at least one, by id or by text")
    shares = [1 / len(right)] * len(right) + [-1 / max(1, len(wrong))] * len(wrong)
    ids = torch.tensor([*right, *wrong], device=model.device)
    coefficients = torch.tensor(shares, dtype=torch.float64, device=model.device)
    return Aim(ids.expand(len(prompts), -1), coefficients.expand(len(prompts), -1))


def _read_tokens(model: Model, vocabulary: Vocabulary, tokens: Tokens | None) -> list[int]:
    asked = [] if tokens is None else [tokens] if isinstance(tokens, int | str) else list(tokens)
    return [single_token(model.tokenizer, token, len(vocabulary)) for token in asked]
