"""Running a live model inside a circuit: logits, generation and lenses, on any text.

While `active` lasts, every run of the model has the edges outside the circuit ablated at every
position. A reader takes the live stream with each removed edge's writer replaced (see `plan`), so
constants are needed: values from a paired prompt exist only on the task's own pairs (`evaluate`).
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import cast
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from circuits.circuit import Circuit
from circuits.running.plan import plan_everywhere
from circuits.running.starts import replaced_streams
from patching.ablations import Ablation, Constants
from patching.anatomy.blocks import EMBEDDING, FINAL_STREAM, POSITIONS, Block, widen
from patching.capture import Writes
from patching.model import Hook, Model

_BUSY: WeakSet[nn.Module] = WeakSet()
"""Models that are inside a circuit just now."""


def active(circuit: Circuit, model: Model, ablation: Ablation) -> AbstractContextManager[None]:
    """Every run of the model inside the `with` has everything outside the circuit ablated.

    `model.bridge(tokens)`, `model.bridge.generate(...)` (with a key-value cache or without) and
    `model.answer_logits(...)` then show what the circuit alone does; at the answer position that
    is what `evaluate` measures under the same ablation. Constants as zero, mean and positional
    mean are taken on any text. The residual stream holds what the writers write live, whoever
    reads it: edits reach the readers (q, k, v, MLP inputs and the final norm's input), so a lens
    on the stream of a layer sees the writers inside the circuit at work. Parts of the model that
    are called by themselves, such as the final norm, are left alone.

    >>> import torch
    >>> from patching import Model
    >>> from patching.ablations import zero
    >>> model = Model.load("truth/induction")
    >>> tokens = torch.tensor([[1, 2, 3]])
    >>> with active(Circuit.full(model.graph), model, zero):
    ...     inside = model.bridge(tokens)
    >>> torch.equal(inside, model.bridge(tokens))
    True

    Raises:
        ValueError: if the circuit is of another graph, the ablation takes its values from paired
            prompts, or the model is inside a circuit already. Runs inside raise it if they do not
            start from tokens, leave layers out, or go on for longer than positional means know.
    """
    if circuit.graph != model.graph:
        raise ValueError(
            f"the circuit is of another graph ({circuit.graph.describe()}) than "
            f"{model.name} ({model.graph.describe()})"
        )
    constants = ablation(model)
    if not isinstance(constants, Constants):
        raise ValueError(
            f"cannot run any text under the ablation {constants.name!r}: it takes its values from "
            "the task's own pairs (evaluate does that); zero, mean or positional_mean would be "
            "right"
        )
    return _inside(circuit, model, constants)


@contextmanager
def _inside(circuit: Circuit, model: Model, constants: Constants) -> Iterator[None]:
    run = _Run(circuit, model, constants)
    original = cast(nn.Module, model.bridge.original_model)
    if original in _BUSY:
        raise ValueError(f"{model.name} is inside a circuit already; leave that one first")
    with ExitStack() as stack:
        _BUSY.add(original)
        stack.callback(_BUSY.discard, original)
        begin = original.register_forward_pre_hook(run.begin, with_kwargs=True)
        stack.callback(begin.remove)
        end = original.register_forward_hook(run.end, always_call=True)
        stack.callback(end.remove)
        hooks = [(name, run.while_running(hook)) for name, hook in run.hooks()]
        stack.enter_context(model.hooked(hooks))
        yield


class _Run:
    """Hooks for runs inside one circuit. They keep how far each writer is from its constant."""

    def __init__(self, circuit: Circuit, model: Model, constants: Constants) -> None:
        graph = model.graph
        self._model, self._graph, self._constants = model, graph, constants.writes
        self._plan = plan_everywhere((graph.exists & ~circuit.mask).double(), graph)
        self._running = False
        self._forget()

    def _forget(self) -> None:
        self._replaced = self._constants
        self._streams: dict[str, Tensor] = {}
        self._nothing_kept: dict[str, Tensor] = {}
        self._positions: Tensor | None = None
        self._z: dict[int, Tensor] = {}
        self._missing: list[tuple[Int[Tensor, " some"], Float[Tensor, "some token d_model"]]] = []

    def begin(self, module: nn.Module, args: tuple[object, ...], given: dict[str, object]) -> None:
        """Get ready for a run; the model library hands tokens over as the first argument.

        Raises:
            ValueError: if it does not start from tokens.
        """
        tokens = args[0] if args else given.get("input_ids")
        if not isinstance(tokens, Tensor):
            raise ValueError(
                f"a run inside a circuit starts from token ids at the first layer, so that every "
                f"writer is known; got {type(tokens).__name__} (inputs_embeds, start_at_layer)"
            )
        self._forget()
        if len(self._constants) > 1:
            self._replaced = _at_places(self._constants, tokens, given)
        self._running = True

    def end(self, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        """Forget a run that has ended, in whatever way."""
        self._running = False
        self._forget()

    def while_running(self, change: Hook) -> Hook:
        """The hook, doing nothing where a part of the model is called by itself."""
        return lambda tensor: change(tensor) if self._running else None

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks, in the order in which they are to fire; none if the circuit is full."""
        if self._plan.first_layer is None:
            return []
        hooks: list[tuple[str, Hook]] = [(EMBEDDING, self._on_embedding)]
        if self._model.learns_positions:
            hooks.insert(0, (POSITIONS, self._on_positions))
        for block in self._model.blocks:
            hooks += self._attention_hooks(block) + self._mlp_hooks(block)
            hooks += self._writer_hooks(block)
        if bool(self._plan.computed[-1]):
            hooks.append((FINAL_STREAM, self._on_final))
        return hooks

    # Writers: how far each is from its constant.

    def _on_positions(self, positions: Tensor) -> None:
        self._positions = positions

    def _on_embedding(self, embedding: Float[Tensor, "batch pos d_model"]) -> None:
        positions = torch.zeros_like(embedding) if self._positions is None else self._positions
        at, live = positions.expand_as(embedding).flatten(0, 1), widen(embedding).flatten(0, 1)
        self._nothing_kept = replaced_streams(self._model, self._replaced, at)
        missing = self._replaced.embed.to(live) - (live - at)
        self._keep(self._used(slice(0, 1)), missing[None])

    def _used(self, sources: slice) -> Int[Tensor, " some"]:
        return self._plan.used_in(sources)[1] + sources.start

    def _keep(
        self, which: Int[Tensor, " some"], missing: Float[Tensor, "one_or_some token d_model"]
    ) -> None:
        if len(which):
            self._missing.append((which, missing))

    def _writer_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        hooks: list[tuple[str, Hook]] = []
        if len(self._used(self._graph.head_sources(block.index))):
            if block.post_attention_norm is None:
                hooks.append((block.z, lambda z: self._on_heads(block, z, None)))
            else:
                hooks.append((block.z, lambda z: self._z.update({block.index: z})))
                hooks.append(
                    (block.attention_sum, lambda total: self._on_heads(block, None, total))
                )
        mlp = self._graph.mlp_source(block.index)
        if len(self._used(slice(mlp, mlp + 1))):
            hooks.append((block.mlp_out, lambda out: self._on_mlp_out(block, out)))
        return hooks

    def _on_heads(
        self,
        block: Block,
        z: Float[Tensor, "batch pos head d_head"] | None,
        total: Float[Tensor, "batch pos d_model"] | None,
    ) -> None:
        span = self._graph.head_sources(block.index)
        which, heads = self._used(span), self._plan.used_in(span)[1]
        z = self._z.pop(block.index) if z is None else z
        live = block.head_input(z, total).flatten(0, 1)[:, heads]
        missing = self._replaced.heads[block.index][:, heads].to(live) - live
        self._keep(which, block.head_writes(missing, heads=heads))

    def _on_mlp_out(self, block: Block, live: Float[Tensor, "batch pos d_model"]) -> None:
        mlp, live = self._graph.mlp_source(block.index), widen(live).flatten(0, 1)
        missing = self._replaced.mlps[block.index].to(live) - live
        self._keep(self._used(slice(mlp, mlp + 1)), missing[None])

    # Readers: their inputs, put together.

    def _attention_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        graph, i = self._graph, block.index
        if not bool(self._plan.computed[graph.attention_readers(i)].any()):
            return []
        hooks: list[tuple[str, Hook]] = [(block.stream_in, self._keep_stream(block.stream_in))]
        spans = (graph.q_readers(i), graph.k_readers(i), graph.v_readers(i))
        for part, span in enumerate(spans):
            if bool(self._plan.computed[span].any()):
                hooks.append((block.qkv[part], self._replace_projection(block, part, span)))
        return hooks

    def _mlp_hooks(self, block: Block) -> list[tuple[str, Hook]]:
        reader = self._graph.mlp_reader(block.index)
        if not bool(self._plan.computed[reader]):
            return []

        def on_mlp_in(live: Float[Tensor, "batch pos d_model"]) -> Tensor:
            n_sources = self._graph.sources_before_mlp(block.index)
            x = self._inputs(block.mlp_stream, slice(reader, reader + 1), n_sources)[0]
            x = x.to(live.dtype).view_as(live)
            return x if block.mlp_norm is None else block.mlp_norm(x)

        return [(block.mlp_stream, self._keep_stream(block.mlp_stream)), (block.mlp_in, on_mlp_in)]

    def _keep_stream(self, name: str) -> Hook:
        return lambda stream: self._streams.update({name: stream.flatten(0, 1)})

    def _replace_projection(self, block: Block, part: int, span: slice) -> Hook:
        computed = self._plan.computed[span].nonzero().squeeze(1)

        def hook(live: Float[Tensor, "batch pos head d_head"]) -> Tensor:
            n_sources = self._graph.sources_before_attention(block.index)
            x = self._inputs(block.stream_in, span, n_sources)[computed].to(live.dtype)
            x = x if block.attention_norm is None else block.attention_norm(x)
            made = block.projected(part, x, computed)
            made = made.transpose(0, 1).unflatten(0, live.shape[:2])
            return live.index_copy(2, computed.to(live.device), made)

        return hook

    def _on_final(self, live: Float[Tensor, "batch pos d_model"]) -> Tensor:
        self._streams[FINAL_STREAM] = live.flatten(0, 1)
        last = len(self._graph.destinations)
        x = self._inputs(FINAL_STREAM, slice(last - 1, last), len(self._graph.sources))
        return x.to(live.dtype).view_as(live)

    def _inputs(
        self, name: str, readers: slice, n_sources: int
    ) -> Float[Tensor, "reader token d_model"]:
        """The stream at `name` as some readers see it.

        Raises:
            ValueError: if a writer that a reader needs was not seen in this run.
        """
        known = sum(int((which < n_sources).sum()) for which, _ in self._missing)
        if not self._nothing_kept or known < len(self._used(slice(0, n_sources))):
            raise ValueError("a run inside a circuit left out layers; it has to take all of them")
        live = widen(self._streams[name])
        starts = self._plan.from_replaced[readers].to(live.device)[:, None, None]
        x = torch.where(starts, self._nothing_kept[name].to(live), live)
        for which, missing in self._missing:
            coefficient = self._plan.coefficient[which, readers]
            if bool(coefficient.any()):
                change = coefficient.T.to(missing) @ missing.flatten(1)
                x = x + change.unflatten(1, missing.shape[1:])
        return x


def _at_places(
    constants: Writes, tokens: Int[Tensor, "batch pos"], given: Mapping[str, object]
) -> Writes:
    """One row per token, by its number in its own row, counted from the first real one.

    Tokens whose keys and values are cached come before; padding is known from the mask.

    Raises:
        ValueError: if cache and mask do not tell the numbers, or the text is too long.
    """
    cache, mask = given.get("past_key_values"), given.get("attention_mask")
    before = int(cache.get_seq_length()) if isinstance(cache, Cache) else 0
    total = before + tokens.shape[1]
    if not isinstance(cache, Cache | None) or (
        isinstance(mask, Tensor) and mask.shape != (len(tokens), total)
    ):
        raise ValueError(
            f"positional means need every token's position; got a {type(cache).__name__} as cache "
            f"and an attention mask {getattr(mask, 'shape', None)}; no cache (use_past_kv_cache="
            f"False) and a mask of shape [{len(tokens)}, {total}], or none, would be right"
        )
    real = mask if isinstance(mask, Tensor) else tokens.new_ones(len(tokens), total)
    places = (real.long().cumsum(dim=1) - 1).clamp(min=0)[:, before:]
    longest = int(places.max()) + 1
    if longest > len(constants):
        raise ValueError(
            f"the text has {longest} tokens, and the positional means know only {len(constants)}; "
            "take them over prompts at least as long, or one mean for all positions"
        )
    return constants[places.flatten().to(constants.embed.device)]
