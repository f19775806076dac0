"""The metric as a smooth function of one number an edge, to be differentiated any number of times.

`L(c)` is the metric, summed over a batch, when every reader j sees

    x_j = live stream - sum_s c[s, j] * D_s          D_s = clean write of s - its replacement

with all that follows recomputed. `L(0)` is the clean run. One `c[s, j] = 1`, the others 0, removes
that edge exactly, for nothing before its reader has moved. Hence at 0

    dL/dc[s, j] = -(EAP's score),        d2L/dc[s, j]2 = D_s . H_jj D_s

where H_jj is the metric's second derivative by the reader's input, downstream live, the curvature
of the norm at the reader included. Readers' inputs are made one by one inside the graph of
operations, which costs several times what a plain gradient costs.
"""

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.running.pair import Pair
from patching.anatomy.blocks import FINAL_STREAM, Block
from patching.capture import expand_writes, indices
from patching.graph import Graph
from patching.metrics import Metric, measure
from patching.model import Hook, Model
from patching.tasks.task import Batch


@dataclass(frozen=True, eq=False)
class Steered:
    """One batch's `L`, of independent copies of the batch side by side.

    Only inputs of `readers` are put together; what `c` says of others is left out.
    """

    model: Model
    batch: Batch
    metric: Metric
    tokens: tuple[Tensor, ...]
    difference: Float[Tensor, "source token d_model"]
    readers: Bool[Tensor, " dest"]

    @staticmethod
    def of(model: Model, batch: Batch, metric: Metric, pair: Pair) -> "Steered":
        """`L` at the clean run of a pair; `batch` carries its logits, for metrics that ask."""
        written = expand_writes(model, pair.clean.writes - pair.replaced)
        every = torch.ones(len(model.graph.destinations), dtype=torch.bool)
        return Steered(model, batch, metric, indices(pair.tokens), written, every)

    def __call__(self, c: Float[Tensor, "copy source dest"]) -> Float[Tensor, " copy"]:
        """The metric of each copy, summed over the examples; differentiable by `c`."""
        n = len(c)
        tokens = self.batch.clean.repeat(n, 1)
        logits = self.model.answer_logits(tokens, self.batch, _Shifts(self, c).hooks())
        rows = logits.unflatten(0, (n, -1))
        return torch.stack([measure(self.metric, some, self.batch).sum() for some in rows])


class _Shifts:
    """Hooks that give every reader its own input."""

    def __init__(self, steered: Steered, c: Float[Tensor, "copy source dest"]) -> None:
        self._of, self._c = steered, c
        self._streams: dict[str, Tensor] = {}

    def hooks(self) -> list[tuple[str, Hook]]:
        graph, hooks = self._graph, []
        for block in self._of.model.blocks:
            names = dict.fromkeys((block.stream_in, block.mlp_stream))
            hooks += [(name, self._keep(name)) for name in names if name != block.mlp_in]
            i, mlp = block.index, graph.mlp_reader(block.index)
            spans = (graph.q_readers(i), graph.k_readers(i), graph.v_readers(i))
            parts = zip(block.qkv, block.w_qkv, block.b_qkv, spans, strict=True)
            for name, w, b, span in parts:
                hooks += self._if_read(span, (name, self._project(block, w, b, span)))
            hooks += self._if_read(slice(mlp, mlp + 1), (block.mlp_in, self._mlp(block)))
        last = len(graph.destinations) - 1
        return [*hooks, *self._if_read(slice(last, last + 1), (FINAL_STREAM, self._final))]

    @property
    def _graph(self) -> Graph:
        return self._of.model.graph

    def _if_read(self, readers: slice, hook: tuple[str, Hook]) -> list[tuple[str, Hook]]:
        return [hook] if bool(self._of.readers[readers].any()) else []

    def _keep(self, name: str) -> Hook:
        return lambda stream: self._streams.update({name: stream})

    def _inputs(
        self, stream: Float[Tensor, "row pos d_model"], readers: slice
    ) -> Float[Tensor, "copy reader token d_model"]:
        n = int(self._graph.exists[:, readers].any(dim=1).sum())
        moved = einsum(
            self._c[:, :n, readers],
            self._of.difference[:n],
            "copy source reader, source token d_model -> copy reader token d_model",
        )
        return self._chosen(stream)[:, None] - moved

    def _chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "copy token ..."]:
        rows, places = self._of.tokens
        return x.unflatten(0, (len(self._c), -1))[:, rows, places]

    def _put(self, x: Tensor, made: Float[Tensor, "copy token ..."]) -> Tensor:
        rows, places = self._of.tokens
        out = x.unflatten(0, (len(self._c), -1)).clone()
        out[:, rows, places] = made.to(out)
        return out.flatten(0, 1)

    def _project(self, block: Block, w: Tensor, b: Tensor | None, span: slice) -> Hook:
        def hook(live: Float[Tensor, "row pos head d_head"]) -> Tensor:
            stream = self._streams[block.stream_in]
            x = self._inputs(stream, span).to(block.device, stream.dtype)
            x = x if block.attention_norm is None else block.attention_norm(x)
            made = einsum(x, w, "copy head token d, head d d_head -> copy token head d_head")
            return self._put(live, made if b is None else made + b)

        return hook

    def _mlp(self, block: Block) -> Hook:
        reader = self._graph.mlp_reader(block.index)

        def hook(live: Float[Tensor, "row pos d_model"]) -> Tensor:
            stream = self._streams.get(block.mlp_stream, live)
            x = self._inputs(stream, slice(reader, reader + 1))[:, 0]
            x = x.to(block.device, stream.dtype)
            return self._put(live, x if block.mlp_norm is None else block.mlp_norm(x))

        return hook

    def _final(self, live: Float[Tensor, "row pos d_model"]) -> Tensor:
        last = len(self._graph.destinations) - 1
        return self._put(live, self._inputs(live, slice(last, last + 1))[:, 0])
