"""Attaching dictionaries to a model: measured on text, and refused where they are hung wrongly.

A dictionary at a wrong place, of another model, or trained on folded norms encodes and decodes
without any error. What it rebuilds is then worse than the mean, which is what is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from patching.dictionaries.beside import closest
from patching.dictionaries.dictionary import Dictionary
from patching.dictionaries.fitting import after_first, fitted, flat
from patching.dictionaries.several import Dictionaries
from patching.files.brief import briefly
from patching.lens.prompts import Prompts, Source, read_prompts
from patching.model import Model
from patching.modes import without_gradients

WORST = 1.0
BESIDE = 0.8
"""Where less than this share of what is unexplained here is unexplained, it belongs."""

_WELL = 0.01  # nothing is doubted of a place of which so little is unexplained
_FAR = 2.0  # how many times more or less features than published are worth a word


@dataclass(frozen=True)
class Fit:
    """How well a dictionary does on a text, without the first position of each prompt.

    `fvu` is the share of the variance at `writes` that is not rebuilt (0: all of it is, 1: no
    better than the mean); `l0` how many features are active on a token in the mean, `silent` how
    many of all never are; `published_l0` what its files say. `beside` is the place next to
    its own where it does best, half a layer or a layer away, and `beside_fvu` how well.
    """

    name: str
    reads: str
    writes: str
    n_features: int
    fvu: float
    l0: float
    silent: int
    published_l0: float | None
    beside: str | None = None
    beside_fvu: float | None = None

    def is_misplaced(self, beside: float | int = BESIDE) -> bool:
        """Whether it does so much better beside its place that it belongs there."""
        near = self.beside_fvu
        return near is not None and self.fvu > _WELL and near < beside * self.fvu

    @property
    def doubt(self) -> str:
        """What is odd about it, in words; empty if nothing is."""
        said = self.published_l0
        if said and not said / _FAR <= self.l0 <= said * _FAR:
            return f"{self.l0:.1f} features are active on a token; {said:g} were published"
        return ""


@dataclass(frozen=True)
class Recovery:
    """The mean loss of a next token, in nats, where `places` are rebuilt together.

    `clean` is the model's own loss, `removed` that with zeros in the places.
    """

    places: tuple[str, ...]
    clean: float
    rebuilt: float
    removed: float

    @property
    def recovered(self) -> float | None:
        """The share of what zeros lose that is not lost; None where they lose nothing."""
        lost = self.removed - self.clean
        return (self.removed - self.rebuilt) / lost if lost > 0 else None


@briefly
@dataclass(frozen=True, eq=False)
class Attached:
    """Dictionaries at a model's own places, and how well each does on the text they were tried on.

    `first` is left out: the first position has a stream of its own, on which hardly any dictionary
    is trained. With `quality`, `alone` says for each what is recovered of the loss, and `together`
    for each kind of place that several are of.
    """

    dictionaries: Dictionaries
    fits: tuple[Fit, ...]
    prompts: Prompts
    alone: tuple[Recovery, ...] = ()
    together: tuple[Recovery, ...] = ()


def attach(
    model: Model,
    dictionaries: Dictionaries,
    prompts: Source | Prompts,
    *,
    worst: float = WORST,
    beside: float | int = BESIDE,
    batch_size: int = 8,
) -> Attached:
    """Bring dictionaries to a model's places and measure them there.

    Args:
        model: is not changed.
        dictionaries: as `load_dictionaries` reads them.
        prompts: texts, token ids or a task of the kind that they were trained on.
        worst: the largest `fvu` that is let pass.
        beside: what leaves less than this share of its `fvu` at a place beside its own is refused;
            0 lets all pass.
        batch_size: prompts a run.

    Raises:
        ValueError: if a place is not there or of another width, prompts do not fit the model, or
            what is rebuilt somewhere is no better than the mean, or better beside the place (all at
            fault are named).
    """
    several = fitted(model, dictionaries)
    read = read_prompts(model, prompts)
    fits = _beside(model, several, read, batch_size)
    bad = [fit for fit in fits if not fit.fvu <= worst]
    if bad:
        told = ", ".join(f"{fit.writes} (from {fit.reads}): {fit.fvu:.3g}" for fit in bad)
        raise ValueError(
            f"{dictionaries.name!r} does not fit {model.name}: of the variance this is left "
            f"unexplained, where at most {worst:g} would be right: {told}. It may be of another "
            "place (reads=, writes=), of another model, of one with folded norms or centred "
            f"weights, or of prompts with a first token that these lack{_processed(several)}"
        )
    bad = [fit for fit in fits if fit.is_misplaced(beside)]
    if bad:
        told = ", ".join(
            f"{fit.writes}: {fit.fvu:.3g} here, {fit.beside_fvu:.3g} at {fit.beside}" for fit in bad
        )
        raise ValueError(
            f"{dictionaries.name!r} seems to be of places beside those it is attached at, as it "
            f"leaves less of their variance unexplained: {told}. Say where it belongs (reads=, "
            "writes=), or beside=0 to attach it here"
        )
    return Attached(several, fits, read)


def _beside(
    model: Model, several: Dictionaries, prompts: Prompts, batch_size: int
) -> tuple[Fit, ...]:
    """How well each does at its place, and at the best place beside it."""

    def fvus(moved: Dictionaries) -> dict[str, float]:
        found = measure(model, moved, prompts, batch_size=batch_size)
        return {fit.writes: fit.fvu for fit in found}

    fits = measure(model, several, prompts, batch_size=batch_size)
    near = closest(model, several, fvus)
    empty: tuple[None, None] = None, None
    told = {fit.writes: near.get(fit.writes, empty) for fit in fits}
    return tuple(
        replace(fit, beside=told[fit.writes][0], beside_fvu=told[fit.writes][1]) for fit in fits
    )


@without_gradients
def measure(
    model: Model, several: Dictionaries, prompts: Prompts, *, batch_size: int = 8
) -> tuple[Fit, ...]:
    """How well each dictionary does, at places that the model has.

    Raises:
        ValueError: if no prompt has a second position.
    """
    sums = [_Sums(one) for one in several]
    places = sorted({name for one in several for name in (one.reads, one.writes)})
    lengths = [len(row) for row in prompts.rows]
    if max(lengths) < 2:
        raise ValueError("the first position of a prompt is left out: give prompts of 2 and more")
    for i, tokens in enumerate(prompts.batches(batch_size, model.device)):
        seen = model.run(tokens, cache=places)
        chosen = after_first(tokens, lengths[i * batch_size :])
        values = {name: flat(seen[name])[chosen] for name in places}
        features = [one.encode(values[one.reads]) for one in several]
        rebuilt = several.decode(features, [values[one.reads] for one in several])
        for one, f, add in zip(several, features, sums, strict=True):
            add(f, values[one.writes], rebuilt[one.writes])
    return tuple(add.fit() for add in sums)


class _Sums:
    """Running sums of one dictionary, in float64."""

    def __init__(self, one: Dictionary) -> None:
        self._one = one
        self._n, self._active = 0, 0
        self._missed = self._square = 0.0
        self._total: Tensor | float = 0.0
        self._fired: Tensor | None = None

    def __call__(
        self,
        f: Float[Tensor, "token feature"],
        y: Float[Tensor, "token width"],
        rebuilt: Float[Tensor, "token width"],
    ) -> None:
        y = y.double()
        self._n += len(y)
        self._active += int(f.count_nonzero())
        self._missed += float((y - rebuilt).square().sum())
        self._square += float(y.square().sum())
        self._total = self._total + y.sum(dim=0)
        fired = (f > 0).any(dim=0)
        self._fired = fired if self._fired is None else self._fired | fired

    def fit(self) -> Fit:
        """What they come to."""
        assert isinstance(self._total, Tensor) and self._fired is not None, "there was a batch"
        variance = self._square - float(self._total.square().sum()) / self._n
        one, said = self._one, self._one.facts.get("l0")
        return Fit(
            name=one.name,
            reads=one.reads,
            writes=one.writes,
            n_features=one.n_features,
            fvu=self._missed / variance if variance > 0 else float(self._missed > 0),
            l0=self._active / self._n,
            silent=int((~self._fired).sum()),
            published_l0=float(said) if isinstance(said, int | float) else None,
        )


def _processed(several: Sequence[Dictionary] | Dictionaries) -> str:
    """What the files say of a model that was changed before training."""
    for one in several:
        said = one.facts.get("model_from_pretrained_kwargs")
        if said:
            return f" (its files say: {said})"[:200]
    return ""
