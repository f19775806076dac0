"""Multi-head latent attention (DeepSeek V2 and V3, GLM 4.7 and 5, Youtu): what reads the stream.

Keys and values are made of one small projection of the stream, the latent, which all heads share;
in most of these families queries are made of another. Only these projections read the stream, and
behind them comes a norm. So a layer's readers are: for keys the latent with the part that is
rotated, for values the latent again, both shared by all heads as a group's are (`a3.g0.k`,
`a3.g0.v`), and for queries a copy of theirs for each head (`a3.h1.q`).

The family's own attention runs. Its first projections hand over what layers of our own have made,
which are of one width for queries, keys, values and heads, with zeros where a part is narrower.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel


class Given(nn.Module):
    """Stands where a projection was, and hands over what has been made in its place."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[Tensor] = []

    def put(self, made: Tensor) -> None:
        """To be handed over next."""
        self._made[:] = [made]

    def forward(self, x: Tensor) -> Tensor:
        """What was put here, once."""
        return self._made.pop()


class ForEachHead(nn.Module):
    """A projection in which every head has an input of its own."""

    def __init__(self, projection: nn.Linear, n_heads: int) -> None:
        super().__init__()
        self.weight = _frozen(projection.weight.unflatten(0, (n_heads, -1)))

    def forward(self, x: Float[Tensor, "batch pos head d_in"]) -> Float[Tensor, "batch pos rows"]:
        """The heads' outputs, side by side."""
        return torch.einsum("bphi,hoi->bpho", x, self.weight).flatten(2)


class KeysAndValues(Given):
    """Keys from the latent that comes in, values from another, in the order of one projection."""

    def __init__(self, projection: nn.Linear, norm: nn.Module, n_heads: int, d_key: int) -> None:
        super().__init__()
        rows = projection.weight.unflatten(0, (n_heads, -1))
        self.keys, self.values = _frozen(rows[:, :d_key]), _frozen(rows[:, d_key:])
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Head by head: its keys (without what is rotated), its values."""
        other = self.norm(self._made.pop()).view(x.shape)
        made = (x @ self.keys.flatten(0, 1).T, other @ self.values.flatten(0, 1).T)
        apart = [part.unflatten(-1, (len(self.keys), -1)) for part in made]
        return torch.cat(apart, dim=-1).flatten(-2)


class EveryToken(nn.Module):
    """Stands where an indexer was, which chooses the tokens that are seen: all, while they are few.

    An indexer reads the stream for a choice, that no gradient and no edge goes through.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos d_model"],
        queries: Tensor,
        position_embeddings: object,
        attention_mask: Tensor,
        *_: object,
        **__: object,
    ) -> Tensor:
        """The number of every token, for each token.

        Raises:
            ValueError: if there are more than the indexer would choose.
        """
        batch, n = hidden_states.shape[:2]
        seen = attention_mask.shape[-1]
        if seen > self.most:
            raise ValueError(
                f"a prompt of {seen} tokens: from {self.most + 1} on, this model's attention "
                f"chooses {self.most} of them by what it reads in the stream, which no edge carries"
            )
        every = torch.arange(seen, device=hidden_states.device)
        return every.expand(batch, n, seen)


class LatentAttention(nn.Module):
    """A family's own attention behind readers `q`, `k`, `v` of one width, before `o` as wide."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        n_heads, rank = cast(int, inner.num_heads), cast(int, inner.kv_lora_rank)
        latent, both = cast(nn.Linear, inner.kv_a_proj_with_mqa), cast(nn.Linear, inner.kv_b_proj)
        out, d_value = cast(nn.Linear, inner.o_proj), cast(int, inner.v_head_dim)
        self.layer_idx, self.n_heads, self.rank = inner.layer_idx, n_heads, rank
        self.d_key, self.d_value = latent.out_features, d_value
        self.d_query = cast(int, inner.q_lora_rank or inner.qk_head_dim)
        self.width = max(self.d_query, self.d_key, d_value)
        queries = cast(nn.Linear, inner.q_a_proj if inner.q_lora_rank else inner.q_proj)
        one_query, copies = (1, n_heads) if inner.q_lora_rank else (n_heads, 1)
        self.q = reader(queries, self.width, one_query, copies=copies)
        self.k, self.v = reader(latent, self.width), reader(latent, self.width, rows=rank)
        self.o = writer(out, self.width, n_heads)
        norm, d_plain = cast(nn.Module, inner.kv_a_layernorm), cast(int, inner.qk_nope_head_dim)
        self.both = inner.kv_b_proj = KeysAndValues(both, norm, n_heads, d_plain)
        self.keys, self.queries, self.inner = Given(), Given(), inner
        inner.kv_a_proj_with_mqa, inner.o_proj = self.keys, nn.Identity()
        self.copied = bool(inner.q_lora_rank)
        if self.copied:
            inner.q_b_proj = ForEachHead(cast(nn.Linear, inner.q_b_proj), n_heads)
        setattr(inner, "q_a_proj" if self.copied else "q_proj", self.queries)
        self.is_indexed = hasattr(inner, "indexer")
        if self.is_indexed:  # also where a layer takes the choice of one before it
            inner.indexer = EveryToken(cast(int, cast(nn.Module, inner.config).index_topk))

    def forward(
        self, hidden_states: Float[Tensor, "batch pos d_model"], *args: object, **kwargs: object
    ) -> tuple[Tensor | None, ...]:
        """What the family's attention gives for the same input, by way of the readers."""
        if self.is_indexed:  # caches latents, of which there is one for keys and values
            kwargs["past_key_values"] = None
        queries = self.q(hidden_states).unflatten(-1, (self.n_heads, -1))[..., : self.d_query]
        self.queries.put(queries if self.copied else queries.flatten(2))
        self.keys.put(self.k(hidden_states)[..., : self.d_key])
        self.both.put(self.v(hidden_states)[..., : self.rank])
        z, *rest = self.inner(hidden_states, *args, **kwargs)
        z = nn.functional.pad(z.unflatten(-1, (self.n_heads, -1)), (0, self.width - self.d_value))
        return self.o(z.flatten(2)), *rest


def is_latent(attention: nn.Module) -> bool:
    """Whether an attention makes its keys and values of a latent."""
    names = ("q_lora_rank", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")
    return all(hasattr(attention, name) for name in names)


def show_latents(module: PreTrainedModel) -> int | None:
    """Put readers before every latent attention of a model, in place: their width, or None."""
    widths = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if is_latent(child):
                shown = LatentAttention(child)
                setattr(parent, name, shown.requires_grad_(False))
                widths.append(shown.width)
    return max(widths, default=None)


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(), requires_grad=False)


def reader(
    projection: nn.Linear,
    width: int,
    n_heads: int = 1,
    *,
    rows: int | None = None,
    copies: int = 1,
) -> nn.Linear:
    """A projection's first rows as those of some heads, each `width` wide, and so often."""
    made = nn.Linear(projection.in_features, n_heads * copies * width, device="meta")
    for name, part in (("weight", projection.weight), ("bias", projection.bias)):
        heads = None if part is None else part.detach()[:rows].unflatten(0, (n_heads, -1))
        if heads is not None:
            heads = heads.repeat_interleave(copies, dim=0)
            heads = _padded(heads.mT if heads.ndim > 2 else heads, width)
        setattr(made, name, None if heads is None else _frozen(heads))
    return made


def writer(projection: nn.Linear, width: int, n_heads: int) -> nn.Linear:
    """An output projection for heads that are each `width` wide."""
    made = nn.Linear(n_heads * width, projection.out_features, device="meta")
    heads = projection.weight.detach().T.unflatten(0, (n_heads, -1)).mT
    made.weight, made.bias = _frozen(_padded(heads, width).T), projection.bias
    return made


def _padded(heads: Tensor, width: int) -> Tensor:
    """Heads side by side, the last axis of each filled up with zeros: `[head * width, ...]`."""
    filled = nn.functional.pad(heads, (0, width - heads.shape[-1]))
    return (filled.mT if heads.ndim > 2 else filled).flatten(0, 1)
