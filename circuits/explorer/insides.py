"""What goes on inside a model on one prompt, for an explorer: where heads look, what nodes say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Scores
from patching.attention.pattern_grid import patterns
from patching.files.brief import briefly
from patching.lens.projection import logit_lens
from patching.lens.text import prompt_texts, token_texts
from patching.model import Model
from patching.tasks import Task
from patching.tasks.spans import labels
from patching.views.page import packed

_FULL = 255  # stands for 1 in the page: shares of attention travel as whole numbers of 8 bits


@briefly
@dataclass(frozen=True, eq=False)
class Insides:
    """One prompt's tokens, every head's pattern, and what every node promotes at the last token.

    `promoted` has for each of `embed`, heads and MLPs the tokens whose logit its write raises
    most, with by how much; `said` is the prompt with its answers in a line, `spans` are those of
    its tokens. `effects` are what was measured of nodes exactly, in units of the metric.
    """

    model: str
    said: str
    tokens: tuple[str, ...]
    patterns: Float[Tensor, "layer head query key"]
    promoted: Mapping[str, tuple[tuple[str, float], ...]]
    effects: Mapping[str, float]
    spans: tuple[str, ...] = ()

    def content(self, result: Circuit | Scores) -> dict[str, object]:
        """What a page of these results is given.

        Raises:
            ValueError: if the results are of a model of another shape.
        """
        layers, heads, n, _ = self.patterns.shape
        graph = result.graph
        if (layers, heads) != (graph.n_layers, graph.n_heads):
            raise ValueError(
                f"the insides are of a model of {layers} layers with {heads} heads, the edges of "
                f"{graph.describe()}"
            )
        rows, columns = np.tril_indices(n)
        shares = np.rint(self.patterns.numpy()[:, :, rows, columns] * _FULL)
        return {
            "said": self.said,
            "tokens": list(self.tokens),
            "spans": list(self.spans),
            "heads": heads,
            "patterns": packed(shares, "uint8"),
            "promoted": {
                node: [[token, round(by, 3)] for token, by in words]
                for node, words in self.promoted.items()
            },
            "effects": dict(self.effects),
        }


def look_inside(
    model: Model,
    task: Task,
    *,
    prompt: int = 0,
    most: int = 6,
    effects: Mapping[str, float] | None = None,
) -> Insides:
    """Read a model on one prompt of a task, for `explore(..., insides=...)`. Costs two forwards.

    What a node promotes is its write read through the final norm, at the scale of the last stream,
    and the unembedding, less the mean over the vocabulary: logits, which add up over nodes.

    >>> from patching import Model, tasks
    >>> model = Model.load("toy")
    >>> inside = look_inside(model, tasks.ioi(model.tokenizer, n=4, seed=0), prompt=1)
    >>> inside.patterns.shape[:2], len(inside.promoted["a3.h3"])
    (torch.Size([4, 4]), 6)

    Args:
        model: that the edges are of.
        task: that its prompt is of.
        prompt: which one, from 0; its clean side.
        most: tokens a node.
        effects: what was measured of nodes, by name.

    Raises:
        ValueError: if there is no such prompt or node, or no token is asked for.
    """
    if not 0 <= prompt < len(task):
        raise ValueError(f"there is no prompt {prompt}; {task.name} has 0 to {len(task) - 1}")
    if most < 1:
        raise ValueError(f"cannot name {most} tokens; 1 is the least")
    one = Task(task.name, (task.prompts[prompt],))
    at = labels(one.prompts[0].spans, task.span_names, len(one.prompts[0].clean))
    lens = logit_lens(model, one, ["embed", "heads", "mlp_out"], scale="frozen", softcap=False)
    if unknown := set(effects or {}) - {*lens.nodes}:
        raise ValueError(f"no node is named {min(unknown)!r}; {lens.nodes[1]} or m0 would be right")
    sigma = lens.vocabulary.sigma(lens.states.final)
    logits = lens.vocabulary.promotions(lens.states.vectors[:, 0, 0], sigma[0])
    best = logits.topk(min(most, logits.shape[-1]), dim=-1)
    pairs = zip(lens.nodes, best.indices.tolist(), best.values.tolist(), strict=True)
    return Insides(
        model=model.name,
        said=prompt_texts(model.tokenizer, one, 1)[0],
        tokens=token_texts(model.tokenizer, one.prompts[0].clean),
        patterns=patterns(model, one).values[0].double().clamp(0, 1),
        promoted={
            node: tuple(zip(token_texts(model.tokenizer, ids), by, strict=True))
            for node, ids, by in pairs
        },
        effects=dict(effects or {}),
        spans=tuple(task.span_names[i] for i in at),
    )
