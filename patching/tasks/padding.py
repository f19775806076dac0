"""Where padding may stand: before or behind a row's tokens, never among them.

Prompts of a task have none at all; batches are padded when they are made (`Task.batches`).
"""

from jaxtyping import Bool
from torch import Tensor

from patching.tasks.task import Prompt
from patching.tasks.tokens import Tokenizer


def padding_id(tokenizer: Tokenizer | None) -> int | None:
    """The token that stands for nothing but padding, where the tokenizer has one.

    Many models use the end of a text for it, or a token that texts may hold.
    """
    found = getattr(tokenizer, "pad_token_id", None)
    others = [getattr(tokenizer, f"{what}_token_id", None) for what in ("bos", "eos", "unk")]
    return None if found in others else found


def refuse_padding(prompt: Prompt, padding: int | None) -> None:
    """Refuse a prompt whose clean side was padded; the corrupt one may hold padding as filler.

    Raises:
        ValueError: naming the first place.
    """
    if padding in prompt.clean:
        raise ValueError(
            f"its clean prompt holds the padding token {padding} as token "
            f"{prompt.clean.index(padding)}; prompts come without padding, each of its own length"
        )


def refuse_holes(is_token: Bool[Tensor, "batch pos"]) -> None:
    """Refuse padding between a row's tokens, and rows without any.

    Raises:
        ValueError: naming the row.
    """
    begins = is_token[:, :1].int() + (is_token[:, 1:] & ~is_token[:, :-1]).sum(dim=1, keepdim=True)
    for number, count in enumerate(begins[:, 0].tolist()):
        if count != 1:
            what = "no token" if count == 0 else f"padding inside, between {count} parts"
            raise ValueError(
                f"row {number} of is_token has {what}; the tokens of a row stand together, and "
                "padding before or behind them"
            )
