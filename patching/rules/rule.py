"""Rule: what replaces the backward pass of a model, while every forward value stays the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from patching.model import Hook, Model
from patching.rules.sites import Part, Site, Unruled


@dataclass(frozen=True)
class Rule:
    """A named set of parts, in the order in which their hooks stand at a common hook point.

    `freezes_norms` says that all norms of the stream count as linear, so that the gradient before
    a norm is the one after it without the part along `x_hat`.
    """

    name: str
    parts: tuple[Part, ...]
    freezes_norms: bool

    def start(self, model: Model) -> "Applied":
        """The rule made ready for one run of a model.

        Raises:
            ValueError: if a part cannot do with this model what it must.
        """
        found = [site for part in self.parts for site in part(model)]
        return Applied(
            self.name,
            model.name,
            tuple(site for site in found if isinstance(site, Site)),
            tuple(site for site in found if isinstance(site, Unruled)),
        )


class Applied:
    """A rule's hooks for one run, and the count of the sites where they fired.

    Where others keep live tensors at the same hook points, their hooks stand before these: what
    the attention rule cuts off has no gradient.
    """

    def __init__(
        self, rule: str, model: str, sites: tuple[Site, ...], unruled: tuple[Unruled, ...]
    ) -> None:
        self.rule = rule
        self.sites = sites
        self.unruled = unruled
        self._model = model
        self._times = [0] * len(sites)

    @property
    def hooks(self) -> list[tuple[str, Hook]]:
        """To be in place during the run, in this order."""
        hooks: list[tuple[str, Hook]] = []
        for i, site in enumerate(self.sites):
            *first, (name, last) = site.hooks
            hooks += [*first, (name, partial(self._count, i, last))]
        return hooks

    @property
    def expected(self) -> dict[str, int]:
        """The number of sites of each part."""
        return self._by_part([1] * len(self.sites))

    @property
    def fired(self) -> dict[str, int]:
        """The number of sites of each part that have fired so far."""
        return self._by_part([min(times, 1) for times in self._times])

    def check(self) -> None:
        """Refuse a run in which the rule did not act everywhere it should have.

        Raises:
            ValueError: if a part fired at fewer sites than the model has.
        """
        for part, expected in self.expected.items():
            fired = self.fired[part]
            if fired < expected:
                pairs = zip(self.sites, self._times, strict=True)
                silent = [site.place for site, times in pairs if site.part == part and not times]
                raise ValueError(
                    f"rule {self.rule!r}: its part {part!r} fired at {fired} of {expected} sites "
                    f"of {self._model}, not at {', '.join(silent)}; its gradients would be wrong"
                )

    def _count(self, site: int, hook: Hook, tensor: Tensor) -> Tensor | None:
        changed = hook(tensor)
        self._times[site] += 1
        return changed

    def _by_part(self, numbers: list[int]) -> dict[str, int]:
        totals = dict.fromkeys((site.part for site in self.sites), 0)
        for site, number in zip(self.sites, numbers, strict=True):
            totals[site.part] += number
        return totals


@contextmanager
def applied(model: Model, rule: Rule) -> Iterator[Applied]:
    """Put a rule on a model for the runs inside the `with`; at least one, and whole ones.

    >>> import torch
    >>> from patching.rules import relp
    >>> model = Model.load("truth/induction")
    >>> with applied(model, relp) as on:
    ...     logits = model.bridge(torch.tensor([[1, 2, 1]]))
    >>> on.fired
    {'norm': 5, 'identity': 2}

    Raises:
        ValueError: if the model cannot be ruled so, or a part fired at fewer sites than it has.
    """
    started = rule.start(model)
    with model.hooked(started.hooks):
        yield started
    started.check()
