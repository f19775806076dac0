"""Paths: at which runs gradients are taken, and with what weight.

Plain runs of the clean or corrupt prompt come first, since they also show what writers write; a
path between the two needs both before it starts. Every path works with every backward rule.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.ablations import Replacement
from patching.anatomy.blocks import widen
from patching.approach import approach, logits_from
from patching.capture import Run, Writes
from patching.files.brief import briefly
from patching.model import Hook, Model
from patching.quadrature import Quadrature, midpoint, name_of
from patching.tasks.task import Batch

Direction = Literal["denoising", "noising"]
"""Whether the corrupt prompt runs and is given what is clean, or the reverse."""


@briefly
@dataclass(frozen=True)
class Ends:
    """Both ends of a path, at one batch: the clean run and what replaces it."""

    model: Model
    batch: Batch
    tokens: Bool[Tensor, "batch pos"]
    clean: Run
    replaced: Replacement

    @property
    def difference(self) -> Writes:
        """Clean writes minus their replacements, at `tokens`."""
        return self.clean.writes - self.replaced.writes


@dataclass(frozen=True)
class Step:
    """One run on the way, from another embedding or with hooks that change activations.

    Its gradients score the writers in `sources`, or all.
    """

    weight: float
    embedding: Float[Tensor, "batch pos d_model"] | None = None
    hooks: tuple[tuple[str, Hook], ...] = ()
    sources: slice | None = None


@dataclass(frozen=True)
class Steps:
    """The runs between two ends, one after the other, and how many they are."""

    n: int
    each: Iterator[Step]

    def __len__(self) -> int:
        """How many."""
        return self.n

    def __iter__(self) -> Iterator[Step]:
        """Each is made when it is asked for."""
        return self.each


Between = Callable[[Ends], Iterable[Step]]
"""`Steps`, so that progress knows how many there are; or an iterator."""


@dataclass(frozen=True)
class Path:
    """Weights of the gradients at the clean and the corrupt run, and of steps between them.

    `completes` says that the embedding's scores add up to the gap as steps grow in number.
    `keeps_rest`: steps change nothing where two prompts are alike before they first differ.
    """

    name: str
    cost: str
    clean: float = 0.0
    corrupt: float = 0.0
    between: Between | None = None
    completes: bool = False
    keeps_rest: bool = False
    options: dict[str, object] = field(default_factory=dict)


at_clean = Path("clean", "2F + 1B", clean=1.0)
at_corrupt = Path("corrupt", "2F + 1B", corrupt=1.0)
at_both = Path("clean-corrupt", "2F + 2B", clean=0.5, corrupt=0.5)


def along_inputs(steps: int = 5, quadrature: Quadrature = midpoint) -> Path:
    """Straight from the replaced embedding to the clean one. Hanna et al. 2024, arXiv:2403.17806.

    Raises:
        ValueError: if there are fewer than 1 steps.
    """
    points = _points(steps, quadrature)

    def between(ends: Ends) -> Steps:
        start, end = ends.replaced.embedding, ends.clean.embedding
        steps = (Step(w, embedding=torch.lerp(start, end, at)) for at, w in points)
        return Steps(len(points), steps)

    return Path(
        "inputs",
        "2F + steps (F + B)",
        between=between,
        completes=True,
        keeps_rest=True,
        options={"steps": steps, "quadrature": name_of(quadrature)},
    )


def along_activations(
    steps: int = 5, quadrature: Quadrature = midpoint, *, own_edges_only: bool = False
) -> Path:
    """Each writer group in turn (embedding, a layer's attention, an MLP), the others clean.

    The published code averages the gradients of all groups' runs for every edge (EAP-IG, function
    `get_scores_ig_activations`, which takes the right ends of the steps). With `own_edges_only`,
    the textbook form, edges out of a writer use only the runs that move its own group.

    Raises:
        ValueError: if there are fewer than 1 steps.
    """
    points = _points(steps, quadrature)

    def between(ends: Ends) -> Steps:
        groups = list(_groups(ends))
        weight = 1.0 if own_edges_only else 1 / len(groups)
        steps = (
            replace(
                to_step(1.0 - at), weight=weight * w, sources=sources if own_edges_only else None
            )
            for sources, to_step in groups
            for at, w in points
        )
        return Steps(len(groups) * len(points), steps)

    return Path(
        "activations-own" if own_edges_only else "activations",
        "2F + (2 layers + 1) steps (F + B)",
        between=between,
        keeps_rest=True,
        options={"steps": steps, "quadrature": name_of(quadrature)},
    )


def adjusted(steps: int = 5, *, scaled: bool = False) -> Path:
    """From the clean embedding, each step down the distance to the corrupt end's logits.

    `e_0 = clean; e_(k+1) = e_k - g / |g|` with `g` the gradient of the squared distance between the
    logits at all positions, by example; the metric's gradients are taken at `e_1, e_2, ...` with
    equal weight. Steps have length 1 whatever the embeddings' scale, as published; `scaled` makes
    them as long as those of a straight path. Nothing makes the path arrive: it is not complete.
    Zhang et al. 2025 (EAP-GP), arXiv:2502.06852, eq. 8.

    Raises:
        ValueError: if there are fewer than 1 steps.
    """
    weight = 1.0 / len(_points(steps, midpoint))

    def between(ends: Ends) -> Steps:
        return Steps(steps, _approaching(ends, steps, weight, scaled=scaled))

    name = "adjusted-scaled" if scaled else "adjusted"
    return Path(name, "3F + 2 steps (F + B)", between=between, options={"steps": steps})


def _approaching(ends: Ends, steps: int, weight: float, *, scaled: bool) -> Iterator[Step]:
    """The steps of `adjusted`."""
    here, end = ends.clean.embedding, ends.replaced.embedding
    with torch.no_grad():
        target = logits_from(ends.model, ends.batch, end)
    apart = widen(here - end).flatten(1).norm(dim=1)
    length = apart / steps if scaled else torch.ones_like(apart)
    for _ in range(steps):
        here = approach(ends.model, ends.batch, here, target, length)
        yield Step(weight, embedding=here)


def _groups(ends: Ends) -> Iterator[tuple[slice, Callable[[float], Step]]]:
    """Each group's writers, and the run in which a share of its write is replaced.

    What is moved is a given value: no gradient goes through it to what it was made from.
    """
    graph, difference = ends.model.graph, ends.difference
    start, end, home = ends.replaced.embedding, ends.clean.embedding, ends.tokens.device
    yield slice(0, 1), lambda share: Step(0.0, embedding=torch.lerp(end, start, share))
    for block in ends.model.blocks:
        heads = graph.head_sources(block.index)
        missing = block.head_writes(difference.heads[block.index]).sum(dim=0).to(home)
        yield heads, _less(ends, block.attention_out, missing)
        mlp = graph.mlp_source(block.index)
        missing = difference.mlps[block.index].to(home)
        yield slice(mlp, mlp + 1), _less(ends, block.mlp_out, missing)


def _less(
    ends: Ends, name: str, missing: Float[Tensor, "token d_model"]
) -> Callable[[float], Step]:
    whole = missing.new_zeros(*ends.tokens.shape, missing.shape[-1])
    whole[ends.tokens] = missing

    def to_step(share: float) -> Step:
        def hook(write: Tensor) -> Tensor:
            return write.detach() - (share * whole).to(write.dtype)

        return Step(0.0, hooks=((name, hook),))

    return to_step


def _points(steps: int, quadrature: Quadrature) -> list[tuple[float, float]]:
    if steps < 1:
        raise ValueError(f"integrated gradients need at least 1 step, got {steps}")
    return list(zip(*quadrature(steps), strict=True))


PATHS_WITH_STEPS = ("inputs", "activations", "activations-own", "adjusted", "adjusted-scaled")
PATHS_WITHOUT_QUADRATURE = ("adjusted", "adjusted-scaled")
PATHS: dict[str, Callable[..., Path]] = {
    "clean": lambda: at_clean,
    "corrupt": lambda: at_corrupt,
    "clean-corrupt": lambda: at_both,
    "inputs": along_inputs,
    "activations": along_activations,
    "activations-own": lambda *args: along_activations(*args, own_edges_only=True),
    "adjusted": adjusted,
    "adjusted-scaled": lambda *args: adjusted(*args, scaled=True),
}
