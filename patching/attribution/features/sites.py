"""Sites: where features of dictionaries, or neurons, are read and written in a model.

    y = sum_i f_i w_i + b + error        f = encode(x)

An autoencoder has `x = y`, a transcoder reads what an MLP reads. A neuron writes itself: its site
is the MLP's hidden layer, and nothing is left over there.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import widen
from patching.anatomy.places import Place, find, of_kind, units
from patching.dictionaries import Dictionaries, Dictionary, fitted
from patching.model import Model

Coders = Dictionaries | str
"""Dictionaries, or `"neurons"`: every MLP's own."""

NEURONS = "neurons"

_ORDER = ("resid_pre", "z", "attn_out", "resid_mid", "neurons", "mlp_sum", "mlp_out", "resid_post")


@dataclass(frozen=True, eq=False)
class Coded:
    """Features and error at some tokens; an error of no width where everything is a feature."""

    features: Float[Tensor, "*token feature"]
    error: Float[Tensor, "*token width"]

    def __sub__(self, other: "Coded") -> "Coded":
        return Coded(self.features - other.features, self.error - other.error)


@dataclass(frozen=True, eq=False)
class Site:
    """Features at one place of a model. Without a dictionary, each coordinate is a feature."""

    name: str
    letter: str
    reads: Place
    writes: Place
    n_features: int
    dictionary: Dictionary | None

    @property
    def leaves_errors(self) -> bool:
        """Whether there is something that its features do not write."""
        return self.dictionary is not None

    def encode(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token feature"]:
        """Values of all features."""
        return widen(x) if self.dictionary is None else self.dictionary.encode(x)

    def write(self, f: Float[Tensor, "*token feature"]) -> Float[Tensor, "*token width"]:
        """What features write, without what is always written."""
        return f if self.dictionary is None else self.dictionary.write(f)

    def code(self, x: Float[Tensor, "*token d_in"], y: Float[Tensor, "*token width"]) -> Coded:
        """What was written, as features and error.

        A skip connection is no feature: what it writes is part of the error.
        """
        f = self.encode(x)
        if self.dictionary is None:
            return Coded(f, f[..., :0])
        return Coded(f, widen(y) - self.dictionary.write(f) - self.dictionary.b_dec.to(f))

    def rebuild(self, coded: Coded) -> Float[Tensor, "*token width"]:
        """What `code` took apart."""
        y = self.write(coded.features)
        if self.dictionary is None:
            return y
        return y + coded.error + self.dictionary.b_dec.to(y)

    def rows(
        self, features: Int[Tensor, " chosen"], like: Float[Tensor, "..."]
    ) -> Float[Tensor, "chosen width"]:
        """What some features write per unit."""
        if self.dictionary is None:
            one_hot = like.new_zeros(len(features), self.n_features)
            return one_hot.scatter_(1, features[:, None].to(like.device), 1)
        return self.dictionary.writes_of(features).to(like)

    def slopes(
        self, g: Float[Tensor, "*token width"], features: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*token chosen"]:
        """The gradient by some features, from that by what is written."""
        if self.dictionary is None:
            return g[..., features.to(g.device)]
        return g @ self.rows(features, g).T


def find_sites(model: Model, coders: Coders) -> tuple[Site, ...]:
    """The sites of dictionaries or of neurons, in the order in which a model passes them.

    Raises:
        ValueError: if dictionaries do not fit the model or write at several places, or the model
            shows no neurons.
    """
    if isinstance(coders, str):
        if coders != NEURONS:
            raise ValueError(f"no features named {coders!r}; 'neurons', or dictionaries")
        n = len(units(model, "neurons"))
        places = of_kind(model, "neurons")
        return tuple(Site(f"m{p.layer}", "n", p, p, n, None) for p in places)
    if coders.crosses_layers:
        raise ValueError(
            f"features of {coders.name!r} write at several layers each, and a site is one place: "
            "trace() takes them; take one dictionary a place here"
        )
    several = fitted(model, coders)
    home = [one.to(model.device) for one in several]
    sites = [
        Site(one.writes, "f", find(model, one.reads), find(model, one.writes), one.n_features, one)
        for one in home
    ]
    return tuple(sorted(sites, key=lambda site: _passed(site.writes)))


def _passed(place: Place) -> tuple[int, int]:
    """When a run passes a place."""
    return place.layer, _ORDER.index(place.kind) if place.kind in _ORDER else -1


def facts_of(coders: Coders) -> dict[str, object]:
    """What provenance says of dictionaries."""
    if isinstance(coders, str):
        return {"features": coders}
    hashes = {one.writes: one.hash for one in coders}
    return {"features": coders.name, "dictionaries": hashes}
