"""What sites hand on in feature circuits: what a circuit keeps, and what replaces the rest.

Features are read anew from what is there; what features of earlier sites bring to a site goes with
them. Many circuits are rows of one batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.features.circuit import ERRORS, Errors, check_word
from patching.attribution.features import FeatureNodes, Setting
from patching.attribution.features.nodes import EVERYWHERE
from patching.attribution.features.seen import Seen
from patching.attribution.features.sites import Site
from patching.model import Hook

Others = Literal["held", "free"]
"""What becomes of features that no circuit here knows, as they differed nowhere: replaced like all
outside, or left to answer to what is changed."""


@dataclass(frozen=True)
class Handling:
    """How circuits are run: what replaces nodes, and what becomes of errors and of other features.

    Positions are kept or summed as the nodes have them.
    """

    setting: Setting = Setting()
    errors: Errors = "nodes"
    others: Others = "held"

    def __post_init__(self) -> None:
        check_word("errors", self.errors, ERRORS)
        check_word("other features", self.others, ("held", "free"))


@dataclass(eq=False)
class Inside:
    """One site in all circuits: which of its nodes each keeps, and what replaces the others."""

    seen: Seen
    site: Site
    nodes: FeatureNodes
    kept: Bool[Tensor, "circuit own"]
    handling: Handling

    def put(
        self,
        some: slice,
        x: Float[Tensor, "rows pos ..."],
        y: Float[Tensor, "rows pos ..."],
        across: "_Across",
    ) -> Float[Tensor, "rows pos ..."]:
        """What the site hands on in some circuits, where it reads x and y was written."""
        n, site = some.stop - some.start, self.site
        whole = y.unflatten(0, (n, -1)).clone()
        at = (slice(None), *self.seen.tokens)
        live = whole[at].flatten(2)
        f = site.encode(x.unflatten(0, (n, -1))[at].flatten(2))
        others = f if self.handling.others == "free" else self._patch.expand_as(f)
        mixed, used = others.clone(), self._used
        mixed[..., used] = torch.where(self._features(some), f[..., used], self._patch[:, used])
        made = mixed
        if site.leaves_errors:
            own = self._errors(some)[..., None]
            base = torch.where(own, live, self._replaced.to(live))
            made = base.to(f) + site.write(mixed - torch.where(own, f, self._patch))
            made = across.added(site, made, own)
            across.keep(site, mixed - f, mixed - self._patch)
        whole[at] = made.unflatten(2, y.shape[2:]).to(whole)
        return whole.flatten(0, 1)

    @cached_property
    def _patch(self) -> Float[Tensor, "token feature"]:
        return self.seen.codes(self.site)[1].features

    @cached_property
    def _replaced(self) -> Float[Tensor, "token width"]:
        return self.seen.replaced(self.site)

    @cached_property
    def _used(self) -> Int[Tensor, " used"]:
        """The features of which there are nodes."""
        features = self.nodes.features[~self.nodes.are_errors]
        return features.unique().to(self._patch.device)

    def _features(self, some: slice) -> Bool[Tensor, "circuit token used"]:
        """Which features are kept at every token."""
        chosen = ~self.nodes.are_errors
        columns = torch.searchsorted(self._used.cpu(), self.nodes.features[chosen])
        return self._spread(some, chosen, columns, len(self._used))

    def _errors(self, some: slice) -> Bool[Tensor, "circuit token"]:
        """Whether the error is kept at every token."""
        n, errors = some.stop - some.start, self.handling.errors
        if errors != "nodes":
            shape = n, len(self.seen.places)
            return torch.full(shape, errors == "kept", device=self._patch.device)
        chosen = self.nodes.are_errors
        columns = torch.zeros(int(chosen.sum()), dtype=torch.long)
        return self._spread(some, chosen, columns, 1)[..., 0]

    def _spread(
        self, some: slice, chosen: Bool[Tensor, " own"], columns: Int[Tensor, " some"], width: int
    ) -> Bool[Tensor, "circuit token width"]:
        """What some nodes are in the circuits, at the tokens they are of."""
        n, places, device = some.stop - some.start, self.seen.places, self._patch.device
        positions = self.nodes.positions[chosen]
        free = self.handling.others == "free"
        summed = not len(positions) or bool((positions == EVERYWHERE).all())
        n_places = 1 if summed else max(int(places.max()), int(positions.max())) + 1
        out = torch.full((n, n_places, width), free)
        out[:, positions.clamp(min=0), columns] = self.kept[some][:, chosen]
        at = torch.zeros_like(places) if summed else places
        return out.to(device)[:, at]


class _Across:
    """What features of sites before bring to a site, beyond what is in its error, by its name.

    An error that is kept was taken of what features are in this run, one that is replaced of what
    replaces them.
    """

    def __init__(self) -> None:
        self._more: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(self, site: Site, by_live: Tensor, by_patch: Tensor) -> None:
        """Add what a site's features bring to later ones."""
        for place in site.later:
            both = site.write(by_live, place.name), site.write(by_patch, place.name)
            known = self._more.get(place.name)
            self._more[place.name] = (
                both if known is None else (known[0] + both[0], known[1] + both[1])
            )

    def added(self, site: Site, made: Tensor, own: Bool[Tensor, "circuit token 1"]) -> Tensor:
        """What a site hands on, with what was brought to it."""
        known = self._more.get(site.name)
        return made if known is None else made + torch.where(own, *known)


class Walk:
    """Hooks of one pass: each site replaced in turn, with what it reads kept before."""

    def __init__(self, inside: Sequence[Inside], some: slice) -> None:
        self._inside, self._some = inside, some
        self._read: dict[str, Tensor] = {}
        self._across = _Across()

    def hooks(self) -> list[tuple[str, Hook]]:
        """Keepers come last at their hook points: they see what sites before them made."""
        sites = [one.site for one in self._inside]
        apart = [site.reads for site in sites if site.reads != site.writes]
        offsets = [site.writes.offset[0] for site in sites if site.writes.offset is not None]
        kept = dict.fromkeys([hook for place in apart for hook in place.hooks] + offsets)
        putting = [(one.site.writes.hook, partial(self._put, one)) for one in self._inside]
        early = [name for name in kept if name in offsets]
        late = [name for name in kept if name not in offsets]
        return [
            *((name, partial(self._keep, name)) for name in early),
            *putting,
            *((name, partial(self._keep, name)) for name in late),
        ]

    def _keep(self, name: str, x: Tensor) -> None:
        self._read[name] = x

    def _put(self, one: Inside, x: Tensor) -> Tensor:
        reads, writes = one.site.reads, one.site.writes
        beside = None
        if writes.offset is not None:
            beside = writes.offset[1] * self._read[writes.offset[0]]
        y = x if beside is None else x + beside
        read = y if reads == writes else self._value(one.site)
        made = one.put(self._some, read, y, self._across)
        return made if beside is None else made - beside

    def _value(self, site: Site) -> Tensor:
        offset, x = site.reads.offset, self._read[site.reads.hook]
        return x if offset is None else x + offset[1] * self._read[offset[0]]
