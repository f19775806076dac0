"""How much heads attend from span to span: what moves information between parts of prompts."""

from dataclasses import dataclass, field
from functools import partial

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from patching.attention.reading import Seen, read
from patching.files.brief import briefly
from patching.model import Model
from patching.tasks.task import Batch, Task


@briefly
@dataclass(frozen=True, eq=False)
class SpanAttention:
    """`weights[layer, head, query, key]`: the attention that tokens of a span pay to another's."""

    weights: Float[Tensor, "layer head query_span key_span"]
    spans: tuple[str, ...]

    def of(self, head: str, query: str, key: str) -> float:
        """What tokens of the span `query` attend to all those of the span `key`, by one head.

        Raises:
            ValueError: if there is no such span, or no such head.
        """
        for name in (query, key):
            if name not in self.spans:
                raise ValueError(f"no span {name!r}; there is {', '.join(self.spans)}")
        layer, _, number = head.removeprefix("a").partition(".h")
        n_layers, n_heads = self.weights.shape[:2]
        there = layer.isdecimal() and number.isdecimal()
        if not there or int(layer) >= n_layers or int(number) >= n_heads:
            raise ValueError(f"no head {head!r}; there are {n_layers} layers of {n_heads} heads")
        at = self.spans.index(query), self.spans.index(key)
        return float(self.weights[int(layer), int(number), *at])


def attention_between_spans(model: Model, task: Task, *, batch_size: int = 16) -> SpanAttention:
    """Attention on clean prompts, added up over the keys of a span, mean over queries of a span.

    `weights[l, h, s, t] = mean over tokens q in s of the sum over tokens k in t of p(q, k)`, over
    all queries of all prompts; 0 for spans that no prompt has. For a query's span, the weights of
    all spans together are 1.

    Raises:
        ValueError: if prompts have no spans, or the family's attention cannot be read.
    """
    task = (task if task.apart else task.by_span()).without_answers
    graph, n = model.graph, len(task.apart)
    model.check(task)
    sums = _Sums(torch.zeros(graph.n_layers, graph.n_heads, n, n, dtype=torch.float64))
    for batch in task.batches(batch_size, model.device):
        assert batch.span is not None, "the task keeps spans apart"
        in_span = one_hot(batch.span, n) * batch.is_token[..., None]
        read(model, batch, partial(sums.add, in_span.double()))
        sums.count(in_span.double(), batch)
    return SpanAttention(sums.weights, task.apart)


@dataclass
class _Sums:
    """Attention so far, and how many queries each span had."""

    total: Float[Tensor, "layer head query_span key_span"]
    queries: list[Float[Tensor, " span"]] = field(default_factory=list)

    def add(self, in_span: Float[Tensor, "batch pos span"], seen: Seen) -> None:
        pattern = seen.pattern.double()
        found = einsum(pattern, in_span, in_span, "b h q k, b q s, b k t -> h s t")
        self.total[seen.block.index] += found.cpu()

    def count(self, in_span: Float[Tensor, "batch pos span"], batch: Batch) -> None:
        self.queries.append(in_span[batch.is_token].sum(dim=0).cpu())

    @property
    def weights(self) -> Float[Tensor, "layer head query_span key_span"]:
        queries = torch.stack(self.queries).sum(dim=0)
        return self.total / queries.clamp(min=1)[:, None]
