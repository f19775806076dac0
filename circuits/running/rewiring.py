"""One walk over the blocks: every reader is given its own input, every writer is told of its write.

The walk knows hook points, norms, projections, post-norms and parallel blocks. What a reader sees
is its `Mix`'s, which knows tokens and sums: of live or of fixed differences, for one circuit or for
many side by side. Where a reader reads and which writers are told is a `Layout`, made once.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM, Block, widen
from patching.graph import Graph
from patching.model import Hook, Model


@dataclass(frozen=True, eq=False)
class Reading:
    """Readers that see the stream at one place, after the graph's first `n_sources` writers.

    `number` counts the readings of a layout, in the order in which they happen.
    """

    number: int
    n_sources: int
    readers: Int[Tensor, " reader"]


@dataclass(frozen=True, eq=False)
class LayerLayout:
    """What is asked of one layer: `heads` are those whose queries, keys and values are made."""

    attention: Reading | None
    heads: tuple[Int[Tensor, " _"], ...]
    mlp: Reading | None
    tells_heads: bool
    tells_mlp: bool


@dataclass(frozen=True, eq=False)
class Layout:
    """Which readers are given inputs, and which writers are told: what is the same in every run."""

    layers: tuple[LayerLayout, ...]
    final: Reading | None

    @property
    def readings(self) -> list[Reading]:
        """All readings, by their number."""
        found = [reading for layer in self.layers for reading in (layer.attention, layer.mlp)]
        return [reading for reading in (*found, self.final) if reading is not None]


def lay_out(
    graph: Graph, readers: Bool[Tensor, " dest"], writers: Bool[Tensor, " source"]
) -> Layout:
    """The layout for some readers and writers; heads of a layer are told of together."""
    made: list[Reading] = []
    layers = tuple(_lay_out_layer(graph, i, readers, writers, made) for i in range(graph.n_layers))
    last = len(graph.destinations) - 1
    final = _reading(made, readers, slice(last, last + 1), len(graph.sources))
    return Layout(layers, final)


@lru_cache(maxsize=8)
def whole_layout(graph: Graph, *, tells: bool) -> Layout:
    """Every reader, and every writer or none."""
    readers = torch.ones(len(graph.destinations), dtype=torch.bool)
    return lay_out(graph, readers, torch.full((len(graph.sources),), tells))


def _lay_out_layer(
    graph: Graph,
    i: int,
    readers: Bool[Tensor, " dest"],
    writers: Bool[Tensor, " source"],
    made: list[Reading],
) -> LayerLayout:
    mlp = slice(graph.mlp_reader(i), graph.mlp_reader(i) + 1)
    spans = graph.projected_readers(i)
    before = graph.sources_before_attention(i)
    return LayerLayout(
        attention=_reading(made, readers, graph.attention_readers(i), before),
        heads=tuple(readers[span].nonzero().squeeze(1) for span in spans),
        mlp=_reading(made, readers, mlp, graph.sources_before_mlp(i)),
        tells_heads=bool(writers[graph.head_sources(i)].any()),
        tells_mlp=bool(writers[graph.mlp_source(i)]),
    )


def _reading(
    made: list[Reading], readers: Bool[Tensor, " dest"], span: slice, n_sources: int
) -> Reading | None:
    which = readers[span].nonzero().squeeze(1)
    if not len(which):
        return None
    made.append(Reading(len(made), n_sources, span.start + which))
    return made[-1]


@runtime_checkable
class Mix(Protocol):
    """What readers see at some tokens of a run, and what becomes of what writers write there."""

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "token ..."]:
        """Activations at these tokens."""
        ...

    def put(
        self,
        live: Float[Tensor, "row pos ..."],
        made: Float[Tensor, "token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "row pos ..."]:
        """Live activations with others in place of them: of all heads, or of some."""
        ...

    def inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "reader token d_model"]:
        """What the readers of a reading see, given the live stream and its hook point."""
        ...

    def on_heads(self, block: Block, head_input: Float[Tensor, "token head d_head"]) -> None:
        """A layer's heads have written; `Block.head_writes` makes their writes of this."""
        ...

    def on_mlp(self, block: Block, write: Float[Tensor, "token d_model"]) -> None:
        """A layer's MLP has written."""
        ...


def rewired(model: Model, layout: Layout, mix: Mix) -> list[tuple[str, Hook]]:
    """Hooks that give readers what `mix` makes and tell it what is written, for one run or more."""
    walk, hooks = _Walk(mix), []
    for block, layer in zip(model.blocks, layout.layers, strict=True):
        hooks += walk.readers(block, layer) + walk.writers(block, layer)
    if layout.final is not None:
        hooks.append((FINAL_STREAM, partial(walk.read_logits, layout.final)))
    return hooks


class _Walk:
    """The hooks, and what one of them keeps for the next."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix
        self._kept: dict[str, Tensor] = {}

    def readers(self, block: Block, layer: LayerLayout) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = []
        if layer.attention is not None:
            read = partial(self._read_attention, block, layer.attention, layer.heads)
            hooks.append((block.stream_in, read))
            for name, heads, w in zip(
                block.projections, layer.heads, block.w_projections, strict=True
            ):
                which = None if len(heads) == len(w) else heads
                hooks += [(name, partial(self._project, name, which))] if len(heads) else []
        if layer.mlp is not None:
            if block.mlp_stream != block.mlp_in:
                hooks.append((block.mlp_stream, partial(self._keep, block.mlp_stream)))
            hooks.append((block.mlp_in, partial(self._read_mlp, block, layer.mlp)))
        return hooks

    def writers(self, block: Block, layer: LayerLayout) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = []
        if layer.tells_heads and block.post_attention_norm is None:
            hooks.append((block.z, partial(self._on_heads, block)))
        elif layer.tells_heads:
            hooks.append((block.z, partial(self._keep, block.z)))
            hooks.append((block.attention_sum, partial(self._on_attention_sum, block)))
        if layer.tells_mlp:
            hooks.append((block.mlp_out, partial(self._on_mlp_out, block)))
        return hooks

    # Readers: their inputs, put together.

    def _read_attention(
        self,
        block: Block,
        reading: Reading,
        heads: tuple[Int[Tensor, " _"], ...],
        stream: Float[Tensor, "row pos d_model"],
    ) -> None:
        x = self._inputs(reading, block.stream_in, stream)
        x = x if block.attention_norm is None else block.attention_norm(x)
        parts = x.split([len(some) for some in heads])
        for part, (name, mine, some) in enumerate(
            zip(block.projections, parts, heads, strict=True)
        ):
            if len(some):
                self._kept[name] = block.projected(part, mine, some).transpose(0, 1)

    def _project(
        self,
        name: str,
        heads: Int[Tensor, " some"] | None,
        live: Float[Tensor, "row pos head d_head"],
    ) -> Float[Tensor, "row pos head d_head"]:
        return self._mix.put(live, self._kept.pop(name), heads)

    def _read_mlp(
        self, block: Block, reading: Reading, live: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos d_model"]:
        name = block.mlp_stream
        x = self._inputs(reading, name, live if name == block.mlp_in else self._kept.pop(name))[0]
        return self._mix.put(live, x if block.mlp_norm is None else block.mlp_norm(x), None)

    def read_logits(
        self, reading: Reading, stream: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos d_model"]:
        return self._mix.put(stream, self._inputs(reading, FINAL_STREAM, stream)[0], None)

    def _inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "reader token d_model"]:
        return self._mix.inputs(reading, name, self._mix.chosen(stream)).to(stream.dtype)

    def _keep(self, name: str, tensor: Tensor) -> None:
        self._kept[name] = tensor

    # Writers: what they write.

    def _on_heads(self, block: Block, z: Float[Tensor, "row pos head d_head"]) -> None:
        self._mix.on_heads(block, block.head_input(self._mix.chosen(z), None))

    def _on_attention_sum(self, block: Block, total: Float[Tensor, "row pos d_model"]) -> None:
        z, total = self._mix.chosen(self._kept.pop(block.z)), self._mix.chosen(total)
        self._mix.on_heads(block, block.head_input(z, total))

    def _on_mlp_out(self, block: Block, out: Float[Tensor, "row pos d_model"]) -> None:
        self._mix.on_mlp(block, widen(self._mix.chosen(out)))
