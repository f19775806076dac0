"""Reading attention: the pattern and values of one layer at a time, proven to be what mixes z."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.anatomy.blocks import Block, widen
from patching.anatomy.insides import shown_pattern
from patching.files.brief import briefly
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.tasks.task import Batch, Prompt, Task
from patching.tasks.tokens import encode_prompt

Prompts = Task | Int[Tensor, "*batch pos"] | Sequence[int] | str
"""What attention can be read on: a task's clean prompts, token ids, or one text."""

_ROUNDINGS = 16


@briefly
@dataclass(frozen=True, eq=False)
class Seen:
    """One layer's attention on a batch; beyond a prompt's own tokens the pattern is 0.

    `values` are those of each query head (shared ones repeated). `sigma` is the denominator of the
    norm after the attention at each query, where there is such a norm.
    """

    block: Block
    tokens: Int[Tensor, "batch pos"]
    is_token: Bool[Tensor, "batch pos"]
    pattern: Float[Tensor, "batch head query key"]
    values: Float[Tensor, "batch pos head d_head"]
    sigma: Float[Tensor, "batch pos 1"] | None


def as_task(model: Model, prompts: Prompts) -> Task:
    """The prompts as a task, checked against the model and padded on the right.

    So positions count from the first real token. Answers of prompts that are no task mean nothing.

    Raises:
        ValueError: if there are no prompts, or the model cannot read them.
    """
    if isinstance(prompts, Task):
        model.check(prompts)
        return replace(prompts.without_answers, padding="right")
    if isinstance(prompts, str):
        if model.tokenizer is None:
            raise ValueError(f"{model.name} has no tokenizer: give token ids, not text")
        rows = [encode_prompt(model.tokenizer, prompts)]
    elif isinstance(prompts, Tensor):
        if prompts.ndim not in (1, 2):
            raise ValueError(f"token ids are [pos] or [batch pos], got shape {list(prompts.shape)}")
        rows = [tuple(row) for row in torch.atleast_2d(prompts).tolist()]
    else:
        rows = [tuple(prompts)]
    task = Task("the given prompts", tuple(Prompt(row, row, (0,)) for row in rows))
    model.check(task)
    return task


@without_gradients
def read(model: Model, batch: Batch, see: Callable[[Seen], None]) -> None:
    """Run the clean prompts and show each layer's attention, layer by layer, none of it kept.

    Raises:
        ValueError: if what the family shows as its pattern is not what mixes the values.
    """
    reader = _Reader(model, batch, see)
    model.answer_logits(batch.clean, batch, reader.hooks())


class _Reader:
    """Hooks that gather what a layer shows and hand it over when the layer is done."""

    def __init__(self, model: Model, batch: Batch, see: Callable[[Seen], None]) -> None:
        self._model, self._batch, self._see = model, batch, see
        self._kept: dict[str, Tensor] = {}

    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place during the run. Not kept: they and this object would hold each other."""
        hooks: list[tuple[str, Hook]] = []
        for block in self._model.blocks:
            names = [block.qkv[2], shown_pattern(block), block.z]
            names += [block.attention_sum] if block.post_attention_norm is not None else []
            hooks += [(name, self._keep(name)) for name in names]
            hooks.append((block.stream_out, self._finish(block)))
        return hooks

    def _keep(self, name: str) -> Hook:
        def hook(tensor: Tensor) -> None:
            self._kept[name] = tensor.detach()

        return hook

    def _finish(self, block: Block) -> Hook:
        def hook(_: Tensor) -> None:
            self._see(self._seen(block))
            self._kept.clear()

        return hook

    def _seen(self, block: Block) -> Seen:
        kept, graph = self._kept, self._model.graph
        pattern = kept.get(shown_pattern(block))
        values = kept[block.qkv[2]].repeat_interleave(graph.n_heads // graph.n_kv_heads, dim=2)
        if pattern is None or not _mixes(pattern, values, kept[block.z], self._batch.is_token):
            raise ValueError(
                f"the attention of {self._model.name} cannot be read: what it shows as the pattern "
                f"of layer {block.index} is not what mixes its values"
            )
        sigma = None
        if block.post_attention_norm is not None:
            sigma = block.post_attention_norm.sigma(kept[block.attention_sum])
        return Seen(
            block,
            self._batch.clean,
            self._batch.is_token,
            torch.where(self._real(), widen(pattern), 0.0),
            widen(values),
            sigma,
        )

    def _real(self) -> Bool[Tensor, "batch 1 query key"]:
        """Real tokens attending to real tokens."""
        is_token = self._batch.is_token
        return is_token[:, None, :, None] & is_token[:, None, None, :]


def _mixes(
    pattern: Float[Tensor, "batch head query key"],
    values: Float[Tensor, "batch pos head d_head"],
    z: Float[Tensor, "batch pos head d_head"],
    is_token: Bool[Tensor, "batch pos"],
) -> bool:
    """Whether `z = pattern @ values` at real tokens, up to rounding in the model's type."""
    mixed = einsum(
        widen(pattern),
        widen(values),
        "batch head query key, batch key head d_head -> batch query head d_head",
    )
    # softmax and products may run in float32 inside a float64 model, never in less than its type
    eps = max(torch.finfo(z.dtype).eps, torch.finfo(torch.float32).eps)
    wrong = (mixed - widen(z))[is_token].abs().max()
    return bool(wrong <= _ROUNDINGS * eps * values.abs().max())
