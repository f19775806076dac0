"""Where a number stopped being finite: which row, and the first place in the model it passed.

Results are checked when they are there, which costs nothing; only when one is bad is the batch run
again, with a look at every layer.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patching.anatomy.blocks import EMBEDDING
from patching.anatomy.devices import Hook
from patching.model import Model
from patching.tasks.task import Batch


def require_finite(
    values: Float[Tensor, "*shape"],
    what: str,
    model: Model,
    batch: Batch,
) -> None:
    """Refuse NaN and infinite values that came of a batch, and say where they began.

    `what` names the values, for the message.

    Raises:
        ValueError: naming the row and the first place that is not finite there.
    """
    if bool(values.isfinite().all()):
        return
    raise ValueError(f"{what} came out as NaN or infinite: {_first_bad(model, batch)}")


def _first_bad(model: Model, batch: Batch) -> str:
    """In words: the first place of the clean run, else of the corrupt one."""
    for name, tokens in (("clean", batch.clean), ("corrupt", batch.corrupt)):
        seen: dict[str, Tensor] = {}
        with torch.no_grad():
            logits = model.answer_logits(tokens, batch, _watch(model, seen))
        seen["the logits"] = logits
        for place, tensor in seen.items():
            bad = _bad_rows(tensor)
            if bad:
                rows = f"row {bad[0]}" + (f" (and {len(bad) - 1} more)" if len(bad) > 1 else "")
                return f"{rows} of the batch, {name} prompt, first at {place}{_hint(model)}"
    return (
        f"both plain runs are finite, so the metric is not, or a gradient or a run between "
        f"them{_hint(model)}"
    )


def _watch(model: Model, seen: dict[str, Tensor]) -> list[tuple[str, Hook]]:
    """Hooks at what every writer writes, in the order in which they write."""

    def keep(place: str) -> Hook:
        return lambda tensor: seen.update({place: tensor.detach()})

    hooks: list[tuple[str, Hook]] = [(EMBEDDING, keep("the embedding"))]
    for block in model.blocks:
        i = block.index
        hooks.append((block.z, keep(f"layer {i}'s attention, a{i}")))
        hooks.append((block.attention_out, keep(f"what layer {i}'s attention writes")))
        hooks.append((block.mlp_out, keep(f"layer {i}'s MLP, m{i}")))
        hooks.append((block.stream_out, keep(f"the stream after layer {i}")))
    return hooks


def _bad_rows(tensor: Tensor) -> list[int]:
    bad = ~tensor.isfinite().flatten(1).all(dim=1) if tensor.ndim > 1 else ~tensor.isfinite()
    return bad.nonzero().flatten().tolist()


def _hint(model: Model) -> str:
    name = str(model.dtype).removeprefix("torch.")
    wider = f"; {name} overflows early, load the model in float32"
    return wider if model.dtype in (torch.float16, torch.bfloat16) else ""
