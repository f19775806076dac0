"""Effects of features and errors: a table that is ranked, compared and saved. Knows no model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patching.attribution.features.nodes import EVERYWHERE, FeatureNodes
from patching.files.brief import as_table, briefly
from patching.files.tensors import read_tensors, require_names, write_tensors
from patching.grid import Grid
from patching.intervals import of_mean

if TYPE_CHECKING:
    import pandas

_FORMAT = "feature effects 1"
_NODES = ("sites", "positions", "features")
_OTHERS = ("values", "clean", "corrupt")
_SHOWN = 20


@briefly
@dataclass(frozen=True, eq=False)
class FeatureEffects:
    """What each feature and error is worth on a task, in units of the metric.

    Positive: the node helps in the clean run. `values` have a row for each example. Nodes are all
    that differ anywhere from what replaces them; all others have the effect 0. `clean` and
    `corrupt` are the metric of those runs; `corrupt` is NaN where there is none.
    """

    nodes: FeatureNodes
    values: Float[Tensor, "example node"]
    clean: Float[Tensor, " example"]
    corrupt: Float[Tensor, " example"]
    provenance: Mapping[str, object]

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, chosen: Bool[Tensor, " node"] | Int[Tensor, " some"]) -> "FeatureEffects":
        return replace(self, nodes=self.nodes[chosen], values=self.values[:, chosen])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all nodes: `r3.post.f17@5`, `m3.n17`, `r3.post.error@5`."""
        return self.nodes.names

    @property
    def mean(self) -> Float[Tensor, " node"]:
        """The mean over examples."""
        return self.values.mean(dim=0)

    def at(self, name: str) -> float:
        """The mean effect of a node.

        Raises:
            ValueError: if there is none of this name.
        """
        return float(self.mean[self.nodes.index(name)])

    def of(self, place: str) -> "FeatureEffects":
        """Those at one place.

        Raises:
            ValueError: if it is none of the places.
        """
        if place not in self.nodes.places:
            known = ", ".join(self.nodes.places)
            raise ValueError(f"there are no effects at {place!r}, but at {known}")
        return self[self.nodes.sites == self.nodes.places.index(place)]

    @property
    def order(self) -> Int[Tensor, " node"]:
        """Numbers of the nodes by size of their mean effect, largest first."""
        return self.mean.abs().argsort(descending=True, stable=True)

    def strongest(self, k: int) -> "FeatureEffects":
        """The k nodes of largest absolute effect, in the order of the table."""
        return self[self.order[:k].sort().values]

    def top(self, k: int) -> list[tuple[str, float]]:
        """Names and effects of the k nodes of largest absolute effect, largest first."""
        best = self[self.order[:k]]
        return list(zip(best.names, best.mean.tolist(), strict=True))

    def summed(self) -> "FeatureEffects":
        """Effects summed over positions."""
        nodes = self.nodes
        keys, inverse = torch.unique((nodes.sites << 40) + nodes.features + 1, return_inverse=True)
        values = self.values.new_zeros(len(self.values), len(keys))
        sites, features = keys >> 40, (keys & (2**40 - 1)) - 1
        made = replace(
            nodes, sites=sites, positions=torch.full_like(sites, EVERYWHERE), features=features
        )
        return replace(self, nodes=made, values=values.index_add_(1, inverse, self.values))

    def grid(self, nodes: FeatureNodes | None = None) -> Grid:
        """Effects over one axis of names, for `patching.comparing.compare`.

        `nodes` are those wanted, in their order; what is not in the table has the effect 0.
        """
        wanted = self.nodes if nodes is None else nodes
        there = {key: i for i, key in enumerate(self.nodes.keys.tolist())}
        at = torch.tensor([there.get(key, -1) for key in wanted.keys.tolist()], dtype=torch.long)
        values = torch.where(at >= 0, self.values[:, at.clamp(min=0)], 0.0)
        said = str(self.provenance.get("quantity", "effect"))
        corrupt = None if bool(self.corrupt.isnan().all()) else self.corrupt
        return Grid(said, values, {"node": wanted.names}, self.clean, corrupt, self.provenance)

    def interval(self, *, n: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % bootstrap interval of each mean; NaN for one example."""
        return of_mean(self.values, n=n, seed=seed)

    def to_dataframe(self, k: int | None = None, *, n: int = 1000) -> "pandas.DataFrame":
        """A row for each of the k nodes of largest effect (or all), with intervals of n draws."""
        import pandas  # slow to import, and seldom needed

        best = self[self.order[:k]]
        low, high = best.interval(n=n)
        nodes = best.nodes
        return pandas.DataFrame(
            {
                "node": best.names,
                "place": [nodes.places[i] for i in nodes.sites.tolist()],
                "position": nodes.positions.numpy(),
                "feature": nodes.features.numpy(),
                "effect": best.mean.numpy(),
                "low": low,
                "high": high,
            }
        )

    def _repr_html_(self) -> str:
        """The strongest nodes, for notebooks."""
        said = f"effects of {len(self)} nodes on {self.provenance.get('metric')}, the strongest:"
        return as_table(said, self.to_dataframe(_SHOWN, n=0).filter(["node", "effect"]))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a checksum, which `load_effects` reads."""
        tensors = {name: getattr(self.nodes, name) for name in _NODES}
        tensors |= {name: getattr(self, name) for name in _OTHERS}
        write_tensors(path, tensors, _FORMAT, {**facts_of(self.nodes), **self.provenance})


def facts_of(nodes: FeatureNodes) -> dict[str, object]:
    """What a file says of a table of nodes beside its numbers."""
    return {"places": list(nodes.places), "letters": list(nodes.letters)}


def load_effects(path: str | Path) -> FeatureEffects:
    """Read what `FeatureEffects.save` wrote.

    Raises:
        ValueError: if the file is damaged, altered, or holds no effects of features.
    """
    tensors, facts = read_tensors(path, _FORMAT)
    require_names(path, tensors, (*_NODES, *_OTHERS))
    nodes = read_nodes(path, tensors, facts)
    missing = [name for name in _OTHERS if name not in tensors]
    if missing:
        raise ValueError(f"{path} lacks the tensor {missing[0]!r}")
    values, ends = tensors["values"], (tensors["clean"], tensors["corrupt"])
    n = len(values)
    if values.shape != (n, len(nodes)) or any(end.shape != (n,) for end in ends):
        raise ValueError(f"{path}: its effects do not fit its {len(nodes)} nodes and runs")
    return FeatureEffects(nodes, values, *ends, facts)


def read_nodes(
    path: str | Path, tensors: Mapping[str, Tensor], facts: dict[str, object]
) -> FeatureNodes:
    """A table of nodes from a file's tensors; its places are taken out of the facts.

    Raises:
        ValueError: if it is none.
    """
    places, letters = (_texts(facts.pop(name, None)) for name in ("places", "letters"))
    if not places or len(places) != len(letters):
        raise ValueError(f"{path} does not say which places its features are of")
    columns = [tensors.get(name) for name in _NODES]
    lengths = {None if c is None or c.dtype != torch.int64 else tuple(c.shape) for c in columns}
    if len(lengths) != 1 or None in lengths or len(next(iter(lengths)) or ()) != 1:
        raise ValueError(f"{path}: sites, positions and features are not of as many nodes each")
    sites, positions, features = (tensors[name] for name in _NODES)
    if len(sites) and not (int(sites.min()) >= 0 and int(sites.max()) < len(places)):
        raise ValueError(f"{path}: a node lies at none of its {len(places)} places")
    return FeatureNodes(places, letters, sites, positions, features)


def _texts(value: object) -> tuple[str, ...]:
    """A list of texts; nothing for anything else."""
    parts = value if isinstance(value, list) else []
    return tuple(part for part in parts if isinstance(part, str))
