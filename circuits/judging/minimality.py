"""Minimality: does every node or edge of a circuit matter to it?

A part v matters if there is a K such that F(C - K) and F(C - (K + v)) differ, F being the mean
metric: a back-up head matters only once the head it backs up is gone. Wang et al. 2022,
arXiv:2211.00593, who ask for 1 % of F(M); here effects are over the clean-corrupt gap,
which is the same where the corrupt run's metric is 0.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.judging.completeness import NOTHING
from circuits.judging.subsets import Parts, join, without
from circuits.running.trial import Trial, require_gap, run
from patching.files.brief import briefly
from patching.intervals import of_mean

if TYPE_CHECKING:
    import pandas

LEAST = 0.01


@briefly
@dataclass(frozen=True, eq=False)
class Minimality:
    """The effect of every unit beside the part at which it is largest.

    `effects` is F(C - K) - F(C - (K + v)) in units of the metric, one row per unit, one column per
    part; positive where the unit helps. `low` and `high` are the ends of their 95 % intervals over
    prompts, NaN of one prompt.
    """

    units: tuple[str, ...]
    parts: tuple[str, ...]
    effects: Float[Tensor, "unit part"]
    gap: float
    low: Float[Tensor, "unit part"] | None = None
    high: Float[Tensor, "unit part"] | None = None

    @property
    def shares(self) -> Float[Tensor, " unit"]:
        """Every unit's largest |effect|, over the clean-corrupt gap."""
        return self.effects.abs().amax(dim=1) / abs(self.gap)

    @property
    def found(self) -> list[str]:
        """The part beside which each unit's effect is largest; the first of equals."""
        return [self.parts[i] for i in self.effects.abs().argmax(dim=1).tolist()]

    def idle(self, least: float = LEAST) -> list[str]:
        """The units that mattered beside no part tried; another part may still show that they do.

        >>> import torch
        >>> result = Minimality(("m0", "m1"), ("nothing",), torch.tensor([[2.0], [0.01]]), gap=4.0)
        >>> result.idle()
        ['m1']
        """
        shares = self.shares.tolist()
        return [unit for unit, share in zip(self.units, shares, strict=True) if share < least]

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per unit: its effect alone, between ends, the largest, beside what, the share."""
        import pandas  # slow to import, and seldom needed

        where = self.effects.abs().argmax(dim=1, keepdim=True)
        ends = {} if self.low is None or self.high is None else {"low": self.low, "high": self.high}
        return pandas.DataFrame(
            {
                "unit": self.units,
                "alone": self.effects[:, 0].numpy(),
                **{name: end[:, 0].numpy() for name, end in ends.items()},
                "effect": self.effects.gather(1, where).squeeze(1).numpy(),
                "beside": self.found,
                "share_of_gap": self.shares.numpy(),
            }
        )


def minimality(trial: Trial, circuit: Circuit, units: Parts, parts: Parts) -> Minimality:
    """The effect of every unit, alone and beside every part, in one call.

    A unit within a part is first taken out of the part. With u units and p parts, up to
    (2u + 1)(p + 1) circuits are run.

    Raises:
        ValueError: if there are no units, a circuit or part is of another graph, or clean and
            corrupt do not differ.
    """
    if not units:
        raise ValueError("there are no units to take out: the circuit has none of this kind")
    beside = {NOTHING: Circuit.empty(circuit.graph), **parts}
    pairs = [(unit, part) for unit in units.values() for part in beside.values()]
    kept = [without(circuit, without(part, unit)) for unit, part in pairs]
    gone = [without(circuit, join(circuit.graph, (part, unit))) for unit, part in pairs]
    found = run(trial, [*kept, *gone])
    require_gap(found, trial.metric)
    effects = found.values[: len(pairs)] - found.values[len(pairs) :]
    gap = float(found.clean.mean() - found.corrupt.mean())
    return worth(tuple(units), tuple(beside), effects, gap)


def worth(
    units: tuple[str, ...],
    parts: tuple[str, ...],
    effects: Float[Tensor, "unit_x_part example"],
    gap: float,
) -> Minimality:
    """Effects of units beside parts, from those on every prompt."""
    ends = (torch.from_numpy(end) for end in of_mean(effects.T.cpu()))
    means, low, high = (
        one.unflatten(0, (len(units), len(parts))) for one in (effects.mean(dim=1).cpu(), *ends)
    )
    return Minimality(units, parts, means, gap, low, high)
