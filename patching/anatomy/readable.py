"""Whether a model can read a task: its tokens, its lengths, its direction."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from patching.anatomy.rotation import refuse_lengths
from patching.tasks.task import Task


def reads_both_ways(bridge: TransformerBridge) -> bool:
    """Whether positions see what follows them, as in compiled programs."""
    return bridge.cfg.attention_dir == "bidirectional"


def refuse_unreadable(name: str, bridge: TransformerBridge, task: Task) -> None:
    """Refuse a task that a model cannot read.

    Raises:
        ValueError: if a token id is outside the vocabulary, a prompt is too long or is read
            otherwise beside longer ones, or the task is for models that read other ways.
    """
    two_way = reads_both_ways(bridge)
    vocab, longest = int(bridge.cfg.d_vocab), int(bridge.cfg.n_ctx)
    if task.max_id >= vocab:
        raise ValueError(
            f"task {task.name!r} holds token id {task.max_id}, and {name} has only "
            f"{vocab} tokens: was it made for another tokenizer?"
        )
    if task.max_length > longest:
        raise ValueError(
            f"task {task.name!r} has a prompt of {task.max_length} tokens; {name} reads "
            f"at most {longest}"
        )
    lengths = [prompt.n_tokens for prompt in task.prompts]
    refuse_lengths(cast(nn.Module, bridge.original_model), name, f"task {task.name!r}", lengths)
    if two_way != task.two_way:
        ways = ("only to the left", "both ways")
        raise ValueError(
            f"{name} reads {ways[two_way]}, and task {task.name!r} is for models "
            f"that read {ways[task.two_way]}; set its two_way to {two_way}"
        )
    if two_way and len({len(prompt.clean) for prompt in task.prompts}) > 1:
        raise ValueError(
            f"{name} reads both ways and would read padding as well; give prompts of one "
            "length (task.of_length())"
        )


def refuse_overflow(name: str, logits: Float[Tensor, "batch pos vocab"]) -> None:
    """Refuse what a model says where left padding has made it NaN.

    Raises:
        ValueError: saying what would be right.
    """
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"{name} gives NaN under left padding in {logits.dtype} (Hugging Face's mask "
            "overflows there); pad on the right, or load the model in float32"
        )
