"""A lens: vectors of the residual stream read as predictions, when asked and a tile at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from matplotlib.figure import Figure
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.files.brief import briefly
from patching.grid import Grid
from patching.lens.nodes import States
from patching.lens.plots import lens_map
from patching.lens.prompts import Prompts
from patching.lens.text import single_token, token_texts
from patching.lens.vocabulary import Vocabulary
from patching.memory import in_tiles
from patching.model import Model
from patching.modes import without_gradients

Scale = Literal["recompute", "frozen"]
Tokens = int | str | Sequence[int | str] | None
"""Token ids, or texts of one token each; None for the answers of a task's prompts."""

Measure = Callable[[Tensor, Tensor, slice], tuple[Tensor, ...]]
"""What is read off logits `[node token vocab]`, the model's own and of which tokens: each `[node
token ...]`."""


@briefly
@dataclass(frozen=True, eq=False)
class Facts:
    """What a prediction looks like: its k most likely tokens, entropy, and distance (nats).

    `kl` is KL(the model's own prediction at that position || this one).
    """

    ids: Int[Tensor, "node example place k"]
    logits: Float[Tensor, "node example place k"]
    probabilities: Float[Tensor, "node example place k"]
    entropy: Float[Tensor, "node example place"]
    kl: Float[Tensor, "node example place"]


@briefly
@dataclass(frozen=True, eq=False)
class Lens:
    """Vectors of nodes at positions of prompts, to be read in the vocabulary.

    `scale` says whether the final norm's denominator is recomputed from each vector or frozen at
    that of the last stream at the same position; `softcap` whether a family's cap on its logits
    is applied. Every reading holds the biases of the final norm and the unembedding. `positions`
    are as asked for, `places` where they lie in each prompt.
    """

    model: Model
    vocabulary: Vocabulary = field(repr=False)
    prompts: Prompts
    nodes: tuple[str, ...]
    positions: tuple[int, ...]
    places: Int[Tensor, "example place"]
    states: States = field(repr=False)
    scale: Scale
    softcap: bool
    tuned: bool

    def logits(self, *nodes: str) -> Float[Tensor, "node example place vocab"]:
        """Logits of some nodes (of all, if none is named): all at once, so mind the memory.

        Raises:
            ValueError: if the lens has not read such a node.
        """
        chosen = [self._index(name) for name in nodes] or list(range(len(self.nodes)))
        return self._read(self.states.vectors[chosen], self.states.final)

    @without_gradients
    def facts(self, k: int = 1) -> Facts:
        """The k most likely tokens of every prediction, its entropy and its KL, in one pass.

        Raises:
            ValueError: if there are fewer than k tokens, or k is less than 1.
        """
        if not 1 <= k <= len(self.vocabulary):
            raise ValueError(f"the top {k} tokens of {len(self.vocabulary)} cannot be named")
        return Facts(*self._measured(partial(_facts, k)))

    def entropy(self) -> Grid:
        """Entropy of each prediction, in nats."""
        return self._grid("entropy of the prediction (nats)", self.facts().entropy)

    def kl(self) -> Grid:
        """KL(the model's own prediction at the position || the reading), in nats."""
        return self._grid("KL to the model's own prediction (nats)", self.facts().kl)

    @without_gradients
    def probability(self, tokens: Tokens = None) -> Grid:
        """Probability of the chosen tokens together.

        Raises:
            ValueError: if there is no such token, or there are no answers to take.
        """
        ids, counts, what = self._choose(tokens)

        def probability(logits: Tensor, _: Tensor, tile: slice) -> tuple[Tensor]:
            chosen = logits.softmax(dim=-1).gather(-1, _rows(ids, tile, logits))
            return ((chosen * counts[tile]).sum(dim=-1),)

        return self._grid(f"probability of {what}", *self._measured(probability))

    @without_gradients
    def rank(self, tokens: Tokens = None) -> Grid:
        """Rank of the most likely of the chosen tokens: 1 is the model's first choice.

        Raises:
            ValueError: if there is no such token, or there are no answers to take.
        """
        ids, counts, what = self._choose(tokens)

        def rank(logits: Tensor, _: Tensor, tile: slice) -> tuple[Tensor]:
            chosen = logits.gather(-1, _rows(ids, tile, logits))
            best = chosen.masked_fill(~counts[tile], -torch.inf).amax(dim=-1, keepdim=True)
            return (1.0 + (logits > best).sum(dim=-1),)

        return self._grid(f"rank of {what} (1: most likely)", *self._measured(rank))

    def to_dataframe(self, k: int = 1) -> pd.DataFrame:
        """One row for each of the k most likely tokens of every node, prompt and position.

        `position` counts from the prompt's first token, `token` is the one that stands there;
        `rank`, `id`, `text`, `logit` and `probability` are the predicted one's; `entropy` and
        `kl` (nats) the prediction's.

        Raises:
            ValueError: if there are fewer than k tokens, or k is less than 1.
        """
        facts, texts = self.facts(k), self.texts
        rows: list[tuple[object, ...]] = []
        for (n, e, p, r), token in _each(facts.ids):
            place = int(self.places[e, p])
            here = texts((self.prompts.rows[e][place],))[0]
            one = facts.logits[n, e, p, r], facts.probabilities[n, e, p, r]
            both = facts.entropy[n, e, p], facts.kl[n, e, p]
            numbers = tuple(map(float, (*one, *both)))
            text = texts((token,))[0]
            rows.append((self.nodes[n], e, place, here, r + 1, token, text, *numbers))
        columns = "node example position token rank id text logit probability entropy kl"
        return pd.DataFrame(rows, columns=columns.split())

    def plot(
        self,
        colour: Literal["probability", "entropy", "kl"] = "probability",
        *,
        example: int = 0,
        title: str | None = None,
    ) -> Figure:
        """Nodes by positions of one prompt: the most likely token in each square.

        `colour` says what the squares show: that token's probability, or entropy or KL in nats.

        Raises:
            ValueError: if there is no such prompt or colour.
        """
        if not 0 <= example < len(self.prompts):
            raise ValueError(f"there is no prompt {example}; they are 0 to {len(self.prompts) - 1}")
        facts = self.facts()
        shown = {
            "probability": ("probability of the token", facts.probabilities[..., 0]),
            "entropy": ("entropy (nats)", facts.entropy),
            "kl": ("KL to the model's own prediction (nats)", facts.kl),
        }
        if colour not in shown:
            raise ValueError(f"squares are coloured by {', '.join(shown)}, not by {colour!r}")
        what, values = shown[colour]
        ids = facts.ids[:, example, :, 0]
        texts = [self.texts(row) for row in ids.tolist()]
        tokens = self.prompts.labels(self.model, example)
        columns = [tokens[place] for place in self.places[example].tolist()]
        return lens_map(
            values[:, example].cpu().numpy(), texts, (self.nodes, columns), colour=what, title=title
        )

    def _index(self, name: str) -> int:
        if name not in self.nodes:
            shown = ", ".join(self.nodes[:8]) + (", ..." if len(self.nodes) > 8 else "")
            raise ValueError(f"this lens has not read {name!r}; it has read {shown}")
        return self.nodes.index(name)

    def texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Token ids as text."""
        return token_texts(self.model.tokenizer, ids)

    def _read(
        self, vectors: Float[Tensor, "node *rows d_model"], final: Float[Tensor, "*rows d_model"]
    ) -> Float[Tensor, "node *rows vocab"]:
        sigma = None if self.scale == "recompute" else self.vocabulary.sigma(final)
        return self.vocabulary.logits(vectors, sigma=sigma, softcap=self.softcap)

    def _measured(self, measure: Measure) -> tuple[Shaped[Tensor, "node example place ..."], ...]:
        """What is read off all logits, a few tokens' at a time."""
        vectors, final = self.states.vectors.flatten(1, 2), self.states.final.flatten(0, 1)
        parts: list[tuple[Tensor, ...]] = []

        def work(tile: slice) -> None:
            own = self.vocabulary.logits(final[tile], softcap=self.softcap)
            parts.append(measure(self._read(vectors[:, tile], final[tile]), own, tile))

        width = len(self.vocabulary) * torch.finfo(vectors.dtype).bits // 8
        in_tiles(len(final), width * (len(self.nodes) + 1), final.device, work)
        joined = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return tuple(part.unflatten(1, self.places.shape) for part in joined)

    def _choose(
        self, tokens: Tokens
    ) -> tuple[Int[Tensor, "token n"], Bool[Tensor, "token n"], str]:
        """The chosen tokens of every place, which of them count, and what they are.

        Raises:
            ValueError: if there is no such token, or there are no answers to take.
        """
        n_places = self.places.shape[1]
        if tokens is None:
            if self.prompts.task is None:
                raise ValueError("say which tokens: only the prompts of a task have answers")
            self.prompts.task.require_plain("a lens that looks for the answers")
            (batch,) = self.prompts.task.batches(len(self.prompts), self.model.device)
            ids, counts, what = batch.answers, batch.is_answer, "the answers"
        else:
            asked = [tokens] if isinstance(tokens, int | str) else list(tokens)
            if not asked:
                raise ValueError("got no tokens; name at least one, by id or by text")
            vocab = len(self.vocabulary)
            chosen = [single_token(self.model.tokenizer, token, vocab) for token in asked]
            ids = torch.tensor(chosen, device=self.model.device).expand(len(self.prompts), -1)
            counts, what = torch.ones_like(ids, dtype=torch.bool), " or ".join(self.texts(chosen))
        return ids.repeat_interleave(n_places, 0), counts.repeat_interleave(n_places, 0), what

    def _grid(self, quantity: str, values: Float[Tensor, "node example place"]) -> Grid:
        if len(self.prompts) == 1:
            tokens = self.prompts.labels(self.model)
            labels = tuple(tokens[place] for place in self.places[0].tolist())
        else:
            labels = tuple(map(str, self.positions))
        axes = {"node": self.nodes, "position": labels}
        facts = {
            "model": self.model.name,
            **self.model.identity.facts,
            "prompts": self.prompts.name,
            "tokens": self.prompts.hash,
            "method": "tuned lens" if self.tuned else "logit lens",
            "scale": self.scale,
            "softcap": self.softcap,
        }
        return Grid(quantity, widen(values.transpose(0, 1)), axes, provenance=facts)


def _facts(k: int, logits: Tensor, final: Tensor, _: slice) -> tuple[Tensor, ...]:
    """The fields of `Facts`."""
    log_probs, own = logits.log_softmax(dim=-1), final.log_softmax(dim=-1)
    top = log_probs.topk(k, dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    kl = (own.exp() * (own - log_probs)).sum(dim=-1)
    return top.indices, logits.gather(-1, top.indices), top.values.exp(), entropy, kl


def _rows(
    ids: Int[Tensor, "every n"], tile: slice, logits: Float[Tensor, "node token vocab"]
) -> Int[Tensor, "node token n"]:
    return ids[tile].expand(len(logits), -1, -1)


def _each(ids: Int[Tensor, "*shape"]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Every index with its value, in row-major order."""
    for index in torch.cartesian_prod(*map(torch.arange, ids.shape)).tolist():
        yield tuple(index), int(ids[tuple(index)])
