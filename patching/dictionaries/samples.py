"""Text to measure and train dictionaries on: what the model itself says, or a file of text.

No corpus is needed: rows that the model samples are from the very distribution that it has learned.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from patching.files.whole import read_text
from patching.lens.prompts import Prompts
from patching.model import Model
from patching.modes import without_gradients
from patching.progress import Progress
from patching.tasks.tokens import encode_prompt

_AT_ONCE = 2**28  # bytes of keys and values


@without_gradients
def own_text(model: Model, *, n: int = 16, length: int = 64, seed: int = 0) -> Prompts:
    """`n` rows of `length` tokens that the model samples after its first token.

    Equal seeds give equal rows, on one machine.

    >>> rows = own_text(Model.load("toy"), n=2, length=5).rows
    >>> len(rows), len(rows[0])
    (2, 5)

    Raises:
        ValueError: if a number is less than 1 or 2, or the model reads fewer tokens.
    """
    _check(model, n, length)
    first, at_once = _first_token(model), _rows_at_once(model, length)
    rows: list[tuple[int, ...]] = []
    with torch.random.fork_rng(devices=_gpus(model)), Progress("sampling", n) as progress:
        torch.manual_seed(seed)
        while len(rows) < n:
            tokens = torch.full((min(at_once, n - len(rows)), 1), first, device=model.device)
            rows += [tuple(row) for row in _continued(model, tokens, length).tolist()]
            progress.at(len(rows))
    return Prompts(tuple(rows), f"{n} rows of its own, seed {seed}")


def text_rows(model: Model, source: str | Path, *, n: int = 16, length: int = 64) -> Prompts:
    """The first `n` rows of at most `length` tokens of a text file.

    Each row begins with the token that the tokenizer puts before a text, where it does so.

    Raises:
        ValueError: if it is no file of text, it is too short for one row of 2 tokens, or the
            model has no tokenizer.
    """
    _check(model, n, length)
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer to read {source} with")
    # a token has at most some tens of letters: no more of a long file is read
    text = read_text(source)[: 40 * n * length]
    plain = encode_prompt(model.tokenizer, text)
    begins = plain[:1] if plain[:1] == (model.tokenizer.bos_token_id,) else ()
    body, size = plain[len(begins) :], length - len(begins)
    rows = [(*begins, *body[i : i + size]) for i in range(0, len(body), size)][:n]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise ValueError(f"{source} holds no two tokens; give a longer text")
    return Prompts(tuple(rows), Path(source).name)


def fills_cache(model: Model, tokens: Tensor) -> bool:
    """Whether a run leaves keys and values behind: under some versions of transformers none does.

    There, what is generated with a cache sees nothing but the last token, without a word.
    """
    with model.hooked(()):
        kept = getattr(model.bridge.original_model(tokens, use_cache=True), "past_key_values", None)
    return kept is not None and kept.get_seq_length() == tokens.shape[1]


def _continued(model: Model, tokens: Tensor, length: int) -> Tensor:
    """The tokens with what the model says after them; ends of text end nothing."""
    cached = fills_cache(model, tokens[:1])
    with model.hooked(()):
        found = model.bridge.generate(
            tokens,
            max_new_tokens=length - tokens.shape[1],
            do_sample=True,
            stop_at_eos=False,
            use_past_kv_cache=cached,
            prepend_bos=False,
            return_type="tokens",
            verbose=False,
        )
    assert isinstance(found, Tensor), "tokens were asked for"
    return found


def _rows_at_once(model: Model, length: int) -> int:
    """As many rows as what the model remembers of them leaves room for, from 16 to 1,024."""
    d_model = model.blocks[0].w_o.shape[2]
    return min(1024, max(16, _AT_ONCE // (8 * length * len(model.blocks) * d_model)))


def _first_token(model: Model) -> int:
    """What a text begins with: its tokenizer's, or its configuration's, first special token."""
    config = getattr(model.bridge.original_model, "config", None)
    places: Sequence[object] = (model.tokenizer, config)
    for name in ("bos_token_id", "eos_token_id"):
        for place in places:
            found = getattr(place, name, None)
            if isinstance(found, int) and 0 <= found < int(model.bridge.cfg.d_vocab):
                return found
    return 0


def _check(model: Model, n: int, length: int) -> None:
    longest = int(model.bridge.cfg.n_ctx)
    if n < 1 or not 2 <= length <= longest:
        raise ValueError(
            f"rows of text: at least 1 of 2 to {longest} tokens, which {model.name} reads; got {n} "
            f"of {length}"
        )


def _gpus(model: Model) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
