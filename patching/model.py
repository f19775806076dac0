"""Model: a language model with its graph and its blocks, proven to fit each other."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patching.blocks import POSITIONS, UNEMBED_IN, Block, find_blocks, widen
from patching.graph import Graph
from patching.kept import Activations, Keeper
from patching.loading import Opened, Source, Wishes, open_source
from patching.places import find
from patching.proof import prove
from patching.stack import returns_tuples
from patching.tasks.task import Batch, Task
from patching.tasks.tokens import Tokenizer, encode_prompt

Hook = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Model:
    """A transformer language model, its computational graph and its named places.

    Make one with `Model.load`. The parameters are frozen; nothing else is changed for longer
    than a `with` lasts.
    """

    name: str
    bridge: TransformerBridge = field(repr=False)
    graph: Graph
    blocks: tuple[Block, ...] = field(repr=False)
    tokenizer: Tokenizer | None = field(repr=False)
    revision: str | None
    opened: Opened = field(repr=False)

    @staticmethod
    def load(
        source: Source,
        *,
        tokenizer: Tokenizer | None = None,
        dtype: torch.dtype | None = None,
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> "Model":
        """Load and prove a model.

        `source` is a hub name, a folder, an embedded model (`toy`, ...), a Hugging Face module or
        a TransformerBridge. A module in memory is wrapped in place (use a copy to keep the
        original), keeps its dtype and device unless told otherwise, and is frozen; folders and
        hub models are loaded in float32 on the CPU unless told otherwise.

        >>> Model.load("truth/induction").graph.describe()
        '2 sequential layers, 4 heads, 4 key-value heads'

        Raises:
            ValueError: if there is no such model, its weights hold NaN, or its structure cannot
                be proven.
        """
        wishes = Wishes(dtype, device, revision, trust_remote_code)
        opened = open_source(source, tokenizer, wishes)
        bridge = opened.bridge
        blocks = find_blocks(bridge)
        graph = _graph(opened.name, blocks)
        prove(opened.name, bridge, blocks, opened.probe)
        return Model(
            name=opened.name,
            bridge=bridge,
            graph=graph,
            blocks=blocks,
            tokenizer=opened.tokenizer,
            revision=opened.revision,
            opened=opened,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.bridge.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return next(self.bridge.parameters()).device

    @property
    def learns_positions(self) -> bool:
        """Whether the embedding has a learned part for each position."""
        return POSITIONS in self.bridge.hook_dict

    @property
    def two_way(self) -> bool:
        """Whether positions see what follows them, as in compiled programs."""
        return self.bridge.cfg.attention_dir == "bidirectional"

    @cached_property
    def blocks_return_tuples(self) -> bool:
        """Whether the family's blocks return a tuple (for `resume`)."""
        return returns_tuples(self.bridge)

    @cached_property
    def weights(self) -> str:
        """A short hash of the weights."""
        return self.opened.weights()

    def check(self, task: Task) -> None:
        """Refuse a task that this model cannot read.

        Raises:
            ValueError: if a token id is outside the vocabulary, a prompt is too long, or the task
                is for models that read in other directions.
        """
        vocab, longest = int(self.bridge.cfg.d_vocab), int(self.bridge.cfg.n_ctx)
        if task.max_id >= vocab:
            raise ValueError(
                f"task {task.name!r} holds token id {task.max_id}, and {self.name} has only "
                f"{vocab} tokens: was it made for another tokenizer?"
            )
        if task.max_length > longest:
            raise ValueError(
                f"task {task.name!r} has a prompt of {task.max_length} tokens; {self.name} reads "
                f"at most {longest}"
            )
        if self.two_way != task.two_way:
            ways = ("only to the left", "both ways")
            raise ValueError(
                f"{self.name} reads {ways[self.two_way]}, and task {task.name!r} is for models "
                f"that read {ways[task.two_way]}; set its two_way to {self.two_way}"
            )
        if self.two_way and len({len(prompt.clean) for prompt in task.prompts}) > 1:
            raise ValueError(
                f"{self.name} reads both ways and would read padding as well; give prompts of one "
                "length (task.of_length())"
            )

    @torch.no_grad()
    def run(
        self,
        prompts: Int[Tensor, "batch pos"] | Sequence[int] | str,
        cache: Sequence[str] = (),
        *,
        is_token: Bool[Tensor, "batch pos"] | None = None,
    ) -> Activations:
        """Run prompts once: logits at all positions, and the activations named in `cache`.

        `prompts` are token ids or one text, which gets a BOS where the tokenizer uses one. Names
        are those of `patching.places`; only what is named is kept. `is_token` marks real tokens
        (`Batch.is_token`) and is needed only where rows are padded on the left.

        >>> seen = Model.load("truth/induction").run([0, 5, 6, 5], cache=["a1.h0.pattern", "m0"])
        >>> seen["a1.h0.pattern"].shape, seen.logits.shape[:2]
        (torch.Size([1, 4, 4]), torch.Size([1, 4]))

        Raises:
            ValueError: if there is no such place, no tokenizer for a text, or an id outside the
                vocabulary.
        """
        places = {name: find(self, name) for name in cache}
        keeper = Keeper(places)
        tokens = self._tokens(prompts)
        mask = None if is_token is None else is_token.long()
        try:
            with self.bridge.hooks(
                fwd_hooks=[(name, library_hook(hook)) for name, hook in keeper.hooks]
            ):
                logits = self.bridge(tokens, attention_mask=mask)
        finally:
            for block in self.blocks:
                block.forget_pattern()
        return Activations(tokens, logits, places, {name: keeper.values[name] for name in places})

    def _tokens(
        self, prompts: Int[Tensor, "batch pos"] | Sequence[int] | str
    ) -> Int[Tensor, "batch pos"]:
        if isinstance(prompts, str):
            if self.tokenizer is None:
                raise ValueError(f"{self.name} has no tokenizer: give token ids, not text")
            prompts = encode_prompt(self.tokenizer, prompts)
        tokens = (
            prompts
            if isinstance(prompts, Tensor)
            else torch.tensor([list(prompts)], dtype=torch.long)
        )
        vocab = int(self.bridge.cfg.d_vocab)
        if not tokens.numel() or int(tokens.min()) < 0 or int(tokens.max()) >= vocab:
            raise ValueError(
                f"prompts hold at least one token id, each from 0 to {vocab - 1} in {self.name}; "
                f"got {list(tokens.shape)} ids" + _range(tokens)
            )
        return tokens.to(self.device)

    def answer_logits(
        self, tokens: Int[Tensor, "batch pos"], batch: Batch, hooks: Iterable[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "batch vocab"]:
        """Logits at each row's answer position, in float32 or wider, with hooks in place.

        Only the answer positions are unembedded. `tokens` may hold the batch several times over
        (rows of several circuits): answer positions repeat. A hook takes the activation and
        returns a new one or None.

        Raises:
            ValueError: if left padding makes the model's output NaN.
        """
        copies = len(tokens) // len(batch)
        rows = torch.arange(len(tokens), device=tokens.device)
        answer_pos = batch.answer_pos.repeat(copies)

        def at_answer(normed: Tensor, hook: object) -> Tensor:
            return normed[rows.to(normed.device), answer_pos.to(normed.device)][:, None]

        plain = [(name, library_hook(hook)) for name, hook in hooks] + [(UNEMBED_IN, at_answer)]
        mask = batch.is_token.long().repeat(copies, 1) if batch.left_padded else None
        try:
            with self.bridge.hooks(fwd_hooks=plain):
                logits = self.bridge(tokens, attention_mask=mask)
        finally:
            for block in self.blocks:
                block.forget_pattern()
        if mask is not None and not bool(logits.isfinite().all()):
            raise ValueError(
                f"{self.name} gives NaN under left padding in {self.dtype} (Hugging Face's mask "
                "overflows there); pad on the right, or load the model in float32"
            )
        return widen(logits[:, 0])


def library_hook(change: Hook) -> Callable[..., Tensor | None]:
    """A hook as the model library calls them: with the hook point as a second argument."""
    return lambda tensor, hook: change(tensor)


def _range(tokens: Int[Tensor, "..."]) -> str:
    return f" from {int(tokens.min())} to {int(tokens.max())}" if tokens.numel() else ""


def _graph(name: str, blocks: tuple[Block, ...]) -> Graph:
    graphs = {
        Graph(len(blocks), len(block.w_qkv[0]), len(block.w_qkv[1]), block.parallel)
        for block in blocks
    }
    if len(graphs) > 1:
        raise ValueError(f"{name} is refused: its layers differ in their numbers of heads")
    return graphs.pop()
