"""One run cut off at every site: what each hands on is a leaf, and what it reads and gets is kept.

A backward pass from one site then reaches the ones before it without passing another.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from patching.anatomy.blocks import EMBEDDING
from patching.attribution.features.sites import Site
from patching.model import Hook, Model


class Cut:
    """Hooks that make a leaf of what each site hands on, and keep what it reads and gets."""

    def __init__(self, model: Model, sites: Sequence[Site]) -> None:
        self.leaves: dict[str, Tensor] = {}
        self._sites, self._model = sites, model
        self._read: dict[str, Tensor] = {}
        self._got: dict[str, Tensor] = {}

    @property
    def incoming(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Of each site, what it reads and what is written there, as they were made."""
        got = self._got
        return {
            site.name: (
                got[site.name] if _reads_itself(site) else self._value(site),
                got[site.name],
            )
            for site in self._sites
        }

    def hooks(self, ruled: Sequence[tuple[str, Hook]]) -> list[tuple[str, Hook]]:
        """Around a rule's hooks: what MLPs read is kept before a rule acts on it."""
        read = {h for s in self._sites if not _reads_itself(s) for h in s.reads.hooks}
        offsets = {s.writes.offset[0] for s in self._sites if s.writes.offset is not None}
        early = read & {block.mlp_in for block in self._model.blocks}
        root: tuple[str, Hook] = (EMBEDDING, _root)
        cuts = [(site.writes.hook, partial(self._cut, site)) for site in self._sites]
        return [
            root,
            *((name, partial(self._keep, name)) for name in sorted(early)),
            *ruled,
            *((name, partial(self._keep, name)) for name in sorted(offsets - early)),
            *cuts,
            *((name, partial(self._keep, name)) for name in sorted(read - early)),
        ]

    def _keep(self, name: str, x: Tensor) -> Tensor:
        self._read[name] = x.view_as(x)
        return self._read[name]

    def _cut(self, site: Site, x: Tensor) -> Tensor:
        offset = site.writes.offset
        beside = None if offset is None else offset[1] * self._read[offset[0]]
        value = x.view_as(x) if beside is None else x + beside
        self._got[site.name] = value
        leaf = value.detach().clone().requires_grad_()
        self.leaves[site.name] = leaf
        return leaf.view_as(leaf) if beside is None else leaf - beside

    def _value(self, site: Site) -> Tensor:
        offset = site.reads.offset
        x = self._read[site.reads.hook]
        return x if offset is None else x + offset[1] * self._read[offset[0]]


def _root(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _reads_itself(site: Site) -> bool:
    return site.reads == site.writes
