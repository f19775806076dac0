"""A sparse dictionary: features read at one place and written at another, or at several.

    z = x W_enc + b_enc        f = act(z)        y_hat = f W_dec + b_dec + x W_skip

An autoencoder reads and writes one place; a transcoder reads what an MLP reads and writes what it
writes. Everything published comes to this form when it is read (`patching.dictionaries.reading`):
biases of the input, scales and gates are folded into the tensors. Tensors may lie in a file, mapped
into memory: of a decoder, only the rows that are asked for are read. Knows no model.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.norms import widen
from patching.files.brief import briefly

_TOLD_BY = 64  # rows of encoder and decoder that the hash looks at
_ROWS = 8192  # rows of a decoder in float32 at a time


@briefly
@dataclass(frozen=True, eq=False)
class Active:
    """The features that are active on some tokens, sorted by token, then by feature."""

    tokens: Int[Tensor, " active"]
    features: Int[Tensor, " active"]
    values: Float[Tensor, " active"]

    def __len__(self) -> int:
        return len(self.values)


@briefly
@dataclass(frozen=True, eq=False)
class Dictionary:
    """`f = act(x W_enc + b_enc)`; `y_hat = f W_dec + b_dec + x W_skip`; the error is `y - y_hat`.

    `reads` and `writes` are names of places (`patching.anatomy.places`): `m3.in` and `m3` of a
    transcoder, `r3.post` twice of an autoencoder. `act(z) = z [z > max(threshold, 0)]`, of which
    with `k` only the k largest of a token stay (TopK); a threshold of 0 is ReLU.

    `later` holds further decoders by the place they write at: features of a cross-layer transcoder
    write to the MLPs of later layers too, whose own dictionaries hold the `b_dec` there.

    Dictionaries are computed with in float32 or, with wider inputs, in float64, whatever their
    tensors are stored in. `facts` are what was published with it.
    """

    name: str
    reads: str
    writes: str
    w_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, " feature"]
    w_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " feature"]
    k: int | None = None
    skip: Float[Tensor, "d_in d_out"] | None = None
    later: Mapping[str, Float[Tensor, "feature d_out"]] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        (d_in, n), d_out = self.w_enc.shape, self.b_dec.shape[0]
        wanted = {
            "b_enc": (self.b_enc, (n,)),
            "w_dec": (self.w_dec, (n, d_out)),
            "threshold": (self.threshold, (n,)),
            **({} if self.skip is None else {"skip": (self.skip, (d_in, d_out))}),
            **{f"decoder for {place}": (w, (n, d_out)) for place, w in self.later.items()},
        }
        for what, (tensor, shape) in wanted.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"the dictionary {self.name!r} has {n} features that read {d_in} numbers and "
                    f"write {d_out}, so its {what} should be {list(shape)}; it is "
                    f"{list(tensor.shape)}"
                )
        if self.k is not None and not 1 <= self.k <= n:
            raise ValueError(
                f"the dictionary {self.name!r} keeps the {self.k} largest of {n} features; "
                f"1 to {n} would be right"
            )

    @property
    def n_features(self) -> int:
        """How many features there are."""
        return len(self.b_enc)

    @property
    def decoders(self) -> Mapping[str, Float[Tensor, "feature d_out"]]:
        """All decoders as they are stored, by the place they write at; its own place first."""
        return {self.writes: self.w_dec, **self.later}

    def pre(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows feature"]:
        """`z`: the values before the activation function."""
        x = widen(x)
        return x @ self.w_enc.to(x) + self.b_enc.to(x)

    def activate(self, z: Float[Tensor, "*rows feature"]) -> Float[Tensor, "*rows feature"]:
        """`act(z)`: above the threshold and zero, and of those the k largest of each row."""
        f = z.where(z > self.threshold.to(z).clamp(min=0), 0)
        if self.k is None:
            return f
        top = f.topk(self.k, dim=-1)
        return torch.zeros_like(f).scatter(-1, top.indices, top.values)

    def encode(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows feature"]:
        """Values of all features, most of them zero, in float32 or wider.

        >>> eye = torch.eye(2)
        >>> relu = Dictionary("eye", "m0", "m0", eye, eye[0] * 0, eye, eye[0] * 0, eye[0] * 0)
        >>> relu.encode(torch.tensor([3.0, -1.0])).tolist()
        [3.0, 0.0]
        """
        return self.activate(self.pre(x))

    def active(self, x: Float[Tensor, "token d_in"], *, batch: int = 256) -> Active:
        """The active features, a few tokens at a time, so that no large matrix is held."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(x), batch):
            f = self.encode(x[start : start + batch])
            tokens, features = f.nonzero(as_tuple=True)
            found.append((tokens + start, features, f[tokens, features]))
        empty = x.new_zeros(0, dtype=torch.long), x.new_zeros(0, dtype=torch.long), widen(x[:0, 0])
        parts = zip(*found, strict=True) if found else ((one,) for one in empty)
        return Active(*map(torch.cat, parts))

    def decode(
        self,
        f: Float[Tensor, "*rows feature"],
        x: Float[Tensor, "*rows d_in"] | None = None,
    ) -> Float[Tensor, "*rows d_out"]:
        """`y_hat` at its own place; of a cross-layer transcoder, what this layer brings to it.

        `x` is what was encoded; it is needed only where there is a `skip`.

        Raises:
            ValueError: if it is needed and missing.
        """
        y = self.write(f) + self.b_dec.to(f)
        if self.skip is None:
            return y
        if x is None:
            raise ValueError(f"{self.name!r} has a skip connection: `decode` needs `x` too")
        return y + widen(x) @ self.skip.to(y)

    def write(
        self, f: Float[Tensor, "*rows feature"], place: str | None = None
    ) -> Float[Tensor, "*rows d_out"]:
        """`f W_dec`: what the features add at a place (its own, if none is named).

        Only the decoder's rows of features that are active anywhere are read.
        """
        used = f.reshape(-1, self.n_features).any(dim=0).nonzero()[:, 0]
        y = f.new_zeros(*f.shape[:-1], len(self.b_dec))
        for some in used.split(_ROWS):
            y += f[..., some] @ self.writes_of(some, place).to(f)
        return y

    def reads_of(self, features: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen d_in"]:
        """The encoder's directions of some features, in float32 or wider, on the tensors' device.

        Raises:
            ValueError: if there is no such feature.
        """
        return widen(self.w_enc[:, self._known(features).to(self.w_enc.device)].T)

    def writes_of(
        self, features: Int[Tensor, " chosen"], place: str | None = None
    ) -> Float[Tensor, "chosen d_out"]:
        """What some features write per unit, at a place (its own, if none is named).

        In float32 or wider, on the tensors' device. Of a decoder in a file, these rows are read.

        Raises:
            ValueError: if there is no such feature, it writes nothing at that place, or a row is
                not finite.
        """
        decoders = self.decoders
        place = self.writes if place is None else place
        if place not in decoders:
            raise ValueError(f"{self.name!r} writes at {', '.join(decoders)}, not at {place!r}")
        rows = widen(decoders[place][self._known(features).to(self.w_dec.device)])
        bad = (~rows.isfinite().all(dim=1)).nonzero()
        if len(bad):
            raise ValueError(
                f"{self.name!r}: what feature {int(features[bad[0, 0]])} writes at {place} is not "
                "finite"
            )
        return rows

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Dictionary":
        """The same on a device: what lay in a file is read."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype)

        names = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
        there: dict[str, Tensor] = {name: moved(getattr(self, name)) for name in names}
        later = {place: moved(w) for place, w in self.later.items()}
        skip = None if self.skip is None else moved(self.skip)
        return replace(self, skip=skip, later=later, **there)

    @cached_property
    def hash(self) -> str:
        """A short hash that tells dictionaries apart: biases, and 64 rows of each large tensor."""
        digest = hashlib.sha256(f"{self.reads} {self.writes} {self.k}".encode())
        skip = () if self.skip is None else (self.skip,)
        whole = (self.b_enc, self.b_dec, self.threshold, *skip)
        for tensor in (*whole, self.w_enc.T, *self.decoders.values()):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            chosen = torch.linspace(0, len(tensor) - 1, min(_TOLD_BY, len(tensor))).long()
            rows = tensor if tensor.ndim == 1 else tensor[chosen.to(tensor.device)]
            digest.update(rows.detach().cpu().double().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _known(self, features: Int[Tensor, " chosen"]) -> Int[Tensor, " chosen"]:
        bad = features[(features < 0) | (features >= self.n_features)]
        if len(bad):
            raise ValueError(
                f"{self.name!r} has {self.n_features} features, 0 to {self.n_features - 1}; "
                f"there is no feature {int(bad[0])}"
            )
        return features
