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
class Members:
    """Some of a graph's readers or writers, ascending; how many there are before each of all."""

    numbers: Int[Tensor, " member"]
    n_before: list[int]

    @staticmethod
    def of(chosen: Bool[Tensor, " all"]) -> "Members":
        """Those that are chosen."""
        return Members(chosen.nonzero().squeeze(1), [0, *chosen.cumsum(0).tolist()])

    def span(self, some: slice) -> slice:
        """Where the members in a span stand."""
        return slice(self.n_before[some.start], self.n_before[some.stop])

    def among(self, some: slice) -> Int[Tensor, " _"]:
        """Which of a span the members are."""
        return self.numbers[self.span(some)] - some.start

    def any(self, some: slice) -> bool:
        """Whether there is a member in a span."""
        return self.n_before[some.start] < self.n_before[some.stop]


@dataclass(frozen=True, eq=False)
class LayerLayout:
    """What is asked of one layer: `heads` are those whose queries, keys and values are made.

    `every` says where these are all.
    """

    attention: Reading | None
    heads: tuple[Int[Tensor, " _"], ...]
    every: tuple[bool, ...]
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
    asked, told = Members.of(readers), Members.of(writers)
    layers = tuple(_lay_out_layer(graph, i, asked, told, made) for i in range(graph.n_layers))
    last = len(graph.destinations) - 1
    return Layout(layers, _reading(made, asked, slice(last, last + 1), len(graph.sources)))


@lru_cache(maxsize=8)
def whole_layout(graph: Graph, *, tells: bool) -> Layout:
    """Every reader, and every writer or none."""
    readers = torch.ones(len(graph.destinations), dtype=torch.bool)
    return lay_out(graph, readers, torch.full((len(graph.sources),), tells))


def _lay_out_layer(
    graph: Graph, i: int, asked: Members, told: Members, made: list[Reading]
) -> LayerLayout:
    mlp, mlp_source = graph.mlp_reader(i), graph.mlp_source(i)
    spans, before = graph.projected_readers(i), graph.sources_before_attention(i)
    heads = tuple(asked.among(span) for span in spans)
    sizes = zip(heads, spans, strict=True)
    return LayerLayout(
        attention=_reading(made, asked, graph.attention_readers(i), before),
        heads=heads,
        every=tuple(len(some) == span.stop - span.start for some, span in sizes),
        mlp=_reading(made, asked, slice(mlp, mlp + 1), graph.sources_before_mlp(i)),
        tells_heads=told.any(graph.head_sources(i)),
        tells_mlp=told.any(slice(mlp_source, mlp_source + 1)),
    )


def _reading(made: list[Reading], asked: Members, span: slice, n_sources: int) -> Reading | None:
    if not asked.any(span):
        return None
    made.append(Reading(len(made), n_sources, asked.numbers[asked.span(span)]))
    return made[-1]


@runtime_checkable
class Mix(Protocol):
    """What readers see at some tokens of a run, and what becomes of what writers write there."""

    def chosen(self, x: Float[Tensor, "row pos ..."]) -> Float[Tensor, "token ..."]:
        """Activations at these tokens."""
        ...

    def put(
        self,
        name: str,
        live: Float[Tensor, "row pos ..."],
        made: Float[Tensor, "token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "row pos ..."]:
        """Live activations of a hook point with others in place: of all heads, or of some."""
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
            asked = zip(block.projections, layer.heads, layer.every, strict=True)
            for name, heads, every in asked:
                which = None if every else heads
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
        return self._mix.put(name, live, self._kept.pop(name), heads)

    def _read_mlp(
        self, block: Block, reading: Reading, live: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos d_model"]:
        name = block.mlp_stream
        x = self._inputs(reading, name, live if name == block.mlp_in else self._kept.pop(name))[0]
        x = x if block.mlp_norm is None else block.mlp_norm(x)
        return self._mix.put(block.mlp_in, live, x, None)

    def read_logits(
        self, reading: Reading, stream: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row pos d_model"]:
        x = self._inputs(reading, FINAL_STREAM, stream)[0]
        return self._mix.put(FINAL_STREAM, stream, x, None)

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
