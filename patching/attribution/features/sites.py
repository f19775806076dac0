"""Sites: where features of dictionaries, or neurons, are read and written in a model.

    y = sum_i f_i w_i + b + error        f = encode(x)

An autoencoder has `x = y`, a transcoder reads what an MLP reads. A neuron writes itself: its site
is the MLP's hidden layer, and nothing is left over there. A feature that writes across layers is of
the site that reads it; at the others, what it brings there is no part of their error.
"""

from collections.abc import Callable, Mapping, Sequence
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
    """Features at one place of a model. Without a dictionary, each coordinate is a feature.

    `later` are further places at which features write, across layers.
    """

    name: str
    letter: str
    reads: Place
    writes: Place
    n_features: int
    dictionary: Dictionary | None
    later: tuple[Place, ...] = ()

    @property
    def written(self) -> Mapping[str, Place]:
        """Where its features write, by the names of the sites there; its own place first."""
        return {self.name: self.writes, **{place.name: place for place in self.later}}

    @property
    def leaves_errors(self) -> bool:
        """Whether there is something that its features do not write."""
        return self.dictionary is not None

    def encode(self, x: Float[Tensor, "*token d_in"]) -> Float[Tensor, "*token feature"]:
        """Values of all features."""
        return widen(x) if self.dictionary is None else self.dictionary.encode(x)

    def write(
        self, f: Float[Tensor, "*token feature"], at: str | None = None
    ) -> Float[Tensor, "*token width"]:
        """What features write at a site (their own, if none is named), less what always is."""
        return f if self.dictionary is None else self.dictionary.write(f, at)

    def code(
        self,
        x: Float[Tensor, "*token d_in"],
        y: Float[Tensor, "*token width"],
        brought: Float[Tensor, "*token width"] | None = None,
    ) -> Coded:
        """What was written, as features and error; `brought` is of the features of other sites.

        A skip connection is no feature: what it writes is part of the error.
        """
        f = self.encode(x)
        if self.dictionary is None:
            return Coded(f, f[..., :0])
        error = widen(y) - self.dictionary.write(f) - self.dictionary.b_dec.to(f)
        return Coded(f, error if brought is None else error - brought)

    def rebuild(
        self, coded: Coded, brought: Float[Tensor, "*token width"] | None = None
    ) -> Float[Tensor, "*token width"]:
        """What `code` took apart."""
        y = self.write(coded.features)
        if self.dictionary is None:
            return y
        made = y + coded.error + self.dictionary.b_dec.to(y)
        return made if brought is None else made + brought

    def rows(
        self, features: Int[Tensor, " chosen"], like: Float[Tensor, "..."], at: str | None = None
    ) -> Float[Tensor, "chosen width"]:
        """What some features write per unit at a site (their own, if none is named)."""
        if self.dictionary is None:
            one_hot = like.new_zeros(len(features), self.n_features)
            return one_hot.scatter_(1, features[:, None].to(like.device), 1)
        return self.dictionary.writes_of(features, at).to(like)

    def slopes(
        self, g: Mapping[str, Float[Tensor, "*token _width"]], features: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*token chosen"]:
        """The gradient by some features, from those by what is written at sites.

        Across layers it is a sum over all sites that a feature writes at and `g` knows.
        """
        if self.dictionary is None:
            return g[self.name][..., features.to(g[self.name].device)]
        parts = (g[at] @ self.rows(features, g[at], at).T for at in self.written if at in g)
        return sum(parts, next(parts))


def find_sites(model: Model, coders: Coders) -> tuple[Site, ...]:
    """The sites of dictionaries or of neurons, in the order in which a model passes them.

    Raises:
        ValueError: if dictionaries do not fit the model or write at a place that lies before their
            own, or the model shows no neurons.
    """
    if isinstance(coders, str):
        if coders != NEURONS:
            raise ValueError(f"no features named {coders!r}; 'neurons', or dictionaries")
        n = len(units(model, "neurons"))
        places = of_kind(model, "neurons")
        return tuple(Site(f"m{p.layer}", "n", p, p, n, None) for p in places)
    sites = [_of_dictionary(model, one.to(model.device)) for one in fitted(model, coders)]
    return tuple(sorted(sites, key=lambda site: _passed(site.writes)))


def brought(
    sites: Sequence[Site], values: Callable[[Site], Float[Tensor, "token _feature"]]
) -> dict[str, Float[Tensor, "token _width"]]:
    """What features bring to sites beside their own, by the names of these; `values` of features.

    Nothing, where no dictionary crosses layers.
    """
    sums: dict[str, Tensor] = {}
    for site in sites:
        if not site.later:
            continue
        f = values(site)
        for place in site.later:
            more = site.write(f, place.name)
            sums[place.name] = sums[place.name] + more if place.name in sums else more
    return sums


def _of_dictionary(model: Model, one: Dictionary) -> Site:
    """The site of a dictionary.

    Raises:
        ValueError: if it writes at a place that a run passes before its own.
    """
    reads, writes = find(model, one.reads), find(model, one.writes)
    later = tuple(sorted((find(model, place) for place in one.later), key=_passed))
    if later and _passed(later[0]) <= _passed(writes):
        raise ValueError(
            f"features of {one.name!r} are of {one.writes} and write at {later[0].name} too, which "
            "does not come after it: across layers they write to later ones"
        )
    return Site(one.writes, "f", reads, writes, one.n_features, one, later)


def _passed(place: Place) -> tuple[int, int]:
    """When a run passes a place."""
    return place.layer, _ORDER.index(place.kind) if place.kind in _ORDER else -1


def facts_of(coders: Coders) -> dict[str, object]:
    """What provenance says of dictionaries."""
    if isinstance(coders, str):
        return {"features": coders}
    hashes = {one.writes: one.hash for one in coders}
    return {"features": coders.name, "dictionaries": hashes}
