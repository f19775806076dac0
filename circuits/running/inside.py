"""Running a live model inside a circuit: logits, generation and lenses, on any text.

While `active` lasts, every run of the model has the edges outside the circuit ablated at every
position. A reader takes what kept edges carry live and constants for the rest, so constants are
needed: values from a paired prompt exist only on the task's own pairs (`evaluate`).
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import cast
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from circuits.circuit import Circuit
from circuits.running.missing import Missing
from circuits.running.plan import plan_everywhere
from circuits.running.rewiring import Members, Reading, lay_out, rewired
from circuits.running.starts import replaced_streams
from patching.ablations import Ablation, Constants, prepared_for
from patching.anatomy.blocks import EMBEDDING, POSITIONS, Block, widen
from patching.anatomy.turns import turn
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
    model.graph.require_same(circuit.graph, "the circuit is")
    constants = prepared_for(model, ablation)
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
    with ExitStack() as stack:
        stack.enter_context(turn(model.bridge))
        if original in _BUSY:
            raise ValueError(f"{model.name} is inside a circuit already; leave that one first")
        _BUSY.add(original)
        stack.callback(_BUSY.discard, original)
        begin = original.register_forward_pre_hook(run.begin, with_kwargs=True)
        stack.callback(begin.remove)
        end = original.register_forward_hook(run.end, always_call=True)
        stack.callback(end.remove)
        stack.enter_context(model.hooked(run.hooks()))
        yield


class _Run:
    """Runs inside one circuit: a `Mix` of how far each writer is from its constant."""

    def __init__(self, circuit: Circuit, model: Model, constants: Constants) -> None:
        graph = model.graph
        self._model = model
        like = widen(torch.empty(0, dtype=model.dtype, device=model.device))
        self._constants = constants.writes.map(partial(_to, like))
        self._plan = plan = plan_everywhere((graph.exists & ~circuit.mask).double(), graph)
        told = torch.zeros(len(graph.sources), dtype=torch.bool)
        told[plan.used] = True
        self._layout = lay_out(graph, plan.computed, told)
        nowhere = torch.zeros_like(self._constants.embed)
        self._streams = replaced_streams(model, self._constants, nowhere)
        used = Members.of(told)
        self._weights = [
            plan.coefficient[used.numbers[: used.n_before[reading.n_sources]]][:, reading.readers]
            for reading in self._layout.readings
        ]
        self._weights = [weights.to(like) for weights in self._weights]
        self._tells_embed = bool(told[0])
        heads = [used.among(graph.head_sources(i)) for i in range(graph.n_layers)]
        self._heads = [some.to(model.device) for some in heads]
        self._running = False
        self._forget()

    def _forget(self) -> None:
        self._places: Tensor | None = None
        self._positions: Tensor | None = None
        self._n_read = 0
        self._missing = Missing(len(self._plan.used))

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
            self._places = _places(len(self._constants), tokens, given).to(self._model.device)
        self._running = True

    def end(self, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        """Forget a run that has ended, in whatever way."""
        self._running = False
        self._forget()

    def hooks(self) -> list[tuple[str, Hook]]:
        """All hooks, in the order in which they are to fire; none if the circuit is full."""
        if self._plan.first_layer is None:
            return []
        hooks: list[tuple[str, Hook]] = [(EMBEDDING, self._on_embedding)]
        if self._model.learns_positions:
            hooks.insert(0, (POSITIONS, self._on_positions))
        hooks += rewired(self._model, self._layout, self)
        return [(name, partial(self._while_running, hook)) for name, hook in hooks]

    def _while_running(self, change: Hook, tensor: Tensor) -> Tensor | None:
        """The hook, doing nothing where a part of the model is called by itself."""
        return change(tensor) if self._running else None

    def _on_positions(self, positions: Float[Tensor, "#batch pos d_model"]) -> None:
        self._positions = positions

    def _on_embedding(self, embedding: Float[Tensor, "batch pos d_model"]) -> None:
        live = self.chosen(widen(embedding))
        if self._positions is not None:
            self._positions = self.chosen(widen(self._positions).expand_as(embedding))
            live = live - self._positions
        if self._tells_embed:
            self._missing.add((self._here(self._constants.embed) - live)[None])

    def _here(self, constant: Float[Tensor, "place ..."]) -> Float[Tensor, "token ..."]:
        """A constant's values at the tokens of this run; one row, where all have the same."""
        return constant if self._places is None else constant[self._places]

    def chosen(self, x: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "token ..."]:
        return x.flatten(0, 1)

    def put(
        self,
        name: str,
        live: Float[Tensor, "batch pos ..."],
        made: Float[Tensor, "token ..."],
        heads: Int[Tensor, " some"] | None,
    ) -> Float[Tensor, "batch pos ..."]:
        made = made.unflatten(0, live.shape[:2])
        return made if heads is None else live.index_copy(2, heads.to(live.device), made)

    def inputs(
        self, reading: Reading, name: str, stream: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "reader token d_model"]:
        """The stream of constants and positions alone, and how far kept writers are from theirs.

        Raises:
            ValueError: if a writer that a reader needs was not seen in this run.
        """
        weights = self._weights[reading.number]
        if self._n_read < reading.number or len(self._missing) < len(weights):
            raise ValueError("a run inside a circuit left out layers; it has to take all of them")
        self._n_read, start = reading.number + 1, self._here(self._streams[name])
        start = start if self._positions is None else start + self._positions
        start = start.expand(len(reading.readers), len(stream), -1)
        return start + self._missing.weighed(weights) if len(weights) else start

    def on_heads(self, block: Block, head_input: Float[Tensor, "token head d_head"]) -> None:
        heads, replaced = self._heads[block.index], self._constants.heads[block.index]
        missing = (self._here(replaced) - head_input)[:, heads]
        self._missing.add(block.head_writes(missing, heads=heads))

    def on_mlp(self, block: Block, write: Float[Tensor, "token d_model"]) -> None:
        missing = self._here(self._constants.mlps[block.index]) - write
        self._missing.add(missing[None])


def _to(like: Tensor, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return x.to(like)


def _places(
    n_known: int, tokens: Int[Tensor, "batch pos"], given: Mapping[str, object]
) -> Int[Tensor, " token"]:
    """Every token's number in its own row, counted from the first real one.

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
    if longest > n_known:
        raise ValueError(
            f"the text has {longest} tokens, and the positional means know only {n_known}; "
            "take them over prompts at least as long, or one mean for all positions"
        )
    return places.flatten()
