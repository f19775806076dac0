"""Model: a language model with its graph and its blocks, proven to fit each other."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.blocks import POSITIONS, UNEMBED_IN, Block, widen
from patching.anatomy.devices import Hook, placed, row_tokens
from patching.anatomy.identity import Identity, hash_config, hash_tokenizer
from patching.anatomy.ignored import refuse_ignored
from patching.anatomy.insides import forgetting
from patching.anatomy.kept import Activations, Keeper
from patching.anatomy.loading import Opened, Reference, Source, Wishes, open_source
from patching.anatomy.places import find
from patching.anatomy.proof import found_and_proven
from patching.anatomy.readable import reads_both_ways, refuse_overflow, refuse_unreadable
from patching.anatomy.rotation import refuse_lengths
from patching.anatomy.spread import DeviceMap, Spread, device_map_of
from patching.anatomy.stack import returns_tuples
from patching.anatomy.standing import Look, Standing, refuse_to_send
from patching.anatomy.turns import turn
from patching.decoding import continue_greedily, text_of
from patching.graph import Graph
from patching.metrics import Metric
from patching.modes import as_typed, without_gradients
from patching.progress import beat
from patching.suited import require_answers
from patching.tasks.padding import refuse_holes
from patching.tasks.task import Batch, Task
from patching.tasks.tokens import Tokenizer, as_tokens


@dataclass(frozen=True)
class Model:
    """A transformer language model, its computational graph and its named places.

    Make one with `Model.load`. The parameters are frozen; nothing else is changed for longer than a
    `with` lasts. Sent to another process, it goes as what it was loaded from; `standing`: as what.
    """

    name: str
    bridge: TransformerBridge = field(repr=False)
    graph: Graph
    blocks: tuple[Block, ...] = field(repr=False)
    tokenizer: Tokenizer | None = field(repr=False)
    revision: str | None
    opened: Opened = field(repr=False)
    standing: Standing = field(repr=False)

    @staticmethod
    def load(
        source: Source,
        *,
        tokenizer: Tokenizer | None = None,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device_map: DeviceMap | None = None,
        n_devices: int | None = None,
    ) -> "Model":
        """Load and prove a model.

        `source` is a hub name, a folder, an embedded model (`toy`, ...), a Hugging Face module or
        a TransformerBridge. A module in memory is wrapped in place (use a copy to keep the
        original), keeps its dtype and device unless told otherwise, and is frozen; folders and
        hub models are loaded in float32 on the CPU unless told otherwise. One that does not fit is
        laid over `n_devices` GPUs or as `device_map` says (accelerate's maps, all GPUs or all CPU).

        >>> Model.load("truth/induction").graph.describe()
        '2 sequential layers, 4 heads, 4 key-value heads'

        Raises:
            ValueError: if there is no such model, its weights hold NaN, its structure cannot be
                proven, or it cannot lie as asked.
        """
        spread = Spread.over(device_map, n_devices, device)
        wishes = Wishes(dtype, device, revision, trust_remote_code, spread)
        return _from(source, tokenizer, wishes)

    @property
    def source(self) -> str | None:
        """The name or folder it was loaded by; None for one made of something in memory."""
        return None if self.opened.reference is None else self.opened.reference.source

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.bridge.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where tokens go in and logits come out, and where hooks meet activations."""
        return next(self.bridge.parameters()).device

    @property
    def device_map(self) -> dict[str, str | int] | None:
        """Which part lies on which device, where accelerate has laid it over several."""
        return device_map_of(cast(nn.Module, self.bridge.original_model))

    @property
    def room(self) -> int:
        """The most tokens of a prompt that it reads."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def learns_positions(self) -> bool:
        """Whether the embedding has a learned part for each position."""
        return POSITIONS in self.bridge.hook_dict

    @property
    def two_way(self) -> bool:
        """Whether positions see what follows them, as in compiled programs."""
        return reads_both_ways(self.bridge)

    @cached_property
    def blocks_return_tuples(self) -> int:
        """How long the tuple is that the family's blocks return (for `resume`); 0 if it is none."""
        return returns_tuples(self.bridge)

    @property
    def weights(self) -> str:
        """A short hash of the weights as they are now: another one if somebody has changed them."""
        return self.standing.weights(self.standing.look())

    @property
    def identity(self) -> Identity:
        """What it is now, in parts, as far as can be told without running it."""
        return self._identity(self.standing.look())

    def confirmed(self) -> Identity:
        """What it is now, held against its answer to a probe, by a run: for what is reused."""
        return self._identity(self.standing.look(asking=True))

    def _identity(self, look: Look) -> Identity:
        as_stored = self.opened.reference is not None and self.standing.is_kept(look)
        return Identity(
            config=hash_config(self.bridge),
            weights=self.standing.weights(look),
            tokenizer=self._tokenizer_hash,
            dtype=str(self.dtype).removeprefix("torch."),
            inside=None if as_stored else self.standing.inside(look),
        )

    @cached_property
    def _tokenizer_hash(self) -> str | None:
        return hash_tokenizer(self.tokenizer)

    def check(self, task: Task, *metrics: Metric) -> None:
        """Refuse a task that this model cannot read, or that a metric cannot be measured on.

        Raises:
            ValueError: if ids, lengths, positions or answers do not fit; they are named.
        """
        require_answers(task, *metrics)
        with turn(self.bridge):
            refuse_unreadable(self.name, self.bridge, task)

    @without_gradients
    def run(
        self,
        prompts: Int[Tensor, "batch pos"] | Sequence[int] | str,
        cache: Sequence[str] = (),
        *,
        is_token: Bool[Tensor, "batch pos"] | None = None,
    ) -> Activations:
        """Run prompts once: logits at all positions, and the activations named in `cache`.

        `prompts` are token ids or one text, which gets a BOS where the tokenizer uses one. Names
        are those of `patching.anatomy.places`; only what is named is kept. `is_token` marks real
        tokens (`Batch.is_token`) and is needed only where rows are padded on the left.

        >>> seen = Model.load("truth/induction").run([0, 5, 6, 5], cache=["a1.h0.pattern", "m0"])
        >>> seen["a1.h0.pattern"].shape, seen.logits.shape[:2]
        (torch.Size([1, 4, 4]), torch.Size([1, 4]))

        Raises:
            ValueError: if there is no such place, no tokenizer for a text, an id outside the
                vocabulary, or padding between the tokens of a row.
        """
        if is_token is not None:
            refuse_holes(is_token)
        places = {name: find(self, name) for name in cache}
        keeper, vocab = Keeper(places), int(self.bridge.cfg.d_vocab)
        tokens = as_tokens(prompts, self.tokenizer, self.name, vocab=vocab).to(self.device)
        mask = None if is_token is None else is_token.long()
        rows = [tokens.shape[1]] if is_token is None else is_token.sum(dim=1).tolist()
        bare = cast(nn.Module, self.bridge.original_model)
        with self.hooked(keeper.hooks):
            refuse_lengths(bare, self.name, "the batch", rows)
            logits = self.bridge(tokens, attention_mask=mask).to(self.device)
        return Activations(tokens, logits, places, {name: keeper.values[name] for name in places})

    def answer_logits(
        self, tokens: Int[Tensor, "batch pos"], batch: Batch, hooks: Iterable[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "asked vocab"]:
        """Logits at all that the batch asks, in float32 or wider, with hooks in place.

        Only the answer positions are unembedded. `tokens` may hold the batch several times over
        (rows of several circuits): answer positions repeat. A hook takes the activation and
        returns a new one or None.

        Raises:
            ValueError: if left padding makes the model's output NaN.
        """
        copies = len(tokens) // batch.n_rows
        mask = batch.is_token.long().repeat(copies, 1) if batch.left_padded else None
        with self.hooked([*hooks, (UNEMBED_IN, row_tokens(batch.asked_in(copies)))]):
            logits = self.bridge(tokens, attention_mask=mask).to(self.device)
        if mask is not None:
            refuse_overflow(self.name, logits)
        return widen(logits[:, 0])

    def generate(self, prompt: str | Sequence[int], n: int = 10) -> str:
        """The text of the n likeliest next tokens, one after the other (more: `decoding`).

        >>> Model.load("toy").generate("The capital of France is", 1)
        ' Paris'

        Raises:
            ValueError: as `continue_greedily` and `text_of`.
        """
        return text_of(self, prompt, continue_greedily(self, prompt, n=n))

    @contextmanager
    def hooked(self, hooks: Iterable[tuple[str, Hook]]) -> Iterator[None]:
        """Runs inside pass the hooks, by the names of the model library's hook points.

        A hook takes the activation and returns a new one or None; whatever layer it is at, it sees
        it on the home device (`device`), unless it is `AtLayer`. Autocast is off inside, and other
        threads that run this model wait.

        Raises:
            ValueError: if a weight was changed in memory that runs do not read.
        """
        refuse_ignored(self.name, self.standing.ignored)
        beat()
        with turn(self.bridge), as_typed(), forgetting(self.blocks), placed(self.bridge, hooks):
            yield

    def __deepcopy__(self, memo: dict[int, object]) -> "Model":
        """A model of its own, which shares no tensor with this one, proven anew."""
        refuse_ignored(self.name, self.standing.ignored)
        with turn(self.bridge):
            bridge = cast(TransformerBridge, copy.deepcopy(self.bridge, memo))
        opened = replace(self.opened, bridge=bridge, names=self.standing.names_in(memo))
        kept = self.standing.is_kept(self.standing.look(asking=True))
        return _proven(opened if kept else opened.in_memory())

    def __reduce__(self) -> tuple[Callable[..., "Model"], tuple[object, ...]]:
        """Travel to other processes as what it was loaded from, not as its weights.

        Raises:
            ValueError: if it was made of a module or bridge in memory, or changed there since.
        """
        refuse_to_send(self.name, self.standing, in_memory=self.opened.reference is None)
        then = self._identity(self.standing.then)
        return _load_again, (self.opened.reference, then, self.tokenizer)


def _load_again(reference: Reference, identity: Identity, tokenizer: Tokenizer | None) -> Model:
    """The model that was sent here, loaded only once in this process; refused if it is another."""
    model = _load(reference)
    model.identity.require_sent(identity, reference.source)
    return replace(model, tokenizer=tokenizer)


@lru_cache(maxsize=2)
def _load(reference: Reference) -> Model:
    return _from(reference.source, None, reference.wishes)


def _from(source: Source, tokenizer: Tokenizer | None, wishes: Wishes) -> Model:
    with torch.random.fork_rng(devices=()), torch.inference_mode(False), as_typed():
        return _proven(open_source(source, tokenizer, wishes))


def _proven(opened: Opened) -> Model:
    name, bridge = opened.name, opened.bridge
    blocks, graph, answered = found_and_proven(name, bridge, opened.probe)
    return Model(
        name=name,
        bridge=bridge,
        graph=graph,
        blocks=blocks,
        tokenizer=opened.tokenizer,
        revision=opened.revision,
        opened=opened,
        standing=Standing.of(bridge, opened.names, answered, opened.weights),
    )
