"""A finished run to go on from: streams and MLP outputs, and runs that start at one of its layers.

What a change cannot have reached is taken from the finished run: the layers below and, where it is
known which tokens have changed, what the MLPs above write at all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM
from patching.anatomy.stack import skipping
from patching.files.brief import briefly
from patching.model import Hook, Model
from patching.tasks.task import Batch

Tokens = tuple[Int[Tensor, " token"], ...]
"""Row and position of some tokens."""


def stream_points(model: Model) -> tuple[str, ...]:
    """Hook points of the streams that enter each block, and of the one that leaves the last."""
    return (*(block.stream_in for block in model.blocks), FINAL_STREAM)


@briefly
@dataclass(frozen=True, eq=False)
class Recorded:
    """What a run of the batch's prompts left behind.

    `tokens` are those that ran; `streams` entered each block and, the last, the final norm; `mlps`
    are what MLPs wrote.
    """

    model: Model
    batch: Batch
    tokens: Int[Tensor, "row pos"]
    logits: Float[Tensor, "asked vocab"]
    streams: tuple[Float[Tensor, "row pos d_model"], ...]
    mlps: tuple[Float[Tensor, "row pos d_model"], ...]

    def go_on(
        self,
        layer: int,
        examples: Int[Tensor, " chosen"],
        hooks: Sequence[tuple[str, Hook]] = (),
        mlps_at: Mapping[int, Tokens] | None = None,
    ) -> Float[Tensor, "asked vocab"]:
        """Logits of some examples, in rows that start with what entered a layer, under hooks.

        The layer behind the last is the final norm. MLPs of the layers in `mlps_at` work at those
        tokens of the rows alone and write at others what they wrote before. Differentiable.

        Raises:
            ValueError: as `Model.answer_logits`.
        """
        model = self.model
        first, rows = stream_points(model)[layer], self.batch.rows_of(examples)
        ours: list[tuple[str, Hook]] = [(first, partial(_rows, self.streams[layer], rows))]
        for i, tokens in (mlps_at or {}).items():
            block, put = model.blocks[i], partial(_put, self.mlps[i], rows, tokens)
            if not block.mlp_keeps_shape:
                ours += [(block.mlp_in, partial(_take, tokens)), (block.mlp_out, put)]
        batch = self.batch.at(examples)
        with skipping(model.bridge, layer, as_tuple=model.blocks_return_tuples):
            return model.answer_logits(self.tokens[rows], batch, [*ours, *hooks])


def record(
    model: Model,
    tokens: Int[Tensor, "row pos"],
    batch: Batch,
    hooks: Sequence[tuple[str, Hook]] = (),
) -> Recorded:
    """Run the clean or the corrupt prompts of a batch, under hooks, and keep what was seen then.

    Raises:
        ValueError: as `Model.answer_logits`.
    """
    kept: dict[str, Tensor] = {}
    streams, mlps = stream_points(model), [block.mlp_out for block in model.blocks]
    keeping = [(name, partial(_keep, kept, name)) for name in (*streams, *mlps)]
    logits = model.answer_logits(tokens, batch, [*hooks, *keeping])
    seen = (tuple(kept[name] for name in names) for names in (streams, mlps))
    return Recorded(model, batch, tokens, logits, *seen)


def _keep(kept: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    kept[name] = tensor


def _rows(stream: Tensor, rows: Tensor, _: Tensor) -> Tensor:
    return stream[rows]


def _take(tokens: Tokens, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "1 token d_model"]:
    return x[tokens][None]


def _put(
    before: Float[Tensor, "_ pos d_model"],
    rows: Int[Tensor, " row"],
    tokens: Tokens,
    made: Float[Tensor, "1 token d_model"],
) -> Float[Tensor, "row pos d_model"]:
    out = before[rows]
    out[tokens] = made[0]
    return out
